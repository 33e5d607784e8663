"""The user's cache folder and the two ways files get there safely: under a lock, and whole or not at all.

Knows nothing of images; used by whatever keeps a derived copy of something (decoded pixels, remote shards,
prepared sources).
"""

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

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
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{target.parent}: no space left for {target.name}; free some, or choose another disk "
                f"(caches go to $GANSMITH_CACHE)."
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes renames inside the folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
