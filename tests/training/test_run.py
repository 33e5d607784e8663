"""A run from outside: what it writes, what it says, the settings that change what it sees."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from gansmith.errors import Diverged, UserError
from gansmith.training import checkpoint, stopping
from gansmith.training.run import train


def rows(run, kind):
    return [row for line in (run / "metrics.jsonl").open() if (row := json.loads(line))["type"] == kind]


def test_a_run_leaves_the_files_the_guide_names(tiny):
    run = tiny("run", {"train.duration": 64})
    expected = {"config.yaml", "environment.json", "log.txt", "metrics.jsonl", "reals.png"}
    assert expected <= {path.name for path in run.iterdir()}
    samples = {path.name for path in (run / "samples").iterdir()}
    stems = {"000000000032", "000000000064"}
    wanted = {f"{stem}{what}.png" for stem in stems for what in ("", "-raw", "-interpolation")}
    assert samples == wanted | {"init.png"}
    assert {path.stem for path in (run / "snapshots").iterdir()} == stems
    reals, init = Image.open(run / "reals.png"), Image.open(run / "samples" / "init.png")
    assert reals.size == init.size  # grids of one geometry: a class per row
    assert np.asarray(reals).std() > 10


def test_the_status_row_carries_what_the_line_shows(tiny, capsys):
    run = tiny("run", {"train.duration": 31})  # ends with the step that passes it, and 0 seconds to go
    (first, second) = rows(run, "status")
    assert first["eta_seconds"] > second["eta_seconds"] == 0
    assert [first["images_seen"], second["images_seen"]] == [16, 32]
    assert second["epoch"] == pytest.approx(32 / 21)
    assert second["step"] == 2
    for key in (
        "loss_d",
        "loss_g",
        "d_real",
        "d_fake",
        "gradient_norm_d",
        "gradient_norm_g",
        "images_per_second",
    ):
        assert np.isfinite(second[key])
    assert {"G.linear", "D.linear", "G.blocks.0.0.conv1"} <= second["sigma0"].keys()
    assert second["sigma0_g"] == max(v for k, v in second["sigma0"].items() if k.startswith("G."))
    said = capsys.readouterr().out
    assert f"L_D {second['loss_d']:.3f}" in said
    assert "ETA 0:00" in said


def test_a_run_draws_from_its_own_files_alone(tiny, images):
    import gansmith

    run = tiny("run", {"train.duration": 32})
    drawn = gansmith.load(run).sample(2, classes=["cross", "dot"])
    assert drawn.shape == (4, 32, 32, 1)
    assert drawn.dtype == np.uint8


@pytest.mark.parametrize(
    "settings",
    [
        {"model.conditional": False},
        {"data.labels": "random", "data.random_classes": 3},
        {"data.balanced": True},
        {"model.family": "biggan-deep", "model.ch": 4},
        {"model.shared_dim": 0, "model.skip_z": False, "model.latent": "uniform"},
        {"model.spectral_g": False, "optim.schedule": "cosine", "optim.warmup": 16},
        {"data.random_crop": True, "loss.ortho_d": 1e-4},
        {"train.channels_last": False, "train.deterministic": False, "model.init": "n02"},
    ],
    ids=str,
)
def test_every_kind_of_run_trains_and_resumes_bit_for_bit(tiny, settings):
    common = settings | {"log.snapshot_every": 1000}
    common |= {"optim.schedule_end": 32}
    whole = tiny("whole", common | {"train.duration": 32})
    tiny("parts", common | {"train.duration": 16})
    parts = tiny("parts", common | {"train.duration": 32})
    left, right = (
        checkpoint.read_tensors(checkpoint.listed(run / "checkpoints")[-1]) for run in (whole, parts)
    )
    assert [
        key for key in left["networks"] if not torch.equal(left["networks"][key], right["networks"][key])
    ] == []
    assert all(torch.isfinite(value).all() for value in left["networks"].values())


def test_deterministic_runs_repeat_bit_for_bit_and_seeds_differ(tiny):
    runs = [
        tiny(name, {"train.duration": 16, "train.seed": seed})
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    nets = [checkpoint.read_tensors(checkpoint.listed(run / "checkpoints")[-1])["networks"] for run in runs]
    assert all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])
    assert not torch.equal(nets[0]["G.linear.weight"], nets[2]["G.linear.weight"])


def test_a_batch_of_2048_runs_through_micro_batches(tiny):
    settings = {"train.batch": 2048, "train.duration": 2048, "bn.group": 32, "optim.d_steps": 1}
    run = tiny("run", settings | {"log.status_every": 2048, "log.snapshot_every": 10**6})
    (status,) = rows(run, "status")
    assert (status["batch"], status["step"]) == (2048, 1)


def nan_after_four(phase, G, D, micro):
    from gansmith.training import objectives

    loss, scalars = objectives.hinge(phase, G, D, micro)
    nan_after_four.calls += 1
    return loss * (float("nan") if nan_after_four.calls > 4 else 1.0), scalars


def test_non_finite_gradients_are_skipped_then_end_the_run_with_the_way_out(tiny, monkeypatch):
    nan_after_four.calls = 0
    settings = {
        "loss.objective": f"{__name__}:nan_after_four",
        "train.max_skipped": 3,
        "train.micro_batch": 8,
        "guard.policy": "stop",
        "log.snapshot_every": 1000,
    }
    with pytest.raises(Diverged, match=r"5 D steps in a row[\s\S]*--set optim.lr_g=0.0005"):
        tiny("run", settings | {"train.duration": 640, "log.checkpoint_every": 1000})


def test_dry_run_refuses_growth_beyond_the_data_and_says_what_keeps_the_guard_from_its_work(tiny, capsys):
    with pytest.raises(UserError, match=r"4,096 is more than the \d+ images there are"):
        tiny("run", {"batch.schedule": {"0": 8, "100": 4096}}, dry_run=True)
    tiny("run", {"guard.policy": "rollback", "log.keep_spaced": 0}, dry_run=True)
    assert "log.keep_spaced 0 leaves no older checkpoints" in capsys.readouterr().out


def test_dry_run_writes_nothing(tiny, images, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    out = tiny("run", {"train.duration": "3ep"}, dry_run=True)
    assert not out.exists()
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    said = capsys.readouterr().out
    for words in ("21 images, 3 classes", "duration 63 images", "blocks.0.0", "GMAC", "nothing was written"):
        assert words in said


def test_tensorboard_gets_the_same_numbers(tiny):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tiny("run", {"train.duration": 32, "log.tensorboard": True})
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss_d")] == [16, 32]
    assert events.Scalars("loss_d")[-1].value == pytest.approx(rows(run, "status")[-1]["loss_d"])


def test_what_best_points_to_is_kept(tiny):
    run = tiny("run", {"train.duration": 32, "log.keep_snapshots": 1})
    (run / "best").symlink_to("snapshots/000000000032.safetensors")
    tiny("run", {"train.duration": 96, "log.keep_snapshots": 1})
    assert {path.stem for path in (run / "snapshots").iterdir()} == {"000000000032", "000000000096"}


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({"train.batch": 250, "bn.group": 32}, {}, "nearest: 224 or 256"),
        ({"train.micro_batch": 3}, {}, "possible: 4, 8, or auto"),
        ({"optim.lr": 1}, {}, "did you mean optim.lr_g"),
        ({"model.resolution": 100}, {}, "choose 32, 64, 128"),
        ({"data.hold_out": 1.5}, {}, "data.hold_out: write a share below 1, such as 0.05, or a whole number"),
        ({"watch.data": "no/such/set"}, {"dry_run": True}, "no/such/set"),
        ({"loss.objective": "hinje"}, {}, "module:function"),
        ({}, {"preset": "cifar"}, "did you mean cifar10"),
        ({}, {"data": "no/such/folder"}, "no/such/folder"),
        ({}, {"data": None}, "--data is missing"),
        ({}, {"device": "cuda:7"}, "--device"),
        ({}, {"allow_change": ["optim.lr"]}, "no such identity setting"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(images, tmp_path, settings, options, words):
    from tests.training.conftest import TINY

    arguments = {"data": str(images), "preset": None, "out": tmp_path / "run"} | options
    with pytest.raises(UserError) as error:
        train(**arguments, settings=TINY | settings)
    assert words in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists() or not any(
        (tmp_path / "run" / "checkpoints").iterdir()
    )


def test_one_class_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "one" / "cat").mkdir(parents=True)
    for index in range(3):
        Image.new("L", (32, 32), index).save(tmp_path / "one" / "cat" / f"{index}.png")
    with pytest.raises(UserError, match="--unconditional"):
        train(str(tmp_path / "one"), None, tmp_path / "run")


def test_a_folder_with_other_files_is_not_taken_for_a_run(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds other files"):
        tiny("run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("45m", 2700), ("1d12h", 129600), ("1.5h", 5400)])
def test_durations_are_read(text, expected):
    assert stopping.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "2 hours", "5x"])
def test_other_durations_are_refused(text):
    with pytest.raises(UserError, match="--stop-after"):
        stopping.seconds(text)
