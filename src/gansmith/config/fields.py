"""What every field of a configuration is made of: its kind, its description, amounts of images.

Every field is *free* (may change at any restart) or *identity* (what the run is: a change is refused on
resume). Knows no field by name.
"""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_AMOUNT = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(k|M|G|ep|)\s*$")


def free(default: Any, description: str, **limits: Any) -> Any:
    """A field that may change whenever the run is started again."""
    return Field(default, description=description, json_schema_extra={"kind": "free"}, **limits)


def identity(default: Any, description: str, **limits: Any) -> Any:
    """A field that makes the run what it is; changing it on resume needs --allow-change."""
    return Field(default, description=description, json_schema_extra={"kind": "identity"}, **limits)


def images(amount: str | int | float, epoch: int) -> int:
    """Turns an amount such as `128k`, `20M`, `3ep` or 5000 into a number of images.

    epoch: images per epoch, what `ep` multiplies. Raises ValueError for anything else.
    """
    match = _AMOUNT.match(str(amount))
    if not match:
        raise ValueError(f"{amount!r} is not an amount of images; write 5000, 128k, 20M or 3ep")
    number, unit = float(match[1]), match[2]
    return round(number * (epoch if unit == "ep" else _UNITS[unit]))


def is_some(amount: str | int | float) -> bool:
    """Whether an amount, or a word in the place of one (`plateau`), asks for any images, however few an epoch
    has: `0.5ep` does, `0k` does not.
    """
    return not _AMOUNT.match(str(amount)) or images(amount, 1 << 40) > 0


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )
