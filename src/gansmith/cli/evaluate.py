"""`gansmith eval`: scores of anything that holds or draws images; comparing them; sweeps; watching a run.

Flags → evaluation; results go to the run's metrics.jsonl, to the screen and to --out.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gansmith import files
from gansmith.cli.sample import parse_thresholds, plain_warnings
from gansmith.config import images as amount
from gansmith.errors import UserError

if TYPE_CHECKING:
    from gansmith.evaluation.evaluate import Evaluation, Manner
    from gansmith.evaluation.protocol import Result
    from gansmith.training.distributed import World
    from gansmith.training.stopping import StopRequest

Function = TypeVar("Function", bound=Callable[..., Any])


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
    _, words, _ = score.make_parser(ctx).parse_args(list(args))
    if not words:
        raise UserError("eval: what is to be scored is missing; write gansmith eval TARGET --data D.")
    last = len(args) - 1 - args[::-1].index(words[0])
    return [words[0], *args[:last], *args[last + 1 :]]


@click.group(cls=TargetGroup, subcommand_metavar="TARGET|VERB")
def eval() -> None:
    """Score a run, a snapshot, a checkpoint, or images that are there already, against real images.

    TARGET is a run (its newest snapshot), a snapshot (.safetensors), a checkpoint folder, a folder or zip of
    images, a prepared set, or an .npz (images: uint8 N×H×W×C; labels). Every result carries its protocol.
    A TARGET that is called like a verb is written ./compare.
    """


def scoring_options(function: Function) -> Function:
    """What every verb that computes scores takes."""
    for option in reversed(
        [
            click.option(
                "--data", metavar="PATH", help="The real images. Default: what the run was trained on."
            ),
            click.option(
                "--features",
                default="auto",
                show_default=True,
                metavar="NAME[,NAME]",
                help="Feature network: inception, effnet-lite0, dinov2, pixels, classifier:FILE, FILE.pt, "
                "MODULE:FUNCTION.",
            ),
            click.option("--weights", type=click.Path(), help="File of the feature network's weights."),
            click.option("--resizer", type=click.Choice(["tf1", "clean"]), help="Of inception. [tf1]"),
            click.option("--num", metavar="N", help="Images to score, such as 10k. [50k, or all there are]"),
            click.option("--num-real", metavar="N", help="Reals to score against. [all]"),
            click.option("--split", default="train", show_default=True, help="What the reals are called."),
            click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
            click.option("--held-out", metavar="PATH", help="Reals that were not trained on."),
            click.option("--device", help="cpu, cuda, cuda:1, mps, …  [the accelerator, if any]"),
            click.option(
                "--precision",
                type=click.Choice(["fp32", "bf16", "auto"]),
                default="fp32",
                show_default=True,
                help="Of the generator; features are fp32.",
            ),
        ]
    ):
        function = option(function)
    return function


def metrics_option(function: Function) -> Function:
    """--metrics"""
    return click.option(
        "--metrics",
        default="",
        metavar="NAMES",
        help="With commas, or all. [the usual ones that are possible]",
    )(function)


truncation_kind_option = click.option(
    "--truncation-kind", type=click.Choice(["resample", "scale"]), default="resample", show_default=True
)
repeats_option = click.option(
    "--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Seeds: gives mean ± sd."
)


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

    _check_out(out)
    path = Path(target)
    run = targets.run_of(path / "-" if path.is_dir() else path)
    folder = Path(pictures) if pictures else run and run / "evaluation"
    with _working(options.pop("device"), folder) as (manner, world, _):
        began = time.monotonic()
        evaluation = _prepare(target, options, manner)
        results = evaluation.run(seed, repeats)
        if not world.is_main:
            return
        click.echo(as_table(results))
        said = _record(
            evaluation.target.run, evaluation.target.file, results, time.monotonic() - began, world
        )
        if out is not None:
            files.write_text(Path(out), json.dumps({"results": [r.as_json() for r in results]}, indent=1))
            said.append(out)
        pictured = [str(r.details["picture"]) for r in results if r.details.get("picture")]
        if said or pictured:
            click.echo("→ " + ", ".join([*said, *pictured]))


@eval.command()
@click.argument("results", nargs=-1, required=True, metavar="RESULT…")
def compare(results: tuple[str, ...]) -> None:
    """Put results side by side: JSON files of --out, or scored runs.

    Only scores of equal protocols are ranked; what differs is named.
    """
    from gansmith.evaluation import compare as comparing

    if len(results) < 2:
        raise UserError("eval compare: one result alone cannot be compared; give two or more.")
    rows = comparing.compare([comparing.load(path) for path in results], results)
    cells = [["score", *results, "better"]]
    for row in rows:
        values = [
            "–" if value is None else show(value) + (" *" if index == row.winner else "")
            for index, value in enumerate(row.values)
        ]
        cells.append([row.name, *values, row.better])
    click.echo(aligned(cells))
    for row in rows:
        click.echo(f"{row.name}: {row.verdict}")


@eval.command()
@click.argument("run")
@scoring_options
@truncation_kind_option
@click.option(
    "--thresholds",
    default="none,2,1.5,1.2,1,0.8,0.6,0.5,0.4,0.3,0.2",
    show_default=True,
    help="Such as none,1,0.5.",
)
@click.option(
    "--out", type=click.Path(file_okay=False), help="Folder for the PNG and the CSV. [RUN/evaluation]"
)
def truncation(
    run: str, thresholds: str, truncation_kind: str, seed: int, out: str | None, **options: Any
) -> None:
    """Sweep the truncation of RUN: the FID–IS curve as PNG and CSV, with the paper's three points.

    Without an Inception score (a feature network without logits): precision–recall.
    """
    from gansmith.evaluation import sweep, targets
    from gansmith.sampling import latents

    sweep.plotting()
    levels = parse_thresholds(thresholds)
    for level in levels:
        if level is not None:
            latents.check_truncation(level, truncation_kind, "normal")
    with _working(options.pop("device"), None) as (manner, world, _):
        evaluation = _prepare(run, options | {"metrics": "frechet"}, manner)
        place = evaluation.target.run
        folder = Path(out) if out else (place or Path(".")) / "evaluation"

        def arrived(point: sweep.Point) -> None:
            shown = "none" if point.truncation is None else f"{point.truncation:g}"
            scores = "  ".join(f"{result.name} {show(result)}" for result in point.results)
            manner.say(f"truncation {shown}: {scores}")

        curve = sweep.sweep(evaluation, levels, truncation_kind, seed, arrived)
        if not world.is_main:
            return
        stem = folder / f"{targets.name_of(evaluation.target.file)}-truncation-{evaluation.networks[0].name}"
        sweep.write_csv(stem.with_name(f"{stem.name}.csv"), curve)
        sweep.write_png(stem.with_name(f"{stem.name}.png"), curve, str(run))
        cells = [["point", "truncation", *curve.titles.values()]]
        for point in curve.chosen:
            shown = "none" if point.truncation is None else f"{point.truncation:g}"
            cells.append([point.name, shown, *(f"{point.scores[name]:.4g}" for name in curve.titles)])
        click.echo(aligned(cells))
        if curve.real is not None:
            click.echo(f"{curve.titles['is']} of real images: {curve.real:.4g}")
        click.echo(f"→ {stem}.csv, {stem}.png")


@eval.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@scoring_options
@metrics_option
@click.option("--truncation", type=float, help="Threshold for z. [none]")
@truncation_kind_option
@repeats_option
@click.option("--best-by", metavar="METRIC", help="Keep RUN/best at the best snapshot by this score.")
@click.option("--until-finished", is_flag=True, help="End with the run, instead of waiting for ever.")
@click.option("--pause", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds.")
def watch(
    run: Path,
    best_by: str | None,
    until_finished: bool,
    pause: float,
    repeats: int,
    seed: int,
    **options: Any,
) -> None:
    """Score the snapshots of RUN as they appear, beside the training, which it cannot disturb.

    Those scored before, with the same protocol, are left out. Ctrl-C ends it: exit code 3, goes on later.
    """
    from gansmith.evaluation import best
    from gansmith.evaluation import metrics as table
    from gansmith.evaluation.watch import watch as watching

    if not (run / "config.yaml").exists():
        raise UserError(f"{run} is no run; give the folder that `gansmith train --out` names.")
    names = [name for name in options["metrics"].split(",") if name]
    if best_by is not None:
        best_by = table.product(best_by, table.find(names) if names else None)
    with _working(options.pop("device"), run / "evaluation") as (manner, world, _):

        def record(file: Path, results: list["Result"], seconds: float) -> None:
            _record(run, file, results, seconds, world)
            manner.say(f"{file.stem}: " + "  ".join(f"{each.name} {show(each)}" for each in results))
            if best_by is not None and (said := best.update(run, best_by)):
                manner.say(said)

        if world.size > 1:
            raise UserError("eval watch runs in one process; start it without torchrun.")
        count = watching(
            run,
            lambda file: _prepare(str(file), dict(options), manner),
            record,
            seed=seed,
            repeats=repeats,
            until_finished=until_finished,
            pause=pause,
        )
        if best_by is not None and (said := best.update(run, best_by)):
            manner.say(said)
        click.echo(f"{run} is finished; {count} snapshots were scored")


# Shared steps --------------------------------------------------------------------------------------


@contextmanager
def _working(device: str | None, pictures: Path | None) -> Iterator[tuple["Manner", "World", "StopRequest"]]:
    """Joins the other processes, listens to Ctrl-C, shows progress and warnings on rank 0 alone."""
    from datetime import timedelta

    from gansmith.evaluation.evaluate import Manner
    from gansmith.training import distributed, stopping

    stop = stopping.StopRequest()
    with distributed.joined(device, timedelta(days=1)) as world, plain_warnings(), stop.listening():

        def say(text: str) -> None:
            if world.is_main:
                click.echo(text)

        yield Manner(world, say, world.is_main, stop.asked, pictures), world, stop


def _prepare(target: str, options: dict[str, Any], manner: "Manner") -> "Evaluation":
    from gansmith.evaluation.evaluate import prepare

    options["metrics"] = [name for name in options["metrics"].split(",") if name]
    for name in ("num", "num_real"):
        options[name] = _amount(name, options[name])
    return prepare(target, options.pop("data"), manner=manner, **options)


def _amount(name: str, text: str | None) -> int | None:
    try:
        return None if text is None else amount(text.removesuffix("ep") if text != "ep" else text, 1)
    except ValueError:
        flag = f"--{name.replace('_', '-')}"
        raise UserError(f"{flag} {text!r} is no number of images; write 5000, 10k or 50k.") from None


def _check_out(out: str | None) -> None:
    if out is not None and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {Path(out).parent}; make it first.")


def _record(
    run: Path | None, file: Path, results: Sequence["Result"], seconds: float, world: "World"
) -> list[str]:
    """A row for the run's metrics.jsonl, where the target lies in a run; returns the file's name."""
    from gansmith.evaluation import targets
    from gansmith.training.runlog import RunLog

    if run is None:
        return []
    RunLog(run, world).event("evaluation", **targets.row(file, results, seconds))
    return [str(run / "metrics.jsonl")]


def show(result: "Result") -> str:
    """12.3 ± 0.4: the deviation over repeats, else the error that the score itself knows, in brackets."""
    if result.value is None:
        return "not finite"
    text = f"{result.value:.4g}"
    if result.sd is not None:
        return f"{text} ± {result.sd:.2g}"
    error = result.details.get("error")
    return text if error is None else f"{text} (± {error:.2g})"


def as_table(results: Sequence["Result"]) -> str:
    """One line per score."""
    rows = [["score", "value", "better", "protocol"]]
    rows += [[result.name, show(result), result.better, result.protocol_id] for result in results]
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )
