"""Whether two processes learn what one does: the demo's digits for 200 steps, BatchNorm groups over both.

    python benchmarks/ranks_digits.py [--seeds 0 1] [--steps 200] [--worlds 1 2]

Trains the recipe `digits` on one process and on two of half the micro-batch, each with several seeds, and
prints D's and G's loss over the run, and how many generated digits the demo's classifier reads as asked.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "demo"))
STATUS = 4  # lines per run that losses are compared at


def train(out: Path, seed: int, world: int, steps: int) -> list[dict[str, float]]:
    """One run; returns its status rows."""
    images = 2 * 32 * steps
    command = [sys.executable, "-m", "gansmith", "train", "--data", "builtin:digits", "--preset", "digits"]
    command += ["--out", str(out), "--seed", str(seed), "--duration", str(images)]
    # The average follows a run this short more closely than the recipe's does.
    for setting in (f"log.status_every={images // STATUS}", "ema.half_life=500", "log.snapshot_every=1M"):
        command += ["--set", setting]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL))
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"{' '.join(command)} failed on {world} process(es)")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["type"] == "status"]


def score(run: Path) -> tuple[float, float]:
    """Share of 1,000 digits read as asked, and their within-class variance over that of the real ones."""
    import score_digits
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    import gansmith

    real, labels = load_digits(return_X_y=True)
    asked = np.arange(10).repeat(score_digits.PER_CLASS)
    small = score_digits.shrink(gansmith.load(str(run)).sample(score_digits.PER_CLASS))
    read = SVC(gamma=0.001).fit(real, labels).predict(small)
    variance = score_digits.within_class_variance
    return float((read == asked).mean()), variance(small, asked) / variance(real, labels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--worlds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=200, help="G steps; each has two D phases of 32 images")
    arguments = parser.parse_args()

    print("| processes | seed | L_D at each quarter | L_G at each quarter | read as asked | variance |")
    print("|---|---|---|---|---|---|")
    found: dict[int, list[float]] = {}
    for seed in arguments.seeds:
        for world in arguments.worlds:
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                rows = train(run, seed, world, arguments.steps)
                accuracy, variance = score(run)
            found.setdefault(world, []).append(accuracy)
            losses = [" ".join(f"{row[key]:.2f}" for row in rows) for key in ("loss_d", "loss_g")]
            cells = [world, seed, *losses, f"{accuracy:.3f}", f"{variance:.2f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    for world, values in found.items():
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(f"{world} process(es): read as asked {statistics.mean(values):.3f} on average ({spread})")


if __name__ == "__main__":
    main()
