"""What a phase is fed: this rank's part of a batch, real images and noise, one micro-batch after the other.

Everything is named by positions in streams; this module keeps no count of its own.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from gansmith.data.feed import to_device
from gansmith.data.order import slices
from gansmith.hardware import send
from gansmith.sampling import latents
from gansmith.training.draws import Draws
from gansmith.training.objectives import MicroBatch
from gansmith.training.pretraining import own_latents

if TYPE_CHECKING:
    from gansmith.training.loop import Run
    from gansmith.training.state import State


class Reals:
    """This rank's real micro-batches in stream order, read ahead."""

    def __init__(self, run: "Run", start: int) -> None:
        self.run = run
        self.stream = run.feed.stream(self._positions(start))

    def begin(self, start: int) -> None:
        """Goes on at stream position `start`, with the micro-batches of now."""
        self.close()
        self.stream = self.run.feed.stream(self._positions(start))

    def _positions(self, at: int) -> Iterator[np.ndarray]:
        run = self.run
        while True:
            yield from slices(at, run.batch, run.micro_batch, run.world.rank, run.world.size)
            at += run.batch

    def close(self) -> None:
        self.stream.close()


def of_d(run: "Run", state: "State", reals: Reals) -> Iterator[MicroBatch]:
    """Reals in stream order with noise at the same positions of D's noise stream."""
    world = run.world
    for positions in slices(state.images_seen, run.batch, run.micro_batch, world.rank, world.size):
        images, labels = next(reals.stream)
        z, y = _noise(run, "d", positions)
        real_y = send(labels, world.device) if run.num_classes else None
        real = to_device(images, world.device)
        draws = _draws(run, "d", positions)
        yield MicroBatch(z, y, real, real_y, draws, state.D.turn, state.images_seen)


def of_g(run: "Run", state: "State") -> Iterator[MicroBatch]:
    """Noise from G's own stream; where the objective asks for them, the reals D was shown last, too, with
    those that follow in the stream where G's batch is larger than D's."""
    world, start = run.world, state.fakes_seen
    for positions in slices(start, run.batch_g, run.micro_batch_g, world.rank, world.size):
        z, y = _noise(run, "g", positions)
        real = real_y = None
        if getattr(run.objective, "needs_reals_in_g", False):
            shown = state.images_seen - run.batch
            images, labels = run.feed.read(positions - start + shown)
            real = to_device(images, world.device)
            real_y = send(labels, world.device) if run.num_classes else None
        draws = _draws(run, "g", positions)
        yield MicroBatch(z, y, real, real_y, draws, state.G.turn, state.images_seen)


def of_images(run: "Run", state: "State", reals: Reals) -> Iterator[MicroBatch]:
    """Reals in stream order, each with the latent that is always its own: what G is trained on alone."""
    world = run.world
    for positions in slices(state.images_seen, run.batch, run.micro_batch, world.rank, world.size):
        images, labels = next(reals.stream)
        z = send(own_latents(run.config, run.feed, positions), world.device)
        y = send(labels, world.device) if run.num_classes else None
        yield MicroBatch(z, y, to_device(images, world.device), y, None, state.G.turn, state.images_seen)


def _draws(run: "Run", name: str, positions: np.ndarray) -> Draws:
    return Draws(run.config.train.seed, run.lineage.stream(name), positions, run.world.device)


def _noise(run: "Run", name: str, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None]:
    model = run.config.model
    z, y = latents.stream(
        run.config.train.seed,
        run.lineage.stream(name),
        positions,
        dim=model.dim_z,
        num_classes=len(run.drawn_classes),
        kind=model.latent,
    )
    y = run.drawn_classes[y] if run.num_classes else y
    device = run.world.device
    return send(z, device), send(y, device) if run.num_classes else None
