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
