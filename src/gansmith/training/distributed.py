"""One process among several: who we are, and the few collectives training needs.

Started by torchrun, or alone (a world of one, in which every collective is free). Nothing else of gansmith
knows about environment variables or back ends.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from gansmith.hardware import choose_device

T = TypeVar("T")

# Long enough for rank 0 to draw grids and save while the others wait in a collective.
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class World:
    """rank: global, 0 … size − 1 (LOCAL_RANK only chooses the device)."""

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
        vote = torch.tensor([float(flag)], device=self.device)
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
        dist.broadcast_object_list(shared, src=0)
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
    UserError for an unusable device.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type != "cpu":
        torch.accelerator.set_device_index(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    backend = {"cpu": "gloo", "cuda": "nccl"}.get(chosen.type) or dist.get_default_backend_for_device(chosen)
    dist.init_process_group(backend, timeout=timeout)
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()
