"""Scores of each class: equal to the whole-set scores of that class alone, and blind to the other classes."""

import warnings

import numpy as np
import pytest

from gansmith.errors import UserError
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.frechet import frechet_distance, moments
from gansmith.evaluation.per_class import per_class_diversity, per_class_frechet

CLASSES = 4


def labelled(n: int, seed: int, dim: int = 24, classes: int = CLASSES) -> FeatureSet:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    features = random.standard_normal((n, dim)) + 3 * labels[:, None]
    return FeatureSet(features.astype(np.float32), labels=labels, num_classes=classes)


@pytest.mark.parametrize(("num_real", "num_fake"), [(1000, 800), (60, 50), (1000, 40), (40, 1000)])
def test_each_class_has_the_distance_of_its_own_images(num_real: int, num_fake: int) -> None:
    """Whichever of the three roots is used: full covariances, few images on one side, few on both."""
    real, fake = labelled(num_real, 0), labelled(num_fake, 1)
    got = per_class_frechet(real, fake)
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label in range(CLASSES):
            sides = [moments(side.features[side.labels == label]) for side in (real, fake)]
            expected.append(frechet_distance(*sides))
    assert got.distances == pytest.approx(expected, rel=1e-6)
    assert got.mean == pytest.approx(np.mean(expected), rel=1e-6)
    assert got.num_real.sum() == num_real
    assert list(got.num_fake) == list(np.bincount(fake.labels, minlength=CLASSES))


def test_a_collapsed_class_stands_out_in_its_own_row() -> None:
    real, fake = labelled(2000, 0), labelled(2000, 1)
    rows = np.flatnonzero(fake.labels == 2)
    fake.features[rows] = fake.features[rows[0]]
    distance, diversity = per_class_frechet(real, fake), per_class_diversity(real, fake)
    assert distance.worst[0] == 2
    assert distance.distances[2] > 5 * np.delete(distance.distances, 2).max()
    assert diversity.worst[0] == 2
    assert diversity.distance_ratio[2] == pytest.approx(0, abs=1e-6)
    assert diversity.fake_rank[2] == 1
    assert np.delete(diversity.distance_ratio, 2) == pytest.approx(1, abs=0.03)
    assert np.delete(diversity.rank_ratio, 2) == pytest.approx(1, abs=0.03)


def test_diversity_is_the_mean_distance_of_pairs_and_the_effective_rank() -> None:
    real, fake = labelled(300, 0), labelled(300, 1)
    for side in (real, fake):  # equally many of each class, so that nothing is thinned
        side.labels[:] = np.arange(300) % CLASSES
    got = per_class_diversity(real, fake)
    for label in range(CLASSES):
        rows = fake.features[fake.labels == label].astype(np.float64)
        pairs = np.sqrt(((rows[:, None] - rows) ** 2).sum(-1))[~np.eye(len(rows), dtype=bool)]
        assert got.fake_distance[label] == pytest.approx(pairs.mean(), rel=1e-9)
        spectrum = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
        share = spectrum / spectrum.sum()
        assert got.fake_rank[label] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-9)


def test_unequal_numbers_of_images_do_not_bias_the_rank() -> None:
    got = per_class_diversity(labelled(8000, 0), labelled(80, 1))
    assert got.rank_ratio == pytest.approx(1, abs=0.1)


def test_a_class_with_too_few_images_has_no_score_and_a_warning() -> None:
    real, fake = labelled(200, 0), labelled(200, 1)
    fake.labels[fake.labels == 1] = 0
    got = per_class_frechet(real, fake)
    assert np.isnan(got.distances[1])
    assert not np.isnan(np.delete(got.distances, 1)).any()
    assert got.mean == pytest.approx(np.delete(got.distances, 1).mean())
    assert got.warnings[0] == "1 of 4 classes have fewer than 2 images"
    assert np.isnan(per_class_diversity(real, fake).distance_ratio[1])


def test_few_images_for_the_dimensions_are_said() -> None:
    got = per_class_frechet(labelled(80, 0, dim=100), labelled(90, 1, dim=100))
    assert "images for 100 features" in got.warnings[0]


def test_missing_or_unlike_classes_are_refused() -> None:
    real, fake = labelled(40, 0), labelled(40, 1)
    with pytest.raises(UserError, match="the fakes have no labels"):
        per_class_frechet(real, FeatureSet(fake.features))
    with pytest.raises(UserError, match="the reals have 4 classes, the fakes 7"):
        per_class_diversity(real, labelled(40, 1, classes=7))
    with pytest.raises(UserError, match="no class has 2 images on both sides"):
        per_class_frechet(real, FeatureSet(fake.features[:2], labels=np.arange(2), num_classes=4))
