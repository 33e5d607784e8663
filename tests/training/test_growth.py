"""The batch that grows: when, by how much, and that nothing else of the run notices."""

import json
import re
import sys

import pytest
import torch

from gansmith import config as configuration
from gansmith.errors import Stopped, UserError
from gansmith.training import checkpoint, growth
from gansmith.training.growth import Growth
from gansmith.training.stopping import StopRequest

QUIET = {"log.snapshot_every": 10**6, "bn.group": 4, "train.batch": 8, "optim.d_steps": 1}


def rule(settings, epoch=10_000):
    config, _ = configuration.load(overrides={"train.batch": 64, "train.duration": 1000} | settings)
    return growth.rule(config, epoch)


AUTO = {"batch.schedule": "auto", "batch.dwell": 0.1, "batch.maximum": 512}
READY = {"d": 8, "g": 8}


@pytest.mark.parametrize(
    ("scales", "grown"),
    [
        ((79, 10), {}),  # less than 1.25 × 64
        ((81, 10), {"d": 128, "g": 128}),
        ((10, 81), {"d": 128, "g": 128}),
        ((1e6, None), {"d": 128, "g": 128}),  # doubled at most
        ((float("inf"), 1), {"d": 128, "g": 128}),
        ((None, None), {}),
    ],
)
def test_the_batch_follows_the_larger_noise_scale(scales, grown):
    state = Growth(measured=dict(READY))
    assert growth.decide(rule(AUTO), state, dict(zip("dg", scales)), 200) == grown
    assert state.batch == grown


def test_apart_each_network_follows_its_own_noise():
    settings = AUTO | {"batch.apart": True, "train.batch_g": 32}
    state = Growth(measured=dict(READY))
    assert growth.decide(rule(settings), state, {"d": 10.0, "g": 60.0}, 200) == {"g": 64}
    assert growth.sizes(rule(settings), state, 200) == (64, 64)


def test_growth_waits_for_measurements_and_between_two_and_ends_at_the_maximum():
    state, noise = Growth(), {"d": 1e6, "g": 1e6}
    assert growth.decide(rule(AUTO), state, noise, 500) == {}  # nothing measured
    state.measured = dict(READY)
    sizes = []
    for seen in range(500, 1000, 50):
        growth.decide(rule(AUTO), state, noise, seen)
        sizes.append(growth.sizes(rule(AUTO), state, seen)[0])
    assert sizes == [128, 128, 256, 256, 512, 512, 512, 512, 512, 512]


def test_batches_are_multiples_of_the_first_and_never_shrink():
    state = Growth(measured=dict(READY))
    assert growth.decide(rule(AUTO | {"batch.share": 0.5}), state, {"d": 200.0, "g": 0.0}, 200)["d"] == 128
    assert growth.decide(rule(AUTO), state, {"d": 1.0, "g": 1.0}, 900) == {}
    assert growth.sizes(rule(AUTO | {"train.batch": 96, "batch.maximum": 960}), state, 900) == (192, 192)


def test_back_to_fixed_the_batch_is_that_of_the_settings_again():
    grown = Growth(batch={"d": 128, "g": 128})
    assert growth.sizes(rule({}), grown, 900) == (64, 64)
    assert growth.sizes(rule({"train.batch": 32}), grown, 900) == (32, 32)


def test_by_itself_the_batch_grows_to_no_more_than_the_data():
    auto = {"batch.schedule": "auto"}
    assert [rule(auto, epoch).maximum for epoch in (10_000, 200, 50)] == [1024, 192, 64]


def test_a_table_names_the_batch_by_images_seen():
    table = rule({"batch.schedule": "0:64, 300:128,1k:512", "train.batch_g": 32})
    found = [growth.sizes(table, Growth(), seen) for seen in (0, 299, 300, 999, 1000, 5000)]
    assert found == [(64, 32), (64, 32), (128, 64), (128, 64), (512, 256), (512, 256)]


def test_learning_rates_follow_the_batch_by_a_power():
    assert growth.factor(rule(AUTO), 256, 64) == 1
    assert growth.factor(rule(AUTO | {"batch.lr_power": 0.5}), 256, 64) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch.schedule": "0:64,100:32"}, "shrinks: 64 → 32"),
        ({"batch.schedule": "0:64,100:160"}, "160 is no multiple of train.batch 64.*nearest: 128 or 192"),
        ({"batch.schedule": "100:64"}, "begins with 0:64.*not 100:64"),
        ({"batch.schedule": "0:32,100:64"}, "begins with 0:64.*not 0:32"),
        ({"batch.schedule": "growing"}, "fixed, auto or a table such as 0:256,5M:512, not 'growing'"),
        ({"batch.schedule": "0:64,soon:128"}, "'soon' is not an amount"),
        ({"batch.schedule": "0:64,100:many"}, "batch.schedule"),
        ({"batch.maximum": 128}, "is for batch.schedule: auto"),
        ({"batch.schedule": "auto", "batch.maximum": 100}, "100 is no multiple of train.batch 64"),
        ({"batch.schedule": "auto", "bn.group": 64}, "set bn.group=32 or less, or train.batch=128"),
        ({"batch.schedule": "0:64,100:20032"}, r"20,032 is more than the 10,000 images.*9,984"),
        ({"batch.schedule": "auto", "batch.maximum": 12800}, "batch.maximum: a batch of 12,800 is more"),
    ],
)
def test_impossible_growth_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        rule(settings)


def test_a_mistake_of_schedule_or_group_is_told_once():
    for settings in ({"batch.schedule": "growing"}, {"batch.schedule": "auto", "bn.group": 64}):
        with pytest.raises(UserError) as told:
            rule(settings)
        assert str(told.value).count("\n  - ") == 1


def test_a_set_smaller_than_the_first_batch_gets_a_batch_that_is_possible():
    with pytest.raises(
        UserError, match=r"2,048 is more than the 120 .* train\.batch, 1,024: begin with 120 or"
    ):
        rule({"train.batch": 1024, "batch.schedule": "0:1024,100:2048"}, 120)


@pytest.mark.parametrize("d_steps", [1, 2])
def test_steps_of_a_table_are_those_that_the_run_takes(d_steps):
    table, duration = rule({"batch.schedule": "0:64, 300:128, 1k:512, 1100:1024"}), 4000
    seen = taken = 0
    while seen < duration:
        seen += d_steps * growth.sizes(table, Growth(), seen)[0]
        taken += 1
    assert growth.num_steps(table, duration, d_steps) == taken
    assert growth.counted(table, 4000, 1).endswith("steps of 64 to 1,024 images")


def test_a_run_says_at_its_start_what_the_batch_will_do():
    auto = rule(AUTO)
    assert growth.counted(auto, 4000, 1) == "at most 63 steps of 64 to 512 images"
    assert "from 64 to at most 512, at most doubled every 100 images" in growth.plan(auto)[0]
    assert growth.plan(rule({"batch.schedule": "0:64,1k:128"}))[0].endswith(
        "64 from 0 images, 128 from 1,000 images"
    )
    assert growth.counted(rule({}), 4000, 2) == "32 steps of 128 images"
    assert growth.plan(rule({})) == []


@pytest.mark.parametrize(
    ("settings", "epoch", "said"),
    [
        (AUTO, 10_000, "2 measurements of .*noise_every 32.* 8 are needed .*noise_every to 4 or less"),
        (AUTO | {"batch.noise_every": 4}, 10_000, None),
        (AUTO | {"batch.maximum": 64}, 10_000, "64 is already the largest batch"),
        ({}, 10_000, None),
        ({}, 50, "64 images are more than the 50 there are"),
    ],
)
def test_what_keeps_the_batch_from_growing_is_said_before_the_run(settings, epoch, said):
    notes = growth.notes(rule(settings, epoch), epoch, 4096, 1)
    assert notes == [] if said is None else re.search(said, notes[0])


def state_of(run):
    return checkpoint.read_tensors(checkpoint.listed(run / "checkpoints")[-1])


def assert_same(one, other):
    for stem, tensors in state_of(one).items():
        for key, value in tensors.items():
            assert torch.equal(value, state_of(other)[stem][key]), key


def test_a_table_is_the_run_restarted_with_each_batch(tiny):
    """Same stream, same micro-batches, same average: growth is a restart that nobody needs to make."""
    settings = QUIET | {"train.micro_batch": 8, "log.checkpoint_every": 10**6}
    grown = tiny("grown", settings | {"batch.schedule": "0:8,16:16", "train.duration": 64})
    tiny("by hand", settings | {"train.duration": 16})
    by_hand = tiny("by hand", settings | {"train.batch": 16, "train.duration": 64})
    assert_same(grown, by_hand)
    rows = [json.loads(line) for line in (grown / "metrics.jsonl").read_text().splitlines()]
    events = [row for row in rows if row["type"] == "growth"]
    assert [(e["images_seen"], e["was"], e["batch"], e["batch_g"]) for e in events] == [(16, [8, 8], 16, 16)]
    assert [row["batch"] for row in rows if row["type"] == "status"] == [16, 16, 16, 16]


def test_a_run_that_grows_by_itself_resumes_bit_for_bit_wherever_it_stops(tiny, monkeypatch):
    monkeypatch.setattr(growth, "FEWEST", 2)
    settings = QUIET | {
        "batch.schedule": "auto", "batch.noise_every": 2, "batch.share": 1000.0, "batch.dwell": 0.25,
        "batch.maximum": 16, "log.status_every": 48, "log.checkpoint_every": 10**6,
    }  # fmt: skip

    def train(name, stop_at=None):
        # The duration decides dwell and memory, so a stop is one by time, not by duration.
        return tiny(name, settings | {"train.duration": 96}, **({} if stop_at is None else stop_at))

    whole = train("whole")
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert {row["batch"] for row in rows if row["type"] == "growth"} == {16}
    # Before a measurement, at a decision, at the growth, after it.
    for stop in (16, 24, 40, 64):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StopRequest, "asked", _at(stop))
            with pytest.raises(Stopped):
                train("parts")
    assert_same(whole, train("parts"))


def _at(images):
    """A request to stop at a number of images, seen by looking at the loop that asks."""

    def asked(self):
        return sys._getframe(1).f_locals["state"].images_seen >= images

    return asked
