"""Folders of a run: whose they are, checkpoints elsewhere, and nothing left behind after a mistake."""

import json
import os
import resource

import pytest
import torch
import yaml

from gansmith import config as configuration
from gansmith.errors import UserError
from gansmith.training import checkpoint, rundir
from gansmith.training.distributed import World
from gansmith.training.resuming import Recipe, recipe
from gansmith.training.run import train
from gansmith.weights import snapshot

SHORT = {"train.duration": 16, "log.snapshot_every": 1000}


def test_checkpoints_on_another_disk_are_found_from_the_runs_folder_alone(tiny, tmp_path, capsys):
    run = tiny("run", SHORT, checkpoint_dir=tmp_path / "disk")
    assert [path.name for path in checkpoint.listed(tmp_path / "disk")] == ["000000000016"]
    train(out=run, settings={"train.duration": 32})
    assert "going on at 16 images" in capsys.readouterr().out
    assert [path.name for path in checkpoint.listed(tmp_path / "disk")] == ["000000000016", "000000000032"]


def test_two_runs_do_not_share_a_checkpoint_folder(tiny, tmp_path):
    tiny("one", SHORT, checkpoint_dir=tmp_path / "disk")
    with pytest.raises(UserError, match="holds the checkpoints of another run"):
        tiny("two", SHORT, checkpoint_dir=tmp_path / "disk")
    assert not (tmp_path / "two").exists()
    (tmp_path / "three").mkdir()
    for _ in range(2):  # what was refused once is not taken for its own the next time
        with pytest.raises(UserError, match="holds the checkpoints of another run"):
            tiny("three", SHORT, checkpoint_dir=tmp_path / "disk")


def test_a_checkpoint_folder_in_use_is_not_left_linked(tiny, tmp_path):
    one = tiny("one", SHORT, checkpoint_dir=tmp_path / "disk")
    with rundir.owned(one, None, World(0, 1, torch.device("cpu"))):
        (tmp_path / "two").mkdir()
        with pytest.raises(UserError, match="in use"):
            tiny("two", SHORT, checkpoint_dir=tmp_path / "disk")
    with pytest.raises(UserError, match="holds the checkpoints of another run"):
        tiny("two", SHORT, checkpoint_dir=tmp_path / "disk")


@pytest.mark.parametrize("left", [None, 0, 300, 0.5])
def test_a_lost_or_cut_description_is_taken_from_the_newest_checkpoint(tiny, capsys, left):
    run = tiny("run", SHORT)
    file = run / "config.yaml"
    before = file.read_text()
    if left is None:
        file.unlink()
    else:
        os.truncate(file, int(left * len(before.encode())) if isinstance(left, float) else left)
    capsys.readouterr()
    train(out=run, settings={"train.duration": 32})
    said = capsys.readouterr()
    assert "config.yaml is missing or damaged; " in said.err
    assert "settings are taken from checkpoint 000000000016 instead" in said.err
    assert "going on at 16 images" in said.out

    def settings(text):
        return configuration.flat(configuration.Config.model_validate(yaml.safe_load(text)))

    assert settings(file.read_text()) == settings(before) | {"train.duration": 32}


def test_a_whole_description_is_believed(tmp_path):
    (tmp_path / "config.yaml").write_text("preset: digits\ntrain:\n  batch: 32\n")
    known = recipe(tmp_path)
    assert (known.file, known.missing, known.note) == (tmp_path / "config.yaml", {}, None)
    assert recipe(tmp_path / "nothing") == Recipe()


def test_moving_the_checkpoint_folder_is_explained(tiny, tmp_path):
    tiny("run", SHORT)
    with pytest.raises(UserError, match="leave the flag out, or move them there"):
        tiny("run", SHORT, checkpoint_dir=tmp_path / "disk")


@pytest.mark.parametrize("data", ["nowhere", "builtin:letters"])
def test_a_mistake_leaves_no_folder_behind(tmp_path, data):
    with pytest.raises(UserError):
        train(data, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_was_there_before_a_mistake_stays(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError):
        train("nowhere", None, tmp_path / "run")
    assert (tmp_path / "run").is_dir()


def test_a_folder_that_cannot_be_written_is_named(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        tiny("file/run")


def test_a_full_disk_at_the_start_is_one_message(tmp_path):
    from gansmith.training.distributed import World
    from gansmith.training.rundir import owned

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # every write fails, as on a full disk
        with (
            pytest.raises(UserError, match=r"cannot be written \(File too large\); free space or give"),
            owned(tmp_path / "run", None, World(0, 1, torch.device("cpu"))),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "run").exists()


def test_a_changed_group_is_the_group_that_trains(tiny, capsys):
    tiny("run", SHORT)
    capsys.readouterr()
    run = tiny("run", SHORT | {"train.duration": 32, "bn.group": 8}, allow_change=["bn.group"])
    assert "BatchNorm groups of 8" in capsys.readouterr().out
    assert checkpoint.read_record(checkpoint.listed(run / "checkpoints")[-1])["resolved"]["bn_group"] == 8


@pytest.mark.parametrize("change", [{"data.balanced": True}, {"train.seed": 1}])
def test_what_every_position_depends_on_cannot_be_allowed_to_change(tiny, change):
    tiny("run", SHORT)
    (path,) = change
    with pytest.raises(UserError, match=f"{path}: [\\s\\S]*use another --out\\.$"):
        tiny("run", SHORT | change, allow_change=[path])


def test_a_status_without_finite_numbers_is_valid_json(tmp_path):
    from gansmith.training.distributed import World
    from gansmith.training.runlog import RunLog

    log = RunLog(tmp_path, World(0, 1, torch.device("cpu")))
    (tmp_path / "metrics.jsonl").write_text('{"type": "status", "images')  # cut by a kill
    log.event("status", images_seen=8, loss_d=float("nan"))
    cut, whole = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(whole, parse_constant=pytest.fail)
    assert (row["images_seen"], row["loss_d"]) == (8, None)
    assert cut.endswith("images")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_the_terminal_does_not_stop_a_run(tmp_path, monkeypatch):
    import sys

    from gansmith.training.distributed import World
    from gansmith.training.runlog import RunLog

    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        RunLog(tmp_path, World(0, 1, torch.device("cpu"))).say("status")
        monkeypatch.undo()
        with pytest.raises(OSError, match="No space"):
            full.close()
    assert (tmp_path / "log.txt").read_text() == "status\n"


def test_snapshots_of_other_settings_do_not_stay_the_newest(tiny, tmp_path, capsys):
    run = tiny("run", {"train.duration": 64, "log.snapshot_every": 32})
    newest = run / "checkpoints" / "000000000064" / "networks.safetensors"
    newest.write_bytes(b"damaged")
    (run / "best").symlink_to("snapshots/000000000064.safetensors")
    # The very same run is going to make that snapshot again; with another batch it makes others.
    tiny("run", {"train.duration": 56, "log.snapshot_every": 32, "train.batch": 4})
    assert snapshot.find(run).name == "000000000056.safetensors"
    aside = run / "snapshots" / "000000000064.safetensors.abandoned"
    assert (run / "best").resolve() == aside.resolve()
    assert snapshot.describe(snapshot.find(run / "best"))["images_seen"] == 64
    assert "set aside, as it is beyond 48 images" in capsys.readouterr().out
