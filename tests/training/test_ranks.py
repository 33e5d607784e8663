"""Two gloo processes against one: the same images, the same noise, the same gradients."""

import multiprocessing
import os
import socket
import sys

import pytest
import torch

from gansmith.training import checkpoint
from tests.training.conftest import TINY

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["gansmith.training.run", "gansmith.sampling.interpolation"])

SETTINGS = TINY | {
    "loss.objective": "recording:hinge",
    "optim.d_steps": 1,
    "train.batch": 8,
    "bn.group": 8,  # shared by both ranks where there are two
    "train.duration": 16,
    "log.status_every": 8,
    "log.snapshot_every": 1000,
    "log.checkpoint_every": 8,
}


def run_rank(rank, world, port, images, out, settings, record, path):
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    sys.path.insert(0, path)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RECORD": str(record),
    }
    torch.set_num_threads(1)
    from gansmith.training.run import train

    train(str(images), None, out, settings=settings)


@pytest.fixture
def on(images, tmp_path, repository):
    """on(world, name, settings): trains on that many processes, returns the folder."""

    def train(world, name, settings, record="record"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        path = str(repository / "tests" / "training")
        common = (world, port, images, tmp_path / name, SETTINGS | settings, tmp_path / record, path)
        ranks = [context.Process(target=run_rank, args=(rank, *common)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        assert [process.exitcode for process in ranks] == [0] * world
        return tmp_path / name

    return train


def shown(folder, record, world, kind, batch):
    """What was shown over all ranks, as sets per batch (ranks take parts of it)."""
    rows = []
    for rank in range(world):
        lines = (folder / f"{record}.{rank}").read_text().splitlines()
        part = [line.split()[-1] for line in lines if line.startswith(kind)]
        rows.append([part[i : i + batch // world] for i in range(0, len(part), batch // world)])
    return [sorted(name for part in parts for name in part) for parts in zip(*rows)]


def networks(run):
    return checkpoint.read_tensors(checkpoint.latest(run / "checkpoints", pytest.fail))["networks"]


def test_two_ranks_see_and_compute_what_one_does(on, tmp_path):
    one, two = on(1, "one", {}, "a"), on(2, "two", {}, "b")
    for kind in ("d real", "d noise", "g noise"):
        single = shown(tmp_path, "a", 1, kind, 8)
        assert len(single) == 2
        assert single == shown(tmp_path, "b", 2, kind, 8)
    left, right = networks(one), networks(two)
    # Two steps of Adam with β1 = 0 move a weight by at most 2 lr = 2e-3 whatever its gradient's size, so
    # rounding shows where a gradient is nearly 0; everywhere else both runs agree closely.
    apart = torch.cat(
        [(left[key] - right[key]).abs().flatten() for key in left if key.startswith(("G.", "D."))]
    )
    assert apart.quantile(0.99) < 2e-5
    assert apart.max() <= 4.1e-3


def test_a_run_goes_on_with_another_number_of_ranks(on, tmp_path):
    on(1, "whole", {"train.duration": 32}, "a")
    on(1, "parts", {"train.duration": 16}, "b")
    on(2, "parts", {"train.duration": 32}, "c")
    for kind in ("d real", "d noise", "g noise"):
        single = shown(tmp_path, "a", 1, kind, 8)
        assert single == shown(tmp_path, "b", 1, kind, 8) + shown(tmp_path, "c", 2, kind, 8)
