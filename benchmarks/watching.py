"""What watching costs: seconds of a look against those of the training between two looks, in one run.

    python benchmarks/watching.py [--preset digits] [--data builtin:digits] [--set model.ch=32 …] [--looks 5]

Trains with a look at every status line, a few steps apart, and times both by themselves, so that a busy
machine slows both. The share is that of the cadence which `watch.every: auto` would choose for the recipe.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gansmith import config as configuration
from gansmith.config.merge import parse_overrides
from gansmith.training import loop, watching
from gansmith.training.run import train


class Timed:
    """A function that notes how long its calls take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, list[float]()

    def __call__(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        answer = self.function(*arguments)
        self.seconds.append(time.perf_counter() - began)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--data", default="builtin:digits")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--looks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="between two looks")
    given = parser.parse_args()
    settings = parse_overrides(tuple(given.set))
    config, _ = configuration.load(given.preset, None, settings)
    between = given.steps * config.train.batch * config.optim.d_steps
    auto = watching.cadence(config, configuration.images(config.log.status_every, 10**6), 10**6)
    assert auto is not None

    look = loop.watching.look = Timed(watching.look)  # type: ignore[assignment]
    sigmas = watching._sigmas = Timed(watching._sigmas)  # type: ignore[assignment]
    rare = {"log.snapshot_every": "1G", "log.checkpoint_every": "1G", "log.statistics_images": 64}
    every = {
        "watch.every": between,
        "log.status_every": between,
        "train.duration": (given.looks + 1) * between,
    }
    with tempfile.TemporaryDirectory() as folder:
        train(given.data, given.preset, Path(folder) / "run", settings=settings | rare | every)
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").open()]
    ends = [row["seconds"] for row in rows if row["type"] == "status"]
    # From one status line to the next, less the look at its beginning; the first is not counted: it warms up.
    spans = [end - start - at for start, end, at in zip(ends, ends[1:], look.seconds)]
    training, one = statistics.median(spans) / between, statistics.median(look.seconds[1:])
    print()
    print(f"training           {1e3 * training:10.2f} ms per image   1.0")
    for name, seconds in (
        ("first look", look.seconds[0]),
        ("look", one),
        ("  singular values", statistics.median(sigmas.seconds[1:])),
    ):
        print(f"{name:<18} {1e3 * seconds:10.1f} ms          {seconds / training:8.1f} images of training")
    print(f"share of the time, a look every {auto:,} images (auto): {one / (one + training * auto):.2%}")


if __name__ == "__main__":
    main()
