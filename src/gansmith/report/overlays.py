"""Reference logs to lay over a run: another run's metrics.jsonl, or a CSV such as a published curve.

A CSV becomes a log of the same kind of rows, so that nothing after this room has to know the difference.
"""

import csv
import difflib
import io
import math
from collections.abc import Iterable
from pathlib import Path

from gansmith.errors import UserError
from gansmith.report import records
from gansmith.report.curves import STATUS_KEYS, Source
from gansmith.report.records import Log, Row

# column of a CSV → (axis, factor); a step needs to be told how many images it shows
POSITIONS = {
    **dict.fromkeys(("images_seen", "images", "nimg", "imgs"), ("images", 1.0)),
    **dict.fromkeys(("kimg", "kimages"), ("images", 1000.0)),
    **dict.fromkeys(("step", "steps", "iteration", "iterations", "iter", "itr"), ("step", 1.0)),
    "seconds": ("seconds", 1.0),
    "hours": ("seconds", 3600.0),
}
OTHER_NAMES = {
    "d_loss": "loss_d",
    "g_loss": "loss_g",
    "d_loss_real": "d_real",
    "inception_score": "IS",
    "is_mean": "IS",
    "img/s": "images_per_second",
}
# names of scores, before the feature network's (`precision-EffNetLite0`), as written in a run's log
SCORES = {
    name.lower(): name
    for name in (
        "FID",
        "FID∞",
        "FD",
        "FD∞",
        "KID",
        "KD",
        "IS",
        "CAS",
        "precision",
        "recall",
        "density",
        "coverage",
    )
}
HIGHER = {"IS", "CAS", "precision", "recall", "density", "coverage"}


def read(spec: str, scores: Iterable[str] = ()) -> Source:
    """Opens `PATH[,name=LABEL][,step=IMAGES][,COLUMN=METRIC…]`.

    scores: names of scores that a column may have, besides the common ones. Raises UserError for a file that
    is not there, has no rows, or has columns that mean nothing here.
    """
    path, options = _split(spec)
    name = options.pop("name", None)
    if path.is_dir() or path.suffix == ".jsonl":
        if options:
            raise UserError(
                f"--overlay {spec}: {next(iter(options))}= is for CSV files; a run needs name= only."
            )
        file = path / "metrics.jsonl" if path.is_dir() else path
        if not file.is_file() and (path / "config.yaml").is_file():
            raise UserError(f"--overlay {path} has not trained yet: it has no metrics.jsonl; leave it out.")
        if not file.is_file():
            raise UserError(f"--overlay {path}: no metrics.jsonl in it; give a run's folder or a CSV file.")
        log = records.read(file)
        if not log.of("status") and not log.of("evaluation"):
            raise UserError(f"--overlay {path} has no status or evaluation rows yet; leave it out.")
        return Source(name or file.resolve().parent.name, log)
    if not path.is_file():
        raise UserError(f"--overlay {path} is not there; give a run's folder, a metrics.jsonl or a CSV file.")
    return Source(name or path.stem, _table(path, options, set(scores)))


def _split(spec: str) -> tuple[Path, dict[str, str]]:
    if Path(spec).exists():
        return Path(spec), {}
    parts = spec.split(",")
    options: dict[str, str] = {}
    while len(parts) > 1 and "=" in parts[-1]:
        key, _, value = parts.pop().partition("=")
        options[key.strip()] = value.strip()
    return Path(",".join(parts)), options


def _table(path: Path, options: dict[str, str], scores: set[str]) -> Log:
    lines = _lines(path)
    delimiter = max(",;\t", key=lines[0].count)
    header, *body = list(
        csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter, skipinitialspace=True)
    )
    header = [cell.strip() for cell in header]
    if all(_is_number(cell) for cell in header):
        raise UserError(f"--overlay {path}: the first line must name the columns, e.g. `images,FID`.")
    per_step = _images_per_step(path, options)
    meaning = _meanings(path, header, options, scores)
    if "images" not in {axis for axis, _ in meaning.values()}:
        if "step" not in {axis for axis, _ in meaning.values()}:
            raise UserError(
                f"--overlay {path} has no column that says when: one of {', '.join(sorted(POSITIONS))}."
            )
        if per_step is None:
            raise UserError(
                f"--overlay {path} counts steps; say how many real images a step shows (batch × D steps), "
                f"e.g. --overlay {path},step=4096."
            )
    log = Log()
    for at, cells in enumerate(body, start=2):
        row = {
            key: (axis, factor, _cell(path, at, header[key], cells[key]))
            for key, (axis, factor) in meaning.items()
            if key < len(cells)
        }
        _add(log, row, per_step)
    if not log.rows:
        raise UserError(f"--overlay {path} has no row with a number in it.")
    log.rows.sort(key=lambda row: row.images or 0.0)
    return log


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--overlay {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise UserError(f"--overlay {path} is no text file; give a CSV file or a run's folder.") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or "\0" in text:
        raise UserError(f"--overlay {path} is {'no text file' if lines else 'empty'}; give a CSV file.")
    return lines


def _images_per_step(path: Path, options: dict[str, str]) -> float | None:
    text = options.pop("step", None)
    if text is None:
        return None
    if not _is_number(text) or not float(text) > 0:
        raise UserError(f"--overlay {path},step={text}: must be a number of images per step, e.g. step=4096.")
    return float(text)


def _meanings(
    path: Path, header: list[str], options: dict[str, str], scores: set[str]
) -> dict[int, tuple[str, float]]:
    """Index of a column → (axis or metric, factor). Columns mapped to nothing (`loss=`) are left out."""
    known = SCORES | {name.lower(): name for name in sorted(STATUS_KEYS | scores)} | OTHER_NAMES
    missing = [column for column in options if column not in header]
    if missing:
        raise UserError(
            f"--overlay {path}: there is no column {missing[0]!r}; its columns: {', '.join(header)}."
        )
    meaning: dict[int, tuple[str, float]] = {}
    unknown = []
    for index, column in enumerate(header):
        wanted = options.get(column, column)
        word = wanted.lower().replace(" ", "_")
        if not wanted:
            continue
        if word in POSITIONS:
            meaning[index] = POSITIONS[word]
        elif word in known:
            meaning[index] = (known[word], 1.0)
        elif (base := word.partition("-")[0]) in SCORES and base != word:
            meaning[index] = (f"{SCORES[base]}-{wanted.partition('-')[2]}", 1.0)
        else:
            unknown.append(wanted)
    if unknown:
        raise UserError(_unknown(path, header, unknown, known))
    names = [name for name, _ in meaning.values()]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"--overlay {path}: two columns are {twice[0]}; leave one out, e.g. "
            f"--overlay {path},{header[list(meaning)[names.index(twice[0])]]}="
        )
    return meaning


def _unknown(path: Path, header: list[str], unknown: list[str], known: dict[str, str]) -> str:
    near = difflib.get_close_matches(unknown[0].lower(), known, n=1)
    metric = known[near[0]] if near else "FID"
    column = unknown[0] if unknown[0] in header else header[-1]
    return (
        f"--overlay {path}: unknown columns: {', '.join(unknown)}. Name what they are "
        f"(--overlay {path},{column}={metric}) or leave them out (--overlay {path},{column}=). Known: "
        f"{', '.join(sorted(POSITIONS))}; {', '.join(sorted(set(known.values())))}, FD-…"
    )


def _add(log: Log, cells: dict[int, tuple[str, float, float | None]], per_step: float | None) -> None:
    """One line of the CSV as a status row and, where it has scores, an evaluation row."""
    values = {name: value * factor for name, factor, value in cells.values() if value is not None}
    step, images = values.pop("step", None), values.pop("images", None)
    if images is None and step is not None and per_step is not None:
        images = step * per_step
    if images is None:
        return
    common = {"images_seen": images, "step": step, "seconds": values.pop("seconds", None)}
    status = {name: value for name, value in values.items() if name in STATUS_KEYS}
    scores = {name: value for name, value in values.items() if name not in STATUS_KEYS}
    # A row of scores alone is a status row without curves: it places the scores on the other axes.
    if status or step is not None or common["seconds"] is not None:
        log.rows.append(Row({"type": "status"} | common | status))
    if scores:
        results = [{"name": name, "value": value, "better": _better(name)} for name, value in scores.items()]
        log.rows.append(Row({"type": "evaluation", "images_seen": images, "results": results}))


def _better(name: str) -> str:
    return "higher" if name.partition("-")[0] in HIGHER else "lower"


def _cell(path: Path, line: int, column: str, text: str) -> float | None:
    text = text.strip()
    if text.lower() in ("", "-", "nan", "none", "null", "inf", "-inf"):
        return None
    if not _is_number(text):
        raise UserError(f"--overlay {path}: row {line}, column {column}: {text!r} is no number.")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
