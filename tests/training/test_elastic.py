"""A process is lost: the others say so and stop, torchrun starts again, and nothing is repeated or lost."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest
import torch
import torch.distributed as dist

from gansmith.training import checkpoint, distributed
from tests.training.ranks import Ranks, free_port, newest, shown, train, train_flags

STEPS = 30
LONGER = {
    "bn.group": 4,  # whole groups on either process: waiting for each other is slow on a busy machine
    "train.duration": 8 * STEPS,
    "log.checkpoint_every": 8,
    "log.status_every": 8,
    "loss.objective": "hinge",
}


@pytest.fixture
def on(images, tmp_path):
    """on(world, name, settings): trains on that many processes, returns the folder."""
    return partial(train, tmp_path, images)


def torchrun(*flags, processes=2, restarts=3):
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    options = [f"--master-port={free_port()}", f"--max-restarts={restarts}"]
    return subprocess.Popen(
        [*launcher, *options, "-m", "gansmith", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def workers(agent):
    """Process ids of an agent's children, in rank order."""
    with open(f"/proc/{agent.pid}/task/{agent.pid}/children") as file:
        return [int(word) for word in file.read().split()]


def wait_for_checkpoint(out, agent, after=0):
    while agent.poll() is None and not any(
        int(path.name) > after for path in checkpoint.listed(out / "checkpoints")
    ):
        time.sleep(0.01)


def events(out, kind):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["type"] == kind]


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds torchrun's workers in /proc")
def test_a_killed_rank_costs_a_restart_and_no_image(on, images, tmp_path):
    out, instant = tmp_path / "killed", random.Random(0)
    agent = torchrun(*train_flags(images, out, LONGER))
    wait_for_checkpoint(out, agent)
    time.sleep(instant.uniform(0, 0.3))
    os.kill(workers(agent)[1], signal.SIGKILL)
    said, _ = agent.communicate(timeout=300)
    assert agent.returncode == 0, said
    assert "process 0 of 2 stops: " in said
    assert "torchrun starts all of them again (restarts left: 3)" in said
    assert "gloo/transport" not in said
    resumed = [row["images_seen"] for row in events(out, "resume")]
    assert len(resumed) == 1
    assert 0 < resumed[0] < 8 * STEPS
    (record, killed), (_, whole) = newest(out), newest(on(2, "whole", LONGER))
    assert record["images_seen"] == 8 * STEPS
    for file in whole:
        assert [key for key in whole[file] if not torch.equal(whole[file][key], killed[file][key])] == []


def test_one_process_goes_on_with_what_two_left_behind(on, images, tmp_path):
    settings = LONGER | {"loss.objective": "recording:hinge", "train.duration": 8 * 24}
    ranks = Ranks(tmp_path, images, 2, "run", settings, record="before")
    folder = ranks.out / "checkpoints"
    while all(process.is_alive() for process in ranks.processes) and not checkpoint.listed(folder):
        time.sleep(0.01)
    ranks.processes[1].kill()
    assert ranks.end(60) == [5, -signal.SIGKILL]
    assert "process 0 of 2 stops: " in ranks.said(0)
    assert "Traceback" not in ranks.said(0)
    seen = newest(ranks.out)[0]["images_seen"]
    on(1, "run", settings, "after")
    on(2, "whole", settings, "whole")
    for kind in ("d real", "d noise", "g noise"):
        whole = shown(tmp_path, "whole", 2, kind)
        assert len(whole) == 24
        before, after = shown(tmp_path, "before", 2, kind), shown(tmp_path, "after", 1, kind)
        assert before[: seen // 8] + after == whole


def quick_to_worry():
    from gansmith.training import heartbeat

    heartbeat.BEAT, heartbeat.LIMIT, heartbeat.GRACE = 0.1, 2.0, 0.5


def test_a_process_that_gives_no_sign_of_life_ends_the_others(images, tmp_path):
    """It breaks no connection: the other one waits in a collective, as with a machine that lost power."""
    ranks = Ranks(tmp_path, images, 2, "run", LONGER | {"train.duration": 80000}, quick_to_worry)
    folder = ranks.out / "checkpoints"
    while all(process.is_alive() for process in ranks.processes) and not checkpoint.listed(folder):
        time.sleep(0.01)
    os.kill(ranks.processes[1].pid, signal.SIGSTOP)
    ranks.processes[0].join(60)
    ranks.processes[1].kill()
    assert ranks.end() == [5, -signal.SIGKILL]
    assert "process 0 of 2 stops: process 1 has given no sign of life for 2 seconds" in ranks.said(0)
    assert newest(ranks.out)[0]["images_seen"] >= 8


def test_a_stopped_run_ends_torchrun_with_0_and_is_not_started_again(images, tmp_path):
    out = tmp_path / "run"
    agent = torchrun(*train_flags(images, out, LONGER | {"train.duration": 80000}), "--stop-after", "1")
    said, _ = agent.communicate(timeout=300)
    assert agent.returncode == 0, said
    assert said.count("stopped by the time limit") == 1
    assert events(out, "resume") == []
    seen = newest(out)[0]["images_seen"]
    info = subprocess.run(
        [sys.executable, "-m", "gansmith", "info", str(out)], capture_output=True, text=True, check=True
    )
    assert f"{seen:,} of 80,000 images, unfinished" in info.stdout


# Meeting
# -------------------------------------------------------------------------------------------------------


def agree(store, size, delays):
    """What each of `size` processes agrees on; rank r comes delays[r] seconds late."""
    agreed = [None] * size

    def join(rank):
        time.sleep(delays[rank])
        agreed[rank] = distributed._agree(store, rank, size)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return agreed


@pytest.mark.parametrize("delays", [(0, 0, 0), (0.3, 0, 0), (0, 0.3, 0.1)])
def test_every_start_meets_under_a_name_of_its_own_in_a_store_that_remembers(delays):
    store, names = dist.HashStore(), set()
    for _ in range(4):
        agreed = agree(store, 3, delays)
        assert agreed[0] is not None
        assert len(set(agreed)) == 1
        names.add(agreed[0])
    assert len(names) == 4


def test_a_process_nobody_joins_says_who_is_missing(monkeypatch):
    from datetime import timedelta

    monkeypatch.setattr(distributed, "JOINING", timedelta(seconds=0.2))
    with pytest.raises(
        distributed.ProcessLost, match=r"process 0 of 3 waited .* of process 1, 2: is every node"
    ):
        distributed._agree(dist.HashStore(), 0, 3)
