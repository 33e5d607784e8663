"""`gansmith sample`: images, grids, interpolations and truncation rows from a run, a snapshot or a
checkpoint.

Checks everything that can be checked before the network is read, and writes each result whole or not at all.
"""

import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gansmith import files
from gansmith.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from gansmith.sampling.sampler import Sampler

GRID_ROWS = 32  # rows of `grid` when no classes are named
Function = TypeVar("Function", bound=Callable[..., Any])


@click.group()
def sample() -> None:
    """Draw images from a trained generator.

    PATH is a run (its newest snapshot), a snapshot (.safetensors), a checkpoint folder, or RUN/best: the
    snapshot with the best score, where training (--set eval.every=…) or `gansmith eval watch --best-by` keeps
    it. Nothing else is needed: no data, no training settings. A seed names one image, on any micro-batch.
    """


def shared_options(function: Function) -> Function:
    """What every sampling verb takes: the file, the classes, and how to compute."""
    for option in reversed(
        [
            click.argument("path", type=click.Path()),
            click.option(
                "--out", required=True, type=click.Path(), help="Where to write; never overwritten."
            ),
            click.option("--classes", help="Names or ids, such as cat,dog or 3,5."),
            click.option(
                "--truncation-kind",
                type=click.Choice(["resample", "scale"]),
                default="resample",
                show_default=True,
                help="resample entries of z beyond the threshold (the paper), or scale z (TF-Hub, Hugging "
                "Face).",
            ),
            click.option(
                "--micro-batch",
                type=click.IntRange(min=1),
                default=8,
                show_default=True,
                help="Images per forward: bounds memory, changes no image.",
            ),
            click.option("--device", help="cpu, cuda, cuda:1, mps, …  Default: the accelerator, if any."),
            click.option(
                "--precision",
                type=click.Choice(["fp32", "bf16", "auto"]),
                default="fp32",
                show_default=True,
                help="auto: bf16 on an accelerator that has it natively, else fp32.",
            ),
        ]
    ):
        function = option(function)
    return function


truncation_option = click.option(
    "--truncation", type=float, help="Threshold for z: smaller is cleaner and less varied. Default: none."
)


def seeds_option(default: str | None) -> Callable[[Function], Function]:
    """--seeds with a verb's own default."""
    return click.option("--seeds", default=default, show_default=True, help="Such as 0-7,12.")


@sample.command()
@shared_options
@truncation_option
@seeds_option(None)
@click.option(
    "--num", type=click.IntRange(min=1), help="Images per class, with seeds 0 … NUM-1.  [default: 8]"
)
def images(path: str, out: str, num: int | None, seeds: str | None, **options: Any) -> None:
    """Write images as PNG files into the new folder OUT, or as one file if OUT ends in .npz.

    All classes by default, NUM images of each. An .npz holds images (uint8, N×H×W×C), labels and seeds.
    """
    from gansmith.sampling import export

    if num is not None and seeds is not None:
        raise UserError("--num and --seeds contradict each other; --num 8 is --seeds 0-7.")
    wanted = parse_seeds(seeds) if seeds is not None else range(8 if num is None else num)
    destination = export.check_destination(out)
    if destination.suffix.lower() == ".png":
        raise UserError(
            f"--out {out}: give a folder for PNG files, a name ending in .npz, or use `sample grid`."
        )
    sampler = _open(path, options)
    labels = sampler.class_ids(parse_classes(options["classes"], sampler))
    pairs = ((label, seed) for label in labels for seed in wanted)
    count = len(labels) * len(wanted)
    drawing = _prepare(sampler, options)
    batches = _progress(sampler.images(seeds=wanted, classes=labels, **drawing), count)
    with export.disk_errors(destination):
        if destination.suffix.lower() == ".npz":
            every_label = (label for label in labels for _ in wanted)
            every_seed = chain.from_iterable(wanted for _ in labels)
            shape = (count, *sampler.image_shape)
            export.to_npz(destination, batches, shape=shape, labels=every_label, seeds=every_seed)
        else:
            stems = export.file_stems(sampler.class_names or {0: "image"})
            export.to_folder(destination, batches, (f"{stems[label]}_{seed:06d}" for label, seed in pairs))
    of_classes = f" of {len(labels):,} classes" if sampler.num_classes else ""
    click.echo(f"{count:,} images{of_classes} → {destination}")


@sample.command()
@shared_options
@truncation_option
@seeds_option("0-7")
def grid(path: str, out: str, seeds: str, **options: Any) -> None:
    """Draw a grid with a row per class and a column per seed into OUT, a PNG file.

    All classes by default; of more than 32, 32 evenly spaced ones.
    """
    from gansmith.sampling import grids

    destination, columns = _picture(out), parse_seeds(seeds)
    sampler = _open(path, options)
    labels = _spread(sampler, options["classes"], GRID_ROWS)
    grids.check_size(len(labels), len(columns), *sampler.image_shape[:2])
    batches = sampler.images(seeds=columns, classes=labels, **_prepare(sampler, options))
    names = [row_name(sampler, label) for label in labels] if sampler.num_classes else None
    _save(grids.tile(_gather(batches, len(labels) * len(columns)), len(columns), names), destination)


@sample.command()
@shared_options
@truncation_option
@seeds_option("0-4")
@click.option(
    "--mode",
    type=click.Choice(["z", "class", "both"]),
    default="z",
    show_default=True,
    help="What changes along a row.",
)
@click.option("--steps", type=click.IntRange(min=2), default=9, show_default=True, help="Images per row.")
@click.option(
    "--interpolation",
    type=click.Choice(["spherical", "linear"]),
    help="Path between two z. Default: spherical for a normal latent, else linear.",
)
def interpolate(
    path: str, out: str, seeds: str, mode: str, steps: int, interpolation: str | None, **options: Any
) -> None:
    """Draw paths between seeds, classes or both into OUT, a PNG file: a row from each to the next.

    Mode z goes from seed to seed within a class (the row's), class from class to class with a seed, both
    changes both. Five evenly spaced classes by default. Classes are mixed linearly in their embedding.
    """
    from gansmith.sampling import grids
    from gansmith.sampling.interpolation import num_rows, strip

    destination, ends = _picture(out), parse_seeds(seeds)
    sampler = _open(path, options)
    labels = _spread(sampler, options["classes"], 5)
    rows = num_rows(mode, ends, labels)
    grids.check_size(max(rows, 1), steps, *sampler.image_shape[:2])
    drawing = _prepare(sampler, options)
    pictures = strip(
        sampler.G,
        mode=mode,
        seeds=ends,
        labels=labels,
        steps=steps,
        latent=sampler.info["latent"],
        path=interpolation,
        autocast_dtype=sampler.autocast_dtype,
        **drawing,
    )
    names = None
    if sampler.num_classes:
        titles = [row_name(sampler, label) for label in labels]
        moves = [f"{first} -> {last}" for first, last in pairwise(titles)]
        names = [titles[row % len(titles)] for row in range(rows)] if mode == "z" else moves[:rows]
    _save(grids.tile(pictures, steps, names), destination)


@sample.command()
@shared_options
@seeds_option("0-7")
@click.option(
    "--thresholds",
    default="none,1.5,1,0.7,0.5,0.3",
    show_default=True,
    help="A row each; none is no truncation.",
)
def truncation(path: str, out: str, seeds: str, thresholds: str, **options: Any) -> None:
    """Draw a row per truncation threshold, the same seeds in each, into OUT, a PNG file.

    Standing statistics are estimated anew for each threshold. The columns take the classes in turn; evenly
    spaced ones by default.
    """
    from gansmith.sampling import grids, latents

    destination, columns, levels = _picture(out), parse_seeds(seeds), parse_thresholds(thresholds)
    for level in levels:
        if level is not None:
            latents.check_truncation(level, options["truncation_kind"], "normal")
    sampler = _open(path, options)
    labels = _spread(sampler, options["classes"], len(columns))
    grids.check_size(len(levels), len(columns), *sampler.image_shape[:2])
    of_column = [labels[column % len(labels)] for column in range(len(columns))]
    rows = (
        sampler.draw(zip(of_column, columns), **_prepare(sampler, options | {"truncation": level}))
        for level in levels
    )
    pictures = _gather(chain.from_iterable(rows), len(levels) * len(columns))
    names = ["none" if level is None else f"{level:g}" for level in levels]
    _save(grids.tile(pictures, len(columns), names), destination)


# Parsing -------------------------------------------------------------------------------------------


def parse_seeds(text: str) -> Sequence[int]:
    """`0-7,12` → the seeds in that order. One range stays a range, however long. Raises UserError."""
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise UserError(f"--seeds {text}: {part.strip()!r} is no seed and no rising range; write 0-7,12.")
        ranges.append(range(first, last + 1))
    if len(ranges) == 1:
        return ranges[0]
    for one, other in pairwise(sorted(ranges, key=lambda r: r.start)):
        if other.start <= one[-1]:
            raise UserError(f"--seeds {text}: seed {other.start} is given twice; give each seed once.")
    return list(chain.from_iterable(ranges))


def parse_thresholds(text: str) -> list[float | None]:
    """`none,1,0.5` → thresholds, None for no truncation. Raises UserError."""
    levels: list[float | None] = []
    for part in text.split(","):
        try:
            levels.append(None if part.strip().lower() == "none" else float(part))
        except ValueError:
            raise UserError(
                f"--thresholds {text}: {part.strip()!r} is no number; write none,1,0.5 for three rows."
            ) from None
    return levels


def parse_classes(text: str | None, sampler: "Sampler") -> list[str] | None:
    """`cat,dog` → its parts; commas that belong to a class name ("hot dog, red hot") do not split it."""
    if text is None:
        return None
    names = set(sampler.class_names.values())
    parts, classes = text.split(","), []
    while parts:
        lengths = [n for n in range(len(parts), 1, -1) if ",".join(parts[:n]).strip() in names]
        length = lengths[0] if lengths else 1
        classes.append(",".join(parts[:length]).strip())
        parts = parts[length:]
    return classes


# Shared steps --------------------------------------------------------------------------------------


def _open(path: str, options: dict[str, Any]) -> "Sampler":
    from gansmith.sampling import latents, sampler

    if options.get("truncation") is not None:
        latents.check_truncation(options["truncation"], options["truncation_kind"], "normal")
    with plain_warnings():
        opened = sampler.load(path, options["device"], options["precision"])
    opened.class_ids(parse_classes(options["classes"], opened))  # wrong ones are told before anything else
    where = f"{opened.device}, {'bf16' if opened.autocast_dtype else 'fp32'}"
    click.echo(f"{opened.file}: {opened.info['images_seen']:,} images seen; sampling on {where}")
    return opened


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line for a person, without the place in the code; each text once."""
    said: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in said:
            said.add(str(message))
            click.echo(f"note: {message}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield


def _prepare(sampler: "Sampler", options: dict[str, Any]) -> dict[str, Any]:
    """Makes the statistics ready, saying so where that takes time; returns the options of drawing."""
    from gansmith.sampling import statistics

    truncation, kind = options["truncation"], options["truncation_kind"]
    if not sampler.has_statistics(truncation, kind):
        what = "no truncation" if truncation is None else f"truncation {truncation:g} ({kind})"
        click.echo(f"estimating standing statistics for {what} from {statistics.IMAGES:,} images")
    sampler.use_truncation(truncation, kind)
    return {name: options[name] for name in ("truncation", "truncation_kind", "micro_batch")}


def _picture(out: str) -> Path:
    from gansmith.sampling import export

    if Path(out).suffix.lower() != ".png":
        raise UserError(f"--out {out}: this verb draws one picture; give a name ending in .png.")
    return export.check_destination(out)


def _spread(sampler: "Sampler", classes: str | None, most: int) -> list[int]:
    """The classes asked for, else all of them or `most` evenly spaced ones, saying so."""
    labels = sampler.class_ids(parse_classes(classes, sampler))
    if classes is not None or len(labels) <= most:
        return labels
    click.echo(f"{most} of {len(labels):,} classes, evenly spaced; --classes chooses others")
    return [labels[index * len(labels) // most] for index in range(most)]


def row_name(sampler: "Sampler", label: int) -> str:
    """What stands beside a class's row: its id and its name."""
    name = sampler.class_names[label]
    return name if name == str(label) else f"{label} {name}"


def _gather(batches: Iterator["np.ndarray"], count: int) -> "np.ndarray":
    import numpy as np

    return np.concatenate(list(_progress(batches, count)))


def _progress(batches: Iterator["np.ndarray"], count: int) -> Iterator["np.ndarray"]:
    """Passes batches on: a bar with rate and ETA on a terminal, a plain line every half minute in a log."""
    from tqdm import tqdm

    started = spoken = time.monotonic()
    done = 0
    with tqdm(total=count, unit=" images", disable=not sys.stderr.isatty(), leave=False) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
            done += len(batch)
            if bar.disable and (now := time.monotonic()) - spoken > 30:
                spoken, rate = now, done / (now - started)
                click.echo(
                    f"{done:,} of {count:,} images, {rate:.1f}/s, {(count - done) / rate:.0f} s left",
                    err=True,
                )


def _save(picture: "Image.Image", destination: Path) -> None:
    from gansmith.sampling import export

    with export.disk_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(destination) as temporary:
            picture.save(temporary, format="PNG")
    click.echo(f"{picture.width} × {picture.height} → {destination}")
