"""A memory of older fakes, which D goes on seeing among the new ones.

Which fakes are kept, where, and which come back is a function of positions in D's stream; so micro-batches
and processes mean the same, and a resumed run goes on with the same images. Every process holds all of them,
as bytes: the kept images are reals' equals, whole numbers from 0 to 255.
"""

import math

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gansmith.config import Config, images
from gansmith.data.memory import available_bytes
from gansmith.errors import UserError
from gansmith.hardware import memory_bytes, send
from gansmith.sampling.sampler import to_uint8
from gansmith.training.objectives.base import MicroBatch


class Replay:
    """share: of D's fakes that are older ones. Every ⌊span / size⌋-th is kept, of these the newest `size`.

    memory: images uint8 (size, C, R, R), their classes int64 (size,), and the positions they are of, −1 where
    none is.
    """

    def __init__(
        self, share: float, size: int, span: int, shape: tuple[int, int, int], device: torch.device
    ) -> None:
        self.share, self.size, self.every = share, size, span // size
        self.images = torch.zeros(size, *shape, dtype=torch.uint8, device=device)
        self.classes = torch.zeros(size, dtype=torch.int64, device=device)
        self.positions = torch.full((size,), -1, dtype=torch.int64, device=device)
        self.memory = {
            "replay.images": self.images,
            "replay.classes": self.classes,
            "replay.positions": self.positions,
        }
        self.fresh: list[tuple[int, Tensor, Tensor | None]] = []  # of this phase: where from, images, classes
        self.begun = -1

    def mixed(
        self, fake: Tensor, y: Tensor | None, micro: MicroBatch
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The fakes of a D phase and their classes, some of them older ones; and the share that is."""
        if micro.images_seen is None:  # a rehearsal
            return fake, y, fake.new_zeros(())
        assert micro.draws is not None
        if self.begun != micro.images_seen:
            self.begun, self.fresh = micro.images_seen, []
        start = int(micro.draws.positions[0])  # and the others follow it
        keep = slice(-start % self.every, None, self.every)
        pixels = to_uint8(fake[keep]).permute(0, 3, 1, 2)
        self.fresh.append((start + keep.start, pixels, None if y is None else y[keep]))

        coin, place = micro.draws.uniform("replay", 2).unbind(1)
        slot = (place * min(self.size, -(-self.begun // self.every))).long()
        older = (coin < self.share) & (self.positions[slot] >= 0)
        kept = self.images[slot].to(fake.dtype).div_(127.5).sub_(1)
        fake = torch.where(older.view(-1, 1, 1, 1), kept, fake)
        y = None if y is None else torch.where(older, self.classes[slot], y)
        return fake, y, older.float().mean()

    @torch.no_grad()
    def settle(self, batch: int) -> None:
        """Keeps what a phase of `batch` images made, on all processes alike."""
        first = -(-self.begun // self.every) * self.every
        positions = np.arange(first, self.begun + batch, self.every)
        device = self.images.device
        images = torch.zeros(len(positions), *self.images.shape[1:], dtype=torch.uint8, device=device)
        classes = torch.zeros(len(positions), dtype=torch.int64, device=device)
        for start, made, y in self.fresh:
            here = slice((start - first) // self.every, (start - first) // self.every + len(made))
            images[here] = made
            if y is not None:
                classes[here] = y
        self.fresh = []
        if dist.is_available() and dist.is_initialized():  # every process has made other parts
            dist.all_reduce(images)
            dist.all_reduce(classes)
        newest = slice(max(len(positions) - self.size, 0), None)
        slots = send(torch.from_numpy(positions[newest] // self.every % self.size), device)
        self.images[slots], self.classes[slots] = images[newest], classes[newest]
        self.positions[slots] = send(torch.from_numpy(positions[newest]), device)


def check(config: Config, device: torch.device) -> None:
    """Raises UserError where the device has no room for what is to be kept; takes none of it."""
    if config.stabilise.replay is None:
        return
    size = config.stabilise.replay_images
    needed = size * math.prod(_shape(config))
    room = available_bytes() if device.type == "cpu" else memory_bytes(device)  # 0: nobody knows
    if room and needed > room:
        raise UserError(
            f"stabilise.replay_images {size:,}: they take {needed / 2**30:,.1f} GiB in every process, and "
            f"{device.type} has {room / 2**30:,.1f} GiB; give fewer."
        )


def build(config: Config, device: torch.device, epoch: int) -> Replay | None:
    """The memory that `stabilise.replay*` asks for. epoch: images per epoch. Raises UserError."""
    stabilise = config.stabilise
    if stabilise.replay is None:
        return None
    check(config, device)
    size, span = stabilise.replay_images, images(stabilise.replay_span, epoch)
    if span < size:
        raise UserError(
            f"stabilise.replay_span {stabilise.replay_span}: {span:,} fakes are fewer than the {size:,} of "
            "stabilise.replay_images that are to be kept of them; give a longer one, or keep fewer."
        )
    return Replay(stabilise.replay, size, span, _shape(config), device)


def _shape(config: Config) -> tuple[int, int, int]:
    return config.model.channels, config.model.resolution, config.model.resolution
