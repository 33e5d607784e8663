"""RUN/best: a link to the snapshot that scored best, found again from what the run's log says.

Nothing is remembered between calls, so restarts and a second process agree. Knows result rows and files.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gansmith.evaluation.compare import read_rows


def read(run: Path) -> list[dict[str, Any]]:
    """The evaluation rows of a run's metrics.jsonl, oldest first; [] where there is none."""
    try:
        return read_rows((run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


def snapshot_file(run: Path, name: str) -> Path:
    return run / "snapshots" / f"{name}.safetensors"


def find(run: Path, rows: Iterable[Mapping[str, Any]], metric: str) -> tuple[str, float] | None:
    """Name and value of the snapshot that is best by `metric` among those still there.

    Only scores of one protocol are compared: that of the newest row that has the metric.
    """
    scored = [
        (str(row["snapshot"]), result)
        for row in rows
        if row.get("snapshot")
        for result in row.get("results", ())
        if result.get("metric") == metric and result.get("value") is not None
    ]
    if not scored:
        return None
    newest = scored[-1][1]["protocol_id"]
    values = {
        name: (result["value"], result["better"])
        for name, result in scored
        if result["protocol_id"] == newest and snapshot_file(run, name).exists()
    }
    if not values:
        return None
    sign = 1 if next(iter(values.values()))[1] == "lower" else -1
    name = min(values, key=lambda each: (sign * values[each][0], each))
    return name, values[name][0]


def link(run: Path, name: str) -> bool:
    """Points RUN/best to a snapshot, at once; True if it changed. Retention spares what it names."""
    target, best = Path("snapshots") / f"{name}.safetensors", run / "best"
    if best.is_symlink() and best.readlink() == target:
        return False
    temporary = run / f".best.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, best)
    return True


def update(run: Path, metric: str) -> str | None:
    """Brings the link up to date; returns a sentence where it changed."""
    found = find(run, read(run), metric)
    if found is None or not link(run, found[0]):
        return None
    return f"best by {metric}: {found[0]} ({found[1]:.4g})"
