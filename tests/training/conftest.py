"""Small runs: 32 px greyscale networks of a few channels on synthetic images in three classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

TINY: dict[str, Any] = {
    "model.resolution": 32,
    "model.channels": 1,
    "model.ch": 2,
    "model.dim_z": 8,
    "model.shared_dim": 4,
    "model.attention_g": [16],
    "model.attention_d": [16],
    "loss.ortho_g": 1e-4,
    "train.batch": 8,
    "train.duration": 64,
    "train.precision": "fp32",
    "bn.group": 4,
    "optim.lr_g": 1e-3,
    "optim.lr_d": 1e-3,
    "ema.half_life": 32,
    "log.status_every": 16,
    "log.snapshot_every": 32,
    "log.checkpoint_every": 16,
    "log.grid_columns": 2,
    "log.statistics_images": 16,
    "log.keep_checkpoints": 10,
}

# The same small run, without a word about the networks.
PLAIN: dict[str, Any] = {path: value for path, value in TINY.items() if not path.startswith("model.")} | {
    "train.duration": 16,
    "train.micro_batch": 8,
    "log.snapshot_every": 16,
}


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes × 7 greyscale images, 21 in all: no multiple of any batch."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for label, name in enumerate(("circle", "cross", "dot")):
        (folder / name).mkdir()
        for index in range(7):
            pixels = random.integers(0, 80, (32, 32), dtype=np.uint8)
            pixels[4 + 8 * label : 12 + 8 * label] += 150
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def tiny(images: Path, tmp_path: Path) -> Callable[..., Path]:
    """Trains a tiny run: tiny("name", **{"train.batch": 4}) → its folder."""
    from gansmith.training.run import train

    def start(name: str = "run", settings: dict[str, Any] | None = None, **options: Any) -> Path:
        merged = TINY | (settings or {})
        return train(str(images), None, tmp_path / name, settings=merged, **options)

    return start


@pytest.fixture(scope="session")
def source(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run: 3 classes (circle, cross, dot), greyscale, D in its checkpoint."""
    from gansmith.training.run import train

    folder = tmp_path_factory.mktemp("source") / "run"
    return train(str(images), None, folder, settings=TINY | {"train.duration": 32})


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images: 4 classes, of which one has a name of the source's."""
    folder = tmp_path_factory.mktemp("other")
    random = np.random.default_rng(1)
    for label, name in enumerate(("bar", "cross", "ring", "star")):
        (folder / name).mkdir()
        for index in range(4):
            pixels = random.integers(0, 90, (32, 32), dtype=np.uint8)
            pixels[:, 6 * label : 6 * label + 6] += 150
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def tune(other: Path, tmp_path: Path, source: Path) -> Callable[..., Path]:
    """Trains a tiny run from `source` on `other`: tune("name", {"train.duration": 32}) → its folder."""
    from gansmith.training.run import train

    def start(name="tuned", settings=None, data=other, init=source, **options):
        own = {"init.source": str(init)} if init else {}
        return train(str(data), None, tmp_path / name, settings=PLAIN | own | (settings or {}), **options)

    return start
