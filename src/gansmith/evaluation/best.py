"""RUN/best: a link to the snapshot that scored best, found again from what the run's log says.

Nothing is remembered between calls, so restarts and a second process agree. Knows result rows and files.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gansmith.evaluation.compare import read_rows


def read(run: Path, voided: bool = False) -> list[dict[str, Any]]:
    """The evaluation rows of a run's metrics.jsonl, oldest first; [] where there is none. voided: also those
    beyond a place that the run went back to."""
    try:
        return read_rows((run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace"), voided)
    except OSError:
        return []


def snapshot_file(run: Path, name: str) -> Path:
    return run / "snapshots" / f"{name}.safetensors"


def find(run: Path, metric: str) -> tuple[Path, float] | None:
    """The snapshot that is best by `metric`, and its value, among those of the run that are still there and
    the one that RUN/best names, were it set aside since (renamed) as the run went back.

    Only scores of one protocol are compared: that of the newest row that has the metric.
    """
    rows = read(run)
    scored = [(snapshot_file(run, name), result) for name, result in _scores(rows, metric)]
    if not scored:
        return None
    protocol = scored[-1][1]["protocol_id"]
    link = run / "best"
    if link.is_symlink() and (aside := run / link.readlink()).suffix != ".safetensors":
        void = [row for row in read(run, voided=True) if row not in rows]
        scored += [
            (aside, result) for name, result in _scores(void, metric) if name == aside.stem.split(".")[0]
        ]
    values = {
        file: (result["value"], result["better"])
        for file, result in scored
        if result["protocol_id"] == protocol and file.exists()
    }
    if not values:
        return None
    sign = 1 if next(iter(values.values()))[1] == "lower" else -1
    file = min(values, key=lambda each: (sign * values[each][0], each))
    return file, values[file][0]


def _scores(rows: Iterable[Mapping[str, Any]], metric: str) -> list[tuple[str, Any]]:
    return [
        (str(row["snapshot"]), result)
        for row in rows
        if row.get("snapshot")
        for result in row.get("results", ())
        if result.get("metric") == metric and result.get("value") is not None
    ]


def link(run: Path, file: Path) -> bool:
    """Points RUN/best to a snapshot, at once; True if it changed. Retention spares what it names."""
    target, best = file.relative_to(run), run / "best"
    if best.is_symlink() and best.readlink() == target:
        return False
    temporary = run / f".best.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, best)
    return True


def update(run: Path, metric: str) -> str | None:
    """Brings the link up to date; returns a sentence where it changed."""
    found = find(run, metric)
    if found is None or not link(run, found[0]):
        return None
    return f"best by {metric}: {found[0].stem} ({found[1]:.4g})"
