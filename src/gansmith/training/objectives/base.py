"""What an objective is, and what it is given. Knows no loss."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from gansmith.training.draws import Draws


@dataclass(frozen=True)
class MicroBatch:
    """What a phase sees at once: z (N, dim_z), y (N,); in D phases also real (N, C, R, R) in [-1, 1],
    real_y (N,).

    draws: randomness of these images. turn: optimizer steps this network has taken, for what happens every
    so many. images_seen: real images D had been shown when the phase began; None: this is a rehearsal.
    """

    z: torch.Tensor
    y: torch.Tensor | None
    real: torch.Tensor | None
    real_y: torch.Tensor | None
    draws: Draws | None = None
    turn: int = 0
    images_seen: int | None = None

    def split(self, images: int) -> list["MicroBatch"]:
        """Parts of so many images each, in stream order."""

        def cut(at: slice, tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor[at]

        slices = [slice(start, start + images) for start in range(0, len(self.z), images)]
        return [
            MicroBatch(
                self.z[at],
                cut(at, self.y),
                cut(at, self.real),
                cut(at, self.real_y),
                self.draws and replace(self.draws, positions=self.draws.positions[at]),
                self.turn,
                self.images_seen,
            )
            for at in slices
        ]


def drawn(micro: MicroBatch) -> Draws:
    """Its draws, where there have to be some."""
    assert micro.draws is not None
    return micro.draws


Images = tuple[torch.Tensor, torch.Tensor | None]  # images and their classes
Terms = dict[str, tuple[torch.Tensor | float, torch.Tensor]]  # added to a loss, by name: weight and value

# (phase "d" | "g", G, D, micro-batch) → mean loss over the micro-batch, and detached scalars worth logging.
# Attributes it may have:
#   needs_reals_in_g  True: G phases get the reals that D was shown last, and the next where batch_g is more
#   memory            name → tensor on the device: saved with the run, restored in place
#   settle            (phase, scalars averaged over the whole batch, images in it) → None: once per phase,
#                     before the step
Objective = Callable[[str, nn.Module, nn.Module, MicroBatch], tuple[torch.Tensor, dict[str, torch.Tensor]]]
