"""A run that was stopped and resumed is the run that was not: bit for bit, and stream for stream."""

import json

import pytest
import torch

from gansmith.errors import Stopped, UserError
from gansmith.training import checkpoint, stopping


def final(run):
    """The newest checkpoint's tensors and counters."""
    path = checkpoint.latest(run / "checkpoints", pytest.fail)
    record = checkpoint.read_record(path)
    return checkpoint.read_tensors(path), {
        key: record[key] for key in ("images_seen", "fakes_seen", "step", "order")
    }


def assert_same(left, right):
    (tensors_l, record_l), (tensors_r, record_r) = left, right
    assert record_l == record_r
    for stem in ("networks", "optimizers"):
        assert tensors_l[stem].keys() == tensors_r[stem].keys()
        assert len(tensors_l[stem]) > 20
        different = [
            key for key in tensors_l[stem] if not torch.equal(tensors_l[stem][key], tensors_r[stem][key])
        ]
        assert different == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_n_steps_are_k_steps_resumed_bit_for_bit(tiny, precision):
    settings = {"train.precision": precision}
    whole = tiny("whole", settings)
    tiny("parts", settings | {"train.duration": 16})
    tiny("parts", settings | {"train.duration": 32})
    parts = tiny("parts", settings)
    assert_same(final(whole), final(parts))


def test_a_stop_request_saves_and_the_same_command_goes_on_bit_for_bit(tiny, monkeypatch):
    whole = tiny("whole")
    asked = iter([False, False, True])
    monkeypatch.setattr(stopping.StopRequest, "asked", lambda self: next(asked, False))
    with pytest.raises(Stopped, match="the same command goes on"):
        tiny("parts")
    assert_same(final(whole), final(tiny("parts")))


def test_a_finished_run_says_so_and_changes_nothing(tiny, capsys):
    run = tiny("run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}
    capsys.readouterr()
    tiny("run")
    assert "is finished: 64 of 64 images" in capsys.readouterr().out
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "log.txt"}
    assert {p.name for p in before if before[p] != after.get(p)} <= {".lock"}


RECORDED = {
    "loss.objective": "recording:hinge",
    "optim.d_steps": 1,
    "train.duration": 96,
    "log.snapshot_every": 1000,
    "log.checkpoint_every": 1000,
}
KINDS = ("d real", "d noise", "g noise")


RECORDED = {
    "loss.objective": "recording:hinge",
    "optim.d_steps": 1,
    "train.duration": 96,
    "log.snapshot_every": 1000,
    "log.checkpoint_every": 1000,
}
KINDS = ("d real", "d noise", "g noise")


@pytest.fixture
def record(tmp_path, monkeypatch, repository):
    """Runs a function under the recording objective; returns what it was shown: kind → hashes in order."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.syspath_prepend(str(repository / "tests" / "training"))

    def watch(name, train):
        monkeypatch.setenv("RECORD", str(tmp_path / name))
        train()
        lines = (tmp_path / f"{name}.0").read_text().splitlines()
        return {kind: [line.split()[-1] for line in lines if line.startswith(kind)] for kind in KINDS}

    return watch


@pytest.mark.parametrize(
    "change", [{"train.batch": 24}, {"train.batch": 4}, {"train.micro_batch": 8}, {"train.batch_g": 16}]
)
def test_another_batch_or_micro_batch_continues_the_same_images_and_noise(tiny, record, change):
    def parts():
        tiny("parts", RECORDED | {"train.duration": 24})
        tiny("parts", RECORDED | change)

    whole, changed = record("whole", lambda: tiny("whole", RECORDED)), record("parts", parts)
    assert len(whole["d real"]) == 96
    for kind in KINDS:
        shorter = min(len(whole[kind]), len(changed[kind]))
        assert shorter >= 36  # a larger batch of D takes fewer G steps
        assert whole[kind][:shorter] == changed[kind][:shorter]
    # and what was seen is right: every image once per epoch of 21 (flipped or not), no noise twice
    assert len(set(whole["d noise"])) == 96


def test_changed_identity_is_refused_with_the_difference(tiny):
    tiny("run", {"train.duration": 16})
    with pytest.raises(UserError, match=r"optim.lr_g: 0.001 → 0.5[\s\S]*--allow-change optim.lr_g"):
        tiny("run", {"optim.lr_g": 0.5})


def test_allowed_changes_are_recorded(tiny):
    tiny("run", {"train.duration": 16})
    run = tiny("run", {"train.duration": 32, "optim.lr_g": 0.5}, allow_change=["optim.lr_g"])
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (resume,) = [event for event in events if event["type"] == "resume"]
    assert resume["images_seen"] == 16
    assert ["optim.lr_g", 0.001, 0.5] in resume["changes"]
    assert ["train.duration", 16, 32] in resume["changes"]


def test_a_run_continues_from_its_own_folder_alone(tiny, images):
    from gansmith.training.run import train

    run = tiny("run", {"train.duration": 16})
    train(out=run, settings={"train.duration": 32})
    assert final(run)[1]["images_seen"] == 32


def test_other_data_is_refused_and_on_request_opens_a_segment(tiny, images, tmp_path):
    from PIL import Image

    from gansmith.training.run import train

    other = tmp_path / "other"
    for name in ("a", "b", "c"):
        (other / name).mkdir(parents=True)
        for index in range(3):
            Image.new("L", (32, 32), 40 * index + ord(name)).save(other / name / f"{index}.png")
    run = tiny("run", {"train.duration": 16})
    with pytest.raises(UserError, match="--allow-change data"):
        train(str(other), out=run, settings={"train.duration": 32})
    train(str(other), out=run, settings={"train.duration": 32}, allow_change=["data"])
    segments = final(run)[1]["order"]["segments"]
    assert [segment["start"] for segment in segments] == [0, 16]
    assert [segment["sets"][0]["size"] for segment in segments] == [21, 9]
