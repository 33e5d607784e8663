"""What measuring the gradient noise costs: steps measured and not, taken in turns, in CPU time.

    python benchmarks/noise_cost.py

The digits recipe with other batches and BatchNorm groups. Prints how much longer a measured step takes than
an unmeasured one, and what one in 32 comes to.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from gansmith.training import growth, loop
from gansmith.training.run import train

EVERY = growth.NOISE_EVERY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="measured steps, and as many unmeasured ones")
    parser.add_argument("--set", nargs="*", default=["model.ch=16"], help="settings, PATH=VALUE")
    options = parser.parse_args()
    print("| batch | micro-batch | group | a measured step (worst to best) | one in 32 |")
    print("|---|---|---|---|---|")
    for batch, micro, group in ((64, 64, 32), (64, 32, 16), (64, 32, 32), (128, 64, 64)):
        ratios = [m / p for m, p in zip(*timed(options, batch, micro, group))]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        share = (middle - 1) / EVERY
        print(f"| {batch} | {micro} | {group} | {middle:.2f} ({high:.2f} to {low:.2f}) | {share:.1%} |")


def timed(options: argparse.Namespace, batch: int, micro: int, group: int) -> tuple[list[float], list[float]]:
    """CPU seconds of measured and unmeasured steps, every other step being measured."""
    from gansmith import config

    seconds: list[float] = []
    phase = loop._phase

    def timing(run, letter, state, reals):  # type: ignore[no-untyped-def]
        began = time.process_time()
        loss = phase(run, letter, state, reals)
        seconds.append(time.process_time() - began)
        return loss

    settings = {
        "train.batch": batch, "train.micro_batch": micro, "bn.group": group, "batch.noise_every": 2,
        "train.duration": batch * 2 * (options.steps + 1), "optim.d_steps": 1, "log.status_every": 10**6,
        "log.snapshot_every": 10**6, "log.checkpoint_every": 10**6, "log.statistics_images": 16,
    } | config.parse_overrides(tuple(options.set))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        loop._phase = timing
        try:
            train("builtin:digits", "digits", Path(folder) / "run", settings=settings)
        finally:
            loop._phase = phase
    steps = [sum(seconds[i : i + 2]) for i in range(0, len(seconds), 2)][2:]  # D and G; two to warm up
    return steps[1::2], steps[::2]


if __name__ == "__main__":
    main()
