"""`gansmith eval`: scores of anything that holds or draws images, and the verbs around them.

Flags → evaluation; results go to the run's metrics.jsonl, to the screen and to --out.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gansmith import files
from gansmith.cli import scoring_verbs
from gansmith.cli.scoring import (
    as_table,
    check_out,
    metrics_option,
    prepare,
    record,
    repeats_option,
    scoring_options,
    truncation_kind_option,
    working,
)
from gansmith.errors import UserError

if TYPE_CHECKING:
    from gansmith.evaluation.protocol import Result


class TargetGroup(click.Group):
    """A group in which whatever is no verb is the TARGET of `score`."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return super().get_command(ctx, name) or _scoring(name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ctx.help_option_names:
            args = _target_first(ctx, args)
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "TARGET [OPTIONS]")
        formatter.write_usage(ctx.command_path, "VERB …", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        score.format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _scoring(target: str) -> click.Command:
    """`score` with its TARGET given."""

    def call(**options: Any) -> None:
        score.callback(target=target, **options)  # type: ignore[misc]

    flags: list[click.Parameter] = [p for p in score.params if p.name != "target"]
    return click.Command(target, params=flags, callback=call, help=score.help)


def _target_first(ctx: click.Context, args: list[str]) -> list[str]:
    """`--data D TARGET` as `TARGET --data D`."""
    target = score.make_parser(ctx).parse_args(list(args))[0].get("target")
    if not isinstance(target, str):
        raise UserError("eval: what is to be scored is missing; write gansmith eval TARGET --data D.")
    last = len(args) - 1 - args[::-1].index(target)
    return [target, *args[:last], *args[last + 1 :]]


@click.group(cls=TargetGroup, subcommand_metavar="TARGET|VERB")
def eval() -> None:
    """Score a run, a snapshot, a checkpoint, or images that are there already, against real images.

    TARGET is a run (its newest snapshot), a snapshot (.safetensors), a checkpoint folder, a folder or zip of
    images, a prepared set, or an .npz (images: uint8 N×H×W×C; labels). Every result carries its protocol.
    A TARGET that is called like a verb is written ./compare.
    """


for verb in (
    scoring_verbs.compare,
    scoring_verbs.truncation,
    scoring_verbs.watch,
    scoring_verbs.train_classifier,
):
    eval.add_command(verb)


@click.command()
@click.argument("target")
@scoring_options
@metrics_option
@click.option("--truncation", type=float, help="Threshold for z. [none]")
@truncation_kind_option
@repeats_option
@click.option("--pictures", type=click.Path(file_okay=False), help="Folder for pictures. [RUN/evaluation]")
@click.option("--out", type=click.Path(dir_okay=False), help="JSON file for the results, too.")
def score(
    target: str, repeats: int, seed: int, out: str | None, pictures: str | None, **options: Any
) -> None:
    """Score TARGET."""
    from gansmith.evaluation import targets

    check_out(out)
    path = Path(target)
    run = targets.run_of(path / "-" if path.is_dir() else path)
    folder = Path(pictures) if pictures else run and run / "evaluation"
    with working(options.pop("device"), folder) as (manner, world, _):
        began = time.monotonic()
        evaluation = prepare(target, options, manner)
        results = evaluation.run(seed, repeats)
        if not world.is_main:
            return
        click.echo(as_table(results))
        said = record(evaluation.target.run, evaluation.target.file, results, time.monotonic() - began, world)
        if out is not None:
            _write(Path(out), results, " and in ".join(["above", *said]))
            said.append(out)
        pictured = [str(r.details["picture"]) for r in results if r.details.get("picture")]
        if said or pictured:
            click.echo("→ " + ", ".join([*said, *pictured]))


def _write(out: Path, results: "Sequence[Result]", also: str) -> None:
    """The results as JSON. Raises UserError where they cannot be written; also: where else they are."""
    try:
        files.write_text(out, json.dumps({"results": [result.as_json() for result in results]}, indent=1))
    except OSError as error:
        raise UserError(
            f"--out {out} could not be written ({error.strerror or error}); free space and score again, or "
            f"take the scores from {also}."
        ) from None
