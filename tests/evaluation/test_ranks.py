"""Two gloo processes give the bits that one gives, in training too; a killed evaluation starts again."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from gansmith.evaluation import best
from tests.training.conftest import TINY, images  # noqa: F401 (fixture)

METRICS = "frechet,kid,precision-recall,density-coverage,per-class,leakage,cas,duplicates"


def started(world: int, *words: object) -> list[subprocess.Popen[str]]:
    """The command in so many processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "gansmith", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(world)
    ]


def finished(processes: list[subprocess.Popen[str]]) -> list[str]:
    said = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def test_two_ranks_give_the_same_bits_as_one(fake_run: Path, reals: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "000000002000.safetensors"  # outside of a run: nothing is written beside it
    snapshot.write_bytes((fake_run / "snapshots" / snapshot.name).read_bytes())
    flags = ["--data", reals, "--num", 200, "--features", "pixels", "--metrics", METRICS, "--cas-budget", 2]
    found = []
    for world in (1, 2):
        out = tmp_path / f"{world}.json"
        said = finished(started(world, "eval", snapshot, *flags, "--out", out))
        assert all("FD-pixels" not in text for text in said[1:])  # one process speaks
        found.append(json.loads(out.read_text())["results"])
    assert found[0] == found[1]
    assert len(found[0]) == 11


def test_training_on_two_ranks_is_scored_once_each_time(images: Path, tmp_path: Path) -> None:  # noqa: F811
    """A score needs all ranks for the fakes and one for the rest: none may wait for the other for ever."""
    settings = TINY | {"train.duration": 32, "log.checkpoint_every": 32, "eval.every": 16, "eval.num": 24}
    settings |= {"eval.features": "pixels", "eval.metrics": "frechet,memorisation"}
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    finished(started(2, "train", "--data", images, "--out", tmp_path / "run", *flags))
    rows = best.read(tmp_path / "run")
    assert [row["images_seen"] for row in rows] == [16, 32]
    # The snapshot scored by one process gives the same bits.
    flags = ["--features", "pixels", "--metrics", "frechet,memorisation", "--num", 24]
    finished(started(1, "eval", tmp_path / "run", *flags, "--out", tmp_path / "one.json"))
    again = json.loads((tmp_path / "one.json").read_text())["results"]
    assert [r["value"] for r in again] == [r["value"] for r in rows[-1]["results"]]
    assert [r["protocol_id"] for r in again] == [r["protocol_id"] for r in rows[-1]["results"]]


def test_a_killed_evaluation_leaves_nothing_behind_and_starts_again(
    fake_run: Path, reals: Path, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "scores.json"
    (run / "snapshots").mkdir(parents=True)
    (run / "config.yaml").write_text("preset: null\n")
    snapshot = run / "snapshots" / "000000002000.safetensors"
    snapshot.write_bytes((fake_run / "snapshots" / snapshot.name).read_bytes())
    flags = ["--data", reals, "--features", "pixels", "--metrics", "fid", "--out", out]
    (killed,) = started(1, "eval", run, *flags, "--num", 100_000)
    assert killed.stdout is not None
    while "expected" not in (line := killed.stdout.readline()):  # the last words before it draws
        assert line, "it ended before it drew"
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "snapshots"]
    assert not out.exists()
    finished(started(1, "eval", run, *flags, "--num", 100))
    assert json.loads(out.read_text())["results"] == best.read(run)[0]["results"]
