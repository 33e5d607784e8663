"""The parts of the page that are text: tiles, tables of scores, settings and events, as HTML.

Whatever comes from a run is escaped here. Knows what rows and settings are, not where they were read.
"""

import html
import json
import time
from typing import Any

from gansmith.report import scores, settings
from gansmith.report.records import Log, Row, number
from gansmith.report.settings import Settings

SAVED = {"snapshot", "checkpoint"}
MOST_EVENTS = 500


def summary(log: Log, read: Settings, rows: list[dict[str, Any]]) -> str:
    """The numbers one asks for first, as tiles."""
    alive = [row for row in log.of("status") if not row.abandoned and row.images is not None]
    tiles: list[str] = []
    if alive:
        last = alive[-1].data
        seen, epoch = alive[-1].images or 0.0, number(last.get("epoch"))
        goal = settings.duration(read, seen / epoch if epoch else None)
        tiles.append(_progress(seen, goal, number(last.get("eta_seconds"))))
        step, seconds = number(last.get("step")), number(last.get("seconds"))
        if epoch is not None:
            tiles.append(_tile("Epochs", f"{epoch:,.2f}", f"step {step:,.0f}" if step is not None else ""))
        if seconds is not None:
            speeds = [number(row.data.get("images_per_second")) for row in alive]
            rates = sorted(rate for rate in speeds if rate is not None)
            middle = f"median {_number(rates[len(rates) // 2])} images/s" if rates else ""
            tiles.append(_tile("Time trained", _clock(seconds), middle))
    names = list(dict.fromkeys(row["name"] for row in rows))[:2]
    for name in names:
        row, protocol = scores.headline(rows, name, read.data)
        best = row["best"] or row["newest"]
        spread = f" ± {_number(best['sd'])}" if best["sd"] is not None else ""
        where = f"{'best, ' if row['best'] else ''}at {best['images']:,.0f} images"
        where += f"; {protocol}" if protocol else ""
        tiles.append(_tile(row["name"], _number(best["value"]) + spread, where))
    batch, d_steps = read.get("train.batch"), read.get("optim.d_steps")
    if batch is not None:
        now = number(alive[-1].data.get("batch")) if alive else None
        said = [f"grown from {batch}"] if now is not None and now != batch else []
        said += [f"{d_steps} D phases per step"] if d_steps else []
        tiles.append(_tile("Batch", f"{now:,.0f}" if now is not None else f"{batch}", "; ".join(said)))
    resolution, ch = read.get("model.resolution"), read.get("model.ch")
    if resolution is not None:
        tiles.append(_tile("Network", f"{resolution} px", f"{read.get('model.family')}, ch {ch}"))
    environment = read.environment
    if environment.get("device"):
        cpu = environment.get("cpu")
        names = environment.get("devices") or [cpu.get("model", "") if isinstance(cpu, dict) else ""]
        name = names[0] if isinstance(names[0], str) else str(names[0].get("name", ""))
        tiles.append(
            _tile("Device", str(environment["device"]), f"{name}, {environment.get('precision', '?')}")
        )
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def badge(log: Log) -> str:
    """How the run stands, as far as its log tells."""
    kinds = ("finished", "diverged", "collapsed", "start", "resume", "rollback", "status")
    ends = [row for row in log.rows if row.kind in kinds]
    if not ends:
        return '<span class="badge soft">nothing logged yet</span>'
    # Evaluations may come long after; they say nothing of training.
    times = [number(row.data.get("time")) for row in log.rows if row.kind != "evaluation"]
    known = [moment for moment in times if moment is not None]
    if ends[-1].kind == "finished":
        return '<span class="badge good">finished</span>'
    if ends[-1].kind in ("diverged", "collapsed"):
        return f'<span class="badge bad">{ends[-1].kind}</span>'
    gaps = [later - earlier for earlier, later in zip(known[-20:], known[-19:])]
    patience = max(300.0, 3 * max(gaps, default=0.0))
    if known and time.time() - known[-1] < patience:
        return '<span class="badge live">training when this page was made</span>'
    return '<span class="badge warn">stopped before its end</span>'


def configuration(read: Settings) -> str:
    """What differs from the preset, then everything with its origin, then the surroundings."""
    if not read.values:
        return empty("No readable config.yaml in this run.")
    preset = read.get("preset")
    against = f"preset {escaped(preset)}" if preset else "the defaults"
    changed = [setting for setting in read.values if setting.changed]
    rows = [
        f'<tr class="changed"><td><code>{escaped(s.path)}</code></td>'
        f'<td class="value"><del>{_before(s)}</del></td>'
        f'<td class="value">{escaped(settings.show(s.value))}</td><td>{escaped(s.origin)}</td></tr>'
        for s in changed
    ]
    differs = (
        f"<p>{len(changed)} settings differ from {against}.</p>" if changed else f"<p>As in {against}.</p>"
    )
    if rows:
        titles = f"<tr><th>setting</th><th>{against}</th><th>this run</th><th>from</th></tr>"
        differs += f'<div class="card scroll"><table>{titles}{"".join(rows)}</table></div>'
    head = "<tr><th>setting</th><th>value</th><th>from</th></tr>"
    whole, section = [], None
    for s in read.values:
        first = s.path.rpartition(".")[0]
        if first != section and first:
            whole.append(f'<tr class="group"><td colspan="3">{escaped(first)}</td></tr>')
        section = first
        mark = ' class="changed"' if s.changed else ""
        whole.append(
            f"<tr{mark}><td><code>{escaped(s.path)}</code></td>"
            f'<td class="value">{escaped(settings.show(s.value))}</td><td>{escaped(s.origin)}</td></tr>'
        )
    everything = (
        f"<details><summary>All {len(read.values)} settings</summary>"
        f'<div class="card scroll"><table>{head}{"".join(whole)}</table></div></details>'
    )
    if not read.environment:
        return differs + everything
    around = escaped(json.dumps(read.environment, indent=1, ensure_ascii=False))
    return (
        f"{differs}{everything}<details><summary>Machine and versions</summary><pre>{around}</pre></details>"
    )


def events(log: Log) -> str:
    """The table of everything that is not a status row; what was merely saved can be hidden."""
    rows = [row for row in log.rows if row.kind != "status"]
    if not rows:
        return empty("Nothing happened yet.")
    important = [row for row in rows if row.kind not in SAVED]
    shown = {id(row) for row in important[-MOST_EVENTS:]}
    saved = [row for row in rows if row.kind in SAVED]
    shown |= {id(row) for row in saved[-MOST_EVENTS:]}
    left_out = len(rows) - len(shown)
    lines = []
    for row in rows:
        if id(row) not in shown:
            continue
        classes = " ".join(("saved",) * (row.kind in SAVED) + ("gone",) * row.abandoned)
        moment = number(row.data.get("time"))
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment)) if is_time(moment) else ""
        images = f"{row.images:,.0f}" if row.images is not None else ""
        kind = "change" if row.data.get("changes") else row.kind
        said = escaped(describe(row)) + (" <small>(abandoned)</small>" if row.abandoned else "")
        lines.append(
            f'<tr class="{classes}"><td class="time">{when}</td><td class="number">{images}</td>'
            f'<td><span class="kind {escaped(kind)}">{escaped(row.kind)}</span></td><td>{said}</td></tr>'
        )
    box = (
        '<p><label><input type="checkbox" data-hides="event-table"> '
        f"also the {len(saved)} snapshots and checkpoints</label></p>"
        if saved
        else ""
    )
    more = f"<p class='note'>{left_out:,} older events are in metrics.jsonl only.</p>" if left_out else ""
    head = '<tr><th>time (UTC)</th><th class="number">images</th><th>event</th><th></th></tr>'
    return f'{box}<div class="card scroll" id="event-table"><table>{head}{"".join(lines)}</table></div>{more}'


def describe(row: Row) -> str:
    """What happened, in words, from the event's own fields."""
    data = row.data
    if row.kind == "warning":
        return str(data.get("text", ""))
    if row.kind == "diverged":
        return f"non-finite gradients of {str(data.get('phase', '?')).upper()} beyond the limit"
    if row.kind in ("suspect", "collapsed", "recovered"):
        return str(data.get("why", ""))
    if row.kind == "rollback":
        return _went_back(data)
    changes = data.get("changes")
    if isinstance(changes, list) and changes:
        said = []
        for change in changes:
            if isinstance(change, list) and len(change) == 3:
                path, old, new = change
                said.append(f"{path} {settings.show(old)} → {settings.show(new)}")
        return ", ".join(said)
    if row.kind == "evaluation":
        results = data.get("results")
        entries = [r for r in results if isinstance(r, dict)] if isinstance(results, list) else []
        return ", ".join(f"{r.get('name', '?')} {_number(number(r.get('value')))}" for r in entries)
    if row.kind in SAVED:
        return str(data.get("file") or data.get("path") or "")
    rest = {k: v for k, v in data.items() if k not in ("type", "time", "images_seen", "changes")}
    return ", ".join(f"{key} {settings.show(value)}" for key, value in rest.items())


def _went_back(data: dict[str, Any]) -> str:
    origin, collapsed = data.get("origin"), number(data.get("collapsed"))
    said = [f"to checkpoint {origin}" if origin else "to the beginning"]
    if collapsed is not None:
        said.append(f"from {collapsed:,.0f} images ({data.get('what', '?')})")
    if (factor := number(data.get("lr_factor"))) is not None:
        said.append(f"learning rates × {factor:g}")
    return ", ".join(said)


def scores_table(rows: list[dict[str, Any]], charts: bool) -> str:
    """The newest and best scores, those of one protocol below its words."""
    if not rows:
        hint = "No evaluation in this run’s log yet; <code>gansmith eval</code> adds some."
        return "" if charts else f'<p class="empty">{hint}</p>'
    lines, tables, group = [], [], None
    order = list(dict.fromkeys(row["telling"] for row in rows))
    for row in sorted(rows, key=lambda row: order.index(row["telling"])):  # stable: scores keep their order
        if row["telling"] != group:
            group = row["telling"]
            lines.append(
                f'<tr class="group"><td colspan="4">{escaped(group or "protocol not told")}</td></tr>'
            )
        protocol = escaped(json.dumps(row["protocol"], indent=1, ensure_ascii=False, default=str))
        better = {"lower": " ↓", "higher": " ↑"}.get(row["better"], "")
        whole = f"<summary>protocol</summary><pre>{escaped(row['protocol_id'])}\n{protocol}</pre>"
        lines.append(
            f"<tr><td><b>{escaped(row['name'])}</b>{better}</td>{_result(row['newest'])}{_result(row['best'])}"
            f"<td><details class='inline'>{whole}</details></td></tr>"
        )
        tables += [_class_table(row)] * bool(row["classes"])
    head = "<tr><th>score</th><th class='number'>newest</th><th class='number'>best</th><th></th></tr>"
    note = "<p class='note'>Scores compare only within one protocol; each protocol is a line of its own.</p>"
    table = f'<div class="card scroll"><table>{head}{"".join(lines)}</table></div>'
    return f'{note}{table}{"".join(tables)}<div class="gap"></div>'


def _class_table(row: dict[str, Any]) -> str:
    """The details of a score per class, as its result gives them."""
    columns = list(dict.fromkeys(key for entry in row["classes"] for key in entry))
    head = "".join(f"<th>{escaped(column.replace('_', ' '))}</th>" for column in columns)
    lines = []
    for entry in row["classes"]:
        cells = []
        for column in columns:
            value = entry.get(column)
            shown = _number(number(value)) if isinstance(value, float) or value is None else str(value)
            cells.append(f"<td>{escaped(shown)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    title = f"{row['name']}, class by class, at {row['newest']['images']:,.0f} images"
    table = f'<div class="card scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
    return f"<details><summary>{escaped(title)}</summary>{table}</details>"


def empty(text: str) -> str:
    return f'<p class="empty">{escaped(text)}</p>'


def escaped(value: Any) -> str:
    return html.escape(str(value), quote=True)


def is_time(moment: float | None) -> bool:
    return moment is not None and 0 < moment < 4e9


def _result(place: dict[str, Any] | None) -> str:
    if place is None:
        return '<td class="number">–</td>'
    spread = f" ± {_number(place['sd'])}" if place["sd"] is not None else ""
    at = f" <small class='note'>at {place['images']:,.0f}</small>"
    return f'<td class="number"><b>{_number(place["value"])}</b>{spread}{at}</td>'


def _progress(seen: float, goal: float | None, eta: float | None) -> str:
    if not goal:
        return _tile("Images seen", f"{seen:,.0f}", "")
    share = min(seen / goal, 1.0)
    left = f", {_clock(eta)} left at its last speed" if eta and share < 1 else ""
    bar = f'<div class="bar"><i style="width:{100 * share:.1f}%"></i></div>'
    return _tile("Images seen", f"{seen:,.0f}", f"{100 * share:.1f} % of {_amount(goal)}{left}", bar)


def _tile(name: str, value: str, more: str, below: str = "") -> str:
    small = f"<small>{escaped(more)}</small>" if more else ""
    return f'<div class="tile"><dt>{escaped(name)}</dt><dd>{escaped(value)}{small}</dd>{below}</div>'


def _before(setting: settings.Setting) -> str:
    return escaped(settings.show(setting.preset_value)) if setting.compared else "?"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _amount(images: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if images >= unit:
            return f"{images / unit:g}{letter}"
    return f"{images:g}"


def _clock(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    hours, minutes = divmod(rest // 60, 60)
    return f"{days}d {hours:02}h" if days else f"{hours}h {minutes:02}m" if hours else f"{minutes}m"
