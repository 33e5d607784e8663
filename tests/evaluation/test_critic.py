"""D as a judge of reals: every image with its own class, whatever number the data set gives it."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gansmith.data import open_dataset
from gansmith.errors import UserError
from gansmith.evaluation import critic


def discriminator(num_classes: int) -> Any:
    return SimpleNamespace(kwargs={"num_classes": num_classes})


def test_classes_are_found_by_name(reals: Path) -> None:
    dataset = open_dataset(str(reals), resolution=32)  # ant, bee, cat
    numbers = critic.labels_for(discriminator(4), dataset, ["cat", "dog", "ant", "bee"])
    assert numbers is not None
    assert np.array_equal(numbers, np.array([2, 3, 0])[dataset.labels])


def test_a_class_that_d_does_not_know_is_told(reals: Path) -> None:
    dataset = open_dataset(str(reals), resolution=32)
    with pytest.raises(UserError, match="does not know: bee"):
        critic.labels_for(discriminator(2), dataset, ["cat", "ant"])
    dataset.classes[1] = replace(dataset.classes[1], count=0)  # none of its images: no matter
    numbers = critic.labels_for(discriminator(2), dataset, ["cat", "ant"])
    assert numbers is not None
    assert set(numbers[dataset.labels != 1]) == {0, 1}


def test_random_classes_and_none(reals: Path) -> None:
    dataset = open_dataset(str(reals), resolution=32)
    assert critic.labels_for(discriminator(0), dataset, []) is None
    numbers = critic.labels_for(discriminator(7), dataset, [])
    assert numbers is not None
    assert set(numbers) == set(range(7))
