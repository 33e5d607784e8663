"""Measures of how different images are, on features whose answer is known."""

import math

import pytest
import torch

from gansmith.training import diversity

ONE = torch.zeros(40, dtype=torch.int64)


def cloud(n: int = 40, dim: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("directions", [1, 3, 7])
def test_effective_rank_counts_equal_directions(directions):
    axes = torch.eye(20)[:directions].double()
    assert diversity.effective_rank(torch.cat([axes, -axes]) + 5) == pytest.approx(directions, rel=1e-9)


def test_effective_rank_is_the_exponential_of_the_entropy_of_the_covariance():
    features = cloud().double() * torch.linspace(0.1, 2, 12)
    shares = torch.linalg.eigvalsh(torch.cov(features.T))
    shares /= shares.sum()
    expected = math.exp(-sum(p * math.log(p) for p in shares.tolist()))
    assert diversity.effective_rank(features) == pytest.approx(expected, rel=1e-9)
    assert diversity.effective_rank(torch.ones(5, 3)) == 0.0


def test_the_same_images_are_as_varied_as_themselves_and_scaled_ones_in_proportion():
    labels = torch.arange(40) % 4
    same = diversity.compare(cloud(), cloud(), labels, labels)
    assert same == {
        "diversity": 1.0, "effective_rank": 1.0, "duplicates": 0.0,
        "diversity_class": dict.fromkeys(range(4), 1.0),
    }  # fmt: skip
    near = diversity.compare(0.5 * cloud() + 3, cloud(), labels, labels)
    assert near["diversity"] == pytest.approx(0.5, rel=1e-6)
    assert near["effective_rank"] == pytest.approx(1, rel=1e-5)
    assert near["diversity_class"] == pytest.approx(dict.fromkeys(range(4), 0.5), rel=1e-6)


def test_a_class_that_makes_one_image_is_seen_in_its_class_and_among_duplicates():
    labels = torch.arange(40) % 4
    real, fake = cloud(seed=1), cloud(seed=2)
    fake[labels == 2] = fake[2] + 0.001 * fake[labels == 2]
    found = diversity.compare(fake, real, labels, labels)
    assert found["diversity_class"][2] < 0.01
    assert min(found["diversity_class"][c] for c in (0, 1, 3)) > 0.8
    assert found["diversity"] > 0.8  # hidden, among the others
    assert found["duplicates"] == 0.25


def test_equal_images_of_different_classes_are_no_duplicates():
    labels = torch.arange(40) % 4
    fake = cloud(10).repeat_interleave(4, 0)
    assert diversity.compare(fake, cloud(seed=1), labels, labels)["duplicates"] == 0.0
    assert diversity.compare(fake, cloud(seed=1), ONE, ONE)["duplicates"] == 1.0


def test_classes_with_one_image_of_either_say_nothing():
    real = torch.tensor([0] * 20 + [1] * 19 + [2])
    found = diversity.compare(cloud(), cloud(seed=1), torch.arange(40) % 4, real)
    assert found["diversity_class"].keys() == {0, 1}
    assert found["duplicates"] == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_gives_no_number(value):
    fake = cloud()
    fake[3, 4] = value
    found = diversity.compare(fake, cloud(seed=1), ONE, ONE)
    assert found.pop("diversity_class") == {}
    assert all(math.isnan(number) for number in found.values())


def test_reals_that_do_not_differ_give_no_number():
    found = diversity.compare(cloud(), torch.ones(40, 12), ONE, ONE)
    assert found.pop("diversity_class").keys() == {0}
    assert all(math.isnan(number) for number in found.values())
