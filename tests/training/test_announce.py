"""What a dry run says of the data is what the run then finds."""

from pathlib import Path

import numpy as np
import pytest

from gansmith.config.schema import Config, DataConfig, ModelConfig
from gansmith.data import open_dataset
from gansmith.data.codecs import encode
from gansmith.data.shards import ShardWriter
from gansmith.errors import UserError
from gansmith.training import announce


@pytest.fixture
def prepared(tmp_path: Path):
    """prepared(side) → a folder with six different images of that size in two classes, as PNG."""

    def make(side: int) -> Path:
        writer = ShardWriter(tmp_path / f"{side}")
        images = np.random.default_rng(0).integers(0, 256, (6, side, side, 3), np.uint8)
        for number, image in enumerate(images):
            writer.add(f"{number}", number % 2, *encode(image, "png"))
        writer.close(
            resolution=(side, side), channels=3, storage="png", class_names=["a", "b"], settings={}, source=""
        )
        return tmp_path / f"{side}"

    return make


@pytest.mark.parametrize("side", [32, 40, 64])
@pytest.mark.parametrize("random_crop", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_dry_run_agrees_with_the_run(prepared, monkeypatch, tmp_path, side, random_crop, channels):
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "cache"))
    config = Config(
        data=DataConfig(path=str(prepared(side)), random_crop=random_crop, in_memory=True),
        model=ModelConfig(resolution=32, channels=channels),
    )
    expected = announce.peek(config)
    announce.check_data(config, expected)
    assert not (tmp_path / "cache").exists()
    dataset = open_dataset(config.data.path, **announce.prepare_options(config))
    found = announce.summarise(dataset)
    assert (expected.num_images, expected.classes) == (found.num_images, found.classes)
    assert dataset.resolution == ((side, side) if random_crop else (32, 32))
    assert dataset.channels == channels


def test_a_dry_run_refuses_what_the_run_refuses(prepared):
    config = Config(data=DataConfig(path=str(prepared(16))), model=ModelConfig(resolution=32))
    for find in (announce.peek, lambda c: open_dataset(c.data.path, **announce.prepare_options(c))):
        with pytest.raises(UserError, match="prepared at 16 px, and 32 px are asked for"):
            find(config)
