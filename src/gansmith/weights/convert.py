"""From any file or folder with BigGAN weights to networks, and from those to a snapshot.

`FORMATS` is the one place that knows which formats there are; each has a file of its own in this room. What a
file is, is decided by what it holds, not by its name. Nothing here knows how runs are trained.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.weights import (
    biggan_pytorch,
    compare_gan,
    huggingface,
    layout,
    pickles,
    snapshot,
    tensor_bundle,
    tfhub,
)
from gansmith.weights.imported import Imported

OURS = "gansmith"
PICKLED = {".pth", ".pt", ".bin", ".tar", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class Choices:
    """What the user may say about a source; formats take what concerns them. which: a suffix such as best0.
    config: keyword arguments over those of the file. raw: the generator as trained, not its average.
    hugging_face: interpolate statistics as the published program does.
    """

    which: str | None = None
    config: Mapping[str, Any] | None = None
    raw: bool = False
    hugging_face: bool = False


@dataclass(frozen=True)
class Format:
    """A foreign format: whether a path is of it (never raises), how it is read, what it looks like, and the
    choices it takes.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Choices], Imported]
    looks: str
    takes: tuple[str, ...] = ("raw",)


def _author_files(path: Path) -> bool:
    if path.is_dir():
        found = biggan_pytorch.files_in(path)
        return any(roles.keys() & {"G", "G_ema", "D"} for roles in found.values())
    if path.suffix == ".pth" and biggan_pytorch.NAME.fullmatch(path.name):
        return True
    return _holds(path, lambda state: layout.is_generator(state) or layout.is_discriminator(state))


def _hugging_face_files(path: Path) -> bool:
    if path.is_dir():
        return bool(huggingface.weights_in(path))
    return _holds(path, huggingface.looks_like)


FORMATS = [
    Format(
        biggan_pytorch.FORMAT,
        _author_files,
        lambda path, own: biggan_pytorch.read(path, which=own.which, config=own.config, raw=own.raw),
        "G.pth, G_ema.pth, D.pth, state_dict.pth, or a folder of them",
        ("which", "config", "raw"),
    ),
    Format(
        huggingface.FORMAT,
        _hugging_face_files,
        lambda path, own: huggingface.read(path, config=own.config, hugging_face=own.hugging_face),
        "pytorch_model.bin with its config.json",
        ("config", "hf-parity"),
    ),
    Format(
        tfhub.FORMAT,
        tfhub.is_module,
        lambda path, own: tfhub.read(path, averaged=not own.raw, config=own.config),
        "a module's folder or archive, or its variables",
        ("config", "raw"),
    ),
    Format(
        compare_gan.FORMAT,
        compare_gan.is_checkpoint,
        lambda path, own: compare_gan.read(path, averaged=not own.raw),
        "a checkpoint of compare_gan or Tensorfork (experimental): model.ckpt-….index, or its folder",
    ),
]


def detect(path: str | Path) -> str:
    """The name of a path's format, `gansmith` for our own. Raises UserError for what is none or several."""
    path = Path(path)
    if not path.exists() and tensor_bundle.find(path) is None:
        raise UserError(f"{path} does not exist; give a file or folder of weights.")
    if _is_ours(path):
        return OURS
    found = [format.name for format in FORMATS if format.recognises(path)]
    if len(found) > 1:
        raise UserError(f"{path} holds two models: {' and '.join(found)}; give the files of one of them.")
    if found:
        return found[0]
    if tensor_bundle.find(path) is not None or (path.suffix not in PICKLED and tfhub.is_archive(path)):
        tfhub.read(path)  # damaged, or of another program: TensorFlow's files have their own messages
    if path.is_dir():
        inside = [entry for entry in sorted(path.iterdir()) if entry.is_dir() or entry.suffix in PICKLED]
        nested = [entry for entry in inside if any(format.recognises(entry) for format in FORMATS)]
        if nested:
            several = "several models" if len(nested) > 1 else "no weights itself, but a model"
            raise UserError(
                f"{path} holds {several}: {', '.join(entry.name for entry in nested[:6])}; give one of them, "
                f"such as {nested[0]}."
            )
    elif path.suffix in PICKLED:
        pickles.read_tensors(path)  # damage and hostile files have their own messages
    looks = "".join(f"\n  - {format.name}: {format.looks}" for format in FORMATS)
    raise UserError(
        f"{path} holds no weights that are known here. These are read:\n"
        f"  - gansmith: a run, a checkpoint, a snapshot (.safetensors), an exported folder{looks}"
    )


def open_any(
    path: str | Path,
    *,
    which: str | None = None,
    config: Mapping[str, Any] | None = None,
    raw: bool = False,
    hugging_face: bool = False,
) -> Imported:
    """The networks in a path of any format, gansmith's own snapshots included (of a run the newest one's).

    The choices are those of `Choices`. Raises UserError for what is unknown, damaged, or does not fit.
    """
    path = Path(path)
    name = detect(path)
    format = next((format for format in FORMATS if format.name == name), None)
    asked = {"which": which, "config": config, "raw": raw, "hf-parity": hugging_face}
    takes = format.takes if format else ()
    if idle := [choice for choice, value in asked.items() if value and choice not in takes]:
        raise UserError(
            f"--{idle[0]} has no meaning for {path}, which is of the format {name}; leave it out."
        )
    if format is None:
        return _ours(path)
    return format.read(path, Choices(which, config, raw, hugging_face))


def save_snapshot(imported: Imported, dest: Path) -> None:
    """Writes G, and D where there is one, to a new .safetensors file. Raises UserError without a G."""
    if imported.G is None:
        raise UserError(no_generator(imported))
    dest.parent.mkdir(parents=True, exist_ok=True)
    snapshot.save(dest, imported.G, D=imported.D, info=imported.info)


def no_generator(imported: Imported) -> str:
    """The message for a source without a G."""
    return (
        f"{imported.source} holds a discriminator only, and a snapshot is made to draw from; give the folder "
        "in which its generator lies too."
    )


def describe(imported: Imported) -> Iterator[tuple[str, str]]:
    """What was found, as rows of a table: (what, value)."""
    yield "format", imported.source_format
    yield "family", imported.family
    net = imported.G if imported.G is not None else imported.D
    assert net is not None
    kwargs = net.kwargs
    yield "resolution", f"{kwargs['resolution']} px, {kwargs['channels']} channels"
    yield "ch", _of_both(imported, "ch")
    yield "classes", f"{kwargs['num_classes']:,}"
    if imported.G is not None:
        given = (name for name in ("dim_z", "shared_dim", "skip_z") if name in kwargs)
        yield "latent", ", ".join(f"{name} {kwargs[name]}" for name in given)
    if "attention" in kwargs:
        yield "attention", _of_both(imported, "attention")
    yield "networks", ", ".join(_networks(imported))
    if imported.optimizers:
        steps = {
            k: max((int(m["step"]) for m in a.moments.values()), default=0)
            for k, a in imported.optimizers.items()
        }
        yield (
            "optimizers",
            ", ".join(f"Adam of {letter} ({count:,} steps)" for letter, count in steps.items()),
        )
    if imported.step is not None:
        seen = f", {imported.images_seen:,} images" if imported.images_seen else ""
        yield "trained", f"{imported.step:,} steps{seen}"
    origin = imported.info.get("imported") or {}
    # 0 and 999999 are what the author starts from
    scores = {key[5:]: origin[key] for key in ("best_IS", "best_FID") if 0 < (origin.get(key) or 0) < 999998}
    if scores:
        yield "best scores", ", ".join(f"{k} {v:.4g}" for k, v in scores.items()) + " (as the file has them)"
    if imported.G is not None and (table := imported.G.statistics_table) is not None:
        yield "statistics", f"by truncation, {table.size} rows from 0 to 1"
    for what, entries in (("not used", imported.unused), ("not filled", imported.unfilled)):
        alike: dict[str, list[str]] = {}
        for name, reason in entries:
            alike.setdefault(reason.replace(name, "…"), []).append(name)
        for reason, names in alike.items():
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            yield what, f"{names[0]}{more}: {reason}"
    for note in imported.notes:
        yield "note", note


def _networks(imported: Imported) -> Iterator[str]:
    for net, words in (
        (imported.G, "G (averaged)" if imported.info.get("ema", True) else "G"),
        (imported.G_raw, "G as trained" if imported.info.get("ema", True) else "averaged G"),
        (imported.D, "D"),
    ):
        if net is not None:
            yield f"{words} {sum(p.numel() for p in net.parameters()):,} parameters"


def _of_both(imported: Imported, key: str) -> str:
    values = {
        letter: net.kwargs[key] for letter, net in (("G", imported.G), ("D", imported.D)) if net is not None
    }
    shown = {
        letter: ", ".join(map(str, v)) or "none" if isinstance(v, list) else str(v)
        for letter, v in values.items()
    }
    if len(set(shown.values())) == 1:
        return next(iter(shown.values()))
    return ", ".join(f"{letter} {text}" for letter, text in shown.items())


def _is_ours(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".safetensors" or path.name == "best"
    own = ("config.yaml", "manifest.json", snapshot.CHECKPOINT_FILE, snapshot.HUB_FILE, "snapshots")
    numbered = (file for file in path.glob("*.safetensors") if snapshot.NUMBERED.fullmatch(file.name))
    return any((path / name).exists() for name in own) or any(numbered)


def _ours(path: Path) -> Imported:
    G, D, info = snapshot.load(path, discriminator=True)
    return Imported(
        G.kwargs["family"],
        OURS,
        snapshot.find(path),
        G=G,
        D=D,
        info={
            key: value for key, value in info.items() if key not in ("sha256", "generator", "discriminator")
        },
        images_seen=info["images_seen"],
    )


def _holds(path: Path, wanted: Callable[[Mapping[str, Tensor]], bool]) -> bool:
    """Whether a pickled file is a dict of tensors of some kind; names alone are looked at."""
    if path.suffix not in PICKLED or not path.is_file():
        return False
    try:
        saved = pickles.read_tensors(path)
    except UserError:
        return False
    plain = {
        str(name).removeprefix("module."): value
        for name, value in (saved.items() if isinstance(saved, dict) else ())
        if isinstance(value, torch.Tensor)
    }
    return bool(plain) and wanted(plain)
