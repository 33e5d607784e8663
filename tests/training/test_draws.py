"""Randomness by position, what losses remember, and what they are told of the whole batch."""

import json

import numpy as np
import pytest
import torch

from gansmith.training import checkpoint, objectives
from gansmith.training.draws import Draws

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(), (3,), (1, 40, 40)])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_the_same_position_draws_the_same_whatever_lies_beside_it(kind, shape):
    positions = np.arange(250, 262)  # over the border of a block
    whole = getattr(Draws(1, "d", positions, CPU), kind)("cutout", *shape)
    parts = [getattr(Draws(1, "d", part, CPU), kind)("cutout", *shape) for part in np.split(positions, 3)]
    assert whole.shape == (12, *shape)
    assert torch.equal(torch.cat(parts), whole)
    assert len({value.numpy().tobytes() for value in whole}) == 12


def test_draws_of_other_names_phases_and_seeds_are_others():
    positions = np.arange(1000)
    draws = [
        Draws(seed, stream, positions, CPU).uniform(name)
        for seed in (0, 1)
        for stream in ("d", "g")
        for name in ("a", "b")
    ]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(8)
    assert correlations.abs().max() < 0.15  # five standard errors of 1/√1000
    assert abs(draws[0].mean() - 0.5) < 0.05
    assert draws[0].min() >= 0
    assert draws[0].max() < 1


class Remembering:
    """hinge, weighed by what it has seen so far of the whole batches."""

    def __init__(self):
        self.memory = {"seen": torch.zeros(())}
        self.told = []

    def __call__(self, phase, G, D, micro):
        loss, scalars = objectives.hinge(phase, G, D, micro)
        mark = micro.draws.uniform("mark").mean()
        return loss * (1 + self.memory["seen"]), scalars | {
            f"mark_{phase}": mark,
            f"turn_{phase}": mark * 0 + micro.turn,
        }

    def settle(self, phase, means, batch):
        self.told.append((phase, float(means[f"mark_{phase}"])))
        self.memory["seen"].lerp_(means[f"mark_{phase}"], 0.25)


def train(tiny, monkeypatch, name, settings):
    made = []

    def build(_name):
        made.append(Remembering())
        return made[-1]

    monkeypatch.setattr(objectives, "find", build)
    run = tiny(name, {"log.snapshot_every": 10**6, "train.duration": 64} | settings)
    return run, made[-1]


def test_losses_are_told_the_same_of_a_batch_whatever_its_micro_batches(tiny, monkeypatch):
    told = [train(tiny, monkeypatch, f"run{micro}", {"train.micro_batch": micro})[1].told for micro in (8, 4)]
    assert len(told[0]) == 12  # 8 D phases of 8 images, 4 G phases
    assert [phase for phase, _ in told[0]] == ["d", "d", "g"] * 4
    np.testing.assert_allclose([mark for _, mark in told[0]], [mark for _, mark in told[1]], rtol=1e-6)


def test_what_losses_remember_is_resumed_bit_for_bit(tiny, monkeypatch):
    whole, _ = train(tiny, monkeypatch, "whole", {})
    train(tiny, monkeypatch, "parts", {"train.duration": 32})
    parts, _ = train(tiny, monkeypatch, "parts", {})
    one, other = (
        checkpoint.read_tensors(checkpoint.listed(run / "checkpoints")[-1]) for run in (whole, parts)
    )
    assert one["memory"]["seen"] > 0
    for stem, tensors in one.items():
        for key, value in tensors.items():
            assert torch.equal(value, other[stem][key]), key


def test_the_turn_counts_the_steps_of_each_network(tiny, monkeypatch):
    run, _ = train(tiny, monkeypatch, "run", {"log.status_every": 16})
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    status = [row for row in rows if row["type"] == "status"]
    assert [row["turn_d"] for row in status] == [0.5, 2.5, 4.5, 6.5]
    assert [row["turn_g"] for row in status] == [0, 1, 2, 3]
