"""One run of an ablation, as a program of its own: trains or goes on, then scores.

    python -m ablation.one_run JOB.json

Reads what to do from the file, writes the result beside it. Exit codes are gansmith's; a run that diverged
is a result, without scores if that was before it saved anything. When whoever started this is gone, its
standard input ends: then the run is saved and stops.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gansmith
from ablation import scoring
from gansmith import files
from gansmith.errors import EXIT_STOPPED, EXIT_USAGE, Diverged, Stopped, UserError
from gansmith.training import checkpoint


@dataclass(frozen=True)
class Job:
    """data: to train on; reference: to be scored against. seconds: the budget, None where it is images.
    score: keyword arguments of scoring.scores.
    """

    data: str
    reference: str
    preset: str | None
    settings: dict[str, Any]
    seconds: float | None
    run: str  # the folder
    result: str  # the file that is written at the end
    score: dict[str, Any]

    def write(self, path: Path) -> None:
        files.write_text(path, json.dumps(asdict(self), indent=1))


def main(path: str) -> int:
    job = Job(**json.loads(Path(path).read_text()))
    threading.Thread(target=_stop_when_left_alone, daemon=True).start()
    begun = time.process_time()
    try:
        end = train(job)
        if end == "stopped":
            return EXIT_STOPPED
        spent = time.process_time() - begun
        there = end != "diverged" or _saved_something(Path(job.run))
        scores = scoring.scores(_trained(job), job.reference, **job.score) if there else {}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    result = {"end": end, **_clock(Path(job.run)), "processor_seconds": round(spent, 1), "scores": scores}
    files.write_text(Path(job.result), json.dumps(result, indent=1))
    return 0


def train(job: Job) -> str:
    """Trains until the budget is used up, or goes on. Returns finished | diverged | stopped."""
    left = None
    if job.seconds is not None:
        left = job.seconds - _clock(Path(job.run))["seconds"]
        if left <= 0:
            return "finished"
    try:
        gansmith.train(job.data, job.preset, job.run, settings=job.settings, stop_after=left)
    except Stopped as stop:
        return "finished" if "time limit" in str(stop) else "stopped"
    except Diverged as stop:
        print(stop)
        return "diverged"
    return "finished"


def _trained(job: Job) -> Path:
    """What is scored: the newest snapshot, or what the clock stopped."""
    saved = checkpoint.listed(Path(job.run) / "checkpoints")
    return saved[-1] if job.seconds is not None and saved else Path(job.run)


def _saved_something(run: Path) -> bool:
    return bool(checkpoint.listed(run / "checkpoints")) or any(run.glob("snapshots/*.safetensors"))


def _clock(run: Path) -> dict[str, Any]:
    """Images seen and seconds trained, at the newest checkpoint."""
    saved = checkpoint.listed(run / "checkpoints")
    record = checkpoint.read_record(saved[-1]) if saved else {"images_seen": 0, "seconds": 0.0}
    return {"images_seen": record["images_seen"], "seconds": round(record["seconds"], 1)}


def _stop_when_left_alone() -> None:
    os.read(sys.stdin.fileno(), 1)  # not through sys.stdin: its lock would be held when Python ends
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
