"""What the guard would have said of a run, and when: its log played back to a detector.

Where the run went back, so does the detector: to what it knew there, as it does live from a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gansmith.guard.detector import Detector, Verdict
from gansmith.guard.tables import Entry, Table


@dataclass(frozen=True)
class Replayed:
    """changes: verdicts that differ in state from the one before, in file order. last: after the last row."""

    changes: list[Verdict]
    last: Verdict


def replay(table: Table, duration: float | None = None) -> Replayed:
    """Plays the rows back. duration: of the run, in the table's unit; None: what the log tells."""
    length = duration or table.duration
    detector = Detector(length)
    alive: list[Entry] = []
    changes: list[Verdict] = []
    verdict = Verdict(table.rows[0][0])
    for index, (position, row, score) in enumerate(table.rows):
        if index in table.back:
            alive = [each for each in alive if each[0] <= table.back[index]]
            detector = Detector(length)
            for earlier in alive:
                _observe(detector, *earlier)
            if detector.state != verdict.state:
                changes.append(Verdict(table.back[index], detector.state, changed=True))
        alive.append((position, row, score))
        for verdict in _observe(detector, position, row, score):
            if verdict.changed:
                changes.append(verdict)
    return Replayed(changes, verdict)


def _observe(
    detector: Detector, position: float, row: Mapping[str, Any], score: tuple[float, str] | None
) -> list[Verdict]:
    verdicts = [detector.observe(position, row)] if row else []
    return verdicts + ([detector.observe_score(position, *score)] if score else [])
