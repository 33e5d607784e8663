"""The command line: verbs → functions. Parses, validates, prints; torch is imported only inside verbs.

One module per verb group, imported when its verb is used, so that `gansmith --help` answers at once.
"""

import importlib
import io
import os
import sys

import click

import gansmith
from gansmith import errors

# verb → (module with a click command of that name, one-line help shown without importing it)
VERBS = {
    "plan": ("gansmith.cli.plan", "Say what training will cost: days, money, memory, disk."),
    "train": ("gansmith.cli.train", "Train a GAN on your images, or go on with a run."),
    "data": ("gansmith.cli.data", "Prepare and inspect data sets."),
    "sample": ("gansmith.cli.sample", "Draw images, grids, interpolations from a run or snapshot."),
    "report": ("gansmith.cli.report", "Write one HTML page about a run: curves, scores, pictures."),
    "eval": ("gansmith.cli.evaluate", "Score what was made; compare scores; sweep truncation; watch a run."),
    "guard": ("gansmith.cli.guard", "Say of a run's log whether, and when, it collapsed."),
    "convert": ("gansmith.cli.convert", "Make a snapshot or a run from published weights."),
    "export": ("gansmith.cli.export", "Take a generator elsewhere: hub, ONNX, PyTorch, BigGAN-PyTorch."),
    "info": ("gansmith.cli.info", "Show what a run, snapshot, checkpoint or data set holds."),
    "env": ("gansmith.cli.env", "Print what a bug report needs."),
}


class LazyGroup(click.Group):
    """A click group that imports a verb's module only when the verb is run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return getattr(importlib.import_module(VERBS[name][0]), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gansmith.__version__, prog_name="gansmith")
def gansmith_command() -> None:
    """Train, sample, score and convert GANs, with classes or without: BigGAN and BigGAN-deep, and beside them
    DCGAN, SNGAN, SAGAN and WGAN-GP.
    """


def main() -> None:
    """Entry point of the `gansmith` program: runs a verb and turns endings into exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # σ and × must not fail on a terminal without them
            stream.reconfigure(errors="replace")
    try:
        gansmith_command(prog_name="gansmith", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(errors.EXIT_USAGE)
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(errors.EXIT_USAGE)
    except errors.Stopped as stopped:
        if str(stopped):
            print(stopped, file=sys.stderr)
        # torchrun would take any other code for a failure and, with restarts left, start again.
        sys.exit(errors.EXIT_DONE if "TORCHELASTIC_RUN_ID" in os.environ else errors.EXIT_STOPPED)
    except errors.ProcessLost as lost:
        print(f"error: {lost}", file=sys.stderr)
        sys.exit(errors.EXIT_LOST)
    except errors.Diverged as diverged:
        if str(diverged):  # one process of several says it
            print(f"error: {diverged}", file=sys.stderr)
        sys.exit(errors.EXIT_DIVERGED)
