"""What scores look at: the reals and the fakes of one pass through one feature network, computed once each.

Must not know which scores there are.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from gansmith.data.shards import Dataset
from gansmith.evaluation import frechet, manifold
from gansmith.evaluation.features import FeatureNetwork
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.pictures import Pictures
from gansmith.evaluation.protocol import Score
from gansmith.evaluation.targets import Target

K_BALL, K_DENSITY = 3, 5


class Reference:
    """Features of the reals with what several scores, or several passes, need of them."""

    def __init__(
        self, features: FeatureSet, device: torch.device, held_out: FeatureSet | None = None
    ) -> None:
        self.features, self.device, self.held_out = features, device, held_out

    @cached_property
    def moments(self) -> frechet.Moments:
        return frechet.moments(self.features.features, "the reals")

    @cached_property
    def radii(self) -> np.ndarray:
        return manifold.radii(self.features.features, max(K_BALL, K_DENSITY), device=self.device)


@dataclass(frozen=True)
class Images:
    """The images themselves, for scores that do not look at features."""

    target: Target
    dataset: Dataset
    held_out: Dataset | None = None
    discriminator: nn.Module | None = None
    pictures: Pictures | None = None


@dataclass
class Subjects:
    """The reals and the fakes of one pass, as one feature network sees them."""

    network: FeatureNetwork
    reference: Reference
    fake: FeatureSet
    seed: int
    images: Images

    @property
    def real(self) -> FeatureSet:
        return self.reference.features

    @cached_property
    def moments(self) -> frechet.Moments:
        return frechet.moments(self.fake.features, "the fakes")

    @cached_property
    def manifold(self) -> manifold.Manifold:
        """Four scores from one search for neighbours."""
        return manifold.manifold(
            self.real.features,
            self.fake.features,
            k_ball=K_BALL,
            k_density=K_DENSITY,
            device=self.network.device,
            real_radii=self.reference.radii,
        )

    def score(self, metric: str, value: float, better: str, *, name: str | None = None, **more: Any) -> Score:
        """name: before the feature network's; the FID network's own scores go without. more: as of Score."""
        suffix = self.network.frechet_name.removeprefix("FD-")
        title = name or metric
        full = title if suffix == "FID" else f"{title}-{suffix}"
        return Score(metric, full, value, better, features=self.network.describe(), **more)
