"""A profiled run: parts that add up, work counted as published, and the same weights as without."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from gansmith import config as configuration
from gansmith.training import loop, profiling
from gansmith.training import state as states
from gansmith.training.distributed import World

QUIET = {"log.snapshot_every": 10**6, "log.checkpoint_every": 64, "train.batch": 8, "train.micro_batch": 4}


def rows(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == kind]


def test_a_profile_names_every_part_once_and_changes_no_weight(tiny, monkeypatch, capsys):
    monkeypatch.setattr(profiling, "matrix_peak", lambda device, dtype: 1e9)
    plain = tiny("plain", QUIET)
    marked = []
    mark = profiling.Profile.mark

    def note(self, part):
        marked.append(part)
        mark(self, part)

    monkeypatch.setattr(profiling.Profile, "mark", note)
    run = tiny("profiled", QUIET, profile=1)
    (profile,) = rows(run, "profile")
    assert profile["steps"] == 1
    assert set(profile["parts"]) == set(profiling.PARTS)
    assert all(seconds > 0 for seconds in profile["parts"].values())
    said = capsys.readouterr().out
    assert all(f"\n{part} " in said for part in (*profiling.PARTS, "in all"))
    # 2 steps of warm-up, one that counts, and the beginning of the next; then nobody marks any more.
    assert marked.count("step") == 4
    assert marked[-1] == "step"
    # A step of 2 D phases and 1 of G, each of two micro-batches.
    first = marked.index("step")
    step = marked[first : marked.index("step", first + 1)]
    assert step.count("data") == 3 * 3
    assert step.count("G forward") == step.count("D forward") == 3 * 2
    assert step.count("G backward") == 2
    assert step.count("reduction") == step.count("optimizer") == step.count("regularisation") == 3
    one, other = (
        load_file(sorted((r / "checkpoints").iterdir())[-1] / "networks.safetensors") for r in (plain, run)
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_without_a_profile_is_told_nothing(tiny, monkeypatch):
    train, seen = loop.train, []
    monkeypatch.setattr(loop, "train", lambda run, state: (seen.append(run.mark), train(run, state)))
    tiny("run", QUIET)
    assert seen == [profiling.unmarked]


@pytest.mark.parametrize(
    ("resolution", "ch", "one", "two"),
    [(32, 64, 31, 47), (64, 64, 76, 104), (128, 96, 342, 515), (256, 96, 1183, 1777)],
)
def test_work_is_counted_as_published(resolution, ch, one, two):
    """GFLOP per batch slot with 1 and 2 D steps: the published networks', less at most 7 % that is saved
    where 1×1 shortcuts run on the smaller side of a resampling."""
    model = {"model.resolution": resolution, "model.ch": ch}
    model["model.dim_z"] = {32: 128, 64: 100, 128: 120, 256: 140}[resolution]
    if resolution < 128:
        model |= {"model.attention_g": [], "model.attention_d": []}
    if resolution == 32:
        model |= {"model.shared_dim": 0, "model.skip_z": False}
    for steps, published in ((1, one), (2, two)):
        config, _ = configuration.load(overrides=model | {"optim.d_steps": steps, "train.batch": 1})
        with torch.device("meta"):
            G, D = states.networks(config, 10 if resolution == 32 else 1000)
        state = SimpleNamespace(G=SimpleNamespace(net=G), D=SimpleNamespace(net=D))
        world, batch = World(0, 1, torch.device("cpu")), config.train.batch
        run = SimpleNamespace(world=world, config=config, batch=batch, batch_g=1)
        flop = sum(profiling.step_flops(run, state).values()) / 1e9
        assert 0.93 * published < flop < published + 1


def test_shares_and_utilisation_are_of_the_same_step():
    lines = profiling.table({"data": 1.0, "G forward": 3.0}, {"G forward": 6e9}, 4e9, "bf16")
    assert lines[1].split() == ["data", "1000.00", "25.0%"]
    assert lines[2].split() == ["G", "forward", "3000.00", "75.0%", "6.0", "50.0%"]
    assert lines[3].split() == ["in", "all", "4000.00", "6.0", "37.5%"]
