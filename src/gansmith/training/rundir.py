"""The run's folder: whose it is, where its checkpoints lie, and leaving nothing behind after a mistake."""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gansmith.errors import UserError
from gansmith.training import checkpoint as checkpoints
from gansmith.training import lineage
from gansmith.training.distributed import World


@contextmanager
def owned(out: Path, checkpoint_dir: Path | None, world: World) -> Iterator[None]:
    """Rank 0 makes the run's folders and holds their locks as long as it trains.

    checkpoint_dir: None, or where checkpoints go instead of OUT/checkpoints, which then is a link to it, so
    that the run's folder is enough to go on. Raises UserError for a folder of other things, in use, or not
    writable. If a UserError ends the run before it wrote anything, a folder made here goes again.
    """
    if not world.is_main:
        world.barrier()
        yield
        return
    new = not out.exists()
    with ExitStack() as locks:
        try:
            try:
                _take(out, checkpoint_dir, locks)
            except OSError as error:
                raise UserError(
                    f"--out {out}: cannot be written ({error.strerror}); free space or give another."
                ) from None
            world.barrier()
            yield
        except UserError:
            if new and out.is_dir():
                _give_back(out)
            raise


def _take(out: Path, checkpoint_dir: Path | None, locks: ExitStack) -> None:
    if out.is_dir() and any(out.iterdir()) and not _is_run(out):
        raise UserError(f"--out {out} holds other files and is no gansmith run; give a new folder.")
    out.mkdir(parents=True, exist_ok=True)
    _lock(out, "--out", locks)
    folder = out / "checkpoints"
    known, linked = folder.exists(), checkpoint_dir is not None and not folder.is_symlink()
    if checkpoint_dir is None:
        if folder.is_symlink() and not folder.exists():
            raise UserError(f"{folder} leads to {folder.readlink()}, which is not there; mount that disk.")
        folder.mkdir(exist_ok=True)
    else:
        _link(folder, checkpoint_dir)
    try:
        if folder.is_symlink():
            _lock(folder, "--checkpoint-dir", locks)
        if checkpoints.listed(folder) and not known and not (out / "config.yaml").exists():
            raise UserError(
                f"{folder.resolve()} holds the checkpoints of another run, and --out {out} is new; give a "
                "new --checkpoint-dir, or the other run's --out."
            )
    except UserError:
        if linked:  # or the next try would find it there, as if it were the run's own
            folder.unlink()
        raise
    for place in (folder, out / "snapshots", out / "samples", out):
        checkpoints.remove_leftovers(place)


def _link(folder: Path, target: Path) -> None:
    target = target.resolve()
    if folder.is_symlink() and folder.resolve() == target:
        return
    if folder.exists() or folder.is_symlink():
        raise UserError(
            f"--checkpoint-dir {target}: this run has its checkpoints in {folder.resolve()}; leave the flag "
            "out, or move them there first and delete the old folder."
        )
    target.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(target, target_is_directory=True)


def leave_behind(out: Path, images_seen: int, say: Callable[[str], None]) -> None:
    """Sets snapshots of beyond `images_seen` aside: they are of other settings."""
    why = f"beyond {images_seen:,} images of the settings before"
    lineage.set_aside(out, lambda images, _: images > images_seen, why, say, ("snapshots",))


def _lock(folder: Path, flag: str, locks: ExitStack) -> None:
    lock = locks.enter_context((folder / ".lock").open("a+"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        raise UserError(f"{flag} {folder} is in use by {lock.read().strip() or 'another process'}.") from None
    lock.truncate(0)
    owner = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}"
    os.write(lock.fileno(), owner.encode())  # past the buffer: on a full disk, closing would fail once more


def _is_run(out: Path) -> bool:
    return any((out / name).exists() for name in ("config.yaml", ".lock", "checkpoints"))


def _give_back(out: Path) -> None:
    """Removes a folder made in vain: only what `_take` put there, never anything else."""
    folder = out / "checkpoints"
    mine = folder.is_symlink() or not checkpoints.listed(folder)
    if mine and {path.name for path in out.iterdir()} <= {".lock", "checkpoints"}:
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)
        (out / ".lock").unlink(missing_ok=True)
        out.rmdir()
