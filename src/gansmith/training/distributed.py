"""One process among several: who we are, and the few collectives training needs.

Started by torchrun, or alone (a world of one, in which every collective is free). Nothing else of gansmith
knows about environment variables or back ends.
"""

import hashlib
import os
import re
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TypeVar

import torch
import torch.distributed as dist

from gansmith.errors import Diverged, ProcessLost, Stopped, UserError
from gansmith.hardware import choose_device
from gansmith.training.heartbeat import Heartbeat, goodbye

T = TypeVar("T")

# Long enough for rank 0 to draw grids and save while the others wait in a collective.
TIMEOUT = timedelta(minutes=30)
# Long enough for a slow node to import torch; torchrun's agents have met already.
JOINING = timedelta(minutes=5)


@dataclass(frozen=True)
class World:
    """rank: global, 0 … size − 1 (LOCAL_RANK only chooses the device).

    Tensors on the device go through its own back end; votes, objects and barriers stay on the host and go
    through gloo, so that none of them waits for what the device still has to do.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> None:
        """Adds a tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def any(self, flag: bool) -> bool:
        """True on every rank as soon as it is on one."""
        if self.size == 1:
            return flag
        vote = torch.tensor([int(flag)], device="cpu")
        dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        return bool(vote.item())

    def barrier(self) -> None:
        if self.size > 1:
            self.any(False)

    def share(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        shared = [value]
        dist.broadcast_object_list(shared, src=0, device=torch.device("cpu"))
        return shared[0]

    def copy_from_main(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrites tensors with those of rank 0."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


@contextmanager
def joined(device: str | None = None, timeout: timedelta = TIMEOUT) -> Iterator[World]:
    """Joins the processes torchrun started (or stands alone), and leaves them at the end.

    device: as in torch.device; None takes the accelerator if there is one. timeout: of a collective. Raises
    UserError for an unusable device or environment, ProcessLost where another process is gone.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type != "cpu":
        torch.accelerator.set_device_index(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    store, life = _meet(rank, size)
    heart = Heartbeat(dist.PrefixStore(f"{life}/heart", _second_connection()), rank, size)
    store, fine = dist.PrefixStore(life, store), False
    heart.start()
    forget = _finish_speaking()
    try:
        dist.init_process_group(_backend(chosen), store=store, rank=rank, world_size=size, timeout=timeout)
        yield (world := World(rank, size, chosen))
        heart.stop()
        world.barrier()  # nobody takes the store away from one who still listens to it
        forget()
        fine = True
    except Exception as error:
        heart.stop()
        if _is_loss(error):
            reason = heart.reason(patience=2.0) or "the connection to another process broke: it was killed"
            raise ProcessLost(goodbye(rank, size, reason)) from None
        if not isinstance(error, Stopped | Diverged):  # which all processes do together
            heart.leave(f"{type(error).__name__}: {error}".splitlines()[0])
        raise
    finally:
        heart.stop()
        # A device's own back end may wait for the one that is gone; the end of the process frees it, too.
        if dist.is_initialized() and (fine or chosen.type == "cpu"):
            dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    """The device's collectives, and gloo for what is on the host."""
    if device.type == "cpu":
        return "gloo"
    own = {"cuda": "nccl"}.get(device.type) or dist.get_default_backend_for_device(device)
    return f"cpu:gloo,{device.type}:{own}"


def _finish_speaking() -> Callable[[], None]:
    """SIGTERM, which torchrun sends to all as soon as one has died, no longer cuts off a process that is on
    its way out with an error of its own. Returns how to undo it.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None

    def end_unless_ending(number: int, frame: FrameType | None) -> None:
        if sys.exception() is None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    previous = signal.signal(signal.SIGTERM, end_unless_ending)

    def forget() -> None:
        signal.signal(signal.SIGTERM, previous)

    return forget


def _is_loss(error: Exception) -> bool:
    """Whether an error comes from a collective that lost a process. gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError)
        and re.search(r"\b(gloo|nccl)\b", str(error), re.IGNORECASE) is not None
    )


# Meeting
# -------------------------------------------------------------------------------------------------------


def _meet(rank: int, size: int) -> tuple[dist.Store, str]:
    """torchrun's store, and a prefix below which only these very processes, of no earlier start, write.

    torchrun's static rendezvous keeps one store over all restarts; in it gloo finds the addresses of
    processes that are dead, and joining fails ("Connection refused") until by luck everybody is quick. So
    everybody names himself anew, rank 0 reads the names, all confirm, and the set of names is the prefix.
    """
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=JOINING))
    except (ValueError, dist.DistError) as error:
        raise UserError(
            f"WORLD_SIZE={size}, RANK={rank}: no meeting point at MASTER_ADDR="
            f"{os.environ.get('MASTER_ADDR')}, MASTER_PORT={os.environ.get('MASTER_PORT')} "
            f"({str(error).splitlines()[0]}); start the processes with torchrun (docs/distributed.md)."
        ) from None
    return store, _agree(dist.PrefixStore("meet", store), rank, size)


def _agree(store: dist.Store, rank: int, size: int) -> str:
    """A name for this set of processes, the same on all of them. Raises ProcessLost after JOINING."""
    mine = uuid.uuid4().hex
    store.set(f"name/{rank}", mine)
    deadline = time.monotonic() + JOINING.total_seconds()
    while time.monotonic() < deadline:
        if rank == 0:
            names = _read(store, [f"name/{other}" for other in range(size)])
            if None not in names:
                store.set("names", " ".join(map(str, names)))
        read = (_read(store, ["names"])[0] or "").split()
        if len(read) == size and read[rank] == mine:  # else they are of an earlier start
            together = hashlib.sha256(" ".join(read).encode()).hexdigest()[:16]
            store.set(f"confirmed/{rank}", together)
            if rank == 0 and set(_read(store, [f"confirmed/{other}" for other in range(size)])) == {together}:
                store.set("together", together)
            if _read(store, ["together"]) == [together]:
                return together
        time.sleep(0.02)
    missing = [str(r) for r in range(size) if not _read(store, [f"name/{r}"])[0]] if rank == 0 else []
    who = f"of process {', '.join(missing)}" if missing else "of all others"
    raise ProcessLost(
        f"process {rank} of {size} waited {JOINING.seconds // 60} minutes in vain for a sign {who}: is every "
        "node started, with the same --nnodes and --nproc-per-node, and does it reach "
        f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}?"
    )


def _read(store: dist.Store, keys: list[str]) -> list[str | None]:
    """Values of keys, None for those not set yet; never waits."""
    return [store.get(key).decode() if store.check([key]) else None for key in keys]


def _second_connection() -> dist.Store:
    """Another client of the same store: calls of one client wait for each other."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(address, port, is_master=False, wait_for_workers=False)
