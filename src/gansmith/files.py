"""Files that are whole or not there: written under a temporary name, synced, renamed, the folder synced."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Forces a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path) -> str | None:
    """Why `path` cannot be made, found out before the work: `FOLDER is not writable (…)`; None if it can."""
    folder = next(above for above in path.absolute().parents if above.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{folder} is not writable"
    try:
        tempfile.TemporaryFile(dir=folder).close()  # what permissions say is not all, as in /sys
    except OSError as error:
        return f"{folder} is not writable ({error.strerror or error})"
    return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; what is there at the end becomes `path` at once. A failure leaves
    `path` as it was and nothing else behind."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: fill the one given; it becomes `path`, in place of an older one, when all is
    synced.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.rename(path, old)
            os.rename(temporary, path)
            sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(temporary, path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
