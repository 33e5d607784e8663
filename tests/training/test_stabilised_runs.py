"""Runs with stabilisers: cut into micro-batches and ranks, stopped and resumed, they are the same runs."""

from functools import partial

import torch

from tests.training.ranks import newest, train
from tests.training.reading import events
from tests.training.test_ranks import in_float64

QUIET = {"watch.every": None, "log.snapshot_every": 10**6, "log.grid_columns": 1, "log.statistics_images": 16}
# Each of them is active in some steps and not in others, or nothing would be shown.
ALL = {
    "stabilise.flood_d": "0.995x", "stabilise.flood_g": -65.0, "stabilise.baseline": 64,
    "stabilise.stop_d": "1.05x", "stabilise.stop_g": "1.1x",
    "stabilise.clamp_d": 1.005, "stabilise.clamp_g": "0.95x", "optim.lr_d": 0.002,
}  # fmt: skip
# What D is shown and asked beside its logits, and which fakes G learns from.
SHOWN = {
    "stabilise.top_k": 0.4, "stabilise.top_k_decay": 0.8, "stabilise.top_k_every": 16,
    "stabilise.replay": 0.5, "stabilise.replay_images": 8, "stabilise.replay_span": 32,
    "head.classify_d": 1.0, "head.classify_g": 1.0, "head.projection": False, "head.rotate_d": 1.0,
    "head.rotate_g": 0.2, "head.contrast_d": 0.5, "model.dropout_d": 0.3, "model.noise_g": True,
}  # fmt: skip


def shares(run):
    rows = events(run, "status")
    return [{key: row[key] for key in row if key.endswith("_active")} for row in rows]


def test_micro_batches_and_ranks_do_not_change_their_meaning(images, tmp_path):
    settings = ALL | SHOWN | QUIET | {
        "train.batch": 16, "train.duration": 64, "bn.group": 4, "optim.d_steps": 1, "log.status_every": 16,
        "log.checkpoint_every": 64, "loss.objective": "hinge", "stabilise.flood_g": -1.0,
        "model.init": "n02", "stabilise.clamp_d": 0.23,  # orthogonal weights have no largest singular value
    }  # fmt: skip
    on = partial(train, tmp_path, images, prepare=in_float64)
    # 1 × 16; 4 × 4, a BatchNorm group each; and 4 × 2 on each of two ranks, which share the groups.
    runs = [
        on(world, f"run{world}-{micro}", settings | {"train.micro_batch": micro})
        for world, micro in ((1, 16), (1, 4), (2, 2))
    ]
    first = shares(runs[0])
    names = {"flood_d", "flood_g", "stop_d", "stop_g", "clamp_d", "clamp_g", "top_k"}
    assert set(first[0]) == {f"{name}_active" for name in names}
    for name in ("flood_d", "flood_g", "stop_d", "stop_g"):
        assert {row[f"{name}_active"] for row in first} == {0.0, 1.0}, name
    rows = events(runs[0], "status")
    assert [row["top_k"] for row in rows] == [1, 0.75, 0.75, 0.5]  # ⌈4 · 0.8ᵗ⌉ of 4
    assert [row["replayed"] > 0 for row in rows] == [False, True, True, True]
    (_, one), *others = [newest(run) for run in runs]
    for run, (_, other) in zip(runs[1:], others):
        assert shares(run) == first
        weights = {key: value for key, value in one["networks"].items() if value.is_floating_point()}
        assert max((other["networks"][key] - value).abs().max() for key, value in weights.items()) < 1e-8
        # Losses are float32. Singular vectors have no sign to compare, and only the first have converged.
        kept = [each["memory"]["stabilise.mean_d"] for each in (one, other)]
        assert torch.allclose(*kept, rtol=1e-6)
        replayed = [key for key in one["memory"] if key.startswith("replay")]
        assert all(torch.equal(other["memory"][key], one["memory"][key]) for key in replayed)


def test_a_stabilised_run_is_resumed_bit_for_bit(tiny):
    settings = ALL | SHOWN | QUIET | {"optim.d_steps": 3, "stabilise.critic_plateau": 0.02}
    whole = tiny("whole", settings | {"train.duration": 56})
    tiny("parts", settings | {"train.duration": 24})
    parts = tiny("parts", settings | {"train.duration": 56})
    (record, left), (other, right) = newest(whole), newest(parts)
    assert record["step"] == other["step"]
    assert "stabilise.mean_d" in left["memory"]
    for file, tensors in left.items():
        assert tensors.keys() == right[file].keys()
        assert [key for key, value in tensors.items() if not torch.equal(value, right[file][key])] == []
    assert {row["d_phases"] for row in events(whole, "status")} == {2.0, 3.0}


def test_a_step_that_is_left_out_moves_neither_weights_nor_moments(tiny):
    settings = QUIET | {"stabilise.stop_d": 100.0, "train.duration": 32, "log.checkpoint_every": 16}
    run = tiny("run", settings)
    (early, late) = (checkpoint_at(run, images) for images in (16, 32))
    still = [key for key in early["networks"] if key.startswith("D.") and not key.endswith((".u", ".v"))]
    assert all(torch.equal(early["networks"][key], late["networks"][key]) for key in still)
    moments = {key: value for key, value in late["optimizers"].items() if key.startswith("D.")}
    assert all(value.count_nonzero() == 0 for value in moments.values())
    moved = [key for key in late["networks"] if key.startswith("G.") and key.endswith("weight")]
    assert not any(torch.equal(early["networks"][key], late["networks"][key]) for key in moved)
    row = events(run, "status")[-1]
    assert row["stop_d_active"] == 1.0
    assert row["skipped"] is None


OWN = """from gansmith.training import objectives


def loss(phase, G, D, micro):
    value, scalars = objectives.hinge(phase, G, D, micro)
    return value, scalars | ({"d_accuracy": value.detach().new_full((), 0.5)} if phase == "d" else {})
"""


def test_a_gate_goes_by_the_accuracy_that_an_objective_of_ones_own_says(tiny, tmp_path, monkeypatch):
    (tmp_path / "gated.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    settings = QUIET | {"loss.objective": "gated:loss", "stabilise.gate_g": 0.6, "train.duration": 32}
    assert events(tiny("run", settings), "status")[-1]["gate_g_active"] == 1.0


def checkpoint_at(run, images):
    from gansmith.training import checkpoint

    return checkpoint.read_tensors(run / "checkpoints" / checkpoint.name(images))
