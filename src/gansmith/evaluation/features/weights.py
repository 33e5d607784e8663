"""Weight files read once: hashed and loaded from the same bytes, without executing anything."""

import hashlib
import io
import pickle
from pathlib import Path

import torch
from torch import Tensor

from gansmith.errors import UserError


def read(file: Path, what: str) -> tuple[bytes, str]:
    """The content of a file and its SHA-256 (hex). what: names the flag in the message.

    Raises UserError when it cannot be read.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{what} {file} cannot be read: {error.strerror or error}.") from None
    return content, hashlib.sha256(content).hexdigest()


def state_dict(content: bytes, file: Path) -> dict[str, Tensor]:
    """The tensors of a torch file, by name, on the CPU. Raises UserError for any other content."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{file} is damaged or holds no weights ({first}); download it again.") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no state dict (names and tensors); another file is needed.")
    return state
