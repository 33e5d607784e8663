"""What a step does and does not do: no waiting for the device, nothing twice, bad steps left out."""

import json
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gansmith.errors import Diverged
from gansmith.models import spectral
from gansmith.training import gradients, loop, objectives, saving
from gansmith.training.runlog import Averages

QUIET = {"log.snapshot_every": 10**6, "log.checkpoint_every": 10**6}


def rows(run, kind):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["type"] == kind]


class Watch(TorchDispatchMode):
    """Counts what makes the host wait: a value read from a tensor. Off inside what may wait."""

    def __init__(self):
        super().__init__()
        self.read, self.may_wait, self.calls, self.on = [], 0, 0, False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        if not self.may_wait and func is torch.ops.aten._local_scalar_dense.default:
            self.read.append(func)
        return func(*args, **(kwargs or {}))

    def allow(self, monkeypatch, place, name):
        real = getattr(place, name)

        def waiting(*arguments, **more):
            self.may_wait += 1
            try:
                return real(*arguments, **more)
            finally:
                self.may_wait -= 1

        monkeypatch.setattr(place, name, waiting)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_between_status_lines_read_nothing_from_the_device(tiny, monkeypatch, precision):
    watch = Watch()
    for place, name in ((loop, "_status"), (loop, "_check"), (saving, "snapshot"), (saving, "checkpoint")):
        watch.allow(monkeypatch, place, name)
    train = loop.train

    def watched(run, state):
        watch.on = True
        with watch:
            train(run, state)
        watch.on = False

    monkeypatch.setattr(loop, "train", watched)
    tolist = torch.Tensor.tolist  # reads without an operation that could be seen

    def noted(tensor):
        watch.read += ["tolist"] * (watch.on and not watch.may_wait)
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", noted)
    run = tiny("run", {"train.precision": precision, "log.status_every": 48, "train.duration": 96})
    assert len(rows(run, "status")) == 2
    assert watch.calls > 1000
    assert watch.read == []


@pytest.mark.parametrize("micro", [4, 8, 16])
def test_micro_batches_share_one_refresh_pull_back_regularisation_and_reduction(tiny, monkeypatch, micro):
    counts = Counter()

    def counted(place, name):
        real = getattr(place, name)

        def call(*arguments, **more):
            counts[name] += 1
            return real(*arguments, **more)

        monkeypatch.setattr(place, name, call)

    train = loop.train

    def start_counting(run, state):
        for place, name in (
            (spectral, "refresh"), (spectral, "pull_back"), (loop, "add_orthogonal_gradient"),
            (gradients.FlatGradients, "finish"), (torch.optim.Adam, "step"), (objectives, "hinge"),
        ):  # fmt: skip
            counted(place, name)
        run.objective = objectives.hinge
        train(run, state)

    monkeypatch.setattr(loop, "train", start_counting)
    monkeypatch.setattr(saving, "checkpoint", lambda run, state: ("", True))
    monkeypatch.setattr(saving, "snapshot", lambda run, state: None)
    settings = {"train.batch": 16, "train.micro_batch": micro, "optim.d_steps": 2, "train.duration": 64}
    tiny("run", settings)
    steps, phases = 2, 3
    once = dict.fromkeys(("refresh", "pull_back", "finish", "step"), steps * phases)
    assert counts == once | {"add_orthogonal_gradient": steps, "hinge": steps * phases * 16 // micro}


def test_no_gradient_is_computed_that_nobody_takes(tiny, monkeypatch):
    """Of D's weights in G phases, of G's in D phases."""
    seen = {}

    def looked_at(phase, G, D, micro):
        for letter, net in (("g", G), ("d", D)):
            asks = [leaf.requires_grad for _, _, leaf in spectral.effective_parameters(net)]
            seen.setdefault(phase + letter, set()).update(asks)
        return objectives.hinge(phase, G, D, micro)

    monkeypatch.setattr(objectives, "find", lambda name: looked_at)
    tiny("run", {"train.duration": 16} | QUIET)
    assert seen == {"dd": {True}, "dg": {False}, "gg": {True}, "gd": {False}}


def nan_at(*calls):
    """hinge, with a loss that is not a number in these calls of D phases."""
    count = 0

    def objective(phase, G, D, micro):
        nonlocal count
        loss, scalars = objectives.hinge(phase, G, D, micro)
        count += phase == "d"
        return loss * (float("nan") if phase == "d" and count in calls else 1.0), scalars

    return objective


def test_a_step_that_is_not_finite_changes_no_weight_and_no_moment(tiny, monkeypatch):
    seen = {}
    phase = loop._phase

    def look(run, letter, state, micro_batches):
        def now():
            net = state.D.net if letter == "d" else state.G.net
            optimizer = (state.D if letter == "d" else state.G).optimizer
            moments = [v.clone() for p in net.parameters() for v in optimizer.state[p].values()]
            return [p.detach().clone() for p in net.parameters()] + moments

        before = now()
        result = phase(run, letter, state, micro_batches)
        same = [torch.equal(a, b) for a, b in zip(before, now())]
        seen.setdefault(letter, []).append((all(same), any(same)))
        return result

    monkeypatch.setattr(loop, "_phase", look)
    monkeypatch.setattr(objectives, "find", lambda name: nan_at(2, 3))
    settings = {"train.micro_batch": 8, "train.duration": 64, "optim.d_steps": 1}
    run = tiny("run", settings | QUIET)
    assert [unchanged for unchanged, _ in seen["d"]] == [False, True, True] + 5 * [False]
    assert [unchanged for unchanged, _ in seen["g"]] == 8 * [False]
    assert rows(run, "status")[-1]["skipped"] == 2
    # The first status covers steps 1 and 2; only the first one's norm is a number and counts.
    assert all(row["gradient_norm_d"] > 0 for row in rows(run, "status") if row["images_seen"] != 32)


def test_a_run_that_is_stuck_ends_before_anything_of_it_is_saved(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(objectives, "find", lambda name: nan_at(*range(3, 1000)))
    settings = {
        "train.micro_batch": 8, "train.duration": 6400, "train.max_skipped": 4, "optim.d_steps": 1,
        "guard.policy": "stop", "log.status_every": 64, "log.snapshot_every": 48, "log.checkpoint_every": 48,
    }  # fmt: skip
    with pytest.raises(Diverged, match=r"6 D steps in a row[\s\S]* at 64 images"):
        tiny("run", settings)
    run = tmp_path / "run"
    # At 48 images 4 steps in a row had been skipped, which is allowed; at 64 it is known that 6 were.
    assert [row["images_seen"] for row in rows(run, "checkpoint")] == [48]
    assert rows(run, "diverged")[0]["images_seen"] == 64


def test_averages_leave_out_what_is_not_to_count():
    class Alone:
        device, size = torch.device("cpu"), 1

        def sum(self, tensor):
            pass

    averages = Averages()
    for value, counts in ((1.0, True), (float("inf"), False), (3.0, True)):
        averages.add({"norm": torch.tensor(value)}, where=torch.tensor(counts))
        averages.add({"loss": torch.tensor(value)})
    taken = averages.take(Alone())
    assert taken == {"norm": 2.0, "loss": float("inf")}
