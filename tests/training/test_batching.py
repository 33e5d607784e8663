"""How batches are cut, and what is said of those that cannot be."""

import pytest

from gansmith import config as configuration
from gansmith.errors import UserError
from gansmith.training import batching


def sizes(world=1, **settings):
    config, _ = configuration.load(
        overrides={key.replace("__", "."): value for key, value in settings.items()}
    )
    return batching.resolve(config, batching.bn_group(config), world)


def test_automatic_micro_batch_is_one_group():
    found = sizes(train__batch=2048, bn__group=32)
    assert (found.batch, found.micro_batch, found.batch_g, found.micro_batch_g) == (2048, 32, 2048, 32)


def test_automatic_group_divides_both_batches():
    config, _ = configuration.load(overrides={"train.batch": 96, "train.batch_g": 80})
    assert batching.bn_group(config) == 16


def test_ranks_share_a_group_where_one_cannot_hold_its_share():
    assert sizes(world=2, train__batch=64, bn__group=64).micro_batch == 32


def test_an_unfit_batch_names_the_nearest():
    with pytest.raises(UserError, match=r"train.batch 250 .* groups of 32 .* nearest: 224 or 256"):
        sizes(train__batch=250, bn__group=32)


def test_an_unfit_micro_batch_names_the_possible():
    with pytest.raises(UserError, match=r"train.micro_batch 48 .* possible: 32, 64"):
        sizes(train__batch=128, bn__group=32, train__micro_batch=48)


def test_more_processes_than_images_is_refused():
    with pytest.raises(UserError, match="over 8 processes"):
        sizes(world=8, train__batch=4, bn__group=4)
