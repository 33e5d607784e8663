"""Micro-batches that fit: found at the start, remembered, and halved when memory runs out after all."""

import json

import pytest
import torch
from safetensors.torch import load_file

from gansmith.errors import UserError
from gansmith.training import memory, objectives
from gansmith.training import state as states

QUIET = {"log.snapshot_every": 10**6}


def rows(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == kind]


def newest(run):
    return sorted((run / "checkpoints").iterdir())[-1]


def saved(run):
    return json.loads((newest(run) / "state.json").read_text())["micro_batch"]


def full_above(size, phases="dg", after=0):
    """hinge on a device that has no room for more than `size` latents, from call `after` on."""
    calls = 0

    def objective(phase, G, D, micro):
        nonlocal calls
        calls += 1
        if micro.z.device.type != "meta" and phase in phases and len(micro.z) > size and calls > after:
            # What a device does: it fails in the middle, with much of the work done.
            objectives.hinge(phase, G, D, micro)[0].backward()
            raise torch.OutOfMemoryError("out of memory (injected)")
        return objectives.hinge(phase, G, D, micro)

    return objective


def test_the_largest_that_fits_is_tried_apart_for_g_and_d(tiny, monkeypatch):
    """The accelerator's way, with this CPU in its place."""
    monkeypatch.setattr(objectives, "find", lambda name: full_above(16, phases="d"))
    tried, asked = memory.tried, []

    def attempt(run, state, letter, count):
        fits = tried(run, state, letter, count)
        asked.append((letter, count, fits))
        assert not state.G.gradients.flat.any()
        assert not state.D.gradients.flat.any()
        return fits

    settle = memory.settle

    def settled(run, state, before):
        monkeypatch.setattr(
            memory, "predicted", lambda run, letter, count: attempt(run, state, letter, count)
        )
        before_it = {k: v.clone() for k, v in states.tensors(state)["networks"].items()}
        random = torch.get_rng_state()
        settle(run, state, before)
        assert all(torch.equal(v, before_it[k]) for k, v in states.tensors(state)["networks"].items())
        assert torch.equal(torch.get_rng_state(), random)

    monkeypatch.setattr(memory, "settle", settled)
    settings = {"train.batch": 32, "train.duration": 32, "optim.d_steps": 1, "log.checkpoint_every": 32}
    run = tiny("run", settings | QUIET)
    assert asked == [("d", 8, True), ("d", 16, True), ("d", 32, False)] + [
        ("g", n, True) for n in (8, 16, 32)
    ]
    assert (saved(run)["d"], saved(run)["g"]) == (16, 32)
    assert rows(run, "out_of_memory") == []


def test_what_was_chosen_is_taken_again_on_the_same_machine_only(tiny, monkeypatch):
    settings = {"train.batch": 16, "log.checkpoint_every": 32, "optim.d_steps": 1} | QUIET
    run = tiny("run", settings | {"train.duration": 32})
    assert saved(run) == {"d": 16, "g": 16, "machine": "1 × cpu, fp32"}
    monkeypatch.setattr(memory, "predicted", lambda *_: False)  # less memory now
    tiny("run", settings | {"train.duration": 64})
    assert saved(run)["d"] == 16
    monkeypatch.setattr(memory, "machine", lambda run: "another")
    tiny("run", settings | {"train.duration": 96})
    assert saved(run) == {"d": 4, "g": 4, "machine": "another"}


def test_a_cpu_takes_no_more_than_half_of_its_free_memory_nor_than_pays(tiny, monkeypatch):
    settings = {"train.batch": 256, "train.duration": 256, "optim.d_steps": 1, "log.checkpoint_every": 256}
    assert saved(tiny("whole", settings | QUIET))["d"] == memory.ENOUGH_ON_CPU
    bytes_of = {}
    per_image = memory.bytes_per_image

    def note(run, letter):
        bytes_of[letter] = per_image(run, letter)
        return bytes_of[letter]

    monkeypatch.setattr(memory, "bytes_per_image", note)
    tiny("measured", settings | QUIET)
    # 32 px, 8 channels throughout, fp32: about 20 maps of 8 × 32 × 32 or the like in either network.
    assert 100e3 < bytes_of["d"] < 2e6
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 * 17 * max(bytes_of.values()))
    assert saved(tiny("tight", settings | QUIET))["d"] == 16


@pytest.mark.parametrize("phase", ["d", "g"])
@pytest.mark.parametrize("after", [0, 4])
def test_out_of_memory_repeats_the_step_with_half_and_changes_nothing_else(
    tiny, monkeypatch, tmp_path, phase, after
):
    settings = {"train.batch": 16, "train.duration": 64, "optim.d_steps": 2, "train.micro_batch": 16} | QUIET
    halved = {"train.micro_batch" if phase == "d" else "train.micro_batch_g": 8}
    if phase == "d":
        halved["train.micro_batch_g"] = 16
    shown = {}
    for name, objective, more in (
        ("bumpy", full_above(8, phase, after), {}),
        ("smooth", full_above(99), halved),
    ):
        shown[name] = []

        def noting(letter, G, D, micro, objective=objective, seen=shown[name]):
            result = objective(letter, G, D, micro)
            seen += [(letter, *row.tolist()) for row in micro.z]
            seen += [("real", float(image.sum())) for image in micro.real] if letter == "d" else []
            return result

        monkeypatch.setattr(objectives, "find", lambda _, noting=noting: noting)
        tiny(name, settings | more)
    for kind in ("d", "g", "real"):  # in the same order, whatever the cuts
        smooth, bumpy = ([row for row in shown[name] if row[0] == kind] for name in ("smooth", "bumpy"))
        assert smooth == bumpy
    (bump,) = rows(tmp_path / "bumpy", "out_of_memory")
    assert (bump["phase"], bump["micro_batch"]) == (phase, 16)
    assert saved(tmp_path / "bumpy") == saved(tmp_path / "smooth")
    if after == 0:  # the first of its phases: bit for bit the run that began with 8
        for file in ("networks", "optimizers"):
            a, b = (load_file(newest(tmp_path / n) / f"{file}.safetensors") for n in ("smooth", "bumpy"))
            assert all(torch.equal(a[key], b[key]) for key in a)
        rate = [{k: v for k, v in r.items() if k.startswith(("loss", "d_", "gradient"))}
                for n in ("smooth", "bumpy") for r in rows(tmp_path / n, "status")]  # fmt: skip
        assert rate[: len(rate) // 2] == rate[len(rate) // 2 :]


def test_without_a_smaller_micro_batch_it_says_what_helps(tiny, monkeypatch):
    monkeypatch.setattr(objectives, "find", lambda name: full_above(3))
    with pytest.raises(UserError, match=r"micro-batches of 4 and .* groups of 4 \(bn.group\) on 1 process,"):
        tiny("run", {"train.micro_batch": 4} | QUIET)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tiny, monkeypatch):
    def broken(phase, G, D, micro):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(objectives, "find", lambda name: broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        tiny("run", {"train.micro_batch": 4} | QUIET)
