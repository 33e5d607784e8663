"""The user's cache folder and the two ways files get there safely: under a lock, and whole or not at all.

Knows nothing of images; used by whatever keeps a derived copy of something (decoded pixels, remote shards,
prepared sources).
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gansmith import files
from gansmith.errors import UserError


def cache_folder(given: Path | None = None) -> Path:
    """The folder for derived copies: the one given, else $GANSMITH_CACHE, else ~/.cache/gansmith."""
    if given is not None:
        return Path(given)
    return Path(os.environ.get("GANSMITH_CACHE") or Path.home() / ".cache" / "gansmith")


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Holds the lock file beside `target`: of several processes or threads, one at a time makes the file.

    The lock belongs to an open file, so a killed owner releases it; the empty lock file stays behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def written_whole(target: Path) -> Iterator[BinaryIO]:
    """A file open for writing that appears under its name synced and complete, or not at all.

    Raises UserError when the disk is full, naming the folder.
    """
    try:
        with files.replacing(target) as temporary, open(temporary, "w+b") as file:
            yield file
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{target.parent}: no space left for {target.name}; free some, or choose another disk "
                f"(caches go to $GANSMITH_CACHE)."
            ) from error
        raise
