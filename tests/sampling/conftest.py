"""A tiny generator, and a run folder that holds it as a snapshot and as a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gansmith.models import spectral
from gansmith.models.biggan import Generator
from gansmith.sampling import statistics
from gansmith.weights import snapshot

NAMES = ["cat", "dog", "hot dog, red hot", "a/b c", "süß", "犬"]


def build(num_classes: int = 6, **changed: Any) -> Generator:
    """A generator whose images differ visibly by seed and by class, in eval mode, Ŵ ready."""
    torch.manual_seed(0)
    kwargs: dict[str, Any] = {
        "resolution": 32,
        "ch": 4,
        "dim_z": 8,
        "shared_dim": 4,
        "attention": (16,),
        "init": "n02",
    }
    G = Generator(num_classes=num_classes, **(kwargs | changed))
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
            if name == "shared.weight":
                parameter.mul_(50)
    spectral.converge(G)
    return G.eval().requires_grad_(False)


def describe(num_classes: int = 6, **changed: Any) -> dict[str, Any]:
    """The info of a snapshot of `build(num_classes)`."""
    names = NAMES if num_classes == 6 else [f"class {i}" for i in range(num_classes)]
    classes = [{"id": i, "name": names[i], "count": 10 + i} for i in range(num_classes)]
    config = {"bn": {"group": 16}}
    info = {"latent": "normal", "images_seen": 2000, "lineage": 0, "ema": True, "statistics": None}
    return {**info, "classes": classes, "config": config, **changed}


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics of 128 images instead of 1,024: the tests need speed, not precision."""
    monkeypatch.setattr(statistics, "IMAGES", 128)


@pytest.fixture(name="build", scope="session")
def _build() -> Callable[..., Generator]:
    return build


@pytest.fixture(name="describe", scope="session")
def _describe() -> Callable[..., dict[str, Any]]:
    return describe


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/tiny with two snapshots (with statistics) and a checkpoint (without); read-only by agreement."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    (run / "snapshots").mkdir(parents=True)
    (run / "checkpoints" / "000000003000").mkdir(parents=True)
    G = build()
    snapshot.save(run / "checkpoints/000000003000/G_ema.safetensors", G, info=describe(images_seen=3000))
    record = statistics.estimate(G, "normal", 6, images=256, group=16)
    for images_seen in (1000, 2000):
        info = describe(images_seen=images_seen, statistics=record)
        snapshot.save(run / f"snapshots/{images_seen:012d}.safetensors", G, info=info)
    return run
