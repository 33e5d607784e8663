"""KID against torchmetrics and against the sum written out."""

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from gansmith.errors import UserError
from gansmith.evaluation.kernel import kid, mmd2


def clouds(m: int, n: int, dim: int = 32) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.standard_normal((m, dim)).astype(np.float32)
    return x, (random.standard_normal((n, dim)) * 1.1 + 0.1).astype(np.float32)


def written_out(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    x, y = x.astype(np.float64), y.astype(np.float64)
    m, n = len(x), len(y)
    return (
        (k(x, x).sum() - np.trace(k(x, x))) / (m * (m - 1))
        + (k(y, y).sum() - np.trace(k(y, y))) / (n * (n - 1))
        - 2 * k(x, y).mean()
    )


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_equals_torchmetrics_when_both_take_every_image() -> None:
    x, y = clouds(500, 500)
    theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=2, subset_size=500)
    theirs.update(torch.from_numpy(x).double(), real=True)
    theirs.update(torch.from_numpy(y).double(), real=False)
    value, sd = theirs.compute()
    ours = kid(x, y, num_subsets=2, subset_size=500)
    assert ours.value == pytest.approx(float(value), rel=1e-6)
    assert ours.sd == pytest.approx(float(sd), abs=1e-12)


def test_full_distance_equals_the_sum_written_out_across_block_borders() -> None:
    x, y = clouds(2500, 2100)
    assert mmd2(x, y) == pytest.approx(written_out(x, y), rel=1e-9)


def test_subsets_agree_with_the_full_distance_within_their_error() -> None:
    x, y = clouds(3000, 2000)
    got = kid(x, y, num_subsets=50, subset_size=300)
    assert got.standard_error == pytest.approx(got.sd / np.sqrt(50))
    assert abs(got.value - written_out(x, y)) < 4 * got.standard_error
    assert got == kid(x, y, num_subsets=50, subset_size=300)
    assert got != kid(x, y, num_subsets=50, subset_size=300, seed=1)


def test_equal_distributions_are_zero_on_average_and_may_be_below() -> None:
    random = np.random.default_rng(1)
    values = [mmd2(*random.standard_normal((2, 200, 8))) for _ in range(40)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(40)
    assert min(values) < 0


def test_subset_size_falls_to_the_smaller_set() -> None:
    x, y = clouds(150, 400)
    got = kid(x, y, num_subsets=3)
    assert (got.subset_size, got.num_subsets) == (150, 3)


def test_unusable_features_are_refused() -> None:
    x, y = clouds(50, 40)
    with pytest.raises(UserError, match="the fakes: 1 image; this score needs at least 2"):
        kid(x, y[:1])
    with pytest.raises(UserError, match="the reals have 32 features per image, the fakes 16"):
        kid(x, y[:, :16])
    y[[3, 8]] = np.inf
    with pytest.raises(UserError, match="the fakes: 2 of 40 images"):
        kid(x, y)
