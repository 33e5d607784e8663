"""D as a judge of reals: its logits on images it was trained on and on images it never saw.

A D that tells them apart has learnt its training set by heart. Must not know how D is trained.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from gansmith.data.feed import to_device
from gansmith.data.shards import Dataset
from gansmith.errors import UserError
from gansmith.models import families, spectral
from gansmith.weights import snapshot

BATCH = 64


def open_discriminator(file: Path) -> nn.Module | None:
    """D of a snapshot that keeps it, or of the checkpoint that a G_ema.safetensors lies in; eval mode, CPU.

    None where there is none. Raises UserError for one of the user's own architecture.
    """
    info = snapshot.describe(file)
    if info["discriminator"] is not None:
        return snapshot.load(file, discriminator=True)[1]
    beside = file.parent / "networks.safetensors"
    if file.name != snapshot.CHECKPOINT_FILE or not beside.is_file():
        return None
    record = json.loads((file.parent / "state.json").read_text())
    config = record["config"]
    if config.get("model.discriminator"):
        raise UserError(
            f"--held-out: D of this run is {config['model.discriminator']}, of which gansmith knows nothing; "
            "leave --held-out out."
        )
    with torch.device("meta"):
        D = families.make_discriminator(**(record.get("discriminator") or _kwargs(info["generator"], config)))
    with safe_open(beside, framework="pt", device="cpu") as opened:
        names = [name for name in opened.keys() if name.startswith("D.")]  # noqa: SIM118 (not a dict)
        state = {name[2:]: opened.get_tensor(name) for name in names}
    D.to_empty(device="cpu")
    D.load_state_dict(state)
    D.eval().requires_grad_(False)
    spectral.refresh(D, iterations=0)
    return D


def _kwargs(generator: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """D's arguments where a checkpoint of 0.1.0 does not tell them, from G's and the run's settings."""
    shared = ("family", "resolution", "num_classes", "channels", "depth", "init", "sn_eps")
    return {name: generator[name] for name in shared if name in generator} | {
        "ch": config["model.ch_d"] or config["model.ch"],
        "attention": tuple(config["model.attention_d"]),
        "wide": config["model.wide_d"],
        "spectral": config["model.spectral_d"],
    }


def labels_for(D: nn.Module, dataset: Dataset, classes: list[str]) -> np.ndarray | None:
    """int64 (n,): the class of every image as D numbers it; None for a D without classes.

    classes: their names in D's order; [] where D learnt random classes, which every image gets then. Raises
    UserError for images of classes that D does not know.
    """
    if not (num_classes := getattr(D, "kwargs", {}).get("num_classes")):
        return None
    if not classes:
        return np.arange(len(dataset)) % num_classes
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [info.name for info in dataset.classes if info.count and info.name not in numbers]
    if unknown:
        raise UserError(
            f"{dataset.path} has classes that D does not know: {', '.join(unknown[:5])}; leave d-gap out of "
            f"--metrics, or give images of its own classes: {', '.join(classes[:5])}"
            f"{', …' if len(classes) > 5 else '.'}"
        )
    return np.array([numbers.get(info.name, -1) for info in dataset.classes])[dataset.labels]


@torch.no_grad()
def logits(
    D: nn.Module, dataset: Dataset, indices: np.ndarray, device: torch.device, *, classes: list[str]
) -> np.ndarray:
    """float32 (n,): what D says of these images with their own labels. classes: as of `labels_for`."""
    numbers = labels_for(D, dataset, classes)
    D.to(device)
    spectral.refresh(D, iterations=0)  # moving drops the normalised weights
    parts = []
    for first in range(0, len(indices), BATCH):
        here = indices[first : first + BATCH]
        images = to_device(torch.from_numpy(dataset.read(here)), device)
        labels = None if numbers is None else torch.from_numpy(numbers[here]).to(device)
        parts.append(D(images, labels).float().flatten().cpu().numpy())
    return np.concatenate(parts)
