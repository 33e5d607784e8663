"""The gradient noise scale (McCandlish et al. 2018, appendix A.1): which batch the gradient itself asks for.

A batch is cut into N parts of b images, one BatchNorm group each, on whatever ranks they lie. With their mean
gradients g_i and the batch's ḡ

    S    = b/(N − 1) · Σ|g_i − ḡ|²      trace of the covariance of one image's gradient
    |G|² = |ḡ|² − S/(N·b)               squared norm of the true gradient, unbiased
    B    = mean(S) / mean(|G|²)         a ratio of means over many steps, never a mean of ratios

where a D phase counts a real image with its fake as one. The gradients are those of the loss, of the master
weights with the step's singular vectors, before any regulariser of weights and before the optimizer. Nothing
is read from the device.
"""

from dataclasses import dataclass

import torch

from gansmith.models import spectral
from gansmith.training.distributed import World
from gansmith.training.gradients import FlatGradients

S, G2, WEIGHT = 0, 1, 2  # what a memory holds: decayed sums of S and |G|², and of their weights


def estimate(squares: torch.Tensor, mean_square: torch.Tensor, parts: int, images: int) -> torch.Tensor:
    """(S, |G|²). squares: Σ|g_i|²; mean_square: |ḡ|²; of `parts` ≥ 2 parts of `images` each."""
    variance = images / (parts - 1) * (squares - parts * mean_square)
    return torch.stack([variance, mean_square - variance / (parts * images)])


class Parts:
    """Takes apart the gradients of one phase: `note` after each part's backward, `measured` at the end."""

    def __init__(self, gradients: FlatGradients) -> None:
        self.gradients = gradients
        self.total = torch.zeros_like(gradients.flat)
        self.squares = torch.zeros((), device=gradients.flat.device)

    def note(self) -> None:
        """The buffer holds this part's share alone: added to the total, measured, and emptied."""
        flat = self.gradients.flat
        self.total.add_(flat)
        spectral.pull_back(self.gradients.net)
        self.squares.add_(torch.linalg.vector_norm(flat).square())
        flat.zero_()

    def measured(self, count: int, images: int) -> "Measured":
        """Puts the buffer back as if nobody had looked. count: parts over all ranks, of `images` each."""
        self.gradients.flat.copy_(self.total)
        return Measured(self.squares, count, images)


@dataclass
class Measured:
    """What a measured phase leaves on this rank. squares: Σ|g_i|² of its parts, each times 1/count of the
    whole; count: parts over all ranks.
    """

    squares: torch.Tensor
    count: int
    images: int

    def estimate(self, world: World, flat: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """(S, |G|²). flat: the batch's gradient, summed over ranks, unscaled and pulled back."""
        squares = self.squares.clone()
        world.sum(squares)
        # Every part's loss went backward times scale / count.
        squares *= (self.count / scale) ** 2
        return estimate(squares, torch.linalg.vector_norm(flat).square(), self.count, self.images)


def remember(memory: torch.Tensor, now: torch.Tensor, keep: float) -> None:
    """Adds an estimate to a memory (3,) whose older content counts `keep`; leaves out one that is
    not finite.
    """
    added = torch.cat([now, torch.ones_like(now[:1])])
    memory.copy_(torch.where(now.isfinite().all(), memory * keep + (1 - keep) * added, memory))


def scale(memory: torch.Tensor) -> float | None:
    """B in images; infinite where |G|² is not above 0 yet; None before anything was measured. Reads."""
    variance, true, weight = memory.tolist()
    if not weight:
        return None
    return variance / true if true > 0 else float("inf")
