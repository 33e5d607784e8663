"""A run of an untrained network with three classes, and real images to hold it against."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gansmith.sampling import statistics
from gansmith.weights import snapshot
from tests.sampling.conftest import build, describe

CLASSES = ["cat", "bee", "ant"]


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """config.yaml, snapshots of 1,000 and 2,000 images, a checkpoint of 3,000; read-only by agreement."""
    run = tmp_path_factory.mktemp("runs") / "three"
    (run / "snapshots").mkdir(parents=True)
    (run / "checkpoints" / "000000003000").mkdir(parents=True)
    (run / "config.yaml").write_text("preset: null\n")
    classes = [{"id": i, "name": name, "count": 10} for i, name in enumerate(CLASSES)]
    for images_seen in (1000, 2000):
        G = build(3, ch=2 * images_seen // 1000)
        record = statistics.estimate(G, "normal", 3, images=64, group=16)
        info = describe(3, images_seen=images_seen, statistics=record, classes=classes)
        snapshot.save(run / f"snapshots/{images_seen:012d}.safetensors", G, info=info)
    info = describe(3, images_seen=3000, classes=classes)
    snapshot.save(run / "checkpoints/000000003000/G_ema.safetensors", G, info=info)
    return run


@pytest.fixture(scope="session")
def reals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes, 60 colour images of 32 px: 30 ants, 10 bees, 20 cats."""
    folder = tmp_path_factory.mktemp("reals")
    random = np.random.default_rng(0)
    for label, (name, count) in enumerate((("ant", 30), ("bee", 10), ("cat", 20))):
        (folder / name).mkdir()
        for index in range(count):
            pixels = random.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            pixels[4 + 8 * label : 12 + 8 * label] += 150
            Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
    return folder
