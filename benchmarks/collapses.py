"""What the collapse guard finds and mends: collapses brought about on the digits, and healthy runs.

    python benchmarks/collapses.py --out FOLDER [--only lr10 …] [--table]

A healthy run is trained to 5,120 images with several seeds. From there, in a copy of each, a cause
sets in and stays: learning rates too high, numbers that are none, … The guard goes back by itself;
then it is seen how soon the score is within 1.1 of its best before. The score is the Fréchet
distance of the averaged G's images to the digits at 8×8 pixels; the guard does not see it. Healthy
settings are trained from the start; the first seed of a kind is also trained with `guard.policy:
warn`, to know what comes of it without going back. Every run leaves one JSON file in FOLDER, and is
not trained again.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from gansmith.errors import Diverged
from gansmith.evaluation.frechet import frechet_distance, moments
from gansmith.sampling import latents
from gansmith.training import guarding, objectives, run
from gansmith.training import state as states

START, END = 5_120, 10_240  # images: where a cause sets in, and the duration
EVERY, SHOWN = 512, 640  # images between scores, images scored
SEEDS = (0, 1, 2, 3, 4)
SMALL: dict[str, Any] = {
    "model.ch": 8, "model.table_g": [4, 4, 2, 1], "model.table_d": [1, 2, 4, 4], "train.micro_batch": 32,
    "train.deterministic": False, "log.status_every": 256, "watch.every": 512, "log.checkpoint_every": 1024,
    "log.snapshot_every": "1M",
}  # fmt: skip
RATES = {"optim.lr_g": 6e-4, "optim.lr_d": 1e-3}


def faster(**times: float) -> dict[str, Any]:
    return {f"optim.lr_{letter}": RATES[f"optim.lr_{letter}"] * factor for letter, factor in times.items()}


@dataclass(frozen=True)
class Kind:
    """settings: what sets in at START. of_base: what the whole run is trained with. says: in the table."""

    says: str
    settings: dict[str, Any] = field(default_factory=dict)
    of_base: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)


LONE = "collapses:"
INDUCED = {
    "lr10": Kind("both learning rates × 10", faster(g=10, d=10), seeds=SEEDS),
    "lr_d10": Kind("D's learning rate × 10", faster(d=10)),
    "lr5": Kind("both learning rates × 5", faster(g=5, d=5)),
    "lr_g30": Kind("G's learning rate × 30", faster(g=30)),
    "nan": Kind("NaN in 30 batches in a row", {"loss.objective": f"{LONE}broken"}),
    "batch4": Kind(
        "batch 4, learning rates × 5",
        faster(g=5, d=5) | {"train.batch": 4, "train.micro_batch": 4, "bn.group": 4},
        seeds=(0, 1),
    ),
    "no_sn": Kind(
        "no spectral norm in D, learning rates × 10", faster(g=10, d=10), {"model.spectral_d": False}
    ),
    "noise": Kind("the images of one class are noise", {"loss.objective": f"{LONE}noisy"}, seeds=(0, 1)),
}
HEALTHY: dict[str, dict[str, Any]] = {
    "as the recipe": {},
    "another seed": {"train.seed": 7},
    "batch 16": {"train.batch": 16, "train.micro_batch": 16, "bn.group": 16},
    "batch 64": {"train.batch": 64, "train.micro_batch": 64, "bn.group": 64},
    "batch 4 from 5,120 images on": {},
    "one D step, β1 0": {"optim.d_steps": 1, "optim.beta1": 0.0},
    "learning rates halved": faster(g=0.5, d=0.5),
    "without classes": {"model.conditional": False},
    "no spectral norm in D": {"model.spectral_d": False},
    "non-saturating loss": {"loss.objective": "non_saturating"},
}


def broken(phase: str, G: Any, D: Any, micro: Any) -> Any:
    """The hinge loss, NaN for D's 30 steps after START, on the run's first branch."""
    loss, scalars = objectives.hinge(phase, G, D, micro)
    bad = micro.draws.stream == "d" and START // 32 <= micro.turn < START // 32 + 30
    return (loss * float("nan") if bad else loss), scalars


def noisy(phase: str, G: Any, D: Any, micro: Any) -> Any:
    """The hinge loss; every real 3 is noise."""
    if micro.real is not None and phase == "d":
        threes = micro.real_y == 3
        noise = 2 * micro.draws.uniform("noise", *micro.real.shape[1:]) - 1
        micro.real[threes] = noise[threes]
    return objectives.hinge(phase, G, D, micro)


class Score:
    """Of a run's averaged G, now and then, as lines of a file beside it."""

    def __init__(self, file: Path) -> None:
        self.file, self.next = file, 0
        self.real = moments(load_digits(return_X_y=True)[0])

    @torch.no_grad()
    def __call__(self, run: Any, state: Any) -> None:
        if self.next > state.images_seen > self.next - 2 * EVERY:
            return
        self.next = state.images_seen + EVERY
        G = states.replica(state.G_ema).train()  # statistics of its own batches, as in training
        z = latents.from_seeds(range(SHOWN), dim=run.config.model.dim_z, purpose="score")
        y = torch.arange(SHOWN) % 10 if run.num_classes else None
        parts = [slice(i, i + 32) for i in range(0, SHOWN, 32)]
        for norm in G.modules():
            if hasattr(norm, "group"):
                norm.group = None
        fake = torch.cat([G(z[p], None if y is None else y[p]) for p in parts])
        small = ((fake.double().clamp(-1, 1) + 1) * 8).reshape(SHOWN, 8, 4, 8, 4).mean((2, 4)).flatten(1)
        value = (
            frechet_distance(self.real, moments(small.numpy())) if small.isfinite().all() else float("nan")
        )
        row = {"images_seen": state.images_seen, "lineage": run.lineage.number, "score": value}
        with self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


@contextmanager
def scoring(file: Path) -> Iterator[None]:
    """Scores whatever is trained meanwhile, before the guard looks at it."""
    look, score = guarding.watch, Score(file)

    def watch(run: Any, state: Any, row: dict[str, Any]) -> None:
        score(run, state)
        look(run, state, row)

    guarding.watch = watch
    try:
        yield
    finally:
        guarding.watch = look


def train(out: Path, settings: dict[str, Any]) -> str:
    """Trains, or goes on; what it ended with."""
    allow = [path for path in settings if path.startswith(("optim.", "loss.", "bn."))]
    try:
        with scoring(out.with_suffix(".scores.jsonl")):
            run.train("builtin:digits", "digits", out, settings=SMALL | settings, device="cpu",
                      allow_change=allow)  # fmt: skip
    except Diverged as ended:
        return str(ended)
    return "finished"


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def measured(out: Path, ended: str) -> dict[str, Any]:
    """What a run's log and scores say."""
    rows, scores = lines(out / "metrics.jsonl"), lines(out.with_suffix(".scores.jsonl"))
    events = [row for row in rows if row["type"] in ("suspect", "collapsed", "recovered", "rollback")]
    return {"ended": ended, "events": events, "scores": scores}


def base(folder: Path, seed: int, settings: dict[str, Any], name: str) -> Path:
    out = folder / f"base-{name}-{seed}"
    if not out.with_suffix(".json").exists():
        shutil.rmtree(out, ignore_errors=True)
        out.with_suffix(".scores.jsonl").unlink(missing_ok=True)
        ended = train(out, settings | {"train.seed": seed, "train.duration": START})
        out.with_suffix(".json").write_text(json.dumps(measured(out, ended)))
    return out


def induced(folder: Path, kind: str, seed: int, policy: str) -> None:
    spec = INDUCED[kind]
    out = folder / f"{kind}-{seed}{'' if policy == 'rollback' else '-' + policy}"
    if out.with_suffix(".json").exists():
        return
    began = base(folder, seed, spec.of_base, "no_sn" if spec.of_base else "plain")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(began, out, symlinks=True)
    shutil.copy(began.with_suffix(".scores.jsonl"), out.with_suffix(".scores.jsonl"))
    settings = spec.of_base | spec.settings | {"train.seed": seed, "train.duration": END}
    ended = train(out, settings | {"guard.policy": policy})
    out.with_suffix(".json").write_text(json.dumps(measured(out, ended)))
    shutil.rmtree(out)


def healthy(folder: Path, name: str) -> None:
    out = folder / f"healthy-{list(HEALTHY).index(name)}"
    if out.with_suffix(".json").exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    out.with_suffix(".scores.jsonl").unlink(missing_ok=True)
    settings = {"train.duration": END} | HEALTHY[name]
    if name.startswith("batch 4 "):
        train(out, settings | {"train.duration": START})
        settings |= {"train.batch": 4, "train.micro_batch": 4, "bn.group": 4}
    ended = train(out, settings)
    out.with_suffix(".json").write_text(json.dumps(measured(out, ended)))
    shutil.rmtree(out)


# The table
# ---------------------------------------------------------------------------------------------------------


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """Of one run: images from the cause to suspicion and to the finding, times it went back, images trained
    after the last time until the score was within 1.1 of its best before the cause, score at the end."""
    events, scores = found["events"], found["scores"]
    best = min(row["score"] for row in scores if row["images_seen"] <= START and row["lineage"] == 0)
    back = [row for row in events if row["type"] == "rollback"]
    collapsed = [row for row in events if row["type"] == "collapsed"]
    first = {kind: next((e["images_seen"] for e in events if e["type"] == kind), None)
             for kind in ("suspect", "collapsed")}  # fmt: skip
    if first["collapsed"] is None and back:  # by steps left out
        first["collapsed"] = back[0]["collapsed"]
    well = [row["images_seen"] for row in scores
            if back and row["lineage"] == len(back) and row["score"] <= 1.1 * best]  # fmt: skip
    last = scores[-1]["score"] if scores else float("nan")
    return {
        "found": None if first["collapsed"] is None else first["collapsed"] - START,
        "suspected": None if first["suspect"] is None else first["suspect"] - START,
        "kind": back[0]["what"] if back else collapsed[0]["what"] if collapsed else None,
        "back": len(back),
        "recovered": well[0] - back[-1]["images_seen"] if well and found["ended"] == "finished" else None,
        "best": best,
        "last": last,
        "ended": found["ended"],
    }


def table(folder: Path) -> None:
    print(
        "| cause, from 5,120 images on | runs | found | after images | as | went back | recovered "
        "| after images | score: best before → end | without going back |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for kind, spec in INDUCED.items():
        files = [folder / f"{kind}-{seed}.json" for seed in spec.seeds]
        runs = [judged(json.loads(file.read_text())) for file in files if file.exists()]
        if not runs:
            continue
        found = [r["found"] for r in runs if r["found"] is not None]
        well = [r["recovered"] for r in runs if r["recovered"] is not None]
        control = folder / f"{kind}-{spec.seeds[0]}-warn.json"
        without = judged(json.loads(control.read_text())) if control.exists() else None
        print(
            f"| {spec.says} | {len(runs)} | {len(found)} | {spread(found)} "
            f"| {', '.join(sorted({r['kind'] for r in runs if r['kind']})) or '–'} "
            f"| {spread([r['back'] for r in runs])} | {len(well)} | {spread(well)} "
            f"| {mean(r['best'] for r in runs)} → {mean(r['last'] for r in runs)} "
            f"| {'–' if without is None else format(without['last'], ',.0f')} |"
        )
    print()
    print("| healthy setting | suspicions | collapses | score at the end |")
    print("|---|---|---|---|")
    for index, name in enumerate(HEALTHY):
        file = folder / f"healthy-{index}.json"
        if file.exists():
            found = json.loads(file.read_text())
            count = {k: sum(e["type"] == k for e in found["events"]) for k in ("suspect", "collapsed")}
            last = found["scores"][-1]["score"]
            print(f"| {name} | {count['suspect']} | {count['collapsed']} | {last:,.0f} |")


def spread(values: list[int]) -> str:
    if not values:
        return "–"
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def mean(values: Any) -> str:
    numbers = [value for value in values if np.isfinite(value)]
    return f"{statistics.mean(numbers):,.0f}" if numbers else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[*INDUCED, "healthy", "controls"])
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    wanted = arguments.only or [*INDUCED, "healthy", "controls"]
    if not arguments.table:
        torch.set_num_threads(1)
        for kind in [kind for kind in INDUCED if kind in wanted]:
            for seed in INDUCED[kind].seeds:
                induced(arguments.out, kind, seed, "rollback")
        for name in HEALTHY if "healthy" in wanted else ():
            healthy(arguments.out, name)
        for kind, spec in INDUCED.items() if "controls" in wanted else ():
            induced(arguments.out, kind, spec.seeds[0], "warn")
    table(arguments.out)


if __name__ == "__main__":
    sys.modules["collapses"] = sys.modules["__main__"]  # what loss.objective names
    main()
