"""Logs to be replayed, of any origin: metrics.jsonl, another program's JSON lines, or CSV → rows in order.

Names of other programs are translated where they are known, the rest by the user's own mapping.
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gansmith.errors import UserError
from gansmith.guard.signals import LAYER, PLAIN

POSITION = "position"
# column, in small letters → (what it is, factor); the user's mapping comes first
POSITIONS = {
    **dict.fromkeys(("images_seen", "images", "nimg", "imgs", POSITION), 1.0),
    **dict.fromkeys(("kimg", "kimages"), 1000.0),
    **dict.fromkeys(("itr", "iter", "iteration", "iterations", "step", "steps", "epoch"), 1.0),
}
OTHER_NAMES = {
    **dict.fromkeys(("d_loss", "loss/d", "discriminator_loss", "dis_loss"), "loss_d"),
    **dict.fromkeys(("g_loss", "loss/g", "generator_loss", "gen_loss"), "loss_g"),
    **dict.fromkeys(("d(x)", "d_real_mean", "loss/scores/real"), "d_real"),
    **dict.fromkeys(("d(g)", "d(g(z))", "d_fake_mean", "loss/scores/fake"), "d_fake"),
    **dict.fromkeys(("fid", "fid50k", "fid50k_full", "frechet", "best_fid"), "score"),
}
OPENS = ("start", "resume", "rollback")


# position, status signals by our names, score with its protocol
Entry = tuple[float, dict[str, Any], tuple[float, str] | None]


@dataclass
class Table:
    """rows: in file order.

    unit: name of the column that says when. signals: which there are. duration: of the run in that unit, as
    far as the log tells. back: indices of rows before which the run went back to an earlier position.
    collapses: those of `back` at which the guard went back.
    """

    rows: list[Entry] = field(default_factory=list)
    unit: str = "row"
    signals: set[str] = field(default_factory=set)
    duration: float = 0.0
    back: dict[int, float] = field(default_factory=dict)
    collapses: set[int] = field(default_factory=set)
    last: float = -math.inf  # position of the newest status row


def read(path: Path, mapping: Mapping[str, str]) -> Table:
    """Reads a log. mapping: column → signal, `position`, or sigma0/LAYER.

    Raises UserError for a file that is not there, is none, or has no column that means anything here.
    """
    wrong = [f"{column}={signal}" for column, signal in mapping.items() if not _is_known(signal)]
    if wrong:
        raise UserError(
            f"--map {wrong[0]}: there is no such signal; there are {', '.join((POSITION, *PLAIN))} and "
            f"{LAYER}LAYER."
        )
    objects = _objects(path)
    columns = {name for each in objects for name in each}
    if absent := [column for column in mapping if column not in columns]:
        raise UserError(f"--map {absent[0]}=…: {path} has no such column; it has {_listed(columns)}.")
    ours = any(each.get("type") == "status" for each in objects)
    table = _of_ours(objects, mapping) if ours else _of_others(objects, columns, mapping)
    if not table.signals:
        raise UserError(
            f"{path} has no column that the guard looks at; it has {_listed(columns)}. Say what they are, "
            f"e.g. --map Discriminator=loss_d --map Distance=score; signals: {', '.join(PLAIN)}."
        )
    return table


def _is_known(signal: str) -> bool:
    return signal in PLAIN or signal == POSITION or signal.startswith(LAYER)


def _objects(path: Path) -> list[dict[str, Any]]:
    """The file's rows as they are."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give its metrics.jsonl.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); give a log.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text; give a CSV file or JSON lines.") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; give a CSV file or JSON lines.")
    if not lines[0].lstrip().startswith("{"):
        return _csv(lines)
    objects = []
    for line in lines:
        try:
            value = json.loads(line)  # reads NaN and Infinity too
        except ValueError:
            continue  # half-written, by a kill
        if isinstance(value, dict):
            objects.append(value)
    return objects


def _csv(lines: list[str]) -> list[dict[str, Any]]:
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    reader = csv.DictReader(io.StringIO("\n".join(lines)), delimiter=delimiter, skipinitialspace=True)
    return [
        {name.strip(): _cell(cell) for name, cell in row.items() if name and cell not in (None, "")}
        for row in reader
    ]


def _cell(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _of_ours(objects: list[dict[str, Any]], mapping: Mapping[str, str]) -> Table:
    table = Table(unit="images_seen")
    for each in objects:
        kind, position = each.get("type"), each.get("images_seen")
        if not isinstance(position, int | float):
            continue
        if kind in OPENS:
            table.back[len(table.rows)] = position
            if kind == "rollback":
                table.collapses.add(len(table.rows))
        elif kind == "status":
            row = each | {signal: each[column] for column, signal in mapping.items() if column in each}
            _add(table, position, row, None)
            eta, rate = each.get("eta_seconds"), each.get("images_per_second")
            if isinstance(eta, int | float) and isinstance(rate, int | float):
                table.duration = round(position + eta * rate)
        elif kind == "evaluation" and (score := distance(each)):
            _add(table, position, {}, score)
    return table


def distance(evaluation: Mapping[str, Any]) -> tuple[float, str] | None:
    """The first Fréchet distance of an evaluation row, and the id of its protocol."""
    results = evaluation.get("results")
    for result in results if isinstance(results, list) else ():
        if isinstance(result, Mapping) and str(result.get("metric", "")).startswith("frechet"):
            value = result.get("value")
            return (math.nan if value is None else float(value)), str(result.get("protocol_id", ""))
    return None


def _of_others(objects: list[dict[str, Any]], columns: set[str], mapping: Mapping[str, str]) -> Table:
    meaning = {column: name for column in sorted(columns) if (name := _meaning(column))} | dict(mapping)
    given = [column for column, signal in mapping.items() if signal == POSITION]
    clocks = given or [name for key in POSITIONS for name in sorted(columns) if name.lower() == key]
    clock = clocks[0] if clocks else None
    factor = POSITIONS.get(clock.lower(), 1.0) if clock else 1.0
    table = Table(unit=clock or "row")
    for at, each in enumerate(objects, start=1):
        position = each.get(clock) if clock else at
        if not isinstance(position, int | float) or not math.isfinite(position):
            continue
        row = {signal: each[column] for column, signal in meaning.items() if column in each}
        row.pop(POSITION, None)
        score = row.pop("score", None)
        usable = isinstance(score, int | float) and not isinstance(score, bool)
        _add(table, position * factor, row, (float(score), "") if usable else None)
    return table


def _meaning(column: str) -> str | None:
    name = column.lower().replace(" ", "_")
    if name in PLAIN or column.startswith(LAYER) or column == "sigma0":
        return name if name in PLAIN else column
    return OTHER_NAMES.get(name)


def _add(table: Table, position: float, row: dict[str, Any], score: tuple[float, str] | None) -> None:
    found = {name for name in row if name in PLAIN or name.startswith(LAYER) or name == "sigma0"}
    if not found and score is None:
        return
    if found and table.rows and position <= table.last and len(table.rows) not in table.back:
        table.back[len(table.rows)] = position - 0.5  # a row again: by an event that was lost
    if found:
        table.last = position
    table.signals |= found | ({"score"} if score else set())
    table.rows.append((position, row, score))
    table.duration = max(table.duration, position)


def _listed(columns: set[str]) -> str:
    names = sorted(columns)
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none at all"
