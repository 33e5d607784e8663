"""What scores look at: the reals and the fakes of one pass through one feature network, computed once each.

Must not know which scores there are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from gansmith.data.shards import Dataset
from gansmith.evaluation import frechet, manifold, neighbours
from gansmith.evaluation.cas import Budget
from gansmith.evaluation.features import FeatureNetwork
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.pictures import Pictures
from gansmith.evaluation.protocol import Score
from gansmith.evaluation.targets import Target

K_BALL, K_DENSITY = 3, 5


class Reference:
    """Features of the reals with what several scores, or several passes, need of them."""

    def __init__(
        self,
        features: FeatureSet,
        device: torch.device,
        held_out: Callable[[], FeatureSet | None] = lambda: None,
    ) -> None:
        """held_out: computes those of reals that were not trained on; called when a score wants them."""
        self.features, self.device, self._held_out = features, device, held_out

    @cached_property
    def held_out(self) -> FeatureSet | None:
        return self._held_out()

    @cached_property
    def moments(self) -> frechet.Moments:
        return frechet.moments(self.features.features, "the reals")

    @cached_property
    def root(self) -> np.ndarray:
        """Of the covariance: the dearer half of a Fréchet distance."""
        return frechet.covariance_root(self.moments)

    @cached_property
    def neighbours(self) -> neighbours.Neighbours:
        """Of each real its nearest other reals: as many as any score asks for, fewer in a tiny set."""
        features = self.features.features
        k = min(max(K_BALL, K_DENSITY), len(features) - 1)
        return neighbours.nearest_others(features, k, device=self.device, name="the reals")


@dataclass(frozen=True)
class Images:
    """The images themselves, for scores that do not look at features.

    digests: of each fake, bytes (n,). small: the fakes as a classifier sees them, uint8 (n, C, H, W), where
    one is trained; cas: for how long.
    """

    target: Target
    dataset: Dataset
    held_out: Dataset | None
    discriminator: nn.Module | None
    pictures: Pictures | None
    digests: np.ndarray
    small: torch.Tensor | None
    cas: Budget


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
    def neighbours(self) -> neighbours.Neighbours:
        """Of each fake its nearest other fakes."""
        k = min(K_BALL, len(self.fake) - 1)
        return neighbours.nearest_others(self.fake.features, k, device=self.network.device, name="the fakes")

    @cached_property
    def manifold(self) -> manifold.Manifold:
        """Four scores from one pass over the pairs."""
        return manifold.manifold(
            self.real.features,
            self.fake.features,
            k_ball=K_BALL,
            k_density=K_DENSITY,
            device=self.network.device,
            real_radii=self.reference.neighbours.distances,
            fake_radii=self.neighbours.distances,
        )

    def score(self, metric: str, value: float, better: str, *, name: str | None = None, **more: Any) -> Score:
        """name: before the feature network's; the FID network's own scores go without. more: as of Score."""
        suffix = self.network.frechet_name.removeprefix("FD-")
        title = name or metric
        full = title if self.network.frechet_name == "FID" else f"{title}-{suffix}"
        return Score(metric, full, value, better, features=self.network.describe(), **more)
