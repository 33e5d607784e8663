"""Images: sources of any form, the prepared form, the order in which they are shown, the feed.

`open_dataset` is the way in for programs; it is imported when first used.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["open_dataset"]

if TYPE_CHECKING:
    from gansmith.data.ensure import open_dataset


def __getattr__(name: str) -> Any:
    if name == "open_dataset":
        from gansmith.data.ensure import open_dataset

        return open_dataset
    raise AttributeError(f"module 'gansmith.data' has no attribute {name!r}")
