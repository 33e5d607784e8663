"""Small pictures and folders of them, for the tests of this room."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from gansmith.data.shards import open_prepared


def noise(seed: int, height: int = 40, width: int = 40) -> np.ndarray:
    """uint8 (height, width, 3): smooth random colours, unlike those of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(array: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, seed: int, height: int = 40, width: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".jpg": "JPEG", ".png": "PNG"}[path.suffix]
    path.write_bytes(encoded(noise(seed, height, width), kind))
    return path


def folder(root: Path, classes: dict[str, int], suffix: str = ".png") -> Path:
    """An image folder: class → number of images. All pictures differ."""
    for number, (name, count) in enumerate(classes.items()):
        for i in range(count):
            write(root / name / f"{i:03d}{suffix}", seed=number * 1000 + i)
    return root


def contents(root: Path) -> dict[str, list[bytes]]:
    """Class name → its images' pixels, sorted."""
    dataset = open_prepared(root)
    images = dataset.read(np.arange(len(dataset)))
    return {
        c.name: sorted(images[i].tobytes() for i in np.flatnonzero(dataset.labels == c.id))
        for c in dataset.classes
    }
