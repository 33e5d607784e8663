"""`gansmith report`: a run's folder → one HTML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gansmith import config as configuration
from gansmith import report as reports


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="The page to write. [RUN/report.html]"
)
@click.option(
    "--overlay",
    "overlays",
    multiple=True,
    metavar="RUN|CSV",
    help="A run or CSV to lay over the curves; repeatable. Adds: ,name=LABEL ,step=IMAGES ,COLUMN=METRIC.",
)
def report(run: Path, out: Path | None, overlays: tuple[str, ...]) -> None:
    """Write one self-contained HTML page about RUN: curves, scores, pictures, configuration, events.

    The page needs no network; it may be sent by mail. Reading changes nothing in RUN, which may be training.
    """
    path = reports.write(run, out, overlays, preset_values=_preset_values)
    click.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB); open it in a browser")


def _preset_values(preset: str | None) -> Mapping[str, Any] | None:
    """The values of a recipe, or the defaults; None for a recipe that this version does not have."""
    if preset is not None and preset not in configuration.preset_names():
        return None
    return configuration.flat(configuration.load(preset)[0])
