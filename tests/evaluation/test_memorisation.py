"""Memorisation: an honest generator looks like held-out reals, a copying one does not."""

import numpy as np
import pytest

from gansmith.errors import UserError
from gansmith.evaluation.memorisation import discriminator_gap, memorisation
from gansmith.evaluation.neighbours import nearest_others


def cloud(n: int, seed: int, dim: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


@pytest.mark.parametrize("held_out", [cloud(700, 2), None], ids=["held out", "left out in turn"])
def test_honest_fakes_are_as_far_from_the_training_images_as_new_reals(held_out: np.ndarray | None) -> None:
    got = memorisation(cloud(2000, 0), cloud(1500, 1), held_out)
    assert got.closer == pytest.approx(0.5, abs=0.03)
    assert abs(got.z) < 3
    assert got.suspicious == pytest.approx(0.01, abs=0.01)
    assert got.median_ratio == pytest.approx(1, abs=0.02)
    assert got.authenticity == pytest.approx(got.real_authenticity, abs=0.05)
    assert got.num_compared == (700 if held_out is not None else 2000)


@pytest.mark.parametrize("held_out", [cloud(700, 2), None], ids=["held out", "left out in turn"])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_copies_of_training_images_are_noticed(held_out: np.ndarray | None, noise: float) -> None:
    train = cloud(2000, 0)
    got = memorisation(train, train[:500] + np.float32(noise) * cloud(500, 3), held_out, k=3)
    assert (got.closer, got.suspicious, got.authenticity) == (1, 1, 0)
    assert got.z > 20
    assert got.median_ratio < 0.1
    assert np.array_equal(got.neighbours.indices[:, 0], np.arange(500))
    assert got.neighbours.distances.shape == (500, 3)


def test_a_few_copies_among_honest_fakes_raise_the_suspicious_share() -> None:
    train, fake = cloud(2000, 0), cloud(1000, 1)
    fake[:100] = train[300:400]
    got = memorisation(train, fake, cloud(1000, 2))
    assert got.suspicious == pytest.approx(0.11, abs=0.01)
    assert got.closer == pytest.approx(0.55, abs=0.03)


def test_copies_are_noticed_in_data_full_of_duplicates() -> None:
    """The nearest 1 % of new reals lie at distance 0 then, which copies do not go below."""
    train = cloud(1000, 0)
    train[:300] = train[300:600]
    got = memorisation(train, train[600:800])
    assert (got.suspicious, got.authenticity) == (1, 0)
    assert got.closer == pytest.approx(1 - 0.5 * 0.6)
    assert memorisation(train, cloud(500, 1)).suspicious == 0


def test_fakes_far_from_everything_are_not_memorised() -> None:
    got = memorisation(cloud(500, 0), cloud(300, 1) + 10, cloud(300, 2))
    assert (got.closer, got.suspicious, got.authenticity) == (0, 0, 1)
    assert got.z < -10


def test_closer_is_the_share_of_pairs_with_ties_counting_half() -> None:
    train = np.zeros((3, 1), np.float32)
    fake, held_out = np.array([[1], [2]], np.float32), np.array([[1], [2], [3]], np.float32)
    assert memorisation(train, fake, held_out).closer == pytest.approx((0.5 + 1 + 1 + 0 + 0.5 + 1) / 6)


def test_a_discriminator_that_knows_its_training_images_by_heart_is_noticed() -> None:
    random = np.random.default_rng(0)
    held_out = random.standard_normal(2000)
    same = discriminator_gap(random.standard_normal(3000), held_out)
    assert abs(same.gap) < 0.05
    assert same.auc == pytest.approx(0.5, abs=0.03)
    assert abs(same.z) < 3
    knows = discriminator_gap(random.standard_normal((3000, 1)) + 1.5, held_out)
    assert knows.train_accuracy == pytest.approx(0.933, abs=0.02)  # Φ(1.5)
    assert knows.held_out_accuracy == pytest.approx(0.5, abs=0.03)
    assert knows.gap == knows.train_accuracy - knows.held_out_accuracy
    assert knows.auc == pytest.approx(0.856, abs=0.02)  # Φ(1.5 / √2)
    assert knows.z > 20


def test_unusable_input_is_refused() -> None:
    with pytest.raises(UserError, match="the training images: 1 image; this score needs at least 2"):
        memorisation(cloud(1, 0), cloud(5, 1))
    with pytest.raises(UserError, match="the held-out reals 8"):
        memorisation(cloud(5, 0), cloud(5, 1), cloud(5, 2, dim=8))
    with pytest.raises(UserError, match="D's held-out reals: 0 images"):
        discriminator_gap(np.zeros(4), np.zeros(0))
    with pytest.raises(UserError, match="D's training reals: 1 of 4"):
        discriminator_gap(np.array([0, 1, np.nan, 1]), np.zeros(4))


def test_known_neighbours_save_the_search_and_change_nothing() -> None:
    train, fake = cloud(300, 0), cloud(200, 1)
    got = memorisation(train, fake, train_neighbours=nearest_others(train, 5))
    expected = memorisation(train, fake)
    assert got.closer == expected.closer
    assert got.authenticity == expected.authenticity
    assert got.real_authenticity == expected.real_authenticity
