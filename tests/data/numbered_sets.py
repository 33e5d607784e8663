"""Small prepared sets for the tests of data/, in which each image tells its number."""

from pathlib import Path

import numpy as np

from gansmith.data.codecs import encode
from gansmith.data.shards import ShardWriter


def numbered_images(n: int, height: int = 8, width: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Noise, uint8 (n, h, w, c), with the number of the image in its first two bytes."""
    images = np.random.default_rng(seed).integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    images.reshape(n, -1)[:, 0] = np.arange(n) % 256
    images.reshape(n, -1)[:, 1] = np.arange(n) // 256
    return images


def write_prepared(
    folder: Path, images: np.ndarray, labels: np.ndarray, storage: str = "raw", shard_bytes: int = 20_000
) -> Path:
    """A prepared folder of these images, in several shards; keys are 00000000, 00000001 …"""
    writer = ShardWriter(folder, shard_bytes=shard_bytes)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        writer.add(f"{number:08d}", int(label), *encode(image, storage))
    finish(writer, images, storage, int(max(labels)) + 1)
    return folder


def finish(writer: ShardWriter, images: np.ndarray, storage: str, num_classes: int) -> str:
    return writer.close(
        resolution=images.shape[1:3],
        channels=images.shape[3],
        storage=storage,
        class_names=[f"class {number}" for number in range(num_classes)],
        settings={"resize": "lanczos"},
        source="made up",
    )
