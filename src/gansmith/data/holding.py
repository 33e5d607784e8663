"""Images held out of training: which ones, whatever the run.

The choice depends on nothing but the data set, so that runs with other seeds, and those that start from
another's weights, hold out the same images. Must not know training.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gansmith.data.manifest import ClassInfo
from gansmith.data.order import scrambled
from gansmith.data.shards import Dataset
from gansmith.errors import UserError


def count(amount: float, size: int) -> int:
    """How many of `size` images `data.hold_out` means: a share below 1, else a number."""
    return round(amount * size) if amount < 1 else round(amount)


def split(dataset: Dataset, amount: float) -> tuple[Dataset, Dataset | None]:
    """What is trained on, and what is held out: of every class nearly the same share; None for amount 0.

    amount: see `count`. Raises UserError where it would be no image, or more than half of those of all
    classes, so that no class is emptied.
    """
    if not amount:
        return dataset, None
    held = chosen(dataset.labels, amount, dataset.path)
    return dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held))


def left(classes: Sequence[ClassInfo], amount: float, path: str | Path) -> list[ClassInfo]:
    """The classes with the images that are left to train on, before any is read. Raises as `split` does."""
    if not amount:
        return list(classes)
    labels = np.repeat([info.id for info in classes], [info.count for info in classes])
    counts = np.bincount(labels[~chosen(labels, amount, path)], minlength=len(classes))
    return [replace(info, count=int(counts[info.id])) for info in classes]


def chosen(labels: np.ndarray, amount: float, path: str | Path) -> np.ndarray:
    """Which images are held out: bool (N,), of labels int (N,). path: of the set, for the message of what
    `split` refuses."""
    num, most = count(amount, len(labels)), int((np.bincount(labels) // 2).sum())
    if not 0 < num <= most:
        raise UserError(
            f"data.hold_out {amount:g}: {num:,} of the {len(labels):,} images of {path} cannot be "
            f"held out; 1 to {most:,} can (half of every class), as a number or a share such as 0.05."
        )
    held = np.zeros(len(labels), bool)
    held[_spread(labels)[:num]] = True
    return held


def _spread(labels: np.ndarray) -> np.ndarray:
    """All images, ordered so that any first share of them holds that share of every class, drawn by hash."""
    drawn = np.lexsort((scrambled("hold out", len(labels)), labels))  # class by class, in hashed order
    _, first, sizes = np.unique(labels[drawn], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, sizes)
    return drawn[np.argsort((rank + 0.5) / np.repeat(sizes, sizes), kind="stable")]
