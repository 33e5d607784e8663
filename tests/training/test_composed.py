"""Losses with everything added: what a run does with them, however it is cut, interrupted and looked at."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from gansmith import config as configuration
from gansmith.errors import UserError
from gansmith.training import memory, objectives
from gansmith.training.draws import Draws
from gansmith.training.objectives.composed import Composed
from tests.training.conftest import TINY
from tests.training.ranks import newest, train
from tests.training.test_ranks import in_float64
from tests.training.test_step import Watch

REGULARISED = {
    "loss.objective": "non_saturating",
    "penalty.r1": 0.01,
    "penalty.lecam": 0.3,
    "penalty.consistency_real": 0.1,
    "penalty.consistency_fake": 0.2,
    "augment.diffaugment": ["color", "translation", "cutout"],
}
ADAPTED = {
    "loss.objective": "least_squares",
    "penalty.r1": 0.01,
    "penalty.r2": 0.02,
    "penalty.r2_every": 2,
    "penalty.sigma_d": 0.01,
    "penalty.l2_d": 0.001,
    "augment.ada_target": 0.6,
    "augment.ada_start_p": 0.5,
    "augment.ada_every": 1,
    "augment.ada_images": 200,
}
# Reals and fakes in pairs of a class, which G's phases read too.
PAIRED = {"loss.objective": "relativistic", "penalty.r1": 0.01, "penalty.r2": 0.02, "penalty.r2_every": 2}


def statuses(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == "status"]


def save_gradients():
    """Writes down what every finished phase summed over the ranks: RECORD.0, .1, … In float64: what pairs
    tell G nearly cancels here, and float32 would leave its rounding.
    """
    in_float64()
    from gansmith.training.gradients import FlatGradients

    finish, count = FlatGradients.finish, iter(range(1000))

    def finish_and_save(self, world, scale):
        finish(self, world, scale)
        if world.is_main:
            torch.save(self.flat.clone(), f"{os.environ['RECORD']}.{next(count)}")

    FlatGradients.finish = finish_and_save


@pytest.mark.parametrize(
    "regularised", [REGULARISED, ADAPTED, PAIRED], ids=["diffaugment", "ada", "relativistic"]
)
def test_micro_batches_and_ranks_give_the_gradients_of_the_whole_batch(images, tmp_path, regularised):
    # Networks stand still, so that the second D step differs by what the first one left in memory alone.
    settings = regularised | {
        "train.batch": 16, "bn.group": 4, "train.duration": 32, "log.status_every": 32,
        "log.checkpoint_every": 32, "optim.lr_d": 1e-12, "optim.lr_g": 1e-12, "loss.ortho_g": 0,
    }  # fmt: skip
    layouts = {"whole": (1, 16), "cut": (1, 4), "shared": (2, 4)}
    runs = {
        name: train(
            tmp_path, images, world, name, settings | {"train.micro_batch": micro}, name, save_gradients
        )
        for name, (world, micro) in layouts.items()
    }
    for name, run in runs.items():
        for phase in range(4):
            one, other = (torch.load(tmp_path / f"{n}.{phase}", weights_only=True) for n in ("whole", name))
            assert one.norm() > 0
            assert (other - one).norm() < 1e-5 * one.norm()
        remembered = newest(run)[1].get("memory", {})
        for key, value in newest(runs["whole"])[1].get("memory", {}).items():
            torch.testing.assert_close(remembered[key], value, rtol=1e-5, atol=1e-6)


def test_a_run_goes_on_bit_for_bit_with_what_it_remembers_and_logs_every_term(tiny):
    settings = ADAPTED | REGULARISED | {"augment.diffaugment": [], "penalty.method": "finite"}
    settings |= {"train.micro_batch": 4, "log.checkpoint_every": 16, "optim.d_steps": 1}
    whole = tiny("whole", settings | {"train.duration": 24})
    tiny("parts", settings | {"train.duration": 16})
    parts = tiny("parts", settings | {"train.duration": 24})
    for stem in ("networks", "optimizers", "memory"):
        here, there = (
            load_file(run / "checkpoints" / "000000000024" / f"{stem}.safetensors") for run in (whole, parts)
        )
        assert here.keys() == there.keys()
        assert all(torch.equal(here[key], there[key]) for key in here)
    row = statuses(whole)[-1]
    terms = {"r1", "r2", "lecam", "consistency_real", "consistency_fake", "sigma_penalty_d", "l2_d"}
    assert terms | {"ada_p", "ada_sign", "loss_d", "loss_g", "d_real", "d_fake"} <= row.keys()
    assert all(row[name] > 0 for name in terms)
    assert 0 <= row["ada_p"] <= 1
    assert row["ada_p"] != 0.5


def test_memory_is_predicted_with_everything_on():
    """What `train.micro_batch: auto` asks, by shapes alone."""
    asked = {"penalty.r1": 1.0, "penalty.consistency_real": 1.0, "augment.ada_target": 0.6}
    needed = []
    for overrides in (TINY, TINY | asked):
        config, _ = configuration.load(overrides=overrides)
        run = SimpleNamespace(
            config=config,
            num_classes=3,
            objective=objectives.build(config, torch.device("cpu")),
            precision=SimpleNamespace(dtype=torch.float32),
        )
        needed.append(memory.bytes_per_image(run, "d"))
    plain, everything = needed
    assert 1.5 * plain < everything < 10 * plain


def test_nothing_asked_for_is_the_plain_hinge_step():
    config, _ = configuration.load()
    assert objectives.build(config, torch.device("cpu")) is objectives.hinge


@pytest.mark.parametrize(
    "setting", [{"penalty.r1": 0.0}, {"augment.diffaugment": ["flip"]}, {"loss.objective": "wasserstein"}]
)
def test_anything_asked_for_composes_an_objective(setting):
    config, _ = configuration.load(overrides=setting)
    assert isinstance(objectives.build(config, torch.device("cpu")), Composed)


def test_slopes_of_ones_own_d_may_be_penalised_whatever_the_family():
    own = {"model.family": "dcgan", "model.resolution": 64, "model.discriminator": "own:D"}
    config, _ = configuration.load(overrides=own | {"penalty.r1": 1.0})
    assert config.penalty.r1 == 1.0


def test_weights_alone_are_regularised_beside_any_objective():
    config, _ = configuration.load(overrides={"penalty.l2_d": 1e-4, "penalty.sigma_g": 1e-3})
    assert objectives.build(config, torch.device("cpu")) is objectives.hinge


class Ramp(nn.Module):
    """A D whose slope is 1 at every pixel."""

    def forward(self, x, y):
        return x.sum((1, 2, 3))


def test_a_lazy_penalty_counts_for_the_steps_between():
    config, _ = configuration.load(overrides={"penalty.r1": 3.0, "penalty.r1_every": 4})
    objective = objectives.build(config, torch.device("cpu"))
    real, losses = torch.zeros(2, 1, 2, 2), []
    for turn in range(8):
        draws = Draws(0, "d", np.arange(2), torch.device("cpu"))
        micro = objectives.MicroBatch(torch.zeros(2, 1), None, real, None, draws, turn)
        loss, scalars = objective("d", lambda z, y: real, Ramp(), micro)
        losses.append(loss.item())
        assert ("r1" in scalars) == (turn % 4 == 0)
    # Hinge alone is 2; R1 is 3/2 · 4 pixels · 4 steps.
    assert losses == [2 + 24, 2, 2, 2, 2 + 24, 2, 2, 2]


@pytest.mark.parametrize("regularised", [REGULARISED, ADAPTED], ids=["diffaugment", "ada"])
def test_nothing_is_read_from_the_device(regularised):
    config, _ = configuration.load(overrides=regularised)
    objective = objectives.build(config, torch.device("cpu"))
    real, z, draws = (
        torch.rand(2, 3, 8, 8),
        torch.zeros(2, 1),
        Draws(0, "d", np.arange(2), torch.device("cpu")),
    )
    with Watch() as watch:
        for phase in "dg":
            micro = objectives.MicroBatch(z, None, real, None, draws)
            _, scalars = objective(phase, lambda z, y: real, Ramp(), micro)
            objective.settle(phase, scalars, 2)
    assert watch.calls > 100
    assert watch.read == []


def test_lecam_remembers_the_whole_batchs_logits_from_its_first_step():
    config, _ = configuration.load(overrides={"penalty.lecam": 0.5, "penalty.lecam_decay": 0.75})
    objective = objectives.build(config, torch.device("cpu"))
    remembered = []
    for real, fake in ((2.0, -1.0), (4.0, -3.0), (float("nan"), 0.0)):
        means = {"d_real": torch.tensor(real), "d_fake": torch.tensor(fake)}
        objective.settle("d", means, 16)
        objective.settle("g", {}, 16)
        remembered.append((objective.memory["lecam_real"].item(), objective.memory["lecam_fake"].item()))
    assert remembered == [(2.0, -1.0), (2.5, -1.5), (2.5, -1.5)]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"loss.objective": "wassersteyn"}, "did you mean wasserstein"),
        ({"loss.objective": "own:loss", "penalty.r1": 1}, "own:loss decides itself"),
        ({"penalty.method": "finite", "penalty.gradient_penalty": 10}, "not the ‖∇D‖"),
        ({"penalty.gradient_penalty": 10, "stabilise.clip_weights": 0.01}, "draws D's slope to 1"),
        ({"loss.objective": "wasserstein", "model.spectral_d": False}, "set penalty.gradient_penalty=10"),
        ({"model.family": "dcgan", "model.resolution": 64, "penalty.r1": 1}, "dcgan's D has BatchNorm"),
        (
            {"loss.objective": "own:loss", "guard.penalty_r1": 1},
            "guard.penalty_r1: is part of gansmith's own",
        ),
        (
            {"model.family": "dcgan", "model.resolution": 64, "guard.penalty_r1": 1},
            "guard.penalty_r1: .* slope",
        ),
        (
            {"loss.objective": "relativistic", "augment.ada_target": 0.6},
            "relativistic does not tell real from",
        ),
        ({"loss.objective": "wasserstein", "augment.ada_target": 0.6}, "one of hinge, non_saturating"),
        ({"penalty.r1": "inf"}, "penalty.r1: Input should be a finite number"),
        ({"optim.lr_g": float("inf")}, "optim.lr_g: Input should be a finite number"),
        ({"penalty.epsilon": 0}, "penalty.epsilon: Input should be greater than 0"),
        ({"loss.objective": "relativistic", "penalty.lecam": 0.3}, "fixes only their difference"),
        ({"augment.diffaugment": ["color"], "augment.ada_target": 0.6}, "choose one"),
        ({"augment.diffaugment": "colour"}, "'flip', 'color', 'translation' or 'cutout'"),
        ({"augment.ada_start_p": 0.5}, "needs augment.ada_target"),
        ({"augment.ada_images": "5ep"}, "such as 500k"),
        ({"penalty.sigma_d": 1.0, "model.spectral_d": False}, "needs model.spectral_d: true"),
        ({"penalty.consistency_real": 10, "penalty.consistency_transforms": []}, "never differ"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_reason(overrides, words):
    with pytest.raises(UserError, match=words):
        configuration.load(overrides=overrides)
