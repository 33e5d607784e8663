"""One HTML file from everything that was read: text in Python, pictures and curves as data for the scripts.

Whatever comes from a run is escaped; the page may load nothing, which its own policy enforces.
"""

import importlib.resources
import json
import time
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import gansmith
from gansmith.report import curves, scores, sections
from gansmith.report.curves import Clock, Source
from gansmith.report.pictures import KINDS, Pictures
from gansmith.report.records import Log, number
from gansmith.report.settings import Settings

SCRIPTS = ("frame.js", "viewer.js", "charts.js", "curves.js")
MARKED = {
    "resume", "start", "rollback", "suspect", "collapsed", "diverged", "finished", "growth", "warning"
}  # fmt: skip


def render(run: Path, sources: Sequence[Source], read: Settings, pictures: Pictures) -> str:
    """The page as text. sources: the run's log first, then the references."""
    log = sources[0].log
    drawn = curves.charts(sources)
    score_charts, tables = scores.charts(sources, len(drawn["tables"]), read.data)
    tables = drawn["tables"] + tables
    data = {
        "charts": [chart | {"scores": True} for chart in score_charts] + drawn["charts"],
        "tables": tables,
        "marks": marks(log),
        "samples": _samples_data(pictures),
    }
    rows = scores.newest(log.of("evaluation"), read.data)
    parts = {
        "version": gansmith.__version__,
        "name": sections.escaped(run.resolve().name),
        "badge": sections.badge(log),
        "subtitle": _subtitle(run, read, sources),
        "navigation": _navigation(bool(pictures.others)),
        "summary": sections.summary(log, read, rows),
        "samples": _samples(pictures),
        "scores": sections.scores_table(rows, bool(score_charts)),
        "curves": ""
        if drawn["charts"]
        else sections.empty("No status row yet: curves appear with the first one."),
        "pictures": _gallery(pictures),
        "configuration": sections.configuration(read),
        "events": sections.events(log),
        "notes": _notes(sources, read, pictures),
        "data": _json(data),
        "style": _asset("style.css"),
        "script": "\n".join(_asset(name) for name in SCRIPTS),
    }
    return Template(_asset("page.html")).substitute(parts)


def marks(log: Log) -> list[dict[str, Any]]:
    """Vertical lines: {"kind", "text", "images", "step", "hours"}. A resume with changes is a `change`."""
    clock = Clock(log.of("status"))
    found = [
        row for row in log.rows if row.kind in MARKED and (row.images is not None or row.kind == "warning")
    ]
    lines: list[dict[str, Any]] = []
    here = 0.0  # warnings say no place: they lie where the log was
    last = {id(row): 0.0 for row in found}
    for row in log.rows:
        here = row.images if row.images is not None else here
        if id(row) in last:
            last[id(row)] = here
    for row in found:
        images = last[id(row)]
        if row.kind == "start" and not images:
            continue
        kind = "change" if row.data.get("changes") else row.kind
        places = {key: column[0] for key, column in clock.places([images]).items()}
        lines.append(
            {"kind": kind, "text": f"{row.kind}: {sections.describe(row)}".removesuffix(": ")} | places
        )
    return lines


def _samples(pictures: Pictures) -> str:
    if pictures.frames:
        return '<div class="card viewer" id="viewer"></div>'
    if pictures.reals:
        picture = f'<img src="{sections.escaped(pictures.reals["src"])}" alt="Real images">'
        return f'<figure class="card viewer"><figcaption>real images</figcaption>{picture}</figure>'
    return sections.empty("No sample grids yet.")


def _samples_data(pictures: Pictures) -> dict[str, Any] | None:
    kinds = [
        {"title": title, "frames": pictures.frames[kind]}
        for kind, title, _ in KINDS
        if kind in pictures.frames
    ]
    return {"kinds": kinds, "reals": pictures.reals} if kinds else None


def _gallery(pictures: Pictures) -> str:
    if not pictures.others:
        return ""
    figures = []
    for picture in pictures.others:
        title, file = sections.escaped(picture["title"]), sections.escaped(picture["file"])
        size = f'width="{picture["width"]}" height="{picture["height"]}"'
        image = f'<img src="{sections.escaped(picture["src"])}" alt="{title}" {size}>'
        caption = f"<figcaption>{title}<br><small>{file}</small></figcaption>"
        figures.append(f'<figure class="card">{caption}{image}</figure>')
    inside = f'<h2>Pictures of evaluations</h2><div class="gallery">{"".join(figures)}</div>'
    return f'<section id="pictures">{inside}</section>'


def _notes(sources: Sequence[Source], read: Settings, pictures: Pictures) -> str:
    problems = [*read.problems, *pictures.problems]
    for source in sources:
        problems += [
            text if source is sources[0] else f"{source.name}: {text}" for text in source.log.problems
        ]
    said = ""
    if problems:
        items = "".join(f"<li>{sections.escaped(problem)}</li>" for problem in problems)
        said = f'<div class="problems"><p>Not everything could be read:</p><ul>{items}</ul></div>'
    gone = sum(row.abandoned for row in sources[0].log.rows)
    facts = [
        f"Made {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())} by gansmith {gansmith.__version__} "
        f"from {len(sources[0].log.rows):,} rows of metrics.jsonl.",
        "Pictures are re-encoded for this page; the originals are in the run’s folder."
        + (f" {pictures.left_out:,} more are there only." if pictures.left_out else ""),
        "A line of thousands of rows keeps the first, last, smallest and largest value of every stretch.",
        "Red strokes at the foot of a chart: the value there was not a finite number.",
    ]
    if gone:
        facts.append(f"{gone:,} rows lie beyond a place the run later went back to; they are drawn faintly.")
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources[1:])
        facts.append(f"Laid over, in broken lines: {names}. Their protocols are their own.")
    return said + "<ul>" + "".join(f"<li>{sections.escaped(fact)}</li>" for fact in facts) + "</ul>"


def _subtitle(run: Path, read: Settings, sources: Sequence[Source]) -> str:
    words = [f"preset {read.get('preset')}"] if read.get("preset") else []
    words += [f"data {read.get('data.path')}"] if read.get("data.path") else []
    times = [number(row.data.get("time")) for row in sources[0].log.rows]
    known = [moment for moment in times if sections.is_time(moment)]
    if known:
        words.append(time.strftime("last row %Y-%m-%d %H:%M UTC", time.gmtime(known[-1])))
    words += ["with " + ", ".join(source.name for source in sources[1:])] if len(sources) > 1 else []
    return sections.escaped(" · ".join(words))


def _navigation(pictures: bool) -> str:
    names = ["samples", "scores", "curves", *["pictures"] * pictures, "configuration", "events", "notes"]
    titles = {"notes": "About"}
    return "".join(f'<a href="#{name}">{titles.get(name, name.capitalize())}</a>' for name in names)


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, and has no number that JSON lacks."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (importlib.resources.files("gansmith.report") / "assets" / name).read_text(encoding="utf-8")
