"""Variants × seeds under one budget: trains, scores, compares with the baseline. Made to be interrupted.

    python benchmarks/ablate.py benchmarks/specs/ema.yaml [--out runs/ablations] [--jobs 2]

SPEC.yaml says what is compared (ablation/spec.py has one in full); its mistakes are told before the first
run. A run is named after all that decides it, so that the same command goes on where it was stopped or
killed, a changed spec runs only what is new, and ablations of one folder share their equal runs. Writes
NAME.md (the table), NAME.csv, NAME.json and NAME.png there, after every run. Each run is one process of one
thread. Exit codes: 0 all there, 1 a run failed, 2 a mistake in the spec, 3 stopped.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ablation import spec as specs
from ablation import subsets, tables
from ablation.one_run import Job
from ablation.spec import Spec, Variant

import gansmith
from gansmith import config as configuration
from gansmith import files
from gansmith.config import Config
from gansmith.errors import EXIT_STOPPED, EXIT_USAGE, UserError
from gansmith.evaluation import evaluate
from gansmith.evaluation.sweep import plotting
from gansmith.training.stopping import terminable

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Task:
    """A run to be done, or done: its place is a folder named after what decides it."""

    variant: Variant
    seed: int
    place: Path
    result: Path

    def done(self) -> bool:
        return self.result.exists()


def tasks_of(spec: Spec, out: Path) -> list[Task]:
    """All runs of a spec, every variant of a seed before the next seed."""
    scored = _digest({"score": asdict(spec.score), "against": spec.images.recipe()})
    tasks = []
    for seed in spec.seeds:
        for variant in spec.variants:
            place = out / "runs" / _digest(specs.identity(spec, variant, seed))
            tasks.append(Task(variant, seed, place, place / f"result-{scored}.json"))
    return tasks


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def check(spec: Spec, out: Path) -> None:
    """Opens what the runs will open, and rehearses one run of every variant. Raises UserError naming every
    mistake; one that several variants share is told of the first.
    """
    problems: dict[str, str] = {}
    try:
        evaluate.open_networks(spec.score.features)
    except UserError as error:
        problems[str(error)] = "score.features"
    for variant in spec.variants:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                gansmith.train(
                    _data(spec, variant, out), spec.preset, out / "rehearsal", dry_run=True,
                    settings=spec.settings(variant, spec.seeds[0]), device="cpu",
                )  # fmt: skip
        except UserError as error:
            problems.setdefault(str(error), f"variant {variant.name}")
    if problems:
        raise UserError("\n".join(f"{where}: {problem}" for problem, where in problems.items()))


def _data(spec: Spec, variant: Variant, out: Path) -> str:
    """The images that a variant trains on, made where there are none yet."""
    config = _config(spec, variant)
    return subsets.ready(variant.images, config.model.resolution, config.model.channels, out / "data")


def _config(spec: Spec, variant: Variant) -> Config:
    return configuration.load(spec.preset, None, spec.settings(variant, spec.seeds[0]))[0]


def start(spec: Spec, task: Task, out: Path) -> subprocess.Popen:
    """Starts a run as a process. It stops by itself, saved, when its standard input ends."""
    task.place.mkdir(parents=True, exist_ok=True)
    base = _config(spec, task.variant).model
    job = Job(
        data=_data(spec, task.variant, out),
        reference=subsets.ready(spec.images, base.resolution, base.channels, out / "data"),
        preset=spec.preset,
        settings=spec.settings(task.variant, task.seed),
        seconds=spec.seconds,
        run=str(task.place / "run"),
        result=str(task.result),
        score={
            "metrics": spec.score.metrics, "features": spec.score.features,
            "num": spec.score.num, "truncation": spec.score.truncation,
        },
    )  # fmt: skip
    job.write(task.place / "job.json")
    paths = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    with (task.place / "log.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ablation.one_run", str(task.place / "job.json")],
            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def run_all(spec: Spec, tasks: list[Task], out: Path, jobs: int) -> Iterator[tuple[Task, int]]:
    """Does what is not done, `jobs` at a time. Yields every task that ended, with its exit code."""
    waiting = [task for task in tasks if not task.done()]
    running: dict[subprocess.Popen, Task] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                running[start(spec, task, out)] = task
            time.sleep(0.1)
            for process in [p for p in running if p.poll() is not None]:
                yield running.pop(process), process.returncode
    finally:
        for process in running:
            process.stdin.close()  # type: ignore[union-attr]
        for process in running:
            process.wait()


def collect(tasks: list[Task]) -> tuple[list[tables.Row], dict[str, str]]:
    """The results there are, with None for a score that a run lacks, and for every score which is better."""
    rows, better = [], {}
    for task in tasks:
        if not task.done():
            continue
        result = json.loads(task.result.read_text())
        scores = result.pop("scores")
        better |= {name: score["better"] for name, score in scores.items()}
        values = {name: score["value"] for name, score in scores.items()}
        rows.append(tables.Row(task.variant.name, task.seed, folder=task.place.name, values=values, **result))
    return [replace(row, values=dict.fromkeys(better) | row.values) for row in rows], better


def write(spec: Spec, tasks: list[Task], out: Path) -> str:
    """Writes table, rows and figure of what is done; returns the table."""
    rows, better = collect(tasks)
    if not rows:
        return ""
    settings = {v.name: {"images": v.images.recipe(), **v.settings} for v in spec.variants}
    table = tables.markdown(spec, rows, better)
    files.write_text(out / f"{spec.name}.md", table)
    files.write_text(out / f"{spec.name}.csv", tables.as_csv(rows))
    everything = tables.as_json(spec, rows, better, settings)
    files.write_text(out / f"{spec.name}.json", json.dumps(everything, indent=1))
    tables.figure(spec, rows, better, out / f"{spec.name}.png")
    return table


def ablate(spec: Spec, out: Path, jobs: int) -> int:
    """Runs a checked spec to its end; returns the exit code."""
    tasks = tasks_of(spec, out)
    done = sum(task.done() for task in tasks)
    print(f"{spec.name}: {len(tasks)} runs, {done} of them done, {jobs} at a time in {out}", flush=True)
    failed = 0
    for task, code in run_all(spec, tasks, out, jobs):
        what = f"{task.variant.name}, seed {task.seed}"
        if code == 0:
            done += 1
            result = json.loads(task.result.read_text())
            values = {name: score["value"] for name, score in result["scores"].items()}
            shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items() if value is not None)
            print(
                f"[{done}/{len(tasks)}] {what}: {shown or result['end']} ({result['seconds']:.0f} s)",
                flush=True,
            )
            write(spec, tasks, out)
        else:
            failed += 1
            print(f"{what} ended with {code}; {task.place / 'log.txt'} says why", flush=True)
    print(f"\n{write(spec, tasks, out)}")
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each one thread")
    parser.add_argument("--check", action="store_true", help="look for mistakes, run nothing")
    words = parser.parse_args(arguments)
    try:
        if words.jobs < 1:
            raise UserError(f"--jobs {words.jobs} must be at least 1.")
        plotting()
        spec = specs.read(words.spec)
        check(spec, words.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    if words.check:
        print(f"{words.spec}: no mistakes; {len(spec.variants)} variants × {len(spec.seeds)} seeds")
        return 0
    try:
        with terminable():
            return ablate(spec, words.out, words.jobs)
    except KeyboardInterrupt:
        print(f"stopped; what was running is saved in {words.out}, the same command goes on")
        return EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
