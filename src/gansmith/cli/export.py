"""`gansmith export`: a trained generator for the Hugging Face hub, for ONNX, for PyTorch without gansmith, or
for BigGAN-PyTorch.

A verb of its own beside `convert`: that brings weights here, this takes them elsewhere, and people look for
it under this name.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gansmith import files
from gansmith.cli.sample import plain_warnings
from gansmith.errors import UserError

if TYPE_CHECKING:
    from gansmith.models.biggan import Discriminator
    from gansmith.sampling.sampler import Sampler

SUFFIXES = {".onnx": "onnx", ".pt2": "torch"}
FORMATS = ("huggingface", "onnx", "torch", "biggan-pytorch")
GRID = 8  # rows and columns of a model card's picture at most


@click.command()
@click.argument("path", type=click.Path())
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    help="Default: by DEST's name: .onnx, .pt2, else a folder for the Hugging Face hub.",
)
@click.option("--truncation", type=float, help="Standing statistics are those of this truncation.")
@click.option(
    "--truncation-kind", type=click.Choice(["resample", "scale"]), default="resample", show_default=True
)
@click.option("--with-d", is_flag=True, help="Export the discriminator too (folders only).")
@click.option(
    "--conditioning",
    type=click.Choice(["ids", "embedding"]),
    default="ids",
    show_default=True,
    help="Graphs take class ids, or class vectors, which can be mixed.",
)
@click.option("--license", "license_name", metavar="NAME", help="For the model card, such as cc-by-4.0.")
@click.option("--push", metavar="USER/NAME", help="Upload the folder to the Hugging Face hub.")
@click.option("--private", is_flag=True, help="Make the repository on the hub private.")
def export(
    path: str,
    dest: Path,
    format_name: str | None,
    truncation: float | None,
    truncation_kind: str,
    with_d: bool,
    conditioning: str,
    license_name: str | None,
    push: str | None,
    private: bool,
) -> None:
    """Write the generator of PATH, a run, snapshot or checkpoint, to DEST in a form of other programs.

    What is exported is what `sample` and `eval` draw with: averaged weights, spectral norm and standing
    statistics baked in. Graphs (.onnx, .pt2) are run and compared before they are kept.
    """
    from gansmith.sampling import latents, sampler
    from gansmith.weights.export import hub

    chosen = format_name or SUFFIXES.get(dest.suffix, "huggingface")
    _check(dest, chosen, with_d, conditioning, push, private)
    if push is not None and not hub.looks_like_name(push):
        raise UserError(f"--push {push}: a name on the hub is user/name, such as jane/flowers-128.")
    if truncation is not None:
        latents.check_truncation(truncation, truncation_kind, "normal")
    with plain_warnings():
        opened = sampler.load(path, "cpu")
        opened.use_truncation(truncation, truncation_kind)
    assert opened.file is not None
    D = _discriminator(path, opened.file) if with_d else None
    info = _described(opened, truncation, truncation_kind)
    try:
        sentence = _write(opened, dest, chosen, D, info, conditioning, license_name, truncation, push)
    except OSError as error:
        raise UserError(
            f"{dest} could not be written ({error.strerror or error}); nothing was kept."
        ) from error
    click.echo(sentence)
    if push is not None:
        click.echo(f"pushed to {hub.push(dest, push, private=private)}")


def _check(dest: Path, chosen: str, with_d: bool, conditioning: str, push: str | None, private: bool) -> None:
    if dest.exists():
        raise UserError(f"{dest} exists and is never overwritten; give another name or delete it.")
    folder = next(parent for parent in dest.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise UserError(f"{dest}: {folder} is a file; give a place in a folder.")
    if why := files.unwritable(dest):
        raise UserError(f"{dest} cannot be made: {why}; give a place elsewhere.")
    suffix = {name: ending for ending, name in SUFFIXES.items()}.get(chosen)
    if suffix is not None and dest.suffix != suffix:
        raise UserError(f"{dest}: --format {chosen} writes a file; give a name ending in {suffix}.")
    if suffix is None and dest.suffix in SUFFIXES:
        raise UserError(f"{dest}: --format {chosen} writes a folder; give a name without {dest.suffix}.")
    if with_d and suffix is not None:
        raise UserError(f"--with-d: --format {chosen} holds G only; use huggingface or biggan-pytorch.")
    if conditioning != "ids" and suffix is None:
        raise UserError("--conditioning belongs to graphs: give a DEST ending in .onnx or .pt2.")
    if (push is not None or private) and (chosen != "huggingface" or push is None):
        raise UserError("--push and --private go together with --format huggingface and a name to push to.")


def _discriminator(path: str, file: Path) -> "Discriminator":
    from gansmith.training import sources
    from gansmith.weights import snapshot

    D: Any
    if file.name == snapshot.CHECKPOINT_FILE:
        D = sources.read(file.parent).D
    else:
        _, D, _ = snapshot.load(file, discriminator=True)
    if D is None:
        raise UserError(
            f"--with-d: {file} keeps no D; give a checkpoint folder of the run, or train with "
            "--set log.snapshot_d=true."
        )
    return D


def _described(opened: "Sampler", truncation: float | None, kind: str) -> dict[str, Any]:
    """The file's description with the statistics that G has now."""
    from gansmith.sampling import statistics

    info, (threshold, rule) = dict(opened.info), statistics.key(truncation, kind)
    stored = info["statistics"]
    if stored is None or (float(stored["truncation"]), stored["kind"]) != (threshold, rule):
        group = statistics.default_group(info, opened.G.kwargs["resolution"])
        images = -(-statistics.IMAGES // group) * group
        info["statistics"] = {"truncation": threshold, "kind": rule, "images": images, "group": group}
    return info


def _write(
    opened: "Sampler",
    dest: Path,
    chosen: str,
    D: "Discriminator | None",
    info: dict[str, Any],
    conditioning: str,
    license_name: str | None,
    truncation: float | None,
    push: str | None,
) -> str:
    from gansmith.weights.export import author, graphs

    assert opened.file is not None
    sha256 = files.sha256(opened.file)
    dest.parent.mkdir(parents=True, exist_ok=True)
    if chosen in ("onnx", "torch"):
        write = graphs.to_onnx if chosen == "onnx" else graphs.to_torch
        error = write(dest, opened.G, info | {"snapshot_sha256": sha256}, conditioning=conditioning)
        return f"{dest}: G for any batch, images within {error:.1e} of gansmith's own"
    if chosen == "biggan-pytorch":
        error = author.write(dest, opened.G, D, info)
        return f"{dest}: weights folder of BigGAN-PyTorch, singular values within {error:.1e}"
    _write_folder(opened, dest, D, info, sha256, license_name, truncation, push)
    return f"{dest}: model.safetensors, config.json, README.md, samples.png; open it with gansmith.load"


def _write_folder(
    opened: "Sampler",
    dest: Path,
    D: "Discriminator | None",
    info: dict[str, Any],
    sha256: str,
    license_name: str | None,
    truncation: float | None,
    push: str | None,
) -> None:
    from gansmith import config as configuration
    from gansmith.cli.sample import row_name
    from gansmith.sampling import grids
    from gansmith.weights.export import card, folder

    assert opened.file is not None
    labels = opened.class_ids(None)
    rows = [labels[round(i * (len(labels) - 1) / max(GRID - 1, 1))] for i in range(GRID)]
    rows = labels if len(labels) <= GRID else rows
    kind = info["statistics"]["kind"]
    pictures = opened.sample(
        seeds=range(GRID),
        classes=rows if opened.num_classes else None,
        truncation=truncation,
        truncation_kind=kind if truncation is not None else "resample",
    )
    names = [row_name(opened, label) for label in rows] if opened.num_classes else None
    recipe = configuration.flat(configuration.Config.model_validate(info["config"])) if info["config"] else {}
    described = card.Card(
        name=push or dest.name,
        source_sha256=sha256,
        truncation="no truncation" if truncation is None else f"truncation {truncation:g} ({kind})",
        license=license_name,
        scores=card.evaluations(opened.file),
        recipe=recipe,
        imported=info.get("imported"),
    )
    folder.write(dest, opened.file, opened.G, D, info, described, grids.tile(pictures, GRID, names))
