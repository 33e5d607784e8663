"""Does a growing batch pay: images and time until a run scores what the fixed large batch scores at its end.

    python benchmarks/growth.py --out runs/growth
    python benchmarks/growth.py --out runs/growth-cifar --data cifar10-32 --preset cifar10 --seeds 0 \
        --batch 32 --images 24000 --every 6000 --features effnet-lite0 --num 2000 --set model.ch=16 \
        optim.d_steps=2 ema.half_life=5000 ema.start=0 eval.data=cifar10-test

Per seed four runs of one recipe: a small batch, one `--factor` times as large, one that grows from the first
to the second by a table (in equal parts of the images), and one that grows by its own gradient noise, with no
other limit than the default, 16 times the first. All have the same BatchNorm groups and micro-batches. Every
`--every` images the average is scored by a Fréchet distance of `--features`. The mark is, per seed, what the
large batch has at its end. Time is CPU time of the whole run per image, evaluations included, times the
images: what they cost one processor. Steps of G are what they cost where a batch takes as long as an image.
Runs that are there are gone on with. Results go to OUT/results.json, the table to the terminal, the figure to
OUT/growth.png.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import plots

from gansmith import config
from gansmith.evaluation.sweep import plotting
from gansmith.training.run import train

VARIANTS = ("small", "large", "table", "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--data", default="builtin:digits")
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch", type=int, default=16, help="the small batch")
    parser.add_argument("--factor", type=int, default=4, help="of the large batch: a power of 2")
    parser.add_argument("--images", type=int, default=24_000, help="length of every run")
    parser.add_argument("--every", type=int, default=3_000, help="images between scores")
    parser.add_argument("--features", default="pixels")
    parser.add_argument("--num", type=int, default=1_000, help="images per score")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--set", nargs="*", default=[], help="settings of all runs, PATH=VALUE")
    options = parser.parse_args()

    plots.ready()
    runs = []
    for seed in options.seeds:
        for variant in options.variants:
            folder = options.out / f"{variant}-{seed}"
            began = time.process_time()
            train(options.data, options.preset, folder, settings=settings(options, variant, seed))
            note_time(folder, time.process_time() - began)
            runs.append({"variant": variant, "seed": seed} | read(folder))
            (options.out / "results.json").write_text(json.dumps(runs, indent=1))
    print("\n".join(table(runs)))
    figure(runs, options.out / "growth.png")


def settings(options: argparse.Namespace, variant: str, seed: int) -> dict[str, Any]:
    large = options.batch * options.factor
    own: dict[str, Any] = {"train.batch": large if variant == "large" else options.batch}
    if variant == "table":
        doublings = options.factor.bit_length()
        at = [options.images * i // doublings for i in range(doublings)]
        own["batch.schedule"] = {str(start): options.batch << i for i, start in enumerate(at)}
    if variant == "auto":
        own |= {"batch.schedule": "auto", "batch.noise_every": 8}  # up to 16 times the small one
    return {
        "train.seed": seed,
        "train.duration": options.images,
        "train.threads": 1,
        "train.micro_batch": options.batch,
        "bn.group": options.batch // 2,
        "log.status_every": 500,
        "log.snapshot_every": options.images,
        "log.checkpoint_every": options.images,
        "log.statistics_images": 512,
        "log.grid_columns": 4,
        "eval.every": options.every,
        "eval.num": options.num,
        "eval.features": options.features,
        **own,
        **config.parse_overrides(tuple(options.set)),
    }


def note_time(folder: Path, seconds: float) -> None:
    """Adds this start's CPU time to what earlier ones of the run took; a finished run costs nothing."""
    file = folder / "cpu_seconds.json"
    spent = json.loads(file.read_text()) if file.exists() else []
    file.write_text(json.dumps([*spent, seconds] if seconds > 5 else spent))


def read(folder: Path) -> dict[str, Any]:
    """Scores over images, batches over images, noise scales over images, CPU seconds."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    status = [row for row in rows if row["type"] == "status"]
    scores = {}
    for row in rows:
        if row["type"] == "evaluation":
            scores[row["images_seen"]] = row["results"][0]["value"]
    return {
        "scores": sorted(scores.items()),
        "batches": [(row["images_seen"], row["batch"]) for row in status],
        "noise": [
            (row["images_seen"], row["noise_scale_d"], row["noise_scale_g"])
            for row in status
            if "noise_scale_d" in row
        ],
        "steps": [(row["images_seen"], row["step"]) for row in status],
        "images": status[-1]["images_seen"],
        "cpu_seconds": sum(json.loads((folder / "cpu_seconds.json").read_text())),
    }


def reached(run: dict[str, Any], mark: float) -> float | None:
    """Images until the score is at the mark for the first time, between two scores on a line."""
    before: tuple[int, float] | None = None
    for at, score in run["scores"]:
        if score <= mark:
            if before is None:
                return float(at)
            return before[0] + (at - before[0]) * (before[1] - mark) / max(before[1] - score, 1e-12)
        before = (at, score)
    return None


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Mean ± sd over seeds, Markdown."""
    marks = {run["seed"]: run["scores"][-1][1] for run in runs if run["variant"] == "large"}
    titles = (
        "images to the mark",
        "CPU seconds to it",
        "G steps to it",
        "score at the end",
        "best score",
        "largest batch",
    )
    lines = [f"| batch | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for variant in VARIANTS:
        mine = [run for run in runs if run["variant"] == variant]
        if not mine:
            continue
        found = [reached(run, marks[run["seed"]]) for run in mine if run["seed"] in marks]
        seconds = [
            None if at is None else at * run["cpu_seconds"] / run["images"] for at, run in zip(found, mine)
        ]
        steps = [
            None if at is None else float(np.interp(at, *zip(*run["steps"]))) for at, run in zip(found, mine)
        ]
        cells = (
            spread(found),
            spread(seconds),
            spread(steps),
            spread([run["scores"][-1][1] for run in mine]),
            spread([min(score for _, score in run["scores"]) for run in mine]),
            ", ".join(str(max(batch for _, batch in run["batches"])) for run in mine),
        )
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return lines


def spread(values: list[Any]) -> str:
    known = [value for value in values if value is not None]
    missing = f" ({len(values) - len(known)} of {len(values)} never)" if len(known) < len(values) else ""
    if not known:
        return "never" if values else "–"
    digits = 0 if max(known) >= 100 else 2
    sd = f" ± {statistics.stdev(known):,.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):,.{digits}f}{sd}{missing}"


def figure(runs: list[dict[str, Any]], path: Path) -> None:
    """Scores, batches and noise scales over images; a line per run."""
    plt = plotting()
    colours = dict(zip(VARIANTS, ("tab:blue", "tab:red", "tab:green", "tab:orange")))
    drawn, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for run in runs:
        colour, first = colours[run["variant"]], run["seed"] == runs[0]["seed"]
        label = run["variant"] if first else None
        left.plot(*zip(*run["scores"]), color=colour, label=label, alpha=0.8)
        middle.step(*zip(*run["batches"]), where="post", color=colour, alpha=0.8)
        for column, style, name in ((1, "-", "D"), (2, "--", "G")):
            known = [(row[0], row[column]) for row in run["noise"] if row[column]]
            if known:
                right.plot(*zip(*known), style, color=colour, alpha=0.7, label=name if first else None)
    left.set(xlabel="images", ylabel="Fréchet distance", yscale="log")
    middle.set(xlabel="images", ylabel="batch", yscale="log")
    right.set(xlabel="images", ylabel="noise scale, images", yscale="log")
    left.legend()
    right.legend()
    drawn.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
