"""From weights of other programs to what gansmith goes on with: a snapshot to draw from, or a run to train.

A run comes out where G, D and both Adam states are there. Its counters are the source's, its configuration is
what the source says of its recipe; its data are unknown until `gansmith train --out RUN --data …` names them.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import gansmith
from gansmith import config as configuration
from gansmith import files
from gansmith.config import Config
from gansmith.errors import UserError
from gansmith.models.biggan import Generator
from gansmith.sampling import statistics
from gansmith.training import batching, initial
from gansmith.training import checkpoint as checkpoints
from gansmith.training.precision import LossScale
from gansmith.weights import convert, snapshot
from gansmith.weights.imported import Imported

MORE = 20_000_000  # images that an imported run goes on for, unless told otherwise
# The author's program, where nothing else is said:
BATCH = 64  # images per step
DECAY = 0.9999  # of the average, a step
HALF_OF_AVERAGE = math.log(0.5) / math.log(DECAY)  # steps


@dataclass(frozen=True)
class Written:
    """What came out: its path, whether it is a run, and sentences about it."""

    path: Path
    is_run: bool
    notes: list[str]


def check_destination(dest: Path, source: Path) -> None:
    """Raises UserError for a DEST that exists and holds something, lies in the source, or cannot be made."""
    if dest.is_file() or (dest.is_dir() and any(dest.iterdir())):
        raise UserError(f"{dest} exists and is never overwritten; give another name or delete it.")
    if dest.suffix == ".safetensors" and dest.is_dir():
        raise UserError(f"{dest} is a folder; give the name of a new file.")
    if source.is_dir() and source.resolve() in dest.resolve().parents:
        raise UserError(f"{dest} lies in {source} itself, among the weights; give a place outside of it.")
    above = next(parent for parent in dest.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"{dest} cannot be made: {above} is a file; give another place.")
    if why := files.unwritable(dest):
        raise UserError(f"{dest} cannot be made: {why}; give a place elsewhere.")


def trainable(imported: Imported) -> bool:
    """Whether training can go on as it was: G, D and both optimizers are there."""
    return imported.G is not None and imported.D is not None and imported.optimizers.keys() >= {"G", "D"}


def outcome(imported: Imported, dest: Path) -> str:
    """What `write` makes of it, in words. Raises UserError as `write` does where there is no generator."""
    if imported.G is None:
        raise UserError(convert.no_generator(imported))
    if dest.suffix == ".safetensors":
        return "a snapshot" + (" with D" if imported.D is not None else "")
    return (
        "a run that trains on" if trainable(imported) else f"a folder with a snapshot ({_lacking(imported)})"
    )


def write(imported: Imported, dest: Path, settings: Mapping[str, Any] | None = None) -> Written:
    """Writes a snapshot (dest ends in .safetensors), or a folder: a run that trains on if it can, else one
    with a snapshot in it. settings: configuration of the run, by path, over what the source says.

    Raises UserError, with nothing written, for sources that cannot be what is asked for, and full disks.
    """
    check_destination(dest, imported.source)
    notes: list[str] = []
    with _saying(dest):
        if imported.G is not None and imported.info["statistics"] is None:
            imported.info["statistics"] = _estimated(imported.G, imported.info)
            notes.append("standing statistics were estimated, since the source has none")
        if dest.suffix == ".safetensors":
            convert.save_snapshot(imported, dest)
            return Written(dest, False, notes)
        dest.parent.mkdir(parents=True, exist_ok=True)
        name = f"{checkpoints.name(imported.images_seen or 0)}.safetensors"
        if not trainable(imported):
            with files.replacing_folder(dest) as folder:
                convert.save_snapshot(imported, folder / "snapshots" / name)
            notes.append(f"only to draw from: {_lacking(imported)}")
            return Written(dest, False, notes)
        config, origins, notes = _configuration(imported, settings or {})
        imported.images_seen = _images_seen(imported, config)
        step = f"{imported.step or 0:,} steps of G"
        notes.append(f"{step} and {imported.images_seen:,} images are behind it")
        imported.info |= {"images_seen": imported.images_seen, "config": config.model_dump(mode="json")}
        name = f"{checkpoints.name(imported.images_seen)}.safetensors"
        with files.replacing_folder(dest) as folder:
            convert.save_snapshot(imported, folder / "snapshots" / name)
            _save_checkpoint(folder / "checkpoints", imported, config)
            (folder / "config.yaml").write_text(configuration.to_yaml(config, origins))
    return Written(dest, True, notes)


@contextlib.contextmanager
def _saying(dest: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{dest} could not be written ({error.strerror or error}); nothing was left there."
        ) from None


def _lacking(imported: Imported) -> str:
    have = {
        "D": imported.D is not None,
        "Adam of G": "G" in imported.optimizers,
        "Adam of D": "D" in imported.optimizers,
    }
    missing = [name for name, there in have.items() if not there]
    are = "is" if len(missing) == 1 else "are"
    return f"{', '.join(missing)} {are} not there (train from it with --init-from)"


def _estimated(G: Generator, info: dict[str, Any]) -> dict[str, Any]:
    group = statistics.default_group(info, G.kwargs["resolution"])
    return statistics.estimate(G, info["latent"], G.num_classes, group=group)


def _configuration(
    imported: Imported, settings: Mapping[str, Any]
) -> tuple[Config, dict[str, str], list[str]]:
    """The run's configuration with origins and notes: the networks', the recipe's, and the user's settings.

    Raises UserError for settings that contradict the networks.
    """
    recipe = {"train.batch": BATCH, **imported.recipe}
    notes = []
    if "train.batch" not in imported.recipe and "train.batch" not in settings:
        notes.append(
            f"the batch is not known: {BATCH}, its program's default; another with --set train.batch=…"
        )
    for letter, adam in imported.optimizers.items():
        if adam.lr is not None:
            recipe[f"optim.lr_{letter.lower()}"] = adam.lr
    adam = imported.optimizers["G"]
    own = {"optim.beta1": adam.beta1, "optim.beta2": adam.beta2, "optim.eps": adam.eps}
    recipe |= {path: value for path, value in own.items() if value is not None}
    d = imported.optimizers["D"]
    of_d = {"beta1": (d.beta1, adam.beta1), "beta2": (d.beta2, adam.beta2)}
    recipe |= {f"optim.{name}_d": own for name, (own, g) in of_d.items() if own not in (None, g)}
    if d.eps != adam.eps:
        notes.append("Adam of D had another epsilon than Adam of G; that of G is used for both")
    config, origins = configuration.load(None, None, {**recipe, **settings})
    source = initial.Source(str(imported.source), imported, "", [])
    found = initial.architecture(config, {}, source)
    if wrong := [
        path for path in settings if path in found and configuration.flat(config)[path] != found[path]
    ]:
        raise UserError(f"--set {wrong[0]}: the networks have {found[wrong[0]]}; leave it out.")
    if found.get("init.generator") or found.get("init.discriminator"):
        found["init.source"] = str(imported.source.resolve())
    if imported.G_raw is not None and "ema.half_life" not in {**recipe, **settings}:
        # No ramp either, which would throw away the average that came with it.
        half_life = round(HALF_OF_AVERAGE * config.train.batch * config.optim.d_steps)
        of_average = {"ema.half_life": half_life, "ema.ramp": None, "ema.start": 0}
        found |= {path: value for path, value in of_average.items() if path not in settings}
        notes.append(f"the average's decay is not known: {DECAY} a step, its program's default")
    if "train.duration" not in settings:
        found["train.duration"] = _images_seen(imported, config) + MORE
        notes.append(f"it goes on for {MORE // 1_000_000}M images; otherwise --set train.duration=…")
    config = configuration.from_flat(configuration.flat(config) | found)
    label = imported.source_format
    origins = {
        path: label if path not in settings else "command line" for path in {**recipe, **found, **settings}
    }
    return config, origins, notes


def _images_seen(imported: Imported, config: Config) -> int:
    """By the batch of the past: one that is set for what is to come rescales no history."""
    if imported.images_seen is not None:
        return imported.images_seen
    return (imported.step or 0) * config.train.batch * config.optim.d_steps


def _save_checkpoint(folder: Path, imported: Imported, config: Config) -> None:
    G_ema, D = imported.G, imported.D
    G = imported.G_raw if imported.G_raw is not None else imported.G
    assert G_ema is not None
    assert G is not None
    assert D is not None
    if not imported.info["ema"] and imported.G_raw is not None:
        G_ema, G = G, G_ema
    networks = {f"G_ema.{name}": value.data for name, value in G_ema.named_parameters()}
    moments: dict[str, torch.Tensor] = {}
    for letter, net in (("G", G), ("D", D)):
        networks |= {f"{letter}.{name}": value for name, value in net.state_dict().items()}
        for name, values in imported.optimizers[letter].moments.items():
            moments |= {f"{letter}.{name}.{key}": value for key, value in values.items()}
    seen, step = imported.images_seen, imported.step or 0
    scale = LossScale(enabled=False).state()
    record = {
        "images_seen": seen,
        "fakes_seen": step * (config.train.batch_g or config.train.batch),
        "step": step,
        "seconds": 0.0,
        "scale_g": scale,
        "scale_d": scale,
        "order": None,  # made when the data are known, as if it had been trained on them
        "gansmith_version": gansmith.__version__,
        "config": configuration.flat(config),
        "resolved": {"bn_group": batching.bn_group(config), "num_classes": G.num_classes},
        "data": {"content_hash": None, "images": 0},
        "classes": imported.info["classes"],
        "discriminator": D.kwargs,
        "imported": imported.info["imported"],
        "world": 1,
        "precision": "fp32",
    }
    info = imported.info | {"statistics": None, "ema": True}
    checkpoints.save(
        folder,
        {"networks": networks, "optimizers": moments},
        record,
        lambda file: snapshot.save(file, G_ema, info=info),
    )
