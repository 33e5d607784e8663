"""The kernel distance KID: an unbiased MMD² with a cubic kernel between two clouds of features.

k(x, y) = (x·y / dim + 1)³        (Bińkowski et al. 2018)
"""

from dataclasses import dataclass

import numpy as np

from gansmith.evaluation.arrays import checked_pair, chunks


@dataclass(frozen=True)
class KernelDistance:
    """MMD² averaged over subsets. May be slightly negative: it is unbiased around 0."""

    value: float
    sd: float  # over the subsets (population), as other codes print it
    standard_error: float  # of value, were the subsets independent: sd / √num_subsets
    subset_size: int
    num_subsets: int


def kid(
    real: np.ndarray, fake: np.ndarray, *, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Mean and spread of the unbiased MMD² over random subsets, each drawn without replacement.

    real, fake: (n, dim), any float type; products and sums are float64, since KID is a small difference of
    large means. The subset size falls to the smaller set's size when that is below it (then every subset
    holds all of that set, and `sd` says less than it seems). Raises UserError for fewer than 2 images or
    non-finite features.
    """
    real, fake = checked_pair(real, fake)
    size = min(subset_size, len(real), len(fake))
    random = np.random.default_rng(seed)
    values = np.empty(num_subsets)
    for index in range(num_subsets):
        # Sorted, since a memmap reads forwards faster; the order within a subset means nothing.
        x = real[np.sort(random.choice(len(real), size, replace=False))].astype(np.float64)
        y = fake[np.sort(random.choice(len(fake), size, replace=False))].astype(np.float64)
        values[index] = mmd2(x, y)
    return KernelDistance(
        value=float(values.mean()),
        sd=float(values.std()),
        standard_error=float(values.std() / np.sqrt(num_subsets)),
        subset_size=size,
        num_subsets=num_subsets,
    )


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased MMD² of all of x (m, dim) against all of y (n, dim); m² + n² + mn products."""
    m, n = len(x), len(y)
    within_x = (_kernel_sum(x, x) - _diagonal_sum(x)) / (m * (m - 1))
    within_y = (_kernel_sum(y, y) - _diagonal_sum(y)) / (n * (n - 1))
    return float(within_x + within_y - 2 * _kernel_sum(x, y) / (m * n))


def _kernel_sum(x: np.ndarray, y: np.ndarray, size: int = 2048) -> float:
    """Σᵢⱼ k(xᵢ, yⱼ), in blocks; of x with itself each pair of blocks once."""
    total = 0.0
    for i, rows in enumerate(chunks(x, size)):
        rows = rows.astype(np.float64)
        for j, columns in enumerate(chunks(y, size)):
            if x is y and j < i:
                continue
            # numpy sees that a matrix meets its own transpose and computes half of the products.
            others = rows if x is y and i == j else columns.astype(np.float64)
            kernel = rows @ others.T
            kernel /= x.shape[1]
            kernel += 1
            cubes = kernel * kernel
            cubes *= kernel
            total += cubes.sum() * (2 if x is y and j > i else 1)
    return total


def _diagonal_sum(x: np.ndarray) -> float:
    total = 0.0
    for rows in chunks(x):
        rows = rows.astype(np.float64)
        total += ((np.einsum("nd,nd->n", rows, rows) / x.shape[1] + 1) ** 3).sum()
    return total
