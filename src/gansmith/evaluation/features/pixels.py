"""Pixels as features: what a Fréchet distance sees of layout and colour, without any network.

Images are averaged down to 16×16 (areas of equal weight; smaller ones are repeated), values in [0, 1],
flattened to 768 numbers: all red ones row by row, then green, then blue.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gansmith.evaluation.features.base import FeatureNetwork

SIDE = 16


class Pixels(FeatureNetwork):
    """The 16×16 means of an image."""

    name = "pixels"
    frechet_name = "FD-pixels"
    dim = 3 * SIDE * SIDE
    resizer = "area"
    resolution = SIDE

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def _compute(self, images: Tensor) -> tuple[Tensor, None]:
        x = images.float() / 255
        if x.requires_grad and x.shape[2] == x.shape[3] and x.shape[2] % SIDE == 0:
            return F.avg_pool2d(x, x.shape[2] // SIDE).flatten(
                1
            ), None  # its gradient repeats on every device
        return F.adaptive_avg_pool2d(x, SIDE).flatten(1), None
