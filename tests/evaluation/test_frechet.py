"""The Fréchet distance against closed forms, scipy's matrix square root and torchmetrics."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from gansmith.errors import UserError
from gansmith.evaluation.frechet import (
    Moments,
    chunk_moments,
    frechet_distance,
    frechet_infinity,
    moments,
)


def cloud(n: int, dim: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """float32 (n, dim): correlated and off centre, with variances over two decades, like real features."""
    random = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((dim, dim)) / math.sqrt(dim)
    deviations = np.geomspace(2, 0.02, dim) * scale
    return ((random.standard_normal((n, dim)) * deviations) @ mix + 3 + shift).astype(np.float32)


def gaussian(mean: np.ndarray, cov: np.ndarray, n: int = 10_000) -> Moments:
    return Moments(n, np.asarray(mean, float), np.asarray(cov, float) * (n - 1))


class Through(torch.nn.Module):
    """A feature network for torchmetrics that hands its input on."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_gaussians_with_diagonal_covariances_follow_the_closed_form() -> None:
    random = np.random.default_rng(0)
    a, b = random.uniform(0.1, 3, (2, 50))
    mean_a, mean_b = random.standard_normal((2, 50))
    expected = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    got = frechet_distance(gaussian(mean_a, np.diag(a)), gaussian(mean_b, np.diag(b)))
    assert got == pytest.approx(expected, rel=1e-12)


def test_scaled_isotropic_gaussians_are_dim_times_the_squared_difference_apart() -> None:
    got = frechet_distance(gaussian(np.zeros(30), np.eye(30)), gaussian(np.zeros(30), 4 * np.eye(30)))
    assert got == pytest.approx(30 * (1 - 2) ** 2, rel=1e-12)


def test_correlated_gaussians_agree_with_the_matrix_square_root() -> None:
    a, b = moments(cloud(900, 40, 0)), moments(cloud(700, 40, 1, shift=0.1, scale=1.2))
    root = sqrtm(a.cov @ b.cov).real
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.cov + b.cov - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_equals_torchmetrics_on_equal_features() -> None:
    x, y = cloud(1200, 64, 0), cloud(900, 64, 1, shift=0.05)
    theirs = FrechetInceptionDistance(feature=Through(64)).set_dtype(torch.float64)
    for features, real in ((x, True), (y, False)):
        theirs.update(torch.from_numpy(features).double(), real=real)
    assert frechet_distance(moments(x), moments(y)) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_a_set_has_no_distance_to_itself() -> None:
    full = moments(cloud(2000, 64, 0))
    assert abs(frechet_distance(full, full)) < 1e-9 * np.trace(full.cov)


@pytest.mark.parametrize("n", [2, 3, 20, 63])
def test_fewer_samples_than_dimensions_give_a_finite_distance_and_a_warning(n: int) -> None:
    few, many = moments(cloud(n, 64, 0)), moments(cloud(1000, 64, 1))
    with pytest.warns(UserWarning, match=f"{n} images for 64 features"):
        there, back = frechet_distance(few, many), frechet_distance(many, few)
    assert there > 0
    # Rank-deficient on one side: both orders see the same null space, without the roots of rounding noise.
    assert there == pytest.approx(back, rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert abs(frechet_distance(few, few)) < 1e-6 * np.trace(few.cov)


def test_constant_features_are_a_point_mass() -> None:
    point = moments(np.full((100, 8), 2.0, np.float32))
    other = gaussian(np.zeros(8), np.eye(8))
    assert frechet_distance(point, other) == pytest.approx(8 * 2.0**2 + 8, rel=1e-12)
    assert frechet_distance(other, point) == pytest.approx(8 * 2.0**2 + 8, rel=1e-12)


def test_moments_do_not_depend_on_how_the_rows_were_divided() -> None:
    x = cloud(3000, 16, 0)
    whole = moments(x)
    for cuts in ([1], [1024, 2048], [100, 101, 1500, 2999], range(7, 3000, 7)):
        pieces = moments(iter(np.split(x, list(cuts))))
        assert pieces.n == 3000
        assert np.array_equal(pieces.mean, whole.mean)
        assert np.array_equal(pieces.scatter, whole.scatter)


def test_chunks_computed_by_two_ranks_merge_to_the_same_bits() -> None:
    x = cloud(5000, 16, 0)
    parts = {}
    for rank in (1, 0):  # in whatever order they finish
        for index in range(rank, 5, 2):
            parts[index] = chunk_moments(x[index * 1024 : (index + 1) * 1024])
    total = parts[0]
    for index in range(1, 5):
        total = total.merge(parts[index])
    assert np.array_equal(total.scatter, moments(x).scatter)


def test_moments_keep_float64_accuracy_far_from_the_origin() -> None:
    x = cloud(4000, 16, 0) + 1000
    got = moments(x)
    assert got.cov == pytest.approx(np.cov(x.astype(np.float64), rowvar=False), rel=1e-10, abs=1e-13)
    assert got.mean == pytest.approx(x.astype(np.float64).mean(0), rel=1e-14)


def test_a_memory_mapped_file_serves_as_features(tmp_path) -> None:
    x = cloud(2500, 16, 0)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert np.array_equal(moments(mapped).scatter, moments(x).scatter)


def test_non_finite_features_are_refused_with_their_number() -> None:
    x = cloud(2000, 16, 0)
    x[5, 3], x[1500, 0], x[1500, 1] = np.nan, np.inf, np.nan
    with pytest.raises(UserError, match="the fakes: 2 of 2000 images have NaN or infinite features"):
        moments(x, "the fakes")


@pytest.mark.parametrize("n", [0, 1])
def test_one_image_is_too_few(n: int) -> None:
    with pytest.raises(UserError, match="needs at least 2"):
        moments(np.zeros((n, 4), np.float32))


def test_extrapolation_removes_the_bias_of_a_finite_sample() -> None:
    """Same distribution on both sides: the truth is 0, a finite sample says more."""
    dim = 48
    reference = gaussian(np.zeros(dim), np.eye(dim), n=10**6)
    fits, plain = [], []
    for seed in range(4):
        x = np.random.default_rng(seed).standard_normal((3000, dim)).astype(np.float32)
        fits.append(frechet_infinity(x, reference, seed=0))
        plain.append(frechet_distance(moments(x), reference))
    assert np.mean(plain) > 0.2
    assert abs(np.mean([fit.value for fit in fits])) < 0.15 * np.mean(plain)
    assert all(fit.r2 > 0.98 for fit in fits)
    assert all(0 < fit.standard_error < 0.1 for fit in fits)
    assert fits[0].sizes == (300, 600, 900, 1500, 3000)
    assert fits[0].distances[-1] == pytest.approx(plain[0], rel=1e-9)


def test_extrapolation_repeats_by_its_seed_and_leaves_out_sizes_below_the_dimension() -> None:
    x, reference = cloud(600, 64, 0), moments(cloud(2000, 64, 1))
    once = frechet_infinity(x, reference, seed=3)
    assert once == frechet_infinity(x, reference, seed=3)
    assert once != frechet_infinity(x, reference, seed=4)
    assert once.sizes == (120, 180, 300, 600)
    with pytest.warns(UserWarning, match="60 images for 64 features"):
        assert len(frechet_infinity(x[:200], reference).sizes) == 5
    with pytest.raises(UserError, match="at least 20"):
        frechet_infinity(x[:19], reference)
