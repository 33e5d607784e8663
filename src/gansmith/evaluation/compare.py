"""Results side by side: who is better, where that may be said at all.

Scores of unlike protocols are shown and never ranked; of like ones the better is named only where the
difference is more than chance. Reads result files and runs; knows no networks.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gansmith.errors import UserError
from gansmith.evaluation import protocol
from gansmith.evaluation.protocol import Result

# One pass says nothing about its spread; scores of equal runs differ by a few per cent.
CHANCE = 0.05


@dataclass(frozen=True)
class Row:
    """One score of every contestant. verdict: a sentence; winner: index, None where nobody is named."""

    name: str
    better: str
    values: list[Result | None]
    winner: int | None
    verdict: str


def load(path: str | Path) -> list[Result]:
    """The results in a JSON file of `gansmith eval --out`, or the newest of each score in a run.

    Raises UserError where there are none.
    """
    path = Path(path)
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.is_file():
        what = "is no run with scores" if path.is_dir() else "does not exist"
        raise UserError(
            f"{path} {what}; give a run that was scored, or a file made by `gansmith eval TARGET --out FILE`."
        )
    newest: dict[tuple[str, str], Result] = {}
    try:
        text = file.read_text(encoding="utf-8")
        rows = read_rows(text) if file.suffix == ".jsonl" else [json.loads(text)]
        for row in rows:
            for each in row["results"]:
                result = Result.from_json(each)
                newest[result.metric, result.name] = result
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} holds no results of `gansmith eval` ({error!r}).") from None
    if not newest:
        raise UserError(f"{path} was never scored; run `gansmith eval {path}` first.")
    return list(newest.values())


def read_rows(text: str, voided: bool = False) -> list[dict[str, Any]]:
    """The evaluations among the lines of a metrics.jsonl; a line that a kill cut short is passed over.

    Those of snapshots beyond the place that a run went back to are left out, as it makes them anew, unless
    `voided`.
    """
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict):
            continue
        if row.get("type") == "evaluation" and isinstance(row.get("results"), list):
            rows.append(row)
        elif row.get("type") in ("start", "resume", "rollback") and not voided:
            here = row.get("images_seen")
            rows = [each for each in rows if here is None or each.get("images_seen", 0) <= here]
    return rows


def compare(contestants: Sequence[Sequence[Result]], names: Sequence[str]) -> list[Row]:
    """Every score that anyone has, in the order of the first mention."""
    keys = dict.fromkeys((result.metric, result.name) for results in contestants for result in results)
    rows = []
    for key in keys:
        values = [next((r for r in each if (r.metric, r.name) == key), None) for each in contestants]
        winner, verdict = _judge(values, names)
        better = next(value.better for value in values if value)
        rows.append(Row(key[1], better, values, winner, verdict))
    return rows


def _judge(values: Sequence[Result | None], names: Sequence[str]) -> tuple[int | None, str]:
    present = [(index, value) for index, value in enumerate(values) if value and value.value is not None]
    if len(present) < 2:
        return None, "nothing to compare with"
    unlike = protocol.differences(value.protocol for _, value in present)
    if unlike:
        listed = "; ".join(
            f"{field} {' / '.join(_short(value) for value in found)}" for field, found in unlike.items()
        )
        return None, f"not ranked, protocols differ: {listed}"
    sign = 1 if present[0][1].better == "lower" else -1
    (first, best), (_, second) = sorted(present, key=lambda item: sign * (item[1].value or 0))[:2]
    assert best.value is not None
    assert second.value is not None
    difference = abs(best.value - second.value)
    if best.sd is not None and second.sd is not None:
        spread, what = best.sd + second.sd, "the two standard deviations together"
    else:
        spread, what = CHANCE * max(abs(best.value), abs(second.value)), "5 %, and of chance nothing is known"
    if difference <= spread:
        return None, f"no winner: the difference {difference:.4g} is within {what}"
    return first, f"{names[first]} is better"


def _short(value: Any) -> str:
    text = "none" if value is None else f"{value}"
    is_hash = len(text) > 20 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_hash else text
