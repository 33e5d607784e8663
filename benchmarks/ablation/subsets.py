"""Data that an ablation changes: a share of a set, classes of falling size, a border; as a folder of PNGs.

Which images are kept depends on the seed named here, not on a run's.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gansmith import files
from gansmith.data import open_dataset


@dataclass(frozen=True)
class Images:
    """of: any source of docs/data.md. share: of every class's images that is kept. imbalance: how many times
    as many the first class keeps as the last, in equal steps of ratio between them. border: pixels added on
    every side, as the edge continues. seed: of which images are kept.
    """

    of: str
    share: float = 1.0
    imbalance: float = 1.0
    border: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (
            ("share", int | float),
            ("imbalance", int | float),
            ("border", int),
            ("seed", int),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise ValueError(f".{name}: is a {'whole ' if kind is int else ''}number, not {value!r}")
        if not 0 < self.share <= 1:
            raise ValueError(f".share: is above 0 and at most 1, not {self.share}")
        if not self.imbalance >= 1:
            raise ValueError(f".imbalance: is 1 (none) or more, not {self.imbalance}")
        if self.border < 0:
            raise ValueError(f".border: is 0 or more pixels, not {self.border}")

    def recipe(self) -> dict[str, Any]:
        """What distinguishes these images, JSON-able."""
        changes = {name: value for name, value in asdict(self).items() if name != "seed"}
        return asdict(self) if self.changed() else {"of": changes["of"]}

    def changed(self) -> bool:
        """Whether they are not simply the source's."""
        return (self.share, self.imbalance, self.border) != (1.0, 1.0, 0)


def kept(labels: np.ndarray, images: Images) -> np.ndarray:
    """Ascending indices of the images that are kept; labels: int (n,). Every class keeps one at least."""
    random = np.random.default_rng(images.seed)
    classes = np.unique(labels)
    rows = []
    for rank, label in enumerate(classes):
        own = random.permutation(np.flatnonzero(labels == label))
        falling = images.imbalance ** (-rank / max(len(classes) - 1, 1))
        rows.append(own[: max(1, round(len(own) * images.share * falling))])
    return np.sort(np.concatenate(rows))


def ready(images: Images, resolution: int, channels: int, below: Path) -> str:
    """What to give as --data: the source itself, or a folder below `below` that is made once.

    resolution, channels: of the images before the border. Raises UserError for a source that cannot be read.
    """
    if not images.changed():
        return images.of
    made_from = images.recipe() | {"resolution": resolution, "channels": channels}
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
    folder = below / digest
    if folder.is_dir():
        return str(folder)
    dataset = open_dataset(images.of, resolution=resolution, channels=channels)
    names = {info.id: info.name for info in dataset.classes}
    rows = kept(dataset.labels, images)
    with files.replacing_folder(folder) as temporary:
        for row, pixels in zip(rows, dataset.read(rows)):
            place = temporary / names[int(dataset.labels[row])]
            place.mkdir(exist_ok=True)
            _bordered(pixels, images.border).save(place / f"{row:06d}.png")
    return str(folder)


def _bordered(pixels: np.ndarray, border: int) -> Image.Image:
    wide = np.pad(pixels, ((border, border), (border, border), (0, 0)), mode="edge")
    return Image.fromarray(wide[..., 0] if wide.shape[2] == 1 else wide)
