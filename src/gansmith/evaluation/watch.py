"""Scores the snapshots of a run as they appear, in a process of its own: slow or crashed, it cannot stop
training.

What was scored is read from the run's metrics.jsonl, so it goes on where it stopped. Must not know commands.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from gansmith.errors import Stopped, UserError
from gansmith.evaluation import best
from gansmith.evaluation.evaluate import Evaluation
from gansmith.evaluation.protocol import Result, scope


def watch(
    run: Path,
    prepare: Callable[[Path], Evaluation],
    record: Callable[[Path, list[Result], float], None],
    stop: Callable[[], bool],
    *,
    seed: int = 0,
    repeats: int = 1,
    until_finished: bool = False,
    pause: float = 10.0,
) -> int:
    """Scores every snapshot that has no score of this protocol yet, oldest first; returns their number.

    prepare: opens the first snapshot with all that is wanted; the others are scored the same way. record:
    keeps (file, results, seconds). stop: asked between looks; an evaluation asks its own `manner.stop`.
    until_finished: return when the run has ended and nothing is left; else it goes on until asked to stop.
    pause: seconds between looks. A snapshot that retention deletes meanwhile is passed over. Raises Stopped,
    and what `prepare` raises.
    """
    evaluation: Evaluation | None = None
    count, passed, waiting_said = 0, set[str](), False
    while True:
        finished = ended(run)  # asked before the look, which then sees all that was saved before the end
        files = sorted((run / "snapshots").glob("[0-9]*.safetensors"))
        if files and evaluation is None:
            try:
                evaluation = prepare(files[-1])
            except UserError:
                if files[-1].exists():
                    raise
                continue
        if evaluation is not None and (
            left := [f for f in files if f.stem not in passed | _done(run, evaluation)]
        ):
            file, started, waiting_said = left[0], time.monotonic(), False
            try:
                results = evaluation.retargeted(file).run(seed, repeats)
            except UserError as error:
                passed.add(file.stem)
                why = f"passed over: {error}" if file.exists() else "the run deleted it meanwhile"
                evaluation.manner.say(f"{file.name}: {why}")
                continue
            record(file, results, time.monotonic() - started)
            count += 1
            continue
        if until_finished and finished:
            return count
        if evaluation is not None and not waiting_said:
            waiting_said = True
            evaluation.manner.say(f"{run}: every snapshot is scored; waiting for the next")
        _wait(pause, stop, count)


def _wait(pause: float, stop: Callable[[], bool], count: int) -> None:
    until = time.monotonic() + pause
    while (left := until - time.monotonic()) > 0:
        if stop():
            raise Stopped(f"stopped; {count} snapshots were scored, the same command goes on")
        time.sleep(min(0.2, left))


def _done(run: Path, evaluation: Evaluation) -> set[str]:
    """Names of the snapshots that have every score that is wanted, under the same protocol."""
    wanted = evaluation.wanted()
    return {
        str(row["snapshot"])
        for row in best.read(run)
        if row.get("snapshot") and wanted <= {(r["metric"], scope(r["protocol"])) for r in row["results"]}
    }


def ended(run: Path) -> bool:
    """Whether the run's log says that it is finished, and nothing after it says that it goes on."""
    finished = False
    try:
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        try:
            kind = json.loads(line).get("type")
        except (ValueError, AttributeError):
            continue
        if kind in ("start", "resume", "finished"):
            finished = kind == "finished"
    return finished
