"""A new D beside a trained G: G stands still until the criterion, then learns with a rising rate."""

import json
import multiprocessing
import os
import socket
import sys

import pytest
import torch

from gansmith.config import Config
from gansmith.training import checkpoint, release
from gansmith.training.distributed import World
from gansmith.training.run import train
from tests.training.conftest import TINY

context = multiprocessing.get_context("forkserver")
ALONE = World(0, 1, torch.device("cpu"))
SETTINGS = {path: value for path, value in TINY.items() if not path.startswith("model.")} | {
    "train.duration": 96,
    "log.status_every": 96,
    "log.snapshot_every": 96,
    "ema.half_life": 32,
}


def rule(**settings):
    known = {"release": "plateau", "release_window": 20, "release_tolerance": 0.1, "release_limit": 1000}
    return release.rule(Config(init=known | {"release_ramp": 40} | settings), 100)


def feed(state, how, losses, batch=10):
    """The loss of each D phase in turn; (index, what is said) of the one that releases G."""
    for i, loss in enumerate(losses):
        said = state.observe(how, ALONE, torch.tensor(loss), batch, (i + 1) * batch)
        if said:
            return i, said
    return None


def test_a_plateau_is_two_windows_that_differ_by_less_than_the_tolerance():
    # Windows of 2 phases: means 2.0, 1.5, 1.2, 1.15: the last falls by 0.05 < 0.1.
    at, said = feed(release.Release(holds=True), rule(), [2.2, 1.8, 1.6, 1.4, 1.3, 1.1, 1.2, 1.1, 9.0])
    assert (at, said["images_seen"]) == (7, 80)
    assert said["reason"] == "a plateau of D's loss: 1.200, then 1.150"


def test_the_limit_releases_without_a_plateau():
    falling = [100.0 - i for i in range(100)]
    at, said = feed(release.Release(holds=True), rule(release_limit=100), falling)
    assert (at, said["images_seen"]) == (9, 100)
    assert "without a plateau" in said["reason"]


def test_an_amount_of_images_releases_whatever_the_loss():
    assert feed(release.Release(holds=True), rule(release="60"), [1.0] * 9)[1]["images_seen"] == 60


def test_a_loss_that_is_not_finite_is_no_plateau():
    state = release.Release(holds=True)
    assert feed(state, rule(), [1.0, 1.0, float("nan"), 1.0, 1.0, 1.0, float("inf"), 1.0]) is None
    assert state.holds


def test_the_rate_rises_over_the_ramp():
    state = release.Release(holds=True)
    assert state.factor(rule(), 79) == 0.0
    state.holds, state.released_at = False, 80
    assert [state.factor(rule(), n) for n in (80, 99, 119, 500)] == [1 / 40, 0.5, 1.0, 1.0]
    assert release.Release().factor(rule(), 0) == 1.0
    assert state.factor(rule(release_ramp=0), 80) == 1.0


def test_auto_holds_only_beside_a_new_d():
    known = ("auto", True, True), ("auto", False, False), ("plateau", False, True), (0, True, False)
    for criterion, new_d, holds in (*known, ("8k", False, True), ("0.5ep", False, True)):
        assert release.holds_at_start(Config(init={"release": criterion}), new_d) is holds


@pytest.mark.parametrize(("amount", "some"), [("0.5ep", True), ("plateau", True), ("0k", False), (0, False)])
def test_part_of_an_epoch_is_some_of_d_s_pretraining(amount, some):
    assert release.pretrains_d(Config(pretrain={"discriminator": amount})) is some


@pytest.fixture(scope="module")
def snapshot(images, tmp_path_factory):
    """A generator without D."""
    folder = tmp_path_factory.mktemp("source") / "run"
    settings = TINY | {"train.duration": 32, "log.snapshot_every": 32}
    train(str(images), None, folder, settings=settings)
    file = next((folder / "snapshots").iterdir())
    return file.rename(folder.parent / file.name)  # with nothing beside it


@pytest.fixture
def tune(images, snapshot, tmp_path):
    def start(name, settings=None):
        own = {"init.source": str(snapshot), "init.release": 48, "init.release_ramp": 32}
        return train(str(images), None, tmp_path / name, settings=SETTINGS | own | (settings or {}))

    return start


def at(run, images_seen):
    folder = run / "checkpoints" / checkpoint.name(images_seen)
    return checkpoint.read_tensors(folder), checkpoint.read_record(folder)


def events(run, kind):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["type"] == kind]


def changed(left, right, prefix):
    left, right = left["networks"], right["networks"]
    names = [key for key in left if key.startswith(prefix) and not key.endswith((".u", ".v"))]
    assert names
    return [key for key in names if not torch.equal(left[key], right[key])]


def test_g_and_its_average_stand_still_until_released_and_the_log_says_when(tune):
    run = tune("run")
    early, late, end = at(run, 16), at(run, 48), at(run, 96)
    assert changed(early[0], late[0], "G.") == changed(early[0], late[0], "G_ema.") == []
    assert len(changed(early[0], late[0], "D.")) > 10
    assert len(changed(late[0], end[0], "G.")) > 10
    assert len(changed(late[0], end[0], "G_ema.")) > 10
    (released,) = events(run, "released")
    assert (released["images_seen"], released["ramp"]) == (48, 32)
    log = (run / "log.txt").read_text()
    assert "G stands still until 48 images; then its learning rate rises over 32 images" in log
    assert "G is released at 48 images" in log
    assert [record["release"]["holds"] for _, record in (early, late, end)] == [True, False, False]


def test_the_plateau_releases_a_run(tune):
    run = tune("run", {"init.release": "auto", "init.release_window": 16, "init.release_tolerance": 100.0})
    (released,) = events(run, "released")
    assert released["images_seen"] == 32
    assert "plateau of D's loss" in released["reason"]


@pytest.mark.parametrize("stops", [(24, 56), (32, 48, 80)])
def test_a_run_stopped_before_in_and_after_the_release_goes_on_bit_for_bit(tune, stops):
    criterion = {"init.release": "plateau", "init.release_window": 24, "init.release_tolerance": 100.0}
    whole = tune("whole", criterion)
    for stop in stops:
        tune("parts", criterion | {"train.duration": stop})
    parts = tune("parts", criterion)
    (left, record_l), (right, record_r) = at(whole, 96), at(parts, 96)
    assert record_l["release"] == record_r["release"]
    assert record_l["release"]["released_at"] == 48
    for stem in ("networks", "optimizers"):
        assert left[stem].keys() == right[stem].keys()
        assert [key for key in left[stem] if not torch.equal(left[stem][key], right[stem][key])] == []


def test_a_g_that_is_not_held_back_is_warned_of(tune, capsys):
    tune("run", {"init.release": 0, "train.duration": 16})
    assert "G learns from a D that knows nothing yet" in capsys.readouterr().err


def run_rank(rank, port, images, out, settings):
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    train(str(images), None, out, settings=settings)


def test_ranks_release_together(images, snapshot, tmp_path):
    settings = SETTINGS | {
        "init.source": str(snapshot), "init.release": "plateau", "init.release_window": 16,
        "init.release_tolerance": 100.0, "train.duration": 48, "bn.group": 8,
    }  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = (port, images, tmp_path / "two", settings)
    ranks = [context.Process(target=run_rank, args=(rank, *common)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0]
    (released,) = events(tmp_path / "two", "released")
    assert released["images_seen"] == 32
    record = at(tmp_path / "two", 48)[1]
    train(str(images), None, tmp_path / "one", settings=settings)
    alone = at(tmp_path / "one", 48)[1]
    assert record["release"]["before"] == pytest.approx(alone["release"]["before"], rel=1e-5)
