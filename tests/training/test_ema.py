"""The average's half-life, ramp and start."""

import pytest
import torch
from torch import nn

from gansmith.training import ema


def test_a_weight_halves_in_a_half_life_whatever_the_batch():
    for batch in (1, 64, 2048):
        keep = ema.decay(batch, 10**9, half_life=4096, ramp=None, start=0)
        assert keep ** (4096 / batch) == pytest.approx(0.5)


def test_half_life_is_the_papers_decay():
    # 0.9999 per step of batch 2048 is a half-life of 14.2 million images (section 3.1 of the paper)
    assert ema.decay(2048, 10**9, half_life=14_195_000, ramp=None, start=0) == pytest.approx(0.9999, abs=1e-7)


def test_ramp_bounds_the_half_life_by_the_images_seen():
    assert ema.decay(10, 1000, half_life=1e9, ramp=0.05, start=0) == pytest.approx(0.5 ** (10 / 50))
    assert ema.decay(10, 1000, half_life=20, ramp=0.05, start=0) == pytest.approx(0.5 ** (10 / 20))


def test_before_its_start_the_average_is_a_copy():
    assert ema.decay(10, 500, half_life=100, ramp=None, start=500) == 0.0
    averaged, current = nn.Linear(2, 2), nn.Linear(2, 2)
    ema.update(averaged, current, 0.0)
    assert torch.equal(averaged.weight, current.weight)


def test_update_is_the_weighted_mean():
    averaged, current = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = 0.75 * averaged.weight.detach() + 0.25 * current.weight.detach()
    ema.update(averaged, current, 0.75)
    torch.testing.assert_close(averaged.weight.detach(), expected)
