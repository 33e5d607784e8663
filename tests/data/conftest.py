"""Fixtures of the tests of data/."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numbered_sets import numbered_images, write_prepared


@pytest.fixture
def make_prepared(tmp_path: Path) -> Callable[..., tuple[Path, np.ndarray, np.ndarray]]:
    """make_prepared(n=40, storage="raw", …) → (folder, images, labels); four classes, the second empty."""

    def make(n: int = 40, storage: str = "raw", name: str = "", shard_bytes: int = 20_000, **shape):
        images = numbered_images(n, **shape)
        labels = np.array([0, 2, 3])[np.arange(n) % 3]
        folder = tmp_path / (name or f"prepared-{storage}")
        return write_prepared(folder, images, labels, storage, shard_bytes), images, labels

    return make
