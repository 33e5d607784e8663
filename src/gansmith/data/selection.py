"""Which images of a source become the data set: classes, limits per class, duplicates, damaged files.

Pure bookkeeping on columns of numbers: no file is touched here. All decisions follow the order of the source.
"""

from dataclasses import dataclass

import numpy as np

from gansmith.data.manifest import ClassInfo
from gansmith.data.parts import TOO_SMALL, Outcome
from gansmith.errors import UserError


@dataclass
class Kept:
    """The images of the prepared set in the source's order, their new labels, and the classes' names."""

    indices: np.ndarray
    labels: np.ndarray
    names: list[str]


class Selection:
    """What became of every image so far, and what that means.

    labels: int64 (n,). classes: their names. min_images, max_images, top: limits (see PrepareSettings).
    """

    def __init__(
        self,
        labels: np.ndarray,
        classes: list[str],
        *,
        min_images: int,
        max_images: int | None,
        top: int | None,
    ) -> None:
        n = len(labels)
        self.labels, self.classes = labels, classes
        self.min_images, self.max_images = min_images, max_images
        self.chosen = _chosen_classes(np.bincount(labels, minlength=len(classes)), min_images, top)
        self.part = np.full(n, -1, np.int32)  # number of the part with the image; -1 not processed yet
        self.offset = np.zeros(n, np.int64)
        self.size = np.zeros(n, np.int32)  # 0: processed, but not stored
        self.short_side = np.zeros(n, np.int32)
        self.digest = np.zeros(n, "S32")
        self.rejected: dict[int, str] = {}
        self.too_small = 0

    def expected(self) -> int:
        """How many images are going to be processed, if none is unusable."""
        return sum(info.count for info in self.expected_classes())

    def expected_classes(self) -> list[ClassInfo]:
        """The classes of the result, with their images, if none is unusable."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if self.max_images is not None:
            counts = np.minimum(counts, self.max_images)
        chosen = np.flatnonzero(self.chosen).tolist()
        return [ClassInfo(i, self.classes[old], int(counts[old])) for i, old in enumerate(chosen)]

    def next_candidates(self) -> np.ndarray:
        """Images to process next, ascending: those that fill the classes, if all of them are usable."""
        waiting = np.flatnonzero((self.part < 0) & self.chosen[self.labels])
        if self.max_images is None:
            return waiting
        usable = np.bincount(self.labels[self._usable()], minlength=len(self.classes))
        labels = self.labels[waiting]
        return waiting[_rank_in_class(labels) < (self.max_images - usable)[labels]]

    def take(self, part: int, indices: np.ndarray, outcomes: list[Outcome]) -> None:
        """Notes what became of the images of a part."""
        self.part[indices] = part
        for index, outcome in zip(indices.tolist(), outcomes, strict=True):
            if outcome == TOO_SMALL:
                self.too_small += 1
            elif isinstance(outcome, str):
                self.rejected[index] = outcome
            else:
                self.offset[index], self.size[index] = outcome.offset, outcome.size
                self.short_side[index] = outcome.short_side
                self.digest[index] = outcome.digest.encode()

    def duplicates(self) -> tuple[int, int]:
        """How many images repeat an earlier one, and how many of those carry another label."""
        stored = np.flatnonzero(self.size)
        first = self._first_of_its_kind()[stored]
        repeats = first != stored
        return int(repeats.sum()), int((self.labels[first] != self.labels[stored])[repeats].sum())

    def keep(self) -> Kept:
        """The result, once there are no candidates left. Raises UserError if nothing remains."""
        usable = self._usable()
        counts = np.bincount(self.labels[usable], minlength=len(self.classes))
        remaining = self.chosen & (counts >= self.min_images)
        indices = usable[remaining[self.labels[usable]]]
        if len(indices) == 0:
            raise UserError(
                f"no image is left: of {(self.part >= 0).sum():,}, {len(self.rejected):,} are damaged, "
                f"{self.too_small:,} smaller than --min-size, {self.duplicates()[0]:,} duplicates; "
                f"classes with fewer than {self.min_images} are left out."
            )
        new_label = np.cumsum(remaining) - 1
        names = [name for name, there in zip(self.classes, remaining.tolist(), strict=True) if there]
        return Kept(indices, new_label[self.labels[indices]], names)

    def _usable(self) -> np.ndarray:
        stored = np.flatnonzero(self.size)
        return stored[self._first_of_its_kind()[stored] == stored]

    def _first_of_its_kind(self) -> np.ndarray:
        """For every image the first stored one with equal pixels; itself where pixels were not compared."""
        first = np.arange(len(self.labels))
        hashed = np.flatnonzero(self.digest != b"")
        if len(hashed):
            _, where, inverse = np.unique(self.digest[hashed], return_index=True, return_inverse=True)
            first[hashed] = hashed[where[inverse]]
        return first


def _chosen_classes(counts: np.ndarray, min_images: int, top: int | None) -> np.ndarray:
    """Classes worth decoding, by their counts in the source: bool per class."""
    chosen = counts >= min_images
    if top is not None and top < chosen.sum():
        largest = np.argsort(-np.where(chosen, counts, -1), kind="stable")[:top]
        chosen = np.isin(np.arange(len(counts)), largest)
    if counts[chosen].sum() == 0:
        raise UserError(f"--min-images {min_images} leaves no class: the largest has {counts.max()} images.")
    return chosen


def _rank_in_class(labels: np.ndarray) -> np.ndarray:
    """For each position, how many before it have the same label."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.searchsorted(ordered, ordered)
    return rank


def shuffled(count: int) -> np.ndarray:
    """A fixed permutation of [0, count): neighbours in a shard are then of mixed classes, for sequential
    readers.

    The order of the splitmix64 hashes, which no version of any library can change.
    """
    with np.errstate(over="ignore"):
        x = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.argsort(x ^ (x >> np.uint64(31)), kind="stable")
