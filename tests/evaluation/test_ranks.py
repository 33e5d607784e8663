"""Two gloo processes give the bits that one gives."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path


def scored(world: int, target: Path, reals: Path, out: Path) -> list[dict]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    metrics = "frechet,kid,precision-recall,density-coverage,per-class,leakage"
    command = [sys.executable, "-m", "gansmith", "eval", str(target), "--data", str(reals), "--num", "200"]
    command += ["--features", "pixels", "--metrics", metrics, "--out", str(out)]
    ranks = [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
        )
        for rank in range(world)
    ]
    said = [process.communicate(timeout=180)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * world, said
    assert all("FD-pixels" not in text for text in said[1:])  # one process speaks
    return json.loads(out.read_text())["results"]


def test_two_ranks_give_the_same_bits_as_one(fake_run: Path, reals: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "000000002000.safetensors"  # outside of a run: nothing is written beside it
    snapshot.write_bytes((fake_run / "snapshots" / snapshot.name).read_bytes())
    one = scored(1, snapshot, reals, tmp_path / "one.json")
    two = scored(2, snapshot, reals, tmp_path / "two.json")
    assert one == two
    assert len(one) == 9
