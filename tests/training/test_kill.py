"""SIGKILL at any instant, SIGTERM, a full disk, two owners: what is on the disk loads and goes on."""

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from gansmith.errors import EXIT_STOPPED, Stopped, UserError
from gansmith.training import checkpoint
from tests.training.conftest import TINY

# Children are forked from a server that has imported torch once: a start costs tenths of a second.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["gansmith.training.run", "gansmith.sampling.interpolation"])

STEPS = 120
SETTINGS = TINY | {
    "train.duration": 16 * STEPS,
    "log.checkpoint_every": 16,
    "log.snapshot_every": 16 * STEPS,
    "log.status_every": 160,
}


def train_in_child(images, out, settings, limit=None):
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    torch.set_num_threads(1)
    if limit is not None:  # a writer with a quota: larger files fail as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from gansmith.training.run import train

    try:
        train(str(images), None, out, settings=settings)
    except Stopped as stopped:
        (out / "stopped.txt").write_text(str(stopped))
        sys.exit(EXIT_STOPPED)


def start(*arguments):
    child = context.Process(target=train_in_child, args=arguments)
    child.start()
    return child


def tensors(run):
    path = checkpoint.latest(run / "checkpoints", pytest.fail)
    return checkpoint.read_record(path)["images_seen"], checkpoint.read_tensors(path)


def test_a_run_killed_at_twenty_random_instants_is_the_run_that_was_not(images, tmp_path):
    whole, killed, instants = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    undisturbed = start(images, whole, SETTINGS)
    kills, inside_a_save = 0, 0
    while kills < 20:
        before = checkpoint.listed(killed / "checkpoints")[-1:]
        child = start(images, killed, SETTINGS)
        # Wait for this child's first checkpoint, so that every life makes progress; then kill at any moment.
        while child.is_alive() and checkpoint.listed(killed / "checkpoints")[-1:] == before:
            time.sleep(0.005)
        if kills % 2:  # aim at a save: wait until one is under way
            while child.is_alive() and not any((killed / "checkpoints").glob(".*.tmp")):
                time.sleep(0.0005)
            time.sleep(instants.uniform(0, 0.01))
        else:
            time.sleep(instants.uniform(0, 0.12))
        assert child.is_alive(), "the run ended before it was killed 20 times: lengthen it"
        child.kill()
        child.join()
        kills += 1
        inside_a_save += any((killed / "checkpoints").glob(".*.tmp"))
        # At every instant: what is there can be loaded, without a warning.
        assert checkpoint.latest(killed / "checkpoints", pytest.fail) is not None
    assert inside_a_save >= 1
    last = start(images, killed, SETTINGS)
    last.join()
    undisturbed.join()
    (seen_whole, left), (seen_killed, right) = tensors(whole), tensors(killed)
    assert seen_whole == seen_killed == 16 * STEPS
    for stem in ("networks", "optimizers"):
        assert [key for key in left[stem] if not torch.equal(left[stem][key], right[stem][key])] == []
    assert not list((killed / "checkpoints").glob(".*"))


@pytest.mark.parametrize("room", ["all but the largest file", "no snapshot"])
def test_a_full_disk_leaves_the_last_good_checkpoint_and_training_goes_on(images, tmp_path, room):
    out = tmp_path / "run"
    first = start(images, out, SETTINGS | {"train.duration": 32})
    first.join()
    sizes = {path.name: path.stat().st_size for path in checkpoint.listed(out / "checkpoints")[-1].iterdir()}
    limit = (max(sizes.values()) if room.startswith("all") else sizes["G_ema.safetensors"]) - 1
    full = start(images, out, SETTINGS | {"train.duration": 96}, limit)
    full.join()
    assert full.exitcode == EXIT_STOPPED
    said = (out / "stopped.txt").read_text()
    assert said.startswith("NOT finished: the end is at 96 images; it could NOT be saved (")
    assert f"the last good checkpoint is {out / 'checkpoints' / '000000000032'}. Free space; the same" in said
    assert "finished" not in (out / "log.txt").read_text().splitlines()[-1]
    assert [int(path.name) for path in checkpoint.listed(out / "checkpoints")] == [16, 32]
    warnings = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    warnings = [row["text"] for row in warnings if row["type"] == "warning"]
    assert any("checkpoint at 48 images: it could NOT be saved" in text for text in warnings)
    assert all("last good checkpoint is" in text for text in warnings if text.startswith("checkpoint"))
    assert room.startswith("all") or any(
        "snapshot 000000000096 could not be written" in text for text in warnings
    )
    assert not list((out / "checkpoints").glob(".*"))
    again = start(images, out, SETTINGS | {"train.duration": 96})
    again.join()
    assert tensors(out)[0] == 96


def test_a_damaged_checkpoint_is_skipped_and_training_ends_as_if_it_had_not_been(tiny, tmp_path, capsys):
    whole, run = tiny("whole"), tiny("run", {"train.duration": 48})
    newest = checkpoint.listed(run / "checkpoints")[-1]
    data = bytearray((newest / "networks.safetensors").read_bytes())
    data[-100] ^= 1
    (newest / "networks.safetensors").write_bytes(bytes(data))
    capsys.readouterr()
    tiny("run")
    assert "000000000048 is damaged: networks.safetensors is not what was written" in capsys.readouterr().err
    (_, left), (_, right) = tensors(whole), tensors(run)
    assert all(torch.equal(left["networks"][key], right["networks"][key]) for key in left["networks"])


def test_a_damaged_newest_is_set_aside_and_never_costs_the_checkpoint_just_written(tiny, capsys):
    run = tiny("run", {"train.duration": 64, "log.checkpoint_every": 32})
    newest = checkpoint.listed(run / "checkpoints")[-1]
    (newest / "networks.safetensors").write_bytes(b"damaged")
    tiny("run", {"train.duration": 48, "log.keep_checkpoints": 1, "log.keep_spaced": 0})
    assert {path.name for path in (run / "checkpoints").glob("0*")} == {
        "000000000048",
        "000000000064.damaged",
    }
    tiny("run", {"train.duration": 64})
    assert tensors(run)[0] == 64


def command(images, out, *flags):
    settings = [f"--set={key}={json.dumps(value)}" for key, value in SETTINGS.items()]
    return [
        sys.executable,
        "-m",
        "gansmith",
        "train",
        "--data",
        str(images),
        "--out",
        str(out),
        *settings,
        *flags,
    ]


def test_sigterm_saves_and_exits_3_and_a_second_owner_is_refused(images, tmp_path):
    out = tmp_path / "run"
    from gansmith.training.run import train

    process = subprocess.Popen(
        command(images, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not checkpoint.listed(out / "checkpoints"):
        time.sleep(0.02)
    with pytest.raises(UserError, match=rf"is in use by process {process.pid} on"):
        train(str(images), None, out, settings=SETTINGS)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    assert "stopped by SIGTERM at" in errors
    assert "the same command goes on" in errors


def test_a_time_limit_saves_and_exits_3(images, tmp_path):
    done = subprocess.run(
        command(images, tmp_path / "run", "--stop-after", "0.1"), capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    assert "stopped by the time limit" in done.stderr
    assert len(checkpoint.listed(tmp_path / "run" / "checkpoints")) >= 1
