"""What the verbs of `gansmith eval` share: flags, progress and signals, records, tables."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gansmith.cli.sample import plain_warnings
from gansmith.config import images as amount
from gansmith.errors import UserError

if TYPE_CHECKING:
    from gansmith.evaluation.cas import Budget
    from gansmith.evaluation.evaluate import Evaluation, Manner
    from gansmith.evaluation.protocol import Result
    from gansmith.training.distributed import World
    from gansmith.training.stopping import StopRequest

Function = TypeVar("Function", bound=Callable[..., Any])


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
    """--metrics, and what only some of them ask."""
    function = click.option(
        "--cas-budget",
        metavar="N|TIME",
        help="Of the classifier of cas: 2000 updates, or 90s, 10m (not repeatable). [12 epochs]",
    )(function)
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


@contextmanager
def working(device: str | None, pictures: Path | None) -> Iterator[tuple["Manner", "World", "StopRequest"]]:
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


def prepare(target: str, options: dict[str, Any], manner: "Manner") -> "Evaluation":
    from gansmith.evaluation.evaluate import prepare

    options["metrics"] = [name for name in options["metrics"].split(",") if name]
    for name in ("num", "num_real"):
        options[name] = _amount(name, options[name])
    if budget := options.pop("cas_budget", None):
        options["cas"] = _budget(budget)
    return prepare(target, options.pop("data"), manner=manner, **options)


def _budget(text: str) -> "Budget":
    from gansmith.evaluation.cas import Budget
    from gansmith.training import stopping

    if text.isdecimal() and int(text) > 0:
        return Budget(steps=int(text))
    found = 0.0 if text[-1:].isdecimal() else stopping.seconds(text, "--cas-budget")
    if not found:
        raise UserError(
            f"--cas-budget {text!r}: write a number of updates such as 2000, or a time: 90s, 10m."
        )
    return Budget(seconds=found)


def _amount(name: str, text: str | None) -> int | None:
    try:
        return None if text is None else amount(text.removesuffix("ep") if text != "ep" else text, 1)
    except ValueError:
        flag = f"--{name.replace('_', '-')}"
        raise UserError(f"{flag} {text!r} is no number of images; write 5000, 10k or 50k.") from None


def check_out(out: str | None) -> None:
    """Raises UserError for a file to write that is there, or has no folder."""
    if out is None:
        return
    if not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {Path(out).parent}; make it first.")
    if Path(out).exists():
        raise UserError(f"--out {out} exists and is never overwritten; give another name or delete it.")


def record(
    run: Path | None, file: Path, results: Sequence["Result"], seconds: float, world: "World"
) -> list[str]:
    """A row for the run's metrics.jsonl, where the target lies in a run; returns the file's name.

    Nothing for another target, and where the disk is full, which is said.
    """
    from gansmith.evaluation import targets
    from gansmith.training.runlog import RunLog

    if run is None:
        return []
    written = RunLog(run, world).event("evaluation", **targets.row(file, results, seconds))
    return [str(run / "metrics.jsonl")] if written else []


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
