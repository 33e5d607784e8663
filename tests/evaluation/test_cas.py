"""The classification accuracy score tells good fakes from collapsed and mislabelled ones."""

import numpy as np
import pytest
import torch

from gansmith.evaluation.cas import Budget, classification_accuracy_score


def colours(n: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    drawing = torch.Generator().manual_seed(seed)
    labels = np.arange(n) % 3
    images = torch.randint(0, 120, (n, 3, 8, 8), dtype=torch.uint8, generator=drawing)
    images[torch.arange(n), torch.from_numpy(labels)] += 80
    return images, labels


def score(fakes: torch.Tensor, labels: np.ndarray, **options: int):
    reals, real_labels = colours(90, seed=9)
    return classification_accuracy_score(
        fakes, labels, reals, real_labels, 3, budget=Budget(steps=20), width=4, device="cpu", **options
    )


def test_good_fakes_teach_the_classes_and_scores_repeat() -> None:
    good = score(*colours(150, seed=1))
    assert good.accuracy.value > 0.95
    assert (good.num_fake, good.steps, good.accuracy.count) == (150, 20, 90)
    again = score(*colours(150, seed=1))
    assert np.array_equal(again.accuracy.per_class, good.accuracy.per_class)


def test_a_collapsed_class_is_seen_class_by_class() -> None:
    fakes, labels = colours(150, seed=1)
    fakes[labels == 2] = fakes[labels == 0]  # class 2 looks like class 0
    found = score(fakes, labels).accuracy
    assert found.per_class[[0, 2]].mean() < 0.8
    assert found.per_class[1] > 0.9


def test_wrong_labels_are_seen() -> None:
    fakes, labels = colours(150, seed=1)
    assert score(fakes, (labels + 1) % 3).accuracy.value < 0.05
    assert score(fakes, np.roll(np.repeat(np.arange(3), 50), 7)).accuracy.value == pytest.approx(
        1 / 3, abs=0.34
    )
