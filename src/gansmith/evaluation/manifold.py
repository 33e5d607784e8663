"""How far two clouds of features cover each other: precision, recall, density, coverage.

Both clouds are described by balls around their points that reach to the k-th nearest other point.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gansmith.evaluation.arrays import checked_pair
from gansmith.evaluation.neighbours import count_inside, nearest_others


@dataclass(frozen=True)
class Manifold:
    """All four numbers; `k_ball` belongs to precision and recall, `k_density` to density and coverage."""

    precision: float  # share of fakes inside some real's ball
    recall: float  # share of reals inside some fake's ball
    density: float  # reals' balls per fake, divided by k; 1 for equal distributions, may exceed 1
    coverage: float  # share of reals whose ball holds a fake; `expected_coverage` for equal distributions
    k_ball: int
    k_density: int


def manifold(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    k_ball: int = 3,
    k_density: int = 5,
    device: torch.device | str = "cpu",
    real_radii: np.ndarray | None = None,
    fake_radii: np.ndarray | None = None,
) -> Manifold:
    """All four scores in one pass over the pairs (Kynkäänniemi et al. 2019; Naeem et al. 2020).

    real (n, dim), fake (m, dim): float32, may be memmaps. real_radii: `radii(real, max(k_ball, k_density))`
    if known, fake_radii: `radii(fake, k_ball)`; more columns do no harm. Precision and recall depend on both
    numbers of images: compare only equal ones. Raises UserError for fewer than k + 1 images on either side
    and for non-finite features.
    """
    deepest = max(k_ball, k_density)
    real, fake = checked_pair(real, fake, deepest + 1)
    if real_radii is None:
        real_radii = radii(real, deepest, device=device)
    if fake_radii is None:
        fake_radii = radii(fake, k_ball, device=device)
    tests = [
        ("centres", real_radii[:, k_ball - 1]),
        ("centres", real_radii[:, k_density - 1]),
        ("points", fake_radii[:, k_ball - 1]),
    ]
    narrow, wide, backward = count_inside(fake, real, tests, device=device)
    return Manifold(
        precision=float((narrow[0] > 0).mean()),
        recall=float((backward[1] > 0).mean()),
        density=float(wide[0].sum() / (k_density * len(fake))),
        coverage=float((wide[1] > 0).mean()),
        k_ball=k_ball,
        k_density=k_density,
    )


def radii(features: np.ndarray, k: int, *, device: torch.device | str = "cpu") -> np.ndarray:
    """float64 (n, k): distances from each point to its 1st … k-th nearest other point."""
    return nearest_others(features, k, device=device).distances


def precision_recall(
    real: np.ndarray, fake: np.ndarray, k: int = 3, *, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019); arguments and errors as of `manifold`."""
    both = manifold(real, fake, k_ball=k, k_density=k, device=device)
    return both.precision, both.recall


def density_coverage(
    real: np.ndarray, fake: np.ndarray, k: int = 5, *, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Density and coverage (Naeem et al. 2020); arguments and errors as of `manifold`."""
    both = manifold(real, fake, k_ball=k, k_density=k, device=device)
    return both.density, both.coverage


def expected_coverage(num_real: int, num_fake: int, k: int) -> float:
    """Coverage of equal distributions: 1 − (n−1)…(n−k) / ((m+n−1)…(m+n−k)) of n reals and m fakes.

    Naeem et al. 2020, lemma 2; about 0.97 for k = 5 and as many fakes as reals.
    """
    steps = np.arange(1, k + 1)
    return float(1 - np.prod((num_real - steps) / (num_fake + num_real - steps)))
