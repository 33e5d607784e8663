"""Logs to be replayed, of any origin: metrics.jsonl, another program's JSON lines, or CSV → rows in order.

Names of other programs are translated where they are known, the rest by the user's own mapping.
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

from gansmith.errors import UserError
from gansmith.guard.signals import LAYER, PLAIN

POSITION = "position"
# Names of columns in small letters; the user's mapping comes before them.
POSITIONS = (
    *("images_seen", "images", "nimg", "imgs", POSITION, "kimg", "kimages"),
    *("itr", "iter", "iteration", "iterations", "step", "steps", "epoch"),
)  # the first that there is says when, in whatever unit: the guard knows none
OTHER_NAMES = {
    **dict.fromkeys(("d_loss", "loss/d", "discriminator_loss", "dis_loss"), "loss_d"),
    **dict.fromkeys(("g_loss", "loss/g", "generator_loss", "gen_loss"), "loss_g"),
    **dict.fromkeys(("d(x)", "d_real_mean", "loss/scores/real"), "d_real"),
    **dict.fromkeys(("d(g)", "d(g(z))", "d_fake_mean", "loss/scores/fake"), "d_fake"),
    **dict.fromkeys(("fid", "fid50k", "fid50k_full", "frechet"), "score"),
}
OPENS = ("start", "resume", "rollback")
SILENT = {"step", "skipped", "d_held_out"}  # tell something only beside others …
COUNTED = {"step", "skipped"}  # … as these two do together
FEWEST_ROWS = 40  # of a whole run, for a collapse to be seen in time
MOST_LOST, FEWEST_LOST = 0.2, 3  # share and number of rows that may begin anew with nothing saying so


# position, status signals by our names, score with its protocol
Entry = tuple[float, dict[str, Any], tuple[float, str] | None]


@dataclass
class Table:
    """rows: in file order.

    unit: name of the column that says when. signals: which there are. duration: of the run in that unit, as
    far as the log tells. back: indices of rows before which the run went back to an earlier position.
    """

    rows: list[Entry] = field(default_factory=list)
    unit: str = "row"
    signals: set[str] = field(default_factory=set)
    duration: float = 0.0
    back: dict[int, float] = field(default_factory=dict)
    lost: int = 0  # of `back`, without an event that says so
    last: float = -math.inf  # position of the newest status row


def read(path: Path, mapping: Mapping[str, str]) -> Table:
    """Reads a log, or that of a run's folder. mapping: column → signal, `position`, or sigma0/LAYER.

    Text where a number belongs counts as missing; NaN and infinity are what they are. Raises UserError for a
    file that is not there or is none, has no rows, no column that means anything here or two that mean the
    same, a mapped column without numbers, or rows out of order.
    """
    wrong = [f"{column}={signal}" for column, signal in mapping.items() if not _is_known(signal)]
    if wrong:
        raise UserError(
            f"--map {wrong[0]}: there is no such signal; there are {', '.join((POSITION, *PLAIN))} and "
            f"{LAYER}LAYER."
        )
    objects = _objects(path)
    if not any(objects):
        raise UserError(f"{path} has no rows, only the names of columns; give the log of a run that trained.")
    twice = [signal for signal in mapping.values() if list(mapping.values()).count(signal) > 1]
    if twice:
        raise UserError(f"--map …={twice[0]}: two columns cannot be one signal; leave one out.")
    columns = {name for each in objects for name in each}
    if absent := [column for column in mapping if column not in columns]:
        raise UserError(f"--map {absent[0]}=…: {path} has no such column; it has {_listed(columns)}.")
    for column, signal in mapping.items():
        # σ0 of all layers is a table of numbers.
        if signal != "sigma0" and not any(is_number(each.get(column)) for each in objects):
            raise UserError(f"--map {column}={signal}: the column {column} of {path} holds no numbers.")
    ours = any(each.get("type") == "status" for each in objects)
    table = _of_ours(objects, mapping) if ours else _of_others(path, objects, columns, mapping)
    if table.signals <= SILENT and not table.signals >= COUNTED:
        raise UserError(
            f"{path} has no column that the guard looks at; it has {_listed(columns)}. Say what they are, "
            f"e.g. --map Discriminator=loss_d --map Distance=score; signals: {', '.join(PLAIN)}."
        )
    if table.lost > max(FEWEST_LOST, MOST_LOST * len(table.rows)):
        others = [column for column in sorted(columns - {table.unit}) if _ascends(objects, column)]
        way_out = f"name another column, --map {others[0]}=position" if others else "sort the file by it"
        raise UserError(
            f"{path}: {table.lost:,} of {len(table.rows):,} rows are not later than the row before them by "
            f"{table.unit}, which says when; {way_out}."
        )
    return table


def _ascends(objects: list[dict[str, Any]], column: str) -> bool:
    values = [each.get(column) for each in objects]
    return all(is_number(a) and is_number(b) and a < b for a, b in pairwise(values))


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number, be it NaN or infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_known(signal: str) -> bool:
    return signal in PLAIN or signal == POSITION or signal.startswith(LAYER)


def _objects(path: Path) -> list[dict[str, Any]]:
    """The file's rows as they are."""
    if path.is_dir() and not (path := path / "metrics.jsonl").exists():
        raise UserError(f"{path.parent} is a folder without a metrics.jsonl; give a log, or a run's folder.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); give a log.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text; give a CSV file or JSON lines.") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; give a CSV file or JSON lines.")
    if not lines[0].lstrip().startswith(("{", "[")):
        return _csv(path, lines)
    objects = []
    for line in lines:
        try:
            value = json.loads(line)  # reads NaN and Infinity too
        except ValueError:
            continue  # half-written, by a kill
        if isinstance(value, dict):
            objects.append(value)
    if not objects:
        raise UserError(f"{path} is JSON, but not JSON lines: write one object per line (jq -c '.[]' FILE).")
    return objects


def _csv(path: Path, lines: list[str]) -> list[dict[str, Any]]:
    lines = [line for line in lines if not line.lstrip().startswith("#")]
    delimiter = max(",;\t", key=lines[0].count) if lines else ","
    reader = csv.DictReader(io.StringIO("\n".join(lines)), delimiter=delimiter, skipinitialspace=True)
    try:
        return [
            {name.strip(): _cell(cell) for name, cell in row.items() if name and cell not in (None, "")}
            for row in reader
        ]
    except csv.Error as error:
        raise UserError(f"{path} is no table ({error}); give a CSV file or JSON lines.") from None


def _cell(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _of_ours(objects: list[dict[str, Any]], mapping: Mapping[str, str]) -> Table:
    table = Table(unit="images_seen")
    for each in objects:
        kind, position = each.get("type"), each.get("images_seen")
        if not is_number(position):
            continue
        if kind in OPENS:
            table.back[len(table.rows)] = position
        elif kind == "status":
            row = {column: value for column, value in each.items() if column not in mapping}
            row |= {signal: each[column] for column, signal in mapping.items() if column in each}
            _add(table, position, {name: v for name, v in row.items() if not isinstance(v, str)}, None)
            eta, rate = each.get("eta_seconds"), each.get("images_per_second")
            if is_number(eta) and is_number(rate):
                table.duration = round(position + eta * rate)
        elif kind == "evaluation" and (score := distance(each)):
            _add(table, position, {}, score)
    return table


def distance(evaluation: Mapping[str, Any]) -> tuple[float, str] | None:
    """The first Fréchet distance of an evaluation row that is a number, and the id of its protocol."""
    results = evaluation.get("results")
    for result in results if isinstance(results, list) else ():
        if not isinstance(result, Mapping) or not str(result.get("metric", "")).startswith("frechet"):
            continue
        if is_number(value := result.get("value")):
            return float(value), str(result.get("protocol_id", ""))
    return None


def _of_others(
    path: Path, objects: list[dict[str, Any]], columns: set[str], mapping: Mapping[str, str]
) -> Table:
    meaning = _meanings(path, columns, mapping)
    given = [column for column, signal in mapping.items() if signal == POSITION]
    clocks = given or [name for key in POSITIONS for name in sorted(columns) if name.lower() == key]
    clock = clocks[0] if clocks else None
    table = Table(unit=clock or "row")
    for at, each in enumerate(objects, start=1):
        position = each.get(clock) if clock else at
        if not is_number(position) or not math.isfinite(position):
            continue
        row = {
            signal: each[column]
            for column, signal in meaning.items()
            if is_number(each.get(column)) or (signal == "sigma0" and column in each)
        }
        score = row.pop("score", None)
        _add(table, position, row, (float(score), "") if is_number(score) else None)
    return table


def _meanings(path: Path, columns: set[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Column → signal: as the user says, the rest by their names."""
    meaning = {column: signal for column, signal in mapping.items() if signal != POSITION}
    for column in sorted(columns - mapping.keys()):
        signal = _meaning(column)
        if signal is None or signal in mapping.values():
            continue
        if signal in meaning.values():
            other = next(each for each, known in meaning.items() if known == signal)
            raise UserError(
                f"{path}: columns {other} and {column} are both {signal}; say which one is meant: "
                f"--map {other}={signal} or --map {column}={signal}."
            )
        meaning[column] = signal
    return meaning


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
        table.lost += 1
    if found:
        table.last = position
    table.signals |= found | ({"score"} if score else set())
    table.rows.append((position, row, score))
    table.duration = max(table.duration, position)


def _listed(columns: set[str]) -> str:
    names = sorted(columns)
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") if names else "none at all"
