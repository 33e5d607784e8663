"""What a run can start from: gansmith's own runs, checkpoints and snapshots, and every format that
`weights` reads; and whether a trained D is left lying beside it.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gansmith import config as configuration
from gansmith.errors import UserError
from gansmith.models import families, spectral
from gansmith.training import checkpoint as checkpoints
from gansmith.training import state as states
from gansmith.weights import biggan_pytorch, convert, snapshot
from gansmith.weights.imported import Imported, check_finite


def read(path: Path) -> Imported:
    """The networks in a run (its newest whole checkpoint, else its newest snapshot), a checkpoint, a
    snapshot, or anything of another program.

    Raises UserError for what is missing, damaged or unknown.
    """
    if not path.exists():
        raise UserError(
            f"--init-from {path} does not exist; give a run, a snapshot (.safetensors), a checkpoint folder, "
            "or published weights."
        )
    if (path / "manifest.json").is_file():
        if wrong := checkpoints.problem(path):
            raise UserError(f"--init-from {path} is damaged: {wrong}; use another checkpoint of the run.")
        return _checkpoint(path)
    if (path / "checkpoints").is_dir() and checkpoints.listed(path / "checkpoints"):
        notes: list[str] = []
        newest = checkpoints.latest(path / "checkpoints", notes.append)
        assert newest is not None
        imported = _checkpoint(newest)
        imported.notes += notes
        return imported
    states = _states(path)
    if len(states) > 1:
        raise UserError(
            f"--init-from {path} holds several saved states: {', '.join(states)}; choose one first, with all "
            f"of it, `gansmith convert {path} WEIGHTS --which {states[0]}`, and start from WEIGHTS."
        )
    return convert.open_any(path)


def _states(folder: Path) -> list[str]:
    """Suffixes under which a folder of BigGAN-PyTorch has networks: of one state `` or `best0`."""
    if not folder.is_dir():
        return []
    found = biggan_pytorch.files_in(folder)
    return [suffix for suffix, roles in found.items() if {"G", "G_ema", "D"} & roles.keys()]


def _checkpoint(path: Path) -> Imported:
    """All three networks of a checkpoint that was found whole."""
    G_ema, _, info = snapshot.load(path / snapshot.CHECKPOINT_FILE)
    record = checkpoints.read_record(path)
    try:
        tensors = load_file(path / "networks.safetensors")
    except (SafetensorError, OSError) as error:
        raise UserError(f"--init-from {path}: networks.safetensors cannot be read ({error}).") from None
    check_finite(path, tensors)
    imported = Imported(
        family=G_ema.kwargs["family"],
        source_format="gansmith checkpoint",
        source=path,
        G=G_ema,
        G_raw=_filled(families.make_generator, G_ema.kwargs, tensors, "G", path),
        info=info,
        step=record["step"],
        images_seen=record["images_seen"],
    )
    config = configuration.from_flat(record["config"])
    if config.model.discriminator is not None:
        imported.unused.append(("D", f"it is of your own making ({config.model.discriminator})"))
    else:
        kwargs = states.discriminator_kwargs(config, record["resolved"]["num_classes"])
        imported.D = _filled(families.make_discriminator, kwargs, tensors, "D", path)
    return imported


def _filled(make: Any, kwargs: dict[str, Any], tensors: dict[str, torch.Tensor], letter: str, path: Path):
    with torch.device("meta"):  # no time for an initialisation that is overwritten
        net = make(**kwargs)
    state = {key[2:]: value for key, value in tensors.items() if key.startswith(f"{letter}.")}
    try:
        net.to_empty(device="cpu").load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"--init-from {path}: its {letter} does not fit its description: {error}.") from None
    spectral.refresh(net, iterations=0)
    return net.eval().requires_grad_(False)


def idle_discriminator(path: str, imported: Imported) -> str | None:
    """A warning if a trained D is in the source or lies beside it, and this run makes a new one."""
    beside = None
    if imported.D is not None:
        beside = f"{path} brings its own trained D, and model.discriminator replaces it by a new one"
        way = "leave model.discriminator out"
    else:
        place = imported.source if imported.source.is_dir() else imported.source.parent
        if place.name == "snapshots" and (saved := checkpoints.listed(place.parent / "checkpoints")):
            beside, way = f"{path} has no D, but the run it belongs to has", f"give --init-from {saved[-1]}"
        elif found := sorted(file for file in place.glob("D*.pth") if "optim" not in file.name):
            beside = f"{path} is used without D, but a trained D lies beside it ({found[0].name})"
            way = f"give the folder: --init-from {place}"
            if len(_states(place)) > 1:
                way = f"give all of its state, `gansmith convert {place} WEIGHTS --which SUFFIX` and WEIGHTS"
    if beside is None:
        return None
    return (
        f"{beside}. A new D knows nothing yet, and a G that learns from it may lose all it had "
        f"learned: {way}, or read docs/finetuning.md first"
    )
