"""A run's metrics.jsonl as rows: what is readable, and which rows still belong to the run.

After a kill or a rollback `images_seen` repeats: what was logged beyond the place a run went back to is a
branch that leads nowhere. Those rows are kept and marked, never mixed with the others. Knows nothing of
curves, pages or networks.
"""

import bisect
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gansmith.errors import UserError

OPENS = {"start", "resume", "rollback"}  # the run (re)starts at this row's images_seen


@dataclass
class Row:
    """One object of the log. abandoned: logged on a branch that the run later went back from."""

    data: dict[str, Any]
    abandoned: bool = False

    @property
    def kind(self) -> str:
        return str(self.data.get("type", "?"))

    @property
    def images(self) -> float | None:
        return number(self.data.get("images_seen"))


@dataclass
class Log:
    """All rows of a log in file order, and what could not be read, in words."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def of(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row.kind == kind]


def number(value: Any) -> float | None:
    """A finite number, or None for everything else (null, NaN, text, true)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def read(path: Path) -> Log:
    """Reads a metrics.jsonl. A missing file is an empty log; lines that are no JSON objects are left out and
    counted. Raises UserError for a file that cannot be read at all.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return Log()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    log = Log()
    lines = text.split("\n")
    bad = []
    for at, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            log.rows.append(Row(value))
        else:
            bad.append(at)
    if bad and bad[-1] == len(lines):  # no newline after it: still being written, or cut by a kill
        log.problems.append(f"{path.name}: the last line is half-written and was left out")
        bad.pop()
    if bad:
        where = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        log.problems.append(f"{path.name}: {len(bad)} damaged lines were left out (line {where})")
    mark_abandoned(log.rows)
    return log


def mark_abandoned(rows: list[Row]) -> None:
    """Marks what lies beyond the places that the run went back to.

    It goes back at start, resume and rollback events, and where a status row repeats `images_seen` without
    such an event (a log whose events were lost).
    """
    alive: list[tuple[float, Row]] = []  # by images seen; a late evaluation is put where it belongs
    for row in rows:
        here = row.images
        if here is None:
            continue
        if row.kind in OPENS or row.kind == "status":
            while alive and alive[-1][0] > here:
                alive.pop()[1].abandoned = True
        if row.kind == "status" and alive and alive[-1][0] == here:
            twins = [pair for pair in alive if pair[0] == here and pair[1].kind == "status"]
            for pair in twins:
                alive.remove(pair)
                pair[1].abandoned = True
        bisect.insort(alive, (here, row), key=lambda pair: pair[0])
