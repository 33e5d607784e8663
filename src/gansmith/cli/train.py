"""`gansmith train`: flags → settings → training.run."""

from pathlib import Path
from typing import Any

import click
import yaml

from gansmith import config as configuration
from gansmith.errors import UserError


def _list_settings(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    for path, kind, default, description in configuration.describe():
        click.echo(f"{path:<24} {kind:<9} {default!s:<12} {description}")
    ctx.exit()


@click.command()
@click.option(
    "--data", metavar="PATH", help="Images: a folder, zip, HDF5, tars, builtin:digits … (docs/data.md)."
)
@click.option("--preset", metavar="NAME", help="Recipe to start from (docs/presets.md).")
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="YAML file over the preset.")
@click.option(
    "--out", type=click.Path(file_okay=False), help="Folder of the run; the same one goes on. [runs/…]"
)
@click.option("--duration", metavar="IMAGES", help="Real images to show in all: 20M, 128k, 50ep.")
@click.option("--batch", type=int, help="Images per optimizer step, all processes together.")
@click.option("--micro-batch", metavar="N|auto", help="Images per forward and process.")
@click.option("--seed", type=int, help="Of initial weights, data order and noise.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), help="Arithmetic.")
@click.option("--unconditional", is_flag=True, help="Train without classes.")
@click.option(
    "--init-from", metavar="PATH", help="Start from a trained network's weights (docs/finetuning.md)."
)
@click.option(
    "--map", "maps", multiple=True, metavar="NEW=OLD", help="Class NEW starts as OLD; or a YAML file of them."
)
@click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps … [the accelerator, if any]")
@click.option(
    "--checkpoint-dir", type=click.Path(file_okay=False), help="Checkpoints elsewhere, e.g. another disk."
)
@click.option("--stop-after", metavar="TIME", help="Save and stop after 45m, 2h …: exit code 3, resumable.")
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Any setting; repeatable.")
@click.option(
    "--allow-change", multiple=True, metavar="PATH", help="Identity setting that may differ on resume."
)
@click.option("--compile/--no-compile", default=None, help="torch.compile. [on CUDA]")
@click.option(
    "--profile",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Time so many steps part by part, show a table, go on.",
)
@click.option("--dry-run", is_flag=True, help="Check and show everything, train and write nothing.")
@click.option(
    "--list-settings",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_settings,
    help="Show all settings.",
)
def train(
    data: str | None,
    preset: str | None,
    config_file: str | None,
    out: str | None,
    stop_after: str | None,
    device: str | None,
    checkpoint_dir: str | None,
    assignments: tuple[str, ...],
    allow_change: tuple[str, ...],
    dry_run: bool,
    profile: int | None,
    unconditional: bool,
    init_from: str | None,
    maps: tuple[str, ...],
    **words: Any,
) -> None:
    """Train a GAN on your images, or go on with a run.

    The same command goes on where the run in --out stopped, and says so when it is finished.
    """
    settings = configuration.parse_overrides(assignments)
    settings |= {f"train.{name}": value for name, value in words.items() if value is not None}
    if unconditional:
        settings["model.conditional"] = False
    if init_from is not None:
        settings["init.source"] = init_from
    if maps:
        settings["init.map"] = class_map(maps)

    from gansmith.training import run, stopping

    run.train(
        data,
        preset,
        out,
        config_file=config_file,
        settings=settings,
        device=device,
        checkpoint_dir=checkpoint_dir,
        stop_after=stopping.seconds(stop_after) if stop_after else None,
        allow_change=allow_change,
        dry_run=dry_run,
        profile=profile,
    )


def class_map(given: tuple[str, ...]) -> dict[str, str]:
    """`husky=n02110185` and YAML files of such pairs → one table, new class → old class."""
    table: dict[str, str] = {}
    for text in given:
        new, equals, old = text.partition("=")
        if equals and not (new and old):
            raise UserError(f"--map {text!r}: one side is empty; write NEW=OLD, e.g. husky=n02110185.")
        for name, target in ({new: old} if equals else _read_map(Path(text))).items():
            if table.get(name, target) != target:
                raise UserError(
                    f"--map: class {name!r} is mapped twice, to {table[name]!r} and {target!r}; keep one."
                )
            table[name] = target
    return table


def _read_map(path: Path) -> dict[str, str]:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"--map {path}: no such file, and no NEW=OLD; write e.g. husky=n02110185, or name a YAML file."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--map {path} cannot be read as YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(table, dict) or any(
        isinstance(old, dict | list) or old is None for old in table.values()
    ):
        raise UserError(f"--map {path} must hold lines of NEW: OLD, e.g. `husky: n02110185`.")
    return {str(new): str(old) for new, old in table.items()}
