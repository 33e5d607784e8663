"""Scores of each class by itself: Fréchet distance and diversity of its fakes against its own reals.

A class that collapsed hides in the scores of all classes together; here it is a row of its own.
"""

from dataclasses import dataclass

import numpy as np

from gansmith.errors import UserError
from gansmith.evaluation.arrays import checked_pair, grouped, some
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.frechet import covariance_root, few_samples, moments

DIVERSITY_IMAGES = 1000  # at most, per class: enough for stable pairs and cheap eigenvalues


@dataclass(frozen=True)
class PerClassFrechet:
    """FD² of each class; NaN for classes with fewer than 2 images on either side."""

    distances: np.ndarray  # float64 (num_classes,)
    num_real: np.ndarray  # int64 (num_classes,)
    num_fake: np.ndarray
    mean: float  # over the classes that have a distance: "intra-class FID"
    worst: tuple[int, ...]  # up to 10 classes, the highest distance first
    warnings: tuple[str, ...]


def per_class_frechet(real: FeatureSet, fake: FeatureSet) -> PerClassFrechet:
    """Fréchet distance between the reals and the fakes of each class, and their mean (Miyato & Koyama 2018).

    With fewer images than dimensions, which is usual here, the distances are far above their limit: compare
    them only between equal counts. Raises UserError without labels on either side, when the class counts
    differ, and when no class has 2 images on both sides.
    """
    real_rows, fake_rows = _classes(real, fake)
    counts = np.array([[len(r), len(f)] for r, f in zip(real_rows, fake_rows)])
    distances = np.full(len(counts), np.nan)
    for label in np.flatnonzero((counts >= 2).all(1)):
        distances[label] = _distance(real.features[real_rows[label]], fake.features[fake_rows[label]])
    scored = np.flatnonzero(~np.isnan(distances))
    if not len(scored):
        raise UserError(
            "per-class scores: no class has 2 images on both sides; draw more fakes (--num), or leave the "
            "per-class scores out of --metrics."
        )
    warnings = []
    if len(scored) < len(counts):
        warnings.append(f"{len(counts) - len(scored)} of {len(counts)} classes have fewer than 2 images")
    fewest = int(counts[scored].min())
    if warning := few_samples(fewest, real.dim, "the smallest class"):
        warnings.append(warning)
    worst = scored[np.argsort(-distances[scored], kind="stable")][:10]
    return PerClassFrechet(
        distances=distances,
        num_real=counts[:, 0],
        num_fake=counts[:, 1],
        mean=float(distances[scored].mean()),
        worst=tuple(int(label) for label in worst),
        warnings=tuple(warnings),
    )


def _distance(x: np.ndarray, y: np.ndarray) -> float:
    """FD² by roots of both covariances: tr (Σ₁Σ₂)^½ is the sum of the singular values of R₁ᵀR₂.

    A class with fewer images than dimensions is its own root, so hundreds of classes cost seconds.
    """
    mean_x, root_x = _root(x)
    mean_y, root_y = _root(y)
    cross = np.linalg.svd(root_x.T @ root_y, compute_uv=False).sum()
    return float(((mean_x - mean_y) ** 2).sum() + (root_x**2).sum() + (root_y**2).sum() - 2 * cross)


def _root(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (dim,) and a root (dim, ≤ dim) of the unbiased covariance."""
    if len(features) > features.shape[1]:
        of = moments(features)
        return of.mean, covariance_root(of)
    features = features.astype(np.float64)
    mean = features.mean(0)
    return mean, (features - mean).T / np.sqrt(len(features) - 1)


@dataclass(frozen=True)
class PerClassDiversity:
    """How spread out each class's images are, next to its reals; NaN where a side has fewer than 2 images."""

    fake_distance: np.ndarray  # float64 (num_classes,): mean distance between two fakes of the class
    real_distance: np.ndarray
    fake_rank: np.ndarray  # effective rank of the fakes' covariance
    real_rank: np.ndarray
    worst: tuple[int, ...]  # up to 10 classes, the lowest distance ratio first

    @property
    def distance_ratio(self) -> np.ndarray:
        """Fakes' mean distance over the reals': 1 as diverse as the reals, 0 one image over and over."""
        return self.fake_distance / self.real_distance

    @property
    def rank_ratio(self) -> np.ndarray:
        """Fakes' effective rank over the reals', both from equally many images."""
        return self.fake_rank / self.real_rank


def per_class_diversity(real: FeatureSet, fake: FeatureSet, *, seed: int = 0) -> PerClassDiversity:
    """Mean pairwise distance and effective rank (Roy & Vetterli 2007) of each class's fakes and reals.

    Both sides of a class are thinned to equally many images, at most DIVERSITY_IMAGES, since the rank grows
    with their number. Raises UserError as `per_class_frechet` does.
    """
    real_rows, fake_rows = _classes(real, fake)
    columns = np.full((4, len(real_rows)), np.nan)
    for label, (reals, fakes) in enumerate(zip(real_rows, fake_rows)):
        count = min(len(reals), len(fakes), DIVERSITY_IMAGES)
        if count < 2:
            continue
        for side, (of, rows) in enumerate(((fake, fakes), (real, reals))):
            spread, rank = _spread(of.features[rows[some(len(rows), count, seed)]])
            columns[side, label], columns[2 + side, label] = spread, rank
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = columns[0] / columns[1]
    scored = np.flatnonzero(~np.isnan(ratio))
    worst = scored[np.argsort(ratio[scored], kind="stable")][:10]
    fake_distance, real_distance, fake_rank, real_rank = columns
    return PerClassDiversity(
        fake_distance=fake_distance,
        real_distance=real_distance,
        fake_rank=fake_rank,
        real_rank=real_rank,
        worst=tuple(int(label) for label in worst),
    )


def _spread(features: np.ndarray) -> tuple[float, float]:
    """Mean distance between two different rows, and exp of the entropy of the covariance's spectrum."""
    centred = features.astype(np.float64)
    centred -= centred.mean(0)
    products = centred @ centred.T
    norms2 = np.diag(products)
    distances2 = (norms2[:, None] + norms2 - 2 * products).clip(min=0)
    np.fill_diagonal(distances2, 0)
    count = len(features)
    mean = float(np.sqrt(distances2).sum() / (count * (count - 1)))
    spectrum = np.linalg.eigvalsh(products).clip(min=0)
    if not spectrum.sum():
        return mean, 1.0
    share = spectrum[spectrum > 0] / spectrum.sum()
    return mean, float(np.exp(-(share * np.log(share)).sum()))


def _classes(real: FeatureSet, fake: FeatureSet) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of each class on both sides, once everything needed is known to be there."""
    for side, what in ((real, "the reals"), (fake, "the fakes")):
        if side.labels is None:
            raise UserError(
                f"per-class scores: {what} have no labels. Evaluate a class-conditional generator, or images "
                "in one folder per class, or leave the per-class scores out of --metrics."
            )
    if real.num_classes != fake.num_classes:
        raise UserError(
            f"per-class scores: the reals have {real.num_classes} classes, the fakes {fake.num_classes}; "
            "both need the same: give the data the generator was trained on with --data."
        )
    checked_pair(real.features, fake.features)
    assert real.labels is not None
    assert fake.labels is not None
    return grouped(real.labels, real.num_classes), grouped(fake.labels, fake.num_classes)
