"""Precision, recall, density and coverage against brute force and their known values."""

import numpy as np
import pytest

from gansmith.errors import UserError
from gansmith.evaluation.manifold import (
    density_coverage,
    expected_coverage,
    manifold,
    precision_recall,
    radii,
)


def clouds(n: int, m: int, dim: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    real = random.standard_normal((n, dim)).astype(np.float32)
    return real, (0.8 * random.standard_normal((m, dim)) + 0.3).astype(np.float32)


def brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1))

    real_radius = np.sort(distances(real, real), 1)[:, k]  # column 0 is the point itself
    fake_radius = np.sort(distances(fake, fake), 1)[:, k]
    between = distances(real, fake)
    inside = between <= real_radius[:, None]
    return (
        inside.any(0).mean(),
        (between <= fake_radius).any(1).mean(),
        inside.sum() / (k * len(fake)),
        inside.any(1).mean(),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_all_four_equal_brute_force(k: int) -> None:
    real, fake = clouds(400, 300)
    expected = brute_force(real, fake, k)
    assert precision_recall(real, fake, k) == expected[:2]
    assert density_coverage(real, fake, k) == pytest.approx(expected[2:], rel=1e-14)


def test_one_pass_gives_both_pairs_of_scores_with_their_own_k() -> None:
    real, fake = clouds(300, 500)
    got = manifold(real, fake, real_radii=radii(real, 5), fake_radii=radii(fake, 7))
    assert (got.precision, got.recall) == precision_recall(real, fake, 3)
    assert (got.density, got.coverage) == density_coverage(real, fake, 5)
    assert (got.k_ball, got.k_density) == (3, 5)


def test_equal_distributions_have_density_1_and_coverage_0_97() -> None:
    """Naeem et al. 2020: the expectations hold for every distribution."""
    random = np.random.default_rng(3)
    draws = random.standard_normal((8, 2, 1200, 8)).astype(np.float32)
    density, coverage = np.mean([density_coverage(real, fake) for real, fake in draws], 0)
    assert expected_coverage(1200, 1200, 5) == pytest.approx(1 - 2**-5, abs=3e-4)
    assert density == pytest.approx(1, abs=0.02)  # one draw has a deviation of 0.02
    assert coverage == pytest.approx(0.9688, abs=0.005)


def test_one_image_over_and_over_has_precision_but_no_recall() -> None:
    real, _ = clouds(300, 1)
    got = manifold(real, np.repeat(real[:1], 200, 0))
    assert got.precision == 1
    assert got.recall == pytest.approx(1 / 300)  # its own original
    assert got.coverage < 0.1


def test_far_away_fakes_have_neither() -> None:
    real, fake = clouds(200, 200)
    got = manifold(real, fake + 100)
    assert (got.precision, got.recall, got.density, got.coverage) == (0, 0, 0, 0)


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    real, fake = clouds(20, 5)
    with pytest.raises(UserError, match="the fakes: 5 images; this score needs at least 6"):
        manifold(real, fake)
