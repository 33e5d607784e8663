"""`gansmith info`: what a run, snapshot, checkpoint or prepared data set holds, from its description
alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gansmith.cli.sample import plain_warnings
from gansmith.errors import UserError

Row = tuple[str, str]


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def info(path: Path) -> None:
    """Show what PATH holds: a run, a snapshot, a checkpoint or a prepared data set.

    The newest snapshot's weights are read too: a damaged one ends with exit code 2. Damaged checkpoints of a
    run are named.
    """
    is_data = (path / "dataset.json").is_file()
    with plain_warnings():
        rows = list(_data_set(path) if is_data else _network(path))
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            click.echo(f"{name:<{width}}  {value}")
        if not is_data and rows[-1][0] == "files":  # a new run has none
            _verify(path)


def _verify(path: Path) -> None:
    """Raises UserError for weights that are damaged or not finite, which the description does not show."""
    from gansmith.weights import snapshot

    file = snapshot.find(path)
    snapshot.load(file, discriminator=snapshot.describe(file)["discriminator"] is not None)


def _find(path: Path) -> Path:
    """`snapshot.find`, which for weights of other programs raises UserError that says what they are."""
    from gansmith.weights import convert, snapshot

    try:
        file = snapshot.find(path)
        snapshot.describe(file)
        return file
    except UserError:
        try:
            name = convert.detect(path)
        except UserError:
            name = convert.OURS
        if name == convert.OURS:
            raise
    raise UserError(
        f"{path} holds weights of {name}; `gansmith convert {path} DEST --dry-run` says what is in them, and "
        "without --dry-run makes a snapshot or a run of them."
    )


def _network(path: Path) -> Iterator[Row]:
    from gansmith.weights import snapshot

    snapshots = sorted(path.glob("snapshots/[0-9]*.safetensors"))
    checkpoints = sorted(
        folder for folder in path.glob("checkpoints/[0-9]*") if folder.is_dir() and not folder.suffix
    )
    is_run = bool(snapshots or checkpoints or (path / "config.yaml").is_file())
    if is_run:
        yield "run", str(path)
        yield "snapshots", _listed(snapshots)
        yield "checkpoints", _listed(checkpoints)
        yield from _progress(path, checkpoints)
        yield from _lineage(path)
        if not snapshots and not checkpoints:
            return
    file = _find(path)
    described = snapshot.describe(file)
    kind = "checkpoint" if file.name == snapshot.CHECKPOINT_FILE else "snapshot"
    yield f"newest {kind}" if is_run else kind, str(file)
    beside = kind == "checkpoint" and (file.parent / "networks.safetensors").is_file()
    yield from _described(
        described, "in networks.safetensors of this checkpoint" if beside else "not in the file"
    )
    folder = file.parent if kind == "checkpoint" else file
    yield "files", ", ".join(f"{name} {_size(size)}" for name, size in _files(folder))


def _progress(path: Path, checkpoints: list[Path]) -> Iterator[Row]:
    """How far the newest checkpoint is that is not damaged, and whether that is the end: what a launch script
    asks. Of the damaged ones sizes tell.
    """
    from gansmith import config as configuration
    from gansmith.training import resuming
    from gansmith.training.checkpoint import problem

    while checkpoints and (wrong := problem(checkpoints[-1], hashes=False)):
        yield "DAMAGED", f"checkpoint {checkpoints[-1].name}: {wrong}; training will not go on from it"
        checkpoints = checkpoints[:-1]
    file = checkpoints[-1] / "state.json" if checkpoints else path
    own = resuming.recipe(path)
    if not file.is_file() or not (own.file or own.missing):
        return
    record = json.loads(file.read_text(encoding="utf-8"))
    duration = configuration.load(own.preset, own.file, own.missing)[0].train.duration
    seen, goal = record["images_seen"], configuration.images(duration, record["data"]["images"] or 1 << 40)
    end = "finished" if seen >= goal else f"unfinished: gansmith train --out {path} goes on"
    yield "progress", f"{seen:,} of {goal:,} images, {end}"


def _lineage(path: Path) -> Iterator[Row]:
    """Where the run went back, once for each time."""
    from gansmith.training import lineage

    for branch in lineage.read(path).branches:
        origin = f"checkpoint {branch.origin}" if branch.origin else "the beginning"
        yield "went back", f"from {branch.collapsed:,} images ({branch.kind}) to {origin}"


def _described(described: dict[str, Any], other_place: str) -> Iterator[Row]:
    yield "written by", f"gansmith {described.get('gansmith_version', '?')}"
    if origin := described.get("imported"):
        yield "imported", _imported(origin)
    yield "images seen", f"{described['images_seen']:,}"
    if described.get("lineage"):
        yield "lineage", f"{described['lineage']} (times the run went back)"
    yield "weights", "moving average of G (EMA)" if described.get("ema", True) else "G as trained"
    yield "latent", described["latent"]
    yield "statistics", _statistics(described["statistics"])
    if table := described.get("statistics_table"):
        quirks = ", interpolated as Hugging Face's program does" if table["hugging_face"] else ""
        yield "", f"and by truncation (scale), {table['rows']} rows from 0 to 1{quirks}"
    yield "generator", _arguments(described["generator"])
    D = described["discriminator"]
    yield "discriminator", _arguments(D) if D else other_place
    yield from _classes(described["classes"], described["generator"].get("num_classes", 0))


def _data_set(path: Path) -> Iterator[Row]:
    try:
        described = json.loads((path / "dataset.json").read_text(encoding="utf-8"))
        if described["format"] != "gansmith-dataset":
            raise KeyError
        height, width = described["resolution"]
        rows = [
            ("data set", str(path)),
            ("images", f"{described['num_images']:,}"),
            (
                "size",
                f"{width} × {height}, {described['channels']} channels, stored as {described['storage']}",
            ),
            ("source", str(described.get("source", "unknown"))),
            ("content hash", described["content_hash"]),
            ("settings", _arguments(described["settings"])),
            (
                "files",
                f"{len(described['shards'])} shards, {_size(sum(s['bytes'] for s in described['shards']))}",
            ),
            *_classes(described["classes"], len(described["classes"])),
        ]
    except (KeyError, TypeError, ValueError, OSError):
        raise UserError(
            f"{path / 'dataset.json'} does not describe a prepared data set; prepare it again with "
            "`gansmith data prepare SRC DEST`."
        ) from None
    yield from rows


def _imported(origin: dict[str, Any]) -> str:
    files = f" ({', '.join(origin['files'])})" if origin.get("files") else ""
    step = f", {origin['step']:,} steps" if origin.get("step") else ""
    return f"from {origin['format']}: {origin['source']}{files}{step}"


def _statistics(statistics: dict[str, Any] | None) -> str:
    if statistics is None:
        return "none yet: estimated when sampled"
    how = (
        "no truncation"
        if statistics["kind"] == "none"
        else f"{statistics['kind']} {statistics['truncation']:g}"
    )
    if statistics["images"] is None:
        return f"for {how}, as they came with the weights"
    return f"for {how}, from {statistics['images']:,} images in groups of {statistics['group']}"


def _arguments(kwargs: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in kwargs.items())


def _classes(classes: list[dict[str, Any]], number: int) -> Iterator[Row]:
    unnamed = number - len(classes)  # random labels have no names
    if unnamed <= 0:
        yield "classes", f"{len(classes):,}"
    else:
        named = f"{len(classes):,} and " if classes else ""
        yield "classes", f"{named}{unnamed:,} classes without names"
    for entry in classes:
        yield f"  {entry['id']}", f"{entry['name']}  ({entry['count']:,} images)"


def _listed(paths: list[Path]) -> str:
    if not paths:
        return "none yet"
    names = paths[0].name if len(paths) == 1 else f"{paths[0].name} … {paths[-1].name}"
    return f"{len(paths)} ({names}), {_size(sum(size for path in paths for _, size in _files(path)))}"


def _files(path: Path) -> list[tuple[str, int]]:
    if path.is_file():
        return [(path.name, path.stat().st_size)]
    return [(file.name, file.stat().st_size) for file in sorted(path.rglob("*")) if file.is_file()]


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
