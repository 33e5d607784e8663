"""The Fréchet distance between two clouds of features, from streamed float64 moments.

Any feature network's features do; only the caller knows whether the result may be called FID.

    FD² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₂^½ Σ₁ Σ₂^½)^½        (Heusel et al. 2017, eq. 6)
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np

from gansmith.evaluation.arrays import CHUNK, checked, count_bad, refuse_bad, refuse_few

BLOCKS = 10  # frechet_infinity's pieces
SIZES = (1, 2, 3, 5, 10)  # blocks per subset: sizes n/10 … n, spaced evenly enough in 1/n


@dataclass(frozen=True)
class Moments:
    """Count, mean (dim,) and scatter Σ (x − mean)(x − mean)ᵀ (dim, dim) of features, float64."""

    n: int
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def cov(self) -> np.ndarray:
        """The unbiased covariance (dim, dim). Needs n ≥ 2."""
        return self.scatter / (self.n - 1)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both sets together (Chan et al. 1979): exact in exact arithmetic, no cancellation."""
        n = self.n + other.n
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.n / n)
        scatter = self.scatter + other.scatter
        scatter += np.outer(delta, delta * (self.n * other.n / n))
        return Moments(n, mean, scatter)


def moments(features: np.ndarray | Iterable[np.ndarray], what: str = "the images") -> Moments:
    """Moments of features given whole or as consecutive pieces.

    Pieces are regrouped into chunks of CHUNK rows which are merged in order, so the result is the same to the
    last bit however the rows were divided (over ranks, files or batches) as long as their order is the same.
    features: (n, dim) or an iterable of such, any float type. Raises UserError for fewer than 2 images or
    non-finite features.
    """
    pieces = [features] if isinstance(features, np.ndarray) else features
    total, n, bad = None, 0, 0
    for chunk in _regrouped(pieces):
        n += len(chunk)
        bad += count_bad(chunk)
        if not bad:
            part = chunk_moments(chunk)
            total = part if total is None else total.merge(part)
    refuse_few(n, what, 2)
    refuse_bad(bad, n, what)
    assert total is not None
    return total


def chunk_moments(chunk: np.ndarray) -> Moments:
    """Moments of one chunk (n ≥ 1, dim), in one piece: what a rank computes of its share."""
    chunk = chunk.astype(np.float64)
    mean = chunk.mean(0)
    chunk -= mean
    return Moments(len(chunk), mean, chunk.T @ chunk)


def _regrouped(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    waiting: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        at = 0
        while at < len(piece):
            part = piece[at : at + CHUNK - count]
            waiting.append(part)
            count, at = count + len(part), at + len(part)
            if count == CHUNK:
                yield np.concatenate(waiting)
                waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting)


def few_samples(n: int, dim: int, what: str) -> str | None:
    """The warning due when fewer images than dimensions make the covariance singular, else None."""
    if n >= dim:
        return None
    return (
        f"{what}: {n} images for {dim} features: the covariance is singular and the Fréchet distance far too "
        f"high; compare it only at this same number of images, or give at least {dim}, better {10 * dim}."
    )


def frechet_distance(
    a: Moments,
    b: Moments,
    *,
    root: np.ndarray | None = None,
    names: tuple[str, str] = ("the first set", "the second set"),
) -> float:
    """The squared Fréchet distance FD² that is everywhere reported as "FID".

    Symmetric in a and b up to rounding; finite for every n ≥ 2. root: `covariance_root(b)`, if known: the
    dearer half. names: for messages. `warnings.warn`s below dim samples.
    """
    for side, what in zip((a, b), names):
        if warning := few_samples(side.n, side.dim, what):
            warnings.warn(warning, stacklevel=2)
    root = covariance_root(b) if root is None else root
    cov = a.cov
    inner = root.T @ cov @ root
    values = np.linalg.eigvalsh((inner + inner.T) / 2)
    cross = np.sqrt(values.clip(min=0)).sum()
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(cov) + (root**2).sum() - 2 * cross)


def covariance_root(of: Moments) -> np.ndarray:
    """R (dim, rank) with R Rᵀ = Σ: eigenvectors times the roots of the eigenvalues.

    Eigenvalues that are rounding noise (numpy's rule for the rank) are left out: their roots are not small.
    """
    values, vectors = np.linalg.eigh(of.cov)
    real = values > max(values[-1], 0.0) * of.dim * np.finfo(np.float64).eps
    return vectors[:, real] * np.sqrt(values[real])


@dataclass(frozen=True)
class FrechetInfinity:
    """FD² extrapolated to infinitely many fakes, and the fit that says so."""

    value: float
    standard_error: float  # of the intercept, from the residuals of the line
    r2: float  # share of the variance that the line explains
    slope: float  # bias ≈ slope / n
    sizes: tuple[int, ...]
    distances: tuple[float, ...]  # mean FD² at each size


def frechet_infinity(
    fake: np.ndarray, reference: Moments, seed: int = 0, *, root: np.ndarray | None = None
) -> FrechetInfinity:
    """FD² without the bias of a finite number of fakes (Chong & Forsyth 2020): FD²ₙ ≈ FD²∞ + slope / n.

    The line is fitted to n/10, 2n/10, 3n/10, 5n/10 and all of the shuffled fakes. Where they fit 15 random
    subsets, here every size uses (nearly) all images, in disjoint subsets whose distances are averaged, so
    that all points have about the same variance, and one pass over the images serves all of them. Sizes
    below dim, where the bias does not follow 1/n, are left out if three others remain. The reference's own
    finite sample biases the result still. root: `covariance_root(reference)`, if known. Raises UserError for
    fewer than 20 fakes.
    """
    fake = checked(fake, "the fakes", 2 * BLOCKS)
    order = np.random.default_rng(seed).permutation(len(fake))
    root = covariance_root(reference) if root is None else root
    blocks = [_projected(fake[np.sort(part)], reference.mean, root) for part in np.array_split(order, BLOCKS)]
    points = [size for size in SIZES if size * len(fake) // BLOCKS >= reference.dim]
    if len(points) < 3:
        points = list(SIZES)
        few = len(fake) // BLOCKS * SIZES[-3]
        warnings.warn(few_samples(few, reference.dim, "the extrapolation's subsets") or "", stacklevel=2)
    sizes, distances = [], []
    for size in points:
        unions = [
            reduce(_Projected.merge, blocks[at : at + size]) for at in range(0, BLOCKS - size + 1, size)
        ]
        sizes.append(np.mean([union.inside.n for union in unions]))
        distances.append(np.mean([union.distance(root) for union in unions]))
    return _line(np.array(sizes), np.array(distances))


@dataclass(frozen=True)
class _Projected:
    """Fakes x, less the reference's mean, as Rᵀx: all that the distance to a Gaussian of covariance R Rᵀ
    needs, without products of matrices for every union.
    """

    mean: np.ndarray  # of x
    scatter: float  # trace of that of x
    inside: Moments  # of Rᵀx

    def merge(self, other: "_Projected") -> "_Projected":
        n, m, delta = self.inside.n, other.inside.n, other.mean - self.mean
        scatter = self.scatter + other.scatter + delta @ delta * (n * m / (n + m))
        return _Projected(self.mean + delta * (m / (n + m)), scatter, self.inside.merge(other.inside))

    def distance(self, root: np.ndarray) -> float:
        values = np.linalg.eigvalsh(self.inside.cov)
        cross = np.sqrt(values.clip(min=0)).sum()
        trace = self.scatter / (self.inside.n - 1)
        return float((self.mean**2).sum() + trace + (root**2).sum() - 2 * cross)


def _projected(features: np.ndarray, centre: np.ndarray, root: np.ndarray) -> _Projected:
    x = features.astype(np.float64)
    x -= centre
    mean = x.mean(0)
    return _Projected(mean, float(((x - mean) ** 2).sum()), moments(x @ root))


def _line(sizes: np.ndarray, distances: np.ndarray) -> FrechetInfinity:
    """Least squares of distance against 1/n."""
    x = 1 / sizes
    centred = x - x.mean()
    slope = (centred @ distances) / (centred @ centred)
    intercept = distances.mean() - slope * x.mean()
    residuals = distances - intercept - slope * x
    variance = (residuals @ residuals) / (len(x) - 2)
    error = np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / (centred @ centred)))
    spread = ((distances - distances.mean()) ** 2).sum()
    r2 = 1 - (residuals @ residuals) / spread if spread else 1.0
    return FrechetInfinity(
        value=float(intercept),
        standard_error=float(error),
        r2=float(r2),
        slope=float(slope),
        sizes=tuple(round(size) for size in sizes),
        distances=tuple(float(distance) for distance in distances),
    )
