"""Features of many images with their labels: what scores are computed from, and nothing else.

Scores see a FeatureSet only; where the images came from (a data set, a generator, a folder) is not known
here.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class FeatureSet:
    """Features of n images in the order of the images.

    features: float32 (n, dim), maybe a read-only memory map. logits: float32 (n, K), or None where the
    network has none. labels: int64 (n,), or None where unknown. num_classes: of the labels, 0 where unknown.
    class_names: name of label i.
    """

    features: np.ndarray
    logits: np.ndarray | None = None
    labels: np.ndarray | None = None
    num_classes: int = 0
    class_names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.features.ndim == 2, f"features are (n, dim), not {self.features.shape}"
        for name in ("logits", "labels"):
            column = getattr(self, name)
            assert column is None or len(column) == len(self.features), f"{name} of other images"

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self.features.shape[1]
