"""`gansmith guard replay`: a log of this or another program → what the guard would have said, and when."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from gansmith import config as configuration
from gansmith.errors import UserError
from gansmith.guard import tables
from gansmith.guard.detector import Verdict
from gansmith.guard.replay import Replayed
from gansmith.guard.replay import replay as played


@click.group()
def guard() -> None:
    """The collapse guard (docs/stability.md)."""


@guard.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="COLUMN=SIGNAL",
    help="What a column of another program's log is; repeatable. `position` says when.",
)
@click.option(
    "--duration", metavar="N", help="Length of the whole run, in the log's unit. [what the log tells]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def replay(file: Path, maps: tuple[str, ...], duration: str | None, as_json: bool) -> None:
    """Say what the guard would have said about the run that FILE is the log of, and when.

    FILE is a run's folder or its metrics.jsonl, JSON lines of another program, or CSV. Missing columns are
    missing votes.
    """
    mapping = {}
    for text in maps:
        column, equals, signal = text.partition("=")
        if not (column and equals and signal):
            raise UserError(f"--map {text!r}: write COLUMN=SIGNAL, e.g. --map Discriminator=loss_d.")
        mapping[column] = signal
    table = tables.read(file, mapping)
    length = _length(duration)
    # The last step of a run may end a little beyond it.
    if length is not None and len(beyond := {at for at, *_ in table.rows if at > length}) > 1:
        raise UserError(
            f"--duration {duration}: the log goes on to {table.unit} {max(beyond):,.0f}; give the length of "
            "the whole run in that unit, or leave it out."
        )
    replayed = played(table, length)
    if as_json:
        click.echo(json.dumps(_as_json(table, replayed)))
    else:
        for line in _lines(file, table, replayed):
            click.echo(line)


def _length(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        length = configuration.images(text, 0)
    except ValueError:
        length = 0
    if length < 1:
        raise UserError(f"--duration {text!r} is no length; write 100000, 128k or 20M.")
    return length


def _as_json(table: tables.Table, replayed: Replayed) -> dict[str, Any]:
    return {
        "rows": len(table.rows),
        "unit": table.unit,
        "signals": sorted(table.signals),
        "verdicts": [asdict(verdict) for verdict in replayed.changes],
        "end": replayed.last.state,
    }


def _lines(file: Path, table: tables.Table, replayed: Replayed) -> Iterator[str]:
    first, last = table.rows[0][0], table.rows[-1][0]
    yield f"{file}: {len(table.rows):,} rows, {table.unit} {first:,.0f} to {last:,.0f}"
    yield f"signals: {', '.join(sorted(table.signals))}"
    for verdict in replayed.changes:
        yield ""
        yield from _told(verdict)
    yield ""
    worst = max((v.state for v in replayed.changes), key=("ok", "suspect", "collapsed").index, default="ok")
    if worst == "ok":
        yield f"the guard would have said nothing{_too_few(table)}"
    else:
        yield f"at the end: {replayed.last.state}"


def _too_few(table: tables.Table) -> str:
    """What keeps silence from meaning much. Scores tell by themselves, however few."""
    rows = sum(1 for _, row, _ in table.rows if row)
    if not 0 < rows < tables.FEWEST_ROWS:
        return ""
    return (
        f"; but {rows} row{'' if rows == 1 else 's'} are few to judge by, {tables.FEWEST_ROWS} or more tell"
    )


def _told(verdict: Verdict) -> Iterator[str]:
    where = f"{verdict.position:,.0f}"
    if verdict.state == "ok":
        yield f"{where}  as usual again"
        return
    said = f"{verdict.kind}, as usual until {verdict.since:,.0f}, weight {verdict.weight}"
    yield f"{where}  {verdict.state}: {said}"
    yield f"  {'signal':<28}{'now':>12}{'usual':>12}{'spreads':>12}{'weight':>8}{'since':>14}"
    for vote in verdict.votes:
        numbers = "".join(
            f"{'–' if value is None else format(value, '.4g'):>12}"
            for value in (vote.value, vote.usual, vote.spreads)
        )
        yield f"  {vote.signal:<28}{numbers}{vote.weight:>8}{vote.since:>14,.0f}  {vote.says}"
