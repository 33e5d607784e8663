"""Rows → curves: which charts there are, which rows a line keeps, and where everything lies on the axes.

A long run has more rows than a screen has pixels. A line then keeps, per stretch of the axis, its first,
last, smallest and largest value, so that no spike is lost and no value is invented. Knows nothing of HTML.
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gansmith.report.records import Log, Row, number

STRETCHES = 300  # of the axis; a line keeps at most four rows of each
STRETCHES_OF_MANY = 100  # there may be a hundred layers
NAMED = 6  # of many lines; the others are grey

# title, note, key of a status row → label
CHARTS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Losses", "means since the row before", {"loss_d": "L_D", "loss_g": "L_G"}),
    ("D’s output", "mean logit on reals and on fakes", {"d_real": "D(real)", "d_fake": "D(fake)"}),
    ("Gradient norms", "of the whole network", {"gradient_norm_d": "|g_D|", "gradient_norm_g": "|g_G|"}),
    (
        "Diversity",
        "of fixed latents in D’s features, as a multiple of the same of real images",
        {"diversity": "all", "diversity_class_min": "the least varied class", "effective_rank": "rank"},
    ),
    ("Duplicates", "share of fixed latents that come out like another one", {"duplicates": "duplicates"}),
    (
        "D on held-out images",
        "mean logit on images that are not trained on; how much more those trained on get",
        {"d_held_out": "D(held out)", "d_gap": "gap"},
    ),
    ("σ0 : σ1", "of the layer where it is largest", {"sigma_ratio_d": "D", "sigma_ratio_g": "G"}),
    (
        "Gradient noise scale",
        "images at which a gradient’s noise is as large as the gradient",
        {"noise_scale_d": "D", "noise_scale_g": "G"},
    ),
    (
        "Slopes of D",
        "‖∇D‖² on reals (R1) and fakes (R2), (‖∇D‖ − 1)² between them",
        {"r1": "R1", "r2": "R2", "gradient_penalty": "gradient penalty"},
    ),
    ("LeCam", "how far logits are on the other side’s ground, squared", {"lecam": "LeCam"}),
    (
        "Consistency of D",
        "squared change of a logit by a transformation",
        {"consistency_real": "reals", "consistency_fake": "fakes"},
    ),
    (
        "Adaptive augmentation",
        "its probability, and the mean sign of D(real) that it follows",
        {"ada_p": "p", "ada_sign": "sign"},
    ),
    (
        "Regularised weights",
        "ΣW² of D; squared distances of σ0 from its target, summed over layers",
        {"l2_d": "ΣW²", "sigma_penalty_d": "σ0 of D", "sigma_penalty_g": "σ0 of G"},
    ),
    ("Learning rates", "", {"lr_d": "D", "lr_g": "G"}),
    ("Batch", "images per D phase", {"batch": "batch"}),
    ("Speed", "images per second", {"images_per_second": "images/s"}),
    ("Peak memory", "GiB", {"peak_gib": "GiB"}),
    ("Skipped steps", "with non-finite gradients, counted from the start", {"skipped": "skipped"}),
    ("Loss scale", "of fp16 arithmetic", {"scale_d": "D", "scale_g": "G"}),
)
ACTIVE = "_active"  # ends the names of the shares of steps in which something acted
# Positions and times are axes, not curves; a null there, or in `skipped`, is no broken number.
AXES = {"images_seen", "step", "seconds", "time", "epoch", "eta_seconds"}
MAY_BE_NULL = {"skipped"}


@dataclass(frozen=True)
class Many:
    """A chart with a line per column whose name begins so, those with the largest (or smallest) last values
    named. extreme: the column with the largest or smallest of them, drawn where there are none, and of
    references.
    """

    title: str
    note: str
    prefix: str
    extreme: str
    largest: bool = True


MANY = (
    Many("σ0 in G", "largest singular value per layer", "sigma0/G.", "sigma0_g"),
    Many("σ0 in D", "largest singular value per layer", "sigma0/D.", "sigma0_d"),
    Many(
        "Diversity by class",
        "as a multiple of that of real images",
        "diversity_class/",
        "diversity_class_min",
        largest=False,
    ),
)
STATUS_KEYS = {key for _, _, lines in CHARTS for key in lines} | {many.extreme for many in MANY}


@dataclass(frozen=True)
class Source:
    """A log to draw: the run itself, or a reference laid over it."""

    name: str
    log: Log


class Clock:
    """Where a number of images lies on the other two axes, by interpolation between status rows."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._known: dict[str, list[tuple[float, float]]] = {"step": [], "seconds": []}
        for row in rows:
            if row.abandoned or row.images is None:
                continue
            for key, known in self._known.items():
                value = number(row.data.get(key))
                if value is not None and (not known or row.images > known[-1][0]):
                    known.append((row.images, value))

    def places(self, images: Sequence[float]) -> dict[str, list[float | None]]:
        """Columns images, step, hours for numbers of images."""
        hours = [self._at("seconds", x) for x in images]
        return {
            "images": list(images),
            "step": [self._at("step", x) for x in images],
            "hours": [None if value is None else round(value / 3600, 5) for value in hours],
        }

    def _at(self, key: str, images: float) -> float | None:
        known = self._known[key]
        if not known or images > known[-1][0]:
            return known[-1][1] if known and images <= 1.02 * known[-1][0] else None
        place = bisect.bisect_left(known, (images, -1.0))
        x1, v1 = known[place]
        x0, v0 = known[place - 1] if place else (0.0, 0.0)
        return round(v0 + (v1 - v0) * (images - x0) / (x1 - x0), 3) if x1 > x0 else v1


def thin(x: Sequence[float], values: Sequence[float | None], stretches: int) -> list[int]:
    """Indices to keep: of each stretch of the axis the first, last, smallest, largest and one missing
    value. All are kept when there are few.
    """
    if len(x) <= 4 * stretches:
        return list(range(len(x)))
    start, width = x[0], (max(x) - min(x)) / stretches or 1.0
    bins: dict[int, list[int]] = {}
    for index, place in enumerate(x):
        bins.setdefault(min(int((place - start) / width), stretches - 1), []).append(index)
    kept: set[int] = set()
    for members in bins.values():
        present = [i for i in members if values[i] is not None]
        kept.update((members[0], members[-1]))
        kept.update([i for i in members if values[i] is None][:1])
        if present:
            kept.add(min(present, key=lambda i: values[i] or 0.0))
            kept.add(max(present, key=lambda i: values[i] or 0.0))
    return sorted(kept)


def charts(sources: Sequence[Source]) -> dict[str, Any]:
    """{"tables": one per source, columns of row positions; "charts": a list of dictionaries}.

    A line holds indices `i` into its table and values `v` (null: not finite there); `gone` is the same for
    abandoned rows. Charts without a single number are left out.
    """
    logs = [_Status(source.log) for source in sources]
    known = [_simple(title, note, lines, sources, logs) for title, note, lines in CHARTS]
    many = [_many(spec, sources, logs) for spec in MANY]
    keys = {key for log in logs for key in log.columns if "/" not in key} - STATUS_KEYS
    acting = {key: key.removesuffix(ACTIVE) for key in sorted(keys) if key.endswith(ACTIVE)}
    active = _simple("Stabilisers at work", "share of steps", acting, sources, logs)
    rest = sorted(keys - acting.keys())
    own = [_simple(key, "logged by this run’s objective", {key: key}, sources, logs) for key in rest]
    drawn = [chart for chart in (*known[:3], *many, *own, *known[3:], active) if chart["lines"]]
    return {"tables": [log.compact(drawn, at) for at, log in enumerate(logs)], "charts": drawn}


class _Status:
    """The status rows of a log as columns."""

    def __init__(self, log: Log) -> None:
        self.rows = [row for row in log.of("status") if row.images is not None]
        self.x = [row.images or 0.0 for row in self.rows]
        self.columns: dict[str, dict[int, float | None]] = {}
        for index, row in enumerate(self.rows):
            for key, value in row.data.items():
                nested = value.items() if isinstance(value, dict) else [("", value)]
                for name, entry in nested:
                    usable = entry is None or (isinstance(entry, int | float) and not isinstance(entry, bool))
                    if key not in AXES | {"type"} and usable:
                        self.columns.setdefault(f"{key}/{name}" if name else key, {})[index] = number(entry)
        for key in MAY_BE_NULL & set(self.columns):
            self.columns[key] = {i: v for i, v in self.columns[key].items() if v is not None}
        self.columns = {
            key: column for key, column in self.columns.items() if any(v is not None for v in column.values())
        }

    def line(self, key: str, stretches: int) -> dict[str, Any] | None:
        """Kept points of a column, or None where it has no number."""
        column = self.columns.get(key)
        if column is None:
            return None
        line: dict[str, Any] = {}
        for part, abandoned in (("", False), ("gone", True)):
            members = [i for i in column if self.rows[i].abandoned is abandoned]
            kept = [
                members[k]
                for k in thin([self.x[i] for i in members], [column[i] for i in members], stretches)
            ]
            points = {"i": kept, "v": [shorten(column[i]) for i in kept]}
            line |= {part: points} if part and kept else points if not part else {}
            if not part and len(kept) < len(members):
                line["of"] = len(members)
        return line

    def compact(self, drawn: list[dict[str, Any]], source: int) -> dict[str, list[float | None]]:
        """The positions of those rows that lines kept; renumbers the lines' indices to them."""
        lines = [line for chart in drawn for line in chart["lines"] if line["source"] == source]
        parts = [part for line in lines for part in (line, line.get("gone")) if part]
        kept = sorted({index for part in parts for index in part["i"]})
        new = {index: place for place, index in enumerate(kept)}
        for part in parts:
            part["i"] = [new[index] for index in part["i"]]
        seconds = [number(self.rows[i].data.get("seconds")) for i in kept]
        return {
            "images": [self.x[i] for i in kept],
            "step": [number(self.rows[i].data.get("step")) for i in kept],
            "hours": [None if value is None else round(value / 3600, 5) for value in seconds],
        }


def _simple(
    title: str, note: str, keys: dict[str, str], sources: Sequence[Source], logs: list[_Status]
) -> dict[str, Any]:
    lines = []
    for at, (source, log) in enumerate(zip(sources, logs)):
        for color, (key, label) in enumerate(keys.items()):
            line = log.line(key, STRETCHES)
            if line:
                name = label if at == 0 else f"{label} · {source.name}"
                lines.append({"label": name, "source": at, "color": color} | line)
    return {"title": title, "note": note, "lines": lines}


def _many(many: Many, sources: Sequence[Source], logs: list[_Status]) -> dict[str, Any]:
    run = logs[0]
    keys = [key for key in run.columns if key.startswith(many.prefix)]

    def last(key: str) -> float:
        alive = [v for i, v in run.columns[key].items() if v is not None and not run.rows[i].abandoned]
        return alive[-1] if alive else 0.0

    ranked = sorted(keys, key=last, reverse=many.largest)
    lines = []
    called = "largest" if many.largest else "smallest"
    for rank, key in enumerate(ranked):
        line = run.line(key, STRETCHES_OF_MANY)
        if line:
            color = rank if rank < NAMED else None
            lines.append({"label": key.removeprefix(many.prefix), "source": 0, "color": color} | line)
    if not lines and (line := run.line(many.extreme, STRETCHES)):
        lines.append({"label": called, "source": 0, "color": 0} | line)
    for at, (source, log) in enumerate(zip(sources[1:], logs[1:]), start=1):
        if line := log.line(many.extreme, STRETCHES):
            lines.append({"label": f"{called} · {source.name}", "source": at, "color": 0} | line)
    grey = max(len(ranked) - NAMED, 0)
    note = many.note + (f"; {NAMED} named, {grey} in grey" if grey else "")
    return {"title": many.title, "note": note, "lines": lines}


def shorten(value: float | None) -> float | None:
    """Five significant digits: what a chart can show."""
    return None if value is None else float(f"{value:.5g}")
