"""Where a preparation writes, and what may stand in its way: a finished set, an unfinished one, other
files, a full disk.

This room knows identities and folders. It must not know how images are made.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gansmith import files
from gansmith.data.cache import written_whole
from gansmith.data.progress import size
from gansmith.data.settings import differences
from gansmith.data.shards import open_prepared
from gansmith.errors import UserError

WORK = ".preparing"


def is_finished(dest: Path, src: str, identity: dict[str, Any], fingerprint: str) -> bool:
    """Whether the very set asked for is there already. Raises UserError if something else is in the way."""
    if dest.exists() and not dest.is_dir():
        raise UserError(f"{dest} is a file; give a new folder to prepare into.")
    if os.path.isdir(src) and dest.resolve().is_relative_to(Path(src).resolve()):
        raise UserError(f"{dest} lies inside the source {src}; give a folder outside of it.")
    names = {p.name for p in dest.iterdir()} if dest.is_dir() else set()
    if "dataset.json" in names:
        found = open_prepared(str(dest), in_memory=False).settings
        changed = differences(found, identity)
        if changed:
            raise UserError(
                f"{dest} was prepared with other settings ({'; '.join(changed)}); give another folder, or "
                "delete this one."
            )
        if found.get("source_fingerprint") != fingerprint:
            raise UserError(
                f"{dest} was prepared from {src} before that changed, or from another source; "
                "give another folder, or delete this one."
            )
        return True
    if names and WORK not in names:
        raise UserError(
            f"{dest} is not empty (it holds {sorted(names)[0]}) and not a prepared data set; give a new or "
            "empty folder."
        )
    if why := files.unwritable(dest / WORK):
        raise UserError(f"{dest} cannot be made: {why}; give a folder elsewhere.")
    return False


def clean(dest: Path) -> None:
    """Removes what is of no use once the set is finished, a killed writer's half-written files among it."""
    for leftover in (*dest.glob(".*.part"), *dest.glob(".shard-*.npz")):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(dest / WORK, ignore_errors=True)


def check_space(dest: Path, least_bytes: int) -> None:
    """Raises UserError if a set of at least that size cannot fit: parts and shards exist side by side for a
    while.
    """
    parent = next(p for p in (dest, *dest.absolute().parents) if p.exists())
    there = sum(f.stat().st_size for f in dest.rglob("*") if f.is_file()) if dest.is_dir() else 0
    needed, free = 2 * least_bytes - there, shutil.disk_usage(parent).free
    if needed > free:
        raise UserError(
            f"{dest} needs at least {size(needed)} while preparing, and {size(free)} are free; choose "
            "another disk, "
            "--storage webp or jpeg-95, a lower --resolution, or --max-images."
        )


@contextmanager
def work_folder(dest: Path, identity: dict[str, Any], fingerprint: str) -> Iterator[Path]:
    """DEST/.preparing, locked; what an earlier command left there is kept if it was the same, else
    refused.
    """
    work = dest / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = open(work / "lock", "ab")  # noqa: SIM115 (held until the end)
    except OSError as error:
        raise UserError(f"{dest} cannot be written: {error.strerror}; give a folder elsewhere.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another gansmith is preparing {dest} right now; wait for it, or choose another folder."
            ) from None
        wanted = {"settings": identity, "fingerprint": fingerprint}
        try:
            found = json.loads((work / "plan.json").read_bytes())
        except (OSError, ValueError):
            found = None
        if found and found["settings"] != wanted["settings"]:
            changed = "; ".join(differences(found["settings"], identity))
            raise UserError(
                f"{dest} holds an unfinished preparation with other settings ({changed}); finish that one "
                "with its own "
                f"settings, give another folder, or delete {dest}."
            )
        if found != wanted:
            # Nothing there, or the source has changed since: parts made from the old one are of no use.
            for leftover in (*work.glob("part-*"), *dest.glob("shard-*"), *dest.glob(".shard-*")):
                leftover.unlink()
            with written_whole(work / "plan.json") as file:
                file.write(json.dumps(wanted).encode())
        yield work
