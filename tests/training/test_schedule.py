"""Learning rates over images."""

import pytest

from gansmith import config as configuration
from gansmith.training import schedule


def factors(at, **settings):
    config, _ = configuration.load(overrides={f"optim.{key}": value for key, value in settings.items()})
    return [schedule.factor(config, images, 1000) for images in at]


def test_constant_with_warmup_rises_and_stays():
    assert factors([0, 49, 99, 5000], warmup=100) == pytest.approx([0.01, 0.5, 1, 1])


def test_linear_and_cosine_end_at_zero():
    assert factors([0, 500, 1000, 2000], schedule="linear", schedule_end=1000) == pytest.approx(
        [1, 0.5, 0, 0]
    )
    assert factors([0, 500, 1000], schedule="cosine", schedule_end="1ep") == pytest.approx([1, 0.5, 0])


def test_steps_hold_the_last_factor_reached():
    steps = {"1k": 0.5, "2k": 0.1}
    assert factors([0, 999, 1000, 2500], schedule="steps", schedule_steps=steps) == pytest.approx(
        [1, 1, 0.5, 0.1]
    )
