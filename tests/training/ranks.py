"""Runs of several gloo processes on this machine: started like torchrun's workers, through the command line.

Children are forked from a server that has imported torch once: a start costs tenths of a second.
"""

import json
import multiprocessing
import os
import random
import socket
import sys
from pathlib import Path

import pytest
import torch

from gansmith.training import checkpoint
from tests.training.conftest import TINY

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    # The last is what torch.use_deterministic_algorithms imports, which takes seconds.
    ["gansmith.training.run", "gansmith.sampling.interpolation", "gansmith.cli.train", "torch._inductor"]
)

SETTINGS = TINY | {
    "loss.objective": "recording:hinge",
    "optim.d_steps": 1,
    "train.batch": 8,
    "bn.group": 8,  # shared by all ranks where there are several
    "train.duration": 16,
    "log.status_every": 8,
    "log.snapshot_every": 1000,
    "log.checkpoint_every": 8,
}


def free_port():
    """One that the kernel gives no connection, so that it is still free when processes have started."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def train_flags(images, out, settings):
    assignments = [f"--set={key}={json.dumps(value)}" for key, value in (SETTINGS | settings).items()]
    return ["train", "--data", str(images), "--out", str(out), *assignments]


def work(environment, flags, log, prepare):
    """One process: its words go to `log`. prepare: called before anything else, in the child."""
    sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115
    os.environ |= environment
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(1)
    if prepare:
        prepare()
    from gansmith import cli

    sys.argv = ["gansmith", *flags]
    cli.main()


class Ranks:
    """Processes 0 … world − 1 of a run in folder/name."""

    def __init__(self, folder, images, world, name, settings=None, prepare=None, record="record", **more):
        self.out, port = folder / name, free_port()
        self.logs = [folder / f"{name}.{rank}.log" for rank in range(world)]
        flags = train_flags(images, self.out, settings or {}) + more.pop("flags", [])
        common = {
            "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "RECORD": str(folder / record), **more,
        }  # fmt: skip
        self.processes = [
            context.Process(
                target=work,
                args=(common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, flags, log, prepare),
            )
            for rank, log in enumerate(self.logs)
        ]
        for process in self.processes:
            process.start()

    def end(self, seconds=250):
        """Waits for all; returns their exit codes. Kills what is still there after `seconds`."""
        for process in self.processes:
            process.join(seconds)
            if process.is_alive():
                process.kill()
                process.join()
        return [process.exitcode for process in self.processes]

    def said(self, rank):
        return self.logs[rank].read_text() if self.logs[rank].exists() else ""


def train(folder, images, world, name, settings, record="record", prepare=None, **more):
    """Trains folder/name on that many processes to the end; returns the run's folder."""
    ranks = Ranks(folder, images, world, name, settings, prepare, record, **more)
    assert ranks.end() == [0] * world, "\n".join(ranks.said(rank)[-2000:] for rank in range(world))
    return ranks.out


def shown(folder, record, world, kind, batch=8):
    """What was shown over all ranks, as sets per batch (ranks take parts of it)."""
    rows = []
    for rank in range(world):
        lines = (folder / f"{record}.{rank}").read_text().splitlines()
        part = [line.split()[-1] for line in lines if line.startswith(kind)]
        rows.append([part[i : i + batch // world] for i in range(0, len(part), batch // world)])
    return [sorted(name for part in parts for name in part) for parts in zip(*rows)]


def newest(run):
    """The newest checkpoint: (record, tensors by file). A damaged one fails the test."""
    path = checkpoint.latest(run / "checkpoints", pytest.fail)
    return checkpoint.read_record(path), checkpoint.read_tensors(path)
