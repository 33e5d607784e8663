"""The gradient noise scale: unbiased, of the right gradient, the same however a batch is cut and spread."""

import json

import pytest
import torch

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.training import growth, loop, noise_scale
from tests.training.ranks import train as train_ranks


@pytest.mark.parametrize(("d", "parts", "noise"), [(1000, 8, 1.0), (20, 4, 50.0)])
def test_estimates_are_unbiased(d, parts, noise):
    """g_i = G + N(0, S/(b·d)) with |G|² 1 and S = noise · N · b gives S and |G|² again, in the mean."""
    images, draws = 16, 4000
    variance = noise * parts * images
    generator = torch.Generator().manual_seed(0)
    true = torch.full((d,), d**-0.5, dtype=torch.float64)
    estimates = []
    for _ in range(draws):
        spread = torch.randn(parts, d, dtype=torch.float64, generator=generator)
        g = true + spread * (variance / images / d) ** 0.5
        squares, mean_square = g.square().sum(), g.mean(0).square().sum()
        estimates.append(noise_scale.estimate(squares, mean_square, parts, images))
    found = torch.stack(estimates)
    error = found.std(0) / draws**0.5
    assert (found.mean(0) - torch.tensor([variance, 1.0])).abs().lt(5 * error).all()
    assert error[0] < 0.01 * variance


def test_a_memory_gives_the_ratio_of_means_and_leaves_out_what_is_not_finite():
    memory = torch.zeros(3)
    assert noise_scale.scale(memory) is None
    for variance, true in ((100.0, 2.0), (300.0, -1.0), (float("nan"), 1.0), (200.0, 4.0)):
        noise_scale.remember(memory, torch.tensor([variance, true]), 0.5)
    # weights 1/8, 1/4, 1/2 of the three that are numbers
    assert noise_scale.scale(memory) == pytest.approx((12.5 + 75 + 100) / (0.25 - 0.25 + 2))
    noise_scale.remember(memory, torch.tensor([1.0, -100.0]), 0.5)
    assert noise_scale.scale(memory) == float("inf")


NOISY = {
    "batch.noise_every": 2, "train.duration": 32, "train.batch": 16, "bn.group": 4, "optim.d_steps": 1,
    "log.snapshot_every": 10**6, "log.checkpoint_every": 10**6,
}  # fmt: skip


@pytest.fixture
def estimates(monkeypatch):
    """Every estimate of the runs of a test: (letter, S, |G|²)."""
    noted = []
    note = growth.note

    def keep(run, state, letter, now):
        noted.append((letter, *now.tolist()))
        note(run, state, letter, now)

    monkeypatch.setattr(growth, "note", keep)
    return noted


def test_the_estimate_is_that_of_the_parts_own_gradients_of_the_master_weights(tiny, monkeypatch, estimates):
    """Against autograd through W/σ with u and v held, part by part, in D's phase."""
    direct = []
    accumulate = loop._accumulate

    def look(run, letter, state, reals, *more):
        if letter == "d" and growth.due(run.growth, state.D.turn):
            before = [p.detach().clone() for p in state.D.net.parameters()]
            batches = list(loop.of_d(run, state, reals))
            parts = [part for batch in batches for part in batch.split(4)]
            gradients = []
            for part in parts:
                state.D.gradients.zero()
                run.objective("d", state.G.net, state.D.net, part)[0].backward()
                spectral.pull_back(state.D.net)
                gradients.append(state.D.gradients.flat.clone())
            g = torch.stack(gradients).double()
            mean = g.mean(0)
            variance = 4 * (g - mean).square().sum() / (len(parts) - 1)
            direct.append((float(variance), float(mean.square().sum() - variance / (4 * len(parts)))))
            reals.begin(state.images_seen)
            assert all(torch.equal(a, b) for a, b in zip(before, state.D.net.parameters()))
        return accumulate(run, letter, state, reals, *more)

    monkeypatch.setattr(loop, "_accumulate", look)
    tiny("run", NOISY)
    measured = [values for letter, *values in estimates if letter == "d"]
    assert len(measured) == len(direct) == 1
    assert measured[0] == pytest.approx(direct[0], rel=1e-4)


def test_measuring_changes_what_is_trained_by_rounding_only(tiny, monkeypatch):
    """The gradient that is stepped with, at a measured step and at the same step unmeasured."""
    seen = {}
    accumulate = loop._accumulate
    for every in (2, None):

        def look(run, letter, state, reals, *more, every=every):
            found = accumulate(run, letter, state, reals, *more)
            player = state.D if letter == "d" else state.G
            seen[every, letter, player.turn] = player.gradients.flat.clone()
            return found

        monkeypatch.setattr(loop, "_accumulate", look)
        tiny(f"run{every}", NOISY | {"batch.noise_every": every})
    for letter in "dg":
        assert torch.equal(seen[2, letter, 0], seen[None, letter, 0])  # not measured
        measured, plain = seen[2, letter, 1], seen[None, letter, 1]
        assert not torch.equal(measured, torch.zeros_like(measured))
        assert (measured - plain).norm() < 1e-5 * plain.norm()


def noise_of(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        (row["noise_scale_d"], row["noise_scale_g"])
        for row in rows
        if row["type"] == "status" and row["noise_scale_d"] is not None
    ]


def test_micro_batches_and_ranks_give_the_same_estimate(images, tmp_path, tiny):
    settings = NOISY | {"train.duration": 64, "log.status_every": 32}
    runs = [tiny(f"micro{micro}", settings | {"train.micro_batch": micro}) for micro in (4, 16)]
    runs.append(train_ranks(tmp_path, images, 2, "ranks", settings | {"loss.objective": "hinge"}))
    found = [noise_of(run) for run in runs]
    assert len(found[0]) == 2
    for other in found[1:]:
        for one, two in zip(found[0], other):
            assert two == pytest.approx(one, rel=1e-3)


def test_a_group_that_processes_share_cannot_be_measured():
    class Run:
        growth = type("Rule", (), {"measures": True})
        batch = batch_g = 16
        micro_batch, micro_batch_g, bn_group = 4, 8, 8

    with pytest.raises(UserError, match=r"2 processes share one of 8 \(bn.group\)[\s\S]*set bn.group=4"):
        growth.check(Run)


def test_a_run_whose_group_is_the_whole_batch_is_told_so_when_noise_is_to_be_measured(tiny):
    settings = {"bn.group": "auto", "train.duration": 8}
    tiny("run", settings)
    with pytest.raises(UserError, match=r"--batch 16, or bn\.group=4 with --allow-change bn\.group"):
        tiny("run", settings | {"train.duration": 64, "batch.noise_every": 2})
