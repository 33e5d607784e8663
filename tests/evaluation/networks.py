"""A feature network for tests: quick, with logits, and counting what it sees."""

from typing import Any

import torch

from gansmith.evaluation.features import FeatureNetwork, Features


class Colour(FeatureNetwork):
    """Mean colour of an image, and logits that say which third is brightest; counts what it sees."""

    name, frechet_name, dim, num_logits, resizer = "colour", "FD-colour", 3, 3, "none"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: torch.Tensor) -> Features:
        self.seen += len(images)
        means = images.float().mean((2, 3))
        rows = [images[:, :, 4 + 8 * k : 12 + 8 * k].float().mean((1, 2, 3)) for k in range(3)]
        return Features(means, torch.stack(rows, 1) / 16)

    def _compute(self, images: torch.Tensor) -> Any:
        raise AssertionError

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def cache_identity(self) -> dict[str, Any]:
        return {"name": self.name, "id": id(self)}
