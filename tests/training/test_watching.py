"""What is looked at while training: what the signals say, and that looking changes nothing."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from gansmith import config as configuration
from gansmith.errors import UserError
from gansmith.models.normalization import BatchNorm
from gansmith.training import grids, loop, saving, watching
from gansmith.training.run import train as run_training
from tests.training.conftest import TINY
from tests.training.ranks import train
from tests.training.reading import events, networks

OLDER = {"model.attention_g": [], "model.attention_d": [], "model.skip_z": False, "model.shared_dim": 0}
SIGNALS = {
    "diversity", "effective_rank", "duplicates", "sigma_ratio_g", "sigma_ratio_d", "d_gap", "d_held_out",
    "sigma1", "sigma2", "diversity_class", "diversity_class_min",
}  # fmt: skip
WATCHED = {
    "watch.every": 16,
    "watch.images": 18,
    "data.hold_out": 3,
    "train.duration": 32,
    "log.snapshot_every": 10**6,
    "log.checkpoint_every": 10**6,
}


@pytest.fixture
def still(images, tmp_path_factory):
    """still(settings) → (run, state) of a run that is ready for its first step."""

    def start(settings=None):
        got = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "train", lambda run, state: got.append((run, state)))
            patch.setattr(grids, "draw_samples", lambda *arguments: None)
            out = tmp_path_factory.mktemp("still") / "run"
            run_training(str(images), None, out, settings=TINY | WATCHED | (settings or {}))
        return got[0]

    return start


def networks_as_they_are(state):
    players = {"G": state.G.net, "D": state.D.net}
    modes = [(m.training, getattr(m, "group", None)) for net in players.values() for m in net.modules()]
    tensors = {f"{k}.{name}": v.clone() for k, net in players.items() for name, v in net.state_dict().items()}
    return modes, torch.random.get_rng_state(), tensors


def test_looking_changes_no_bit_of_a_run(tiny, monkeypatch):
    seen, look = [], watching.look

    def looked(run, state):
        modes, random, tensors = networks_as_they_are(state)
        row = look(run, state)
        modes_after, random_after, after = networks_as_they_are(state)
        assert modes == modes_after
        assert torch.equal(random, random_after)
        assert all(torch.equal(value, after[key]) for key, value in tensors.items())
        seen.append(state.images_seen)
        return row

    monkeypatch.setattr(watching, "look", looked)
    monkeypatch.setattr(saving, "snapshot", lambda run, state: None)
    watched = tiny("watched", WATCHED)
    plain = tiny("plain", WATCHED | {"watch.every": None})
    assert seen == [16, 32]
    left, right = networks(watched), networks(plain)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    rows = events(watched, "status")
    assert all(row.keys() >= SIGNALS for row in rows)
    assert not any(SIGNALS & row.keys() for row in events(plain, "status"))
    assert [row["epoch"] for row in rows] == pytest.approx([16 / 18, 32 / 18])  # 3 of 21 are held out
    said = f"div {rows[-1]['diversity']:.2f}  dup {rows[-1]['duplicates']:.0%}"
    assert said in (watched / "log.txt").read_text()


def test_signals_are_those_of_the_networks_of_that_moment(still):
    run, state = still()
    row = watching.look(run, state)
    D, watch = state.D.net, run.watch

    @torch.no_grad()
    def mean(pictures, label):
        pixels = pictures.pixels[pictures.labels == label].permute(0, 3, 1, 2) / 127.5 - 1
        return float(D(pixels, torch.full((len(pixels),), label)).mean())

    held_out, trained = ([mean(p, c) for c in range(3)] for p in (watch.held_out, watch.real))
    assert watch.held_out.labels.tolist() == [0, 1, 2]
    assert row["d_held_out"] == pytest.approx(sum(held_out) / 3, rel=1e-4)
    assert row["d_gap"] == pytest.approx((sum(trained) - sum(held_out)) / 3, rel=1e-3, abs=1e-5)
    assert set(row["diversity_class"]) == {"circle", "cross", "dot"}
    assert row["diversity_class_min"] == min(row["diversity_class"].values()) > 0
    layers = 0
    for letter, net in (("G", state.G.net), ("D", state.D.net)):
        for name, layer in net.named_modules():
            if isinstance(getattr(layer, "weight", None), torch.nn.Parameter):
                exact = torch.linalg.svdvals(layer.weight.detach().flatten(1))
                for i, value in enumerate(exact[:3].tolist()):
                    assert row[f"sigma{i}"][f"{letter}.{name}"] == pytest.approx(value, rel=0.02, abs=1e-5)
                layers += 1
    assert layers == len(row["sigma0"]) > 30
    state.G.net.forward = lambda z, y: torch.zeros(len(z), 1, 32, 32)
    row = watching.look(run, state)
    for name in ("diversity", "diversity_class_min", "effective_rank"):
        assert row[name] == pytest.approx(0, abs=1e-6)
    assert row["duplicates"] == 1.0


def test_without_classes_there_is_one_diversity_and_without_held_out_images_no_gap(still):
    for kind in ({"model.conditional": False}, {"data.labels": "random", "data.random_classes": 5}):
        row = watching.look(*still({"data.hold_out": 0} | kind))
        assert row["diversity"] > 0
        assert not {"diversity_class", "diversity_class_min", "d_held_out", "d_gap"} & row.keys()


def test_another_set_can_be_what_is_not_trained_on(still, other):
    run, state = still({"watch.data": str(other)})
    # Of its four classes one has a name of the run's; that class is what D is asked about.
    assert run.watch.held_out.labels.tolist() == [1, 1, 1, 1]
    assert watching.look(run, state)["d_gap"] != 0


def test_a_held_out_set_that_is_not_there_is_refused_before_a_step(tiny, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        tiny("run", WATCHED | {"watch.data": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match=r"data.hold_out 11: .* 1 to 9 can"):
        tiny("run", WATCHED | {"data.hold_out": 11})


def test_another_set_without_a_class_of_the_runs_is_refused(still, other, tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("bar", "ring"):
        (tmp_path / "set" / name).symlink_to(other / name)
    with pytest.raises(
        UserError, match=r"watch\.data .* \(bar, ring\) has a name of the run's \(circle, cross"
    ):
        still({"watch.data": str(tmp_path / "set")})


def test_a_discriminator_without_features_or_logits_is_looked_at_as_far_as_it_goes(still):
    class Encoder(torch.nn.Module):
        def __init__(self, D):
            super().__init__()
            self.D = D

        def forward(self, x, y=None):
            return self.D(x, y), x

    run, state = still()
    state.D.net = Encoder(state.D.net)
    run.watch = watching.ready(run, state, run.dataset.subset(np.arange(3)))
    assert run.watch.features == 64  # thumbnails of 8 × 8
    row = watching.look(run, state)
    assert row["diversity"] > 0
    assert "d_gap" not in row


def test_a_discriminator_with_batch_norm_judges_groups_of_the_same_classes(still):
    run, state = still({"model.family": "dcgan", "bn.group": 8, "train.micro_batch": 8} | OLDER)
    assert run.watch.real.labels.tolist() == run.watch.labels.tolist() == 6 * [0, 1, 2]
    row = watching.look(run, state)
    assert row["diversity"] > 0
    assert row["d_gap"] != 0
    assert {m.group for m in state.D.net.modules() if isinstance(m, BatchNorm)} == {8}


def test_what_is_not_a_number_is_none(still):
    run, state = still()
    state.G.net.linear.weight.data[0, 0] = state.G.net.linear.weight_hat.data[0, 0] = torch.nan
    row = watching.look(run, state)
    assert "NaN" not in json.dumps(row)
    assert row["diversity"] is None
    assert row["diversity_class_min"] is None
    assert row["sigma0"]["G.linear"] is None
    assert row["sigma0"]["D.linear"] > 0


def test_two_processes_see_what_one_does(images, tmp_path):
    on = partial(train, tmp_path, images)
    settings = {"watch.every": 8, "watch.images": 18, "data.hold_out": 3}
    settings |= {"optim.lr_g": 1e-12, "optim.lr_d": 1e-12, "log.checkpoint_every": 1000}
    one, two = (events(on(n, f"run{n}", settings, f"r{n}"), "status")[-1] for n in (1, 2))
    names = [
        "diversity",
        "diversity_class",
        "effective_rank",
        "duplicates",
        "d_held_out",
        "d_gap",
        "sigma0",
        "sigma2",
    ]
    for name in names:
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name


def test_looks_come_with_status_lines_rarely_enough_to_cost_little():
    def every(status, **settings):
        config, _ = configuration.load("digits", None, {f"watch.{k}": v for k, v in settings.items()})
        return watching.cadence(config, status, epoch=1000)

    assert every(5000) == 5000
    assert every(1000) == 4000  # 64 images × 48 = 3,072
    assert every(1000, images=128) == 7000
    assert every(1000, every="1500") == 2000
    assert every(1000, every="2ep") == 2000
    assert every(1000, every=None) is None
    with pytest.raises(UserError, match=r"watch\.every: must be auto, None or at least one image"):
        every(1000, every=0)
