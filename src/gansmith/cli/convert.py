"""`gansmith convert`: weights of other programs become snapshots and runs of gansmith."""

from pathlib import Path
from typing import Any

import click

from gansmith.cli.sample import plain_warnings
from gansmith.errors import UserError


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("dest", metavar="DEST", type=click.Path(path_type=Path))
@click.option(
    "--which", metavar="SUFFIX", help="Saved state to read where a folder holds several, e.g. best0."
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="JSON with the keyword arguments the networks were built with, over what the files say.",
)
@click.option("--raw", is_flag=True, help="Draw with the generator as trained, not with its average.")
@click.option(
    "--hf-parity",
    is_flag=True,
    help="Interpolate statistics as Hugging Face's program does, quirks included.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PATH=VALUE",
    help="A setting of the run, e.g. train.batch=256.",
)
@click.option("--resolution", type=int, help="Promote to twice the resolution (docs/promotion.md).")
@click.option(
    "--how",
    type=click.Choice(["append", "insert"]),
    help="Promotion: a stage at the end (the default), or the published tables' in the middle.",
)
@click.option("--fade", metavar="IMAGES", help="Promotion: images over which it comes in.  [default: 500k]")
@click.option("--dry-run", is_flag=True, help="Say what is there and write nothing.")
def convert(
    source: Path,
    dest: Path,
    which: str | None,
    config_file: Path | None,
    raw: bool,
    hf_parity: bool,
    assignments: tuple[str, ...],
    resolution: int | None,
    how: str | None,
    fade: str | None,
    dry_run: bool,
) -> None:
    """Read the weights in SRC, of whatever program, and write them to DEST.

    DEST is a snapshot if it ends in .safetensors, else a folder: with D and both optimizers a run that
    `gansmith train --out DEST --data …` goes on with.

    With --resolution, SRC becomes a network of twice its resolution; a run or checkpoint becomes a run.
    """
    from gansmith import config as configuration
    from gansmith.training import importing
    from gansmith.weights import author_config
    from gansmith.weights.convert import describe, open_any

    given: dict[str, Any] | None = author_config.from_json(config_file) if config_file else None
    settings = configuration.parse_overrides(assignments)
    importing.check_destination(dest, source)
    if resolution is not None:
        _promote(source, dest, resolution, how, fade, dry_run)
        return
    if how is not None or fade is not None:
        raise UserError("--how and --fade belong to a promotion; say --resolution too.")
    with plain_warnings():
        imported = open_any(source, which=which, config=given, raw=raw, hugging_face=hf_parity)
        rows = list(describe(imported))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            click.echo(f"{name:<{width}}  {value}")
        if dry_run:
            click.echo(f"dry run: nothing was written; {dest} would be {importing.outcome(imported, dest)}.")
            return
        written = importing.write(imported, dest, settings)
    for note in written.notes:
        click.echo(f"{'note':<{width}}  {note}.")
    if written.is_run:
        click.echo(f"{dest} trains on with `gansmith train --out {dest} --data IMAGES`.")
    click.echo(f"draw with `gansmith sample grid {dest} --out grid.png`.")


def _promote(
    source: Path, dest: Path, resolution: int, how: str | None, fade: str | None, dry_run: bool
) -> None:
    from gansmith.training import promoting

    with plain_warnings():
        done = promoting.promote(
            source,
            dest,
            resolution,
            how=how or "append",
            fade=promoting.DEFAULT_FADE if fade is None else fade,
            dry_run=dry_run,
        )
    for note in done.notes:
        click.echo(f"note: {note}.")
    kind = "a run" if done.is_run else "a snapshot"
    if dry_run:
        click.echo(f"dry run: nothing was written; {dest} would be {kind} of {resolution} px.")
        return
    click.echo(f"{dest}: {kind} of {resolution} px, {done.images_seen:,} images seen.")
    if done.is_run:
        click.echo(f"train on with `gansmith train --out {dest} --data IMAGES --duration N`.")
    else:
        click.echo(f"train on with `gansmith train --init-from {dest} --data IMAGES --out RUN`.")
    click.echo(f"draw with `gansmith sample grid {dest} --out grid.png`.")
