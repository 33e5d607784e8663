"""A user's own functions, named `module:function` in the configuration."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gansmith.errors import UserError


def import_function(name: str, setting: str) -> Callable[..., Any]:
    """Imports a user's `module:function`, looking in the current folder too. Raises UserError."""
    module_name, _, function_name = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise UserError(
            f"{setting} {name!r}: module {module_name} cannot be imported ({type(error).__name__}: {error})."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{setting} {name!r}: {module_name} has no such function; it has {', '.join(names)}.")
    return function
