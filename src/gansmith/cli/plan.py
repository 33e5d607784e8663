"""`gansmith plan`: configuration, GPUs and prices → what a run will cost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gansmith import config as configuration
from gansmith.errors import UserError

if TYPE_CHECKING:
    from gansmith.planning import Plan, Range

# unit of time, how many make a day, from how many days on
UNITS = (("days", 1, 2.0), ("h", 24, 0.125), ("min", 1440, 0.0))


@click.command()
@click.option("--preset", metavar="NAME", help="Recipe to plan (docs/presets.md).")
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="YAML file over the preset.")
@click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE", help="Any setting; repeatable.")
@click.option("--batch", type=int, help="Images per optimizer step, all processes together.")
@click.option("--gpus", required=True, metavar="NxNAME", help="8xH100, 4xA100-40GB, V100 …")
@click.option("--price", type=float, metavar="MONEY", help="Of one GPU for an hour.")
@click.option("--storage-price", type=float, default=0.0, metavar="MONEY", help="Of a GB for a month. [0]")
@click.option("--transfer-price", type=float, default=0.0, metavar="MONEY", help="Of moving a GB in. [0]")
@click.option("--network", type=float, default=25.0, metavar="GB/S", help="Between nodes, per node. [25]")
@click.option("--images", type=int, help="Images of the data set. [the recipe's]")
@click.option("--classes", type=int, help="Its classes. [the recipe's]")
@click.option("--within", type=float, metavar="DAYS", help="The cheapest layout must be done by then.")
@click.option("--measure", is_flag=True, help="Time this machine too (seconds on a GPU, up to minutes here).")
@click.option("--device", metavar="DEVICE", help="What --measure times. [the accelerator, if any]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def plan(
    preset: str | None,
    config_file: str | None,
    assignments: tuple[str, ...],
    batch: int | None,
    gpus: str,
    price: float | None,
    storage_price: float,
    transfer_price: float,
    network: float,
    images: int | None,
    classes: int | None,
    within: float | None,
    measure: bool,
    device: str | None,
    as_json: bool,
) -> None:
    """Say what training will cost: computing, memory, days, money, disk. Trains and writes nothing."""
    if preset is None and config_file is None:
        raise UserError(f"--preset is missing; one of {', '.join(configuration.preset_names())}.")
    amounts = {"--price": price, "--storage-price": storage_price, "--transfer-price": transfer_price}
    for flag, value in amounts.items():
        if value is not None and not 0 <= value < 1e9:
            raise UserError(f"{flag} {value:g}: must be an amount of money, 0 or more.")
    wholes = {"--network": network, "--images": images, "--classes": classes, "--within": within}
    for flag, value in wholes.items():
        if value is not None and not 0 < value < 1e12:
            raise UserError(f"{flag} {value:g}: must be above 0.")
    if device is not None and not measure:
        raise UserError("--device says what --measure times; add --measure, or leave it out.")
    overrides = configuration.parse_overrides(assignments)
    if batch is not None:
        overrides["train.batch"] = batch
    settings, _ = configuration.load(preset, Path(config_file) if config_file else None, overrides)

    from gansmith import planning

    prices = planning.Prices(price, storage_price, transfer_price, network)
    made = planning.plan(
        settings,
        gpus,
        prices,
        num_images=images,
        num_classes=classes,
        measure=measure,
        device=device,
        within=within,
    )
    click.echo(json.dumps(made.as_json(), indent=1) if as_json else "\n".join(_lines(made, within)))


def _lines(made: "Plan", within: float | None) -> Iterator[str]:
    work, disk = made.work, made.disk
    name = f"preset {made.preset}" if made.preset else "this configuration"
    assumed = " (assumed; --images and --classes say otherwise)" if made.data_assumed else ""
    yield f"{name}: {made.duration:,} images = {made.steps_counted}, batch {made.batch:,}"
    yield f"data: {made.num_images:,} images, {made.num_classes:,} classes{assumed}"
    yield ""
    forward = f"forward G {_flop(work.forward_g)}, D {_flop(work.forward_d)}"
    yield f"per image: {forward}; D phase {_flop(work.phase_d)}, G phase {_flop(work.phase_g)}"
    whole = _flop(work.per_image * made.duration)
    yield f"a step: {_flop(work.step)}, {_flop(work.per_image)} per image seen; the run: {whole}"
    sizes = ", ".join(f"{micro}: {gib:.3g}" for micro, gib in made.memory.items())
    yield f"GiB of a process by micro-batch, {made.arithmetic}, without kernels' workspaces: {sizes}"
    yield ""
    rate = made.utilisation
    shares = f"{rate.low:.0%} to {rate.high:.0%}" if rate.low < rate.high else f"{rate.likely:.0%}"
    word = "" if rate.published else "NOT MEASURED: "
    yield f"{made.gpu.name}, {made.arithmetic}, at {shares} of its peak. {word}{rate.source}"
    yield ""
    yield from _table(made)
    yield ""
    yield from _choice(made, within)
    yield from _here(made)
    checkpoints = f"checkpoints {_size(disk.checkpoints)} (each {_size(disk.checkpoint)})"
    others = f"snapshots {_size(disk.snapshots)}, grids {_size(disk.grids)}"
    yield f"disk: data {_size(disk.data)}, {checkpoints}, {others}: at most {_size(disk.total)}"
    if made.storage or made.transfer:
        yield f"storage {made.storage:,.2f} for the likely time, transfer of the data {made.transfer:,.2f}"


def _table(made: "Plan") -> Iterator[str]:
    columns = f"{'GPUs':>6} {'micro':>6} {'passes':>6} {'GiB':>6} {'busy':>5}"
    yield f"{columns}  {'images/s':<22} {'time':<22} money"
    for way in made.layouts:
        mark = ("→" if way.gpus == made.gpus else " ") + ("*" if way.gpus == made.cheapest else " ")
        if way.problem is not None:
            yield f"{mark}{way.gpus:>4}  no: {way.problem}"
            continue
        yield (
            f"{mark}{way.gpus:>4} {way.micro_batch:>6} {way.passes:>6} {_short(way.memory_gib or 0):>6} "
            f"{way.efficiency or 0:>5.0%}  {_range(way.images_per_second):<22} {_time(way.days):<22} "
            f"{_range(way.cost) if way.cost else '–'}"
        )
    yield "→ what --gpus asks for" + ("; * the cheapest" if made.cheapest is not None else "")


def _choice(made: "Plan", within: float | None) -> Iterator[str]:
    limit = f" within {within:g} days" if within is not None else ""
    if made.cheapest is None:
        yield f"no layout of these finishes{limit}" if within is not None else "no layout of these fits"
    else:
        yield f"cheapest{limit}: {made.cheapest} × {made.gpu.name} (fewest GPU hours)"


def _here(made: "Plan") -> Iterator[str]:
    here = made.here
    if here is None or made.here_days is None:
        return
    peak = f", peak {here.peak_gib:.1f} GiB" if here.peak_gib is not None else ""
    yield (
        f"measured here ({here.device}, {here.arithmetic}, micro-batches of {here.micro_batch}): "
        f"{here.images_per_second:.3g} images/s, {here.flop_per_second / 1e12:.2f} TFLOP/s{peak}; "
        f"the run would take {_short(made.here_days)} days here"
    )
    if not made.utilisation.source.startswith("measured"):
        yield f"this machine is no {made.gpu.name}: the table above does not use that measurement"


def _time(days: "Range | None") -> str:
    """In the unit that suits the likely value."""
    if days is None:
        return ""
    unit, factor = next((u, f) for u, f, least in UNITS if days.likely >= least)
    return _range(type(days)(days.likely * factor, days.low * factor, days.high * factor), f" {unit}")


def _range(values: "Range | None", unit: str = "") -> str:
    """The likely value (lowest–highest), in few digits."""
    if values is None:
        return ""
    likely, ends = _short(values.likely), sorted((values.low, values.high))
    around = "" if ends[0] == ends[1] else f" ({_short(ends[0])}–{_short(ends[1])})"
    return f"{likely}{unit}{around}"


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 or value == 0 else "< 0.01"


def _flop(amount: float) -> str:
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} EFLOP"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
