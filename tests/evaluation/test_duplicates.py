"""Duplicates among fakes: none in honest samples, all in a constant, the share put in where it was put in."""

import numpy as np
import pytest

from gansmith.errors import UserError
from gansmith.evaluation.duplicates import digests_of, exact_duplicate_rate, near_duplicates
from gansmith.evaluation.neighbours import nearest_others


def cloud(n: int, seed: int, dim: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def test_honest_samples_have_no_near_duplicates() -> None:
    got = near_duplicates(cloud(1000, 0), cloud(800, 1))
    assert (got.rate, got.real_rate, got.num_real) == (0, 0, 800)
    assert got.distance_ratio == pytest.approx(1, abs=0.02)


def test_the_share_of_near_copies_is_found_with_their_originals() -> None:
    fake = cloud(1000, 1)
    fake[:60] = fake[60:120] + 0.001
    got = near_duplicates(cloud(1000, 0), fake)
    assert got.rate == 0.12  # copies and originals
    assert np.array_equal(got.nearest[:60], np.arange(60, 120))
    assert got.distances[:60] == pytest.approx(0.001 * np.sqrt(32), rel=1e-2)


def test_a_constant_generator_is_all_duplicates() -> None:
    got = near_duplicates(cloud(300, 0), np.repeat(cloud(1, 1), 200, 0))
    assert (got.rate, got.distance_ratio) == (1, 0)


def test_duplicates_in_the_data_neither_set_the_threshold_nor_stay_unsaid() -> None:
    real = cloud(1000, 0)
    real[:200] = real[200:400]
    got = near_duplicates(real, cloud(1000, 1))
    assert got.rate == 0
    assert got.real_rate == 0.4
    assert got.threshold == pytest.approx(near_duplicates(cloud(1000, 2), cloud(1000, 1)).threshold, rel=0.1)


def test_exact_duplicates_are_told_by_their_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), np.uint8)
    images[40:] = images[5]
    assert exact_duplicate_rate(digests_of(images)) == pytest.approx(0.2)
    images[41, 0, 0, 0] ^= 1
    parts = [digests_of(images[:25]), digests_of(images[25:])]
    assert exact_duplicate_rate(np.concatenate(parts)) == pytest.approx(0.18)


def test_one_image_is_too_few() -> None:
    with pytest.raises(UserError, match="needs at least 2"):
        near_duplicates(cloud(10, 0), cloud(1, 1))


@pytest.mark.parametrize("num_real", [200, 900])
def test_known_neighbours_save_the_search_and_change_nothing(num_real: int) -> None:
    """With more reals than fakes the reals are thinned, and neighbours among all of them are of no use."""
    real, fake = cloud(num_real, 0), cloud(300, 1)
    expected = near_duplicates(real, fake)
    got = near_duplicates(
        real, fake, real_neighbours=nearest_others(real, 5), fake_neighbours=nearest_others(fake, 5)
    )
    assert (got.threshold, got.distance_ratio) == (expected.threshold, expected.distance_ratio)
    assert np.array_equal(got.nearest, expected.nearest)
