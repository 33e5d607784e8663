"""`gansmith data`: prepare a data set, inspect one. Torch is never imported here."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from gansmith.data import inspect as inspection
from gansmith.data import memory
from gansmith.data.images import CROPS, FILTERS
from gansmith.data.prepare import PreparedReport
from gansmith.data.prepare import prepare as prepare_data
from gansmith.data.progress import duration
from gansmith.data.progress import size as bytes_text
from gansmith.data.settings import PrepareSettings
from gansmith.errors import UserError

# resolution → a preset to try first
PRESETS = {32: "cifar10", 64: "biggan-64", 128: "biggan-128", 256: "biggan-256", 512: "biggan-512"}


@click.group()
def data() -> None:
    """Prepare and inspect data sets."""


@data.command()
@click.argument("src")
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--resolution", type=int, help="Pixels; images become square. Default: as stored, if all are equal."
)
@click.option(
    "--crop",
    type=click.Choice(CROPS),
    default="center",
    show_default=True,
    help="pad: white borders; none: images that are not square are rejected.",
)
@click.option(
    "--resize",
    type=click.Choice(list(FILTERS)),
    default="lanczos",
    show_default=True,
    help="Both antialiased.",
)
@click.option(
    "--channels",
    type=click.Choice(["1", "3"]),
    help="1: grayscale, 3: RGB. Default: as stored; 3 for image files.",
)
@click.option("--min-size", type=int, default=0, help="Leave out images whose shorter side has fewer pixels.")
@click.option("--min-images", type=int, help="Leave out classes with fewer images.")
@click.option("--max-images", type=int, help="At most so many images per class, the first ones.")
@click.option("--top-classes", type=int, help="Only the K classes with most images.")
@click.option(
    "--merge",
    "merge_file",
    type=click.Path(),
    help="YAML `new: [old, …]` or CSV rows `new,old,…`: several classes become one.",
)
@click.option(
    "--keep-duplicates",
    is_flag=True,
    help="Keep images with equal pixels; otherwise the first of them stays.",
)
@click.option(
    "--storage", default="raw", show_default=True, help="raw, png, webp (lossless) or jpeg-Q, as jpeg-95."
)
@click.option("--unconditional", is_flag=True, help="All images are one class; needs no class folders.")
@click.option(
    "--max-rejected",
    type=float,
    default=0.01,
    show_default=True,
    help="Share of damaged images above which to stop.",
)
@click.option(
    "--workers", type=int, help="Processes; the result is the same for any number. Default: all processors."
)
@click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")
@click.option("--quiet", is_flag=True, help="No progress.")
def prepare(
    src: str,
    dest: Path,
    workers: int | None,
    dry_run: bool,
    quiet: bool,
    keep_duplicates: bool,
    channels: str | None,
    **options: Any,
) -> None:
    """Turn the images SRC into shards of equal small images in the folder DEST.

    SRC: an image folder with a sub-folder per class, a zip of one, labels.csv or dataset.json beside the
    images, WebDataset tars, a tar of class tars, HDF5, IDX (MNIST), CIFAR archives, a Hugging Face dataset
    (folder or hf:user/name), builtin:digits, or a prepared data set.

    An interrupted preparation goes on when the same command is typed again.
    """
    settings = PrepareSettings(
        dedup=not keep_duplicates, channels=int(channels) if channels else None, **options
    )
    done = prepare_data(
        src,
        dest,
        settings,
        workers=memory.usable_cpus() if workers is None else workers,
        progress=not quiet,
        dry_run=dry_run,
    )
    click.echo(summary(done))


def summary(done: PreparedReport) -> str:
    """What was prepared, and the next command to type."""
    lines = [f"note: {note}" for note in done.notes]
    size, channels = done.settings["resolution"], done.settings["channels"]
    classes = "1 class" if done.classes == 1 else f"{done.classes:,} classes"
    what = f"{done.images:,} images of {classes}, {size}×{size}×{channels}"
    if done.dry_run:
        lines.append(
            f"dry run: {what} would be written to {done.dest}, at least {bytes_text(done.bytes)} as "
            f"{done.settings['storage']}"
        )
        return "\n".join(lines)
    if done.already:
        lines.append(f"{done.dest} is prepared already: {what}")
    else:
        lines.append(
            f"prepared {what} in {duration(done.seconds)} ({done.images_per_second:,.0f} images/s decoded)"
        )
        table = (
            ("decoded before", done.resumed, ", by the command that was interrupted"),
            ("rejected", done.rejected, f", listed in {done.dest}/rejected.csv"),
            ("too small", done.too_small, f": shorter side below {done.settings['min_size']} px"),
            (
                "duplicates",
                done.duplicates,
                f" left out, {done.duplicates_across_classes:,} with another label",
            ),
            ("left out", done.left_out, ", by the limits on classes and images per class"),
            ("enlarged", done.enlarged, f", smaller than {size} px (--min-size {size} would leave them out)"),
        )
        lines += [
            f"  {name:<14} {count:>9,}{text if count else ''}"
            for name, count, text in table
            if count or name in ("rejected", "duplicates")
        ]
    lines.append(f"  {'on disk':<14} {bytes_text(done.bytes):>9} in {done.dest}")
    lines.append(f"  {'content':<14} {done.content_hash}")
    lines.append(_next_command(done))
    return "\n".join(lines)


def _next_command(done: PreparedReport) -> str:
    """What to type next: a preset of that resolution, or the resolutions there are networks for."""
    size = done.settings["resolution"]
    if size not in PRESETS:
        return f"note: presets are for {', '.join(map(str, PRESETS))} px; choose one by --resolution"
    preset = PRESETS[size] if done.settings["channels"] == 3 or size != 32 else "mnist"
    return f"next: gansmith train --data {done.dest} --preset {preset} --out runs/first"


@data.command()
@click.argument("path", metavar="DATA")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw a contact sheet, a row per class, into this new PNG.",
)
@click.option("--unconditional", is_flag=True, help="Ignore classes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def inspect(path: str, out: Path | None, unconditional: bool, as_json: bool) -> None:
    """Show what DATA holds: sizes, classes, imbalance, oddities; with --out a contact sheet.

    DATA: a prepared data set or any source that can be prepared. Of the latter a sample is decoded.
    """
    if out is not None and (out.suffix.lower() != ".png" or not out.absolute().parent.is_dir()):
        raise UserError(f"--out {out} must end in .png and lie in a folder that exists.")
    if out is not None and out.exists():
        raise UserError(f"--out {out} exists and is never overwritten; give another name or delete it.")
    found = inspection.inspect(path, unconditional=unconditional)
    if as_json:
        record = {**dataclasses.asdict(found), "imbalance": found.imbalance}
        record["sizes"] = [[width, height, count] for (width, height), count in found.sizes.items()]
        click.echo(json.dumps(record, ensure_ascii=False, indent=1))
    else:
        click.echo(inspection.report(found))
    if out is not None:
        from gansmith.sampling.grids import tile

        images, labels = inspection.contact_sheet(path, unconditional=unconditional)
        try:
            tile(images, inspection.SHEET_COLUMNS, labels).save(out)
        except OSError as error:
            raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
        click.echo(f"contact sheet: {out} ({len(labels)} of {len(found.classes)} classes)", err=as_json)
    elif not as_json:
        click.echo(f"see the images: gansmith data inspect {path} --out sheet.png")
