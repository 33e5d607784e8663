"""Images as training a classifier asks for them: reals by number out of their data set, fakes made small.

Must not know classifiers or scores.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gansmith.data.shards import Dataset
from gansmith.evaluation.classifier import MAX_RESOLUTION
from gansmith.evaluation.features.resizing import antialiased_bicubic


@dataclass(frozen=True)
class Reals:
    """Some images of a data set: uint8 (n, C, H, W), read when asked for. rows: their indices."""

    dataset: Dataset
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: torch.Tensor, /) -> torch.Tensor:
        return torch.from_numpy(self.dataset.read(self.rows[indices.numpy()])).permute(0, 3, 1, 2)


def small_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """(C, H, W) of `as_small`."""
    side = MAX_RESOLUTION
    return shape if max(shape[1:]) <= side else (shape[0], side, side)


def as_small(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, C, H, W), made smaller where a classifier would, so that all of them fit in memory."""
    if max(images.shape[2:]) <= MAX_RESOLUTION:
        return images
    return antialiased_bicubic(images, MAX_RESOLUTION).round().clamp(0, 255).to(torch.uint8)
