"""Images by number, as training a classifier asks for them: reals out of their data set, fakes made once.

Must not know classifiers or scores.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gansmith.data.shards import Dataset
from gansmith.evaluation.classifier import MAX_RESOLUTION
from gansmith.evaluation.features.resizing import antialiased_bicubic
from gansmith.evaluation.targets import Target


@dataclass(frozen=True)
class Reals:
    """Some images of a data set: uint8 (n, C, H, W), read when asked for. rows: their indices."""

    dataset: Dataset
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: torch.Tensor, /) -> torch.Tensor:
        return torch.from_numpy(self.dataset.read(self.rows[indices.numpy()])).permute(0, 3, 1, 2)


def fakes(target: Target, seed: int, num: int) -> torch.Tensor:
    """All of them: uint8 (num, C, H, W), made smaller where a classifier would, to fit in memory."""
    parts = []
    for index in range(target.num_chunks(num)):
        images = target.chunk(index, seed=seed, num=num).images.cpu()
        if max(images.shape[2:]) > MAX_RESOLUTION:
            images = antialiased_bicubic(images, MAX_RESOLUTION).round().clamp(0, 255).to(torch.uint8)
        parts.append(images)
    return torch.cat(parts)
