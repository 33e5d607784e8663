"""Which image comes when: pure functions from a position of the endless stream to a sample.

Position p counts real images shown to D since the run began. It is the whole state of the data pipeline,
together with the list of segments: from a segment's start its data set is walked in epochs, each in an order
of its own, named by (seed, start, epoch). Batch, micro-batch and ranks only decide where the stream is cut
(`slices`), so all of them may change at any restart. Data added in the middle of a run opens a segment;
positions before it map as ever.

Everything is hashed from keys by integer arithmetic written out below: no library's random stream, which may
change with its version, is part of the order. This room must not know files, images or torch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from gansmith.errors import UserError

SHUFFLE_UP_TO = (
    65_536  # sets up to here are shuffled by sorting, above by a Feistel network in constant memory
)
TINY = 64  # permutations up to here are sorted many at a time, without remembering them
ROUNDS = 8  # of the Feistel network


@dataclass(frozen=True)
class SetRef:
    """A data set as a stream remembers it. weight: share of the draws, relative to the segment's other
    sets."""

    content_hash: str
    size: int
    weight: float = 1.0


@dataclass(frozen=True)
class Segment:
    """From position `start` on, images come from these sets, in an order named by `lineage` too: how often
    the run went back before."""

    start: int
    sets: tuple[SetRef, ...]
    lineage: int = 0

    @property
    def name(self) -> tuple[int, ...]:
        """What enters the keys of its order and augmentation; nothing while the run never went back."""
        return (self.lineage,) if self.lineage else ()


@dataclass(frozen=True)
class Located:
    """What lies at each of N positions; arrays of shape (N,).

    epoch: int64, how often this sample came before in this segment. sample: int64, index into the data set.
    flip: bool, mirror it if flips are wanted. crop_y, crop_x: float64 in [0, 1), where a random crop lies.
    random_label_bits: uint64, for labels drawn at random; take them modulo the number of classes.
    """

    epoch: np.ndarray
    sample: np.ndarray
    flip: np.ndarray
    crop_y: np.ndarray
    crop_x: np.ndarray
    random_label_bits: np.ndarray


@dataclass(frozen=True)
class Order:
    """The order of a run's real images.

    seed: names the order. segments: first starts at 0, starts ascend. balanced: every class equally often, in
    rounds that show each (non-empty) class once, each class walking its own images in epochs. labels: int
    (n,), the labels of the last segment's set; needed if balanced.
    """

    seed: int
    segments: tuple[Segment, ...]
    balanced: bool = False
    labels: np.ndarray | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        starts = [segment.start for segment in self.segments]
        assert starts[:1] == [0], "the first segment starts at 0"
        assert starts == sorted(set(starts)), f"segments {starts} do not ascend"
        assert all(s.sets for s in self.segments), "a segment has at least one set"
        assert all(0 < s.size < 1 << 48 and s.weight > 0 for seg in self.segments for s in seg.sets)

    def locate(self, positions: np.ndarray) -> Located:
        """What lies at the positions (int64 (N,), any order). Constant memory, whatever the size of the set.

        Raises UserError where a segment holds several sets: mixing them is not supported yet.
        """
        positions = np.asarray(positions, np.int64)
        assert not len(positions) or positions.min() >= 0, "positions start at 0"
        which = self.segment_of(positions)
        numbers = np.unique(which).tolist()
        if len(numbers) == 1:
            epoch, sample, bits, label_bits = self._columns(numbers[0], positions)
        else:
            epoch, sample = np.empty_like(positions), np.empty_like(positions)
            bits, label_bits = np.empty_like(positions, np.uint64), np.empty_like(positions, np.uint64)
            for number in numbers:
                here = which == number
                found = self._columns(number, positions[here])
                epoch[here], sample[here], bits[here], label_bits[here] = found
        return Located(
            epoch=epoch,
            sample=sample,
            flip=(bits >> np.uint64(63)).astype(bool),
            crop_y=(bits >> np.uint64(32) & np.uint64(0x7FFFFFFF)) / 2.0**31,
            crop_x=(bits & np.uint64(0xFFFFFFFF)) / 2.0**32,
            random_label_bits=label_bits,
        )

    def _columns(self, number: int, positions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Epoch, sample, bits of the augmentation and of random labels at positions of one segment."""
        segment = self.segments[number]
        epoch, sample = self._locate_in(number, positions - segment.start)
        everywhere = positions.astype(np.uint64)
        bits = _scramble(_key("augmentation", self.seed, *segment.name), everywhere)
        return epoch, sample, bits, _scramble(_key("label", self.seed, *segment.name), everywhere)

    def segment_of(self, positions: np.ndarray) -> np.ndarray:
        """The number of the segment each position lies in, int64 (N,)."""
        starts = [segment.start for segment in self.segments]
        return np.searchsorted(starts, positions, side="right") - 1

    def epochs(self, position: int) -> float:
        """How many epochs lie before the position, each segment counted by its own size."""
        ends = [segment.start for segment in self.segments[1:]] + [position]
        return sum(
            max(min(end, position) - segment.start, 0) / sum(s.size for s in segment.sets)
            for segment, end in zip(self.segments, ends, strict=True)
        )

    def opened_at(
        self,
        position: int,
        sets: Sequence[SetRef],
        labels: np.ndarray | None = None,
        lineage: int | None = None,
    ) -> "Order":
        """The same history, and from `position` on other sets, or the same in another order; itself if these
        are the sets and the order it has.

        Nothing before the position changes. A segment opened where the last one starts replaces it. labels:
        those of the new set, where the order does not have them already. lineage: None is the last one's.
        """
        last = self.segments[-1]
        lineage = last.lineage if lineage is None else lineage
        if (tuple(sets), lineage) == (last.sets, last.lineage):
            return self
        assert position >= last.start, (
            f"position {position} lies before the last segment's start {last.start}"
        )
        kept = self.segments if position > last.start else self.segments[:-1]
        labels = self.labels if labels is None else labels
        return Order(self.seed, (*kept, Segment(position, tuple(sets), lineage)), self.balanced, labels)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary: all but the labels."""
        segments = [asdict(s) for s in self.segments]
        for segment in segments:
            if not segment["lineage"]:
                del segment["lineage"]
        return {"seed": self.seed, "balanced": self.balanced, "segments": segments}

    @staticmethod
    def from_json(data: dict[str, Any], labels: np.ndarray | None = None) -> "Order":
        """The order that `to_json` described."""
        segments = tuple(
            Segment(int(s["start"]), tuple(SetRef(**one) for one in s["sets"]), int(s.get("lineage", 0)))
            for s in data["segments"]
        )
        return Order(int(data["seed"]), segments, bool(data["balanced"]), labels)

    def _locate_in(self, number: int, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epoch, sample) `steps` after the start of a segment."""
        segment = self.segments[number]
        if len(segment.sets) > 1:
            raise UserError(
                f"data: the stream mixes {len(segment.sets)} sets from image {segment.start:,} on; "
                f"mixing several sets is not supported yet. Prepare them into one."
            )
        key = _key("order", self.seed, segment.start, *segment.name)
        if not self.balanced:
            epoch, rank = np.divmod(steps, segment.sets[0].size)
            return epoch, _permuted_in_epochs(segment.sets[0].size, key, epoch, rank)
        assert self.labels is not None, "balanced sampling needs the labels"
        assert number == len(self.segments) - 1, "the labels of earlier segments are not at hand"
        assert len(self.labels) == segment.sets[0].size, "these are the labels of another set"
        return self._locate_balanced(key, steps)

    def _locate_balanced(self, key: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Round r shows every class once, so it shows the r-th image of each: no counting is needed.
        by_class, first, size = self._classes
        turn, slot = np.divmod(steps, len(size))
        which = _permuted_in_epochs(len(size), key, turn, slot)
        epoch, rank = np.divmod(turn, size[which])
        keys = _scramble(_scramble(key, which + 1), epoch)
        return epoch, by_class[first[which] + _permuted(rank, size[which], keys)]

    @cached_property
    def _classes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples sorted by class; where each non-empty class begins there; how many it has."""
        assert self.labels is not None
        by_class = np.argsort(self.labels, kind="stable")
        _, first, size = np.unique(self.labels[by_class], return_index=True, return_counts=True)
        return by_class, first, size


def slices(start: int, batch: int, micro_batch: int, rank: int, world: int) -> list[np.ndarray]:
    """The positions a rank feeds in one batch, one int64 array per micro-step.

    Micro-step i of rank r covers start + (i·world + r)·micro_batch … + micro_batch. Together, ranks and
    micro-steps cover [start, start + batch) once. Raises UserError, naming the nearest batches, if it cannot
    be split evenly.
    """
    unit = micro_batch * world
    if batch < 1 or batch % unit:
        nearest = sorted({max(batch // unit, 1) * unit, (batch // unit + 1) * unit})
        raise UserError(
            f"--batch {batch} cannot be split into {world} process{'es' if world > 1 else ''} × micro-batch "
            f"{micro_batch}; nearest: {' or '.join(map(str, nearest))}."
        )
    return [
        np.arange(micro_batch, dtype=np.int64) + start + (step * world + rank) * micro_batch
        for step in range(batch // unit)
    ]


def scrambled(name: str, count: int) -> np.ndarray:
    """A hash of each of 0 … count − 1, named by `name`: uint64 (count,)."""
    return _scramble(_key(name), np.arange(count))


def _key(*parts: object) -> np.ndarray:
    """A 64-bit key, as a uint64 array of shape () so that its arithmetic wraps silently."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return np.array([int.from_bytes(digest, "little")], np.uint64)


def _finalise(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function: a bijection of 64-bit words in which every bit depends on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _scramble(key: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A hash of x named by key; uint64 of their common shape."""
    return _finalise(_finalise(x.astype(np.uint64) ^ key) + key)


def _permuted_in_epochs(size: int, key: np.ndarray, epoch: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Where the permutation of [0, size) that belongs to each epoch puts each rank, int64."""
    if size <= TINY or size > SHUFFLE_UP_TO:
        return _permuted(rank, np.full_like(rank, size), _scramble(key, epoch))
    out = np.empty_like(rank)
    for one in np.unique(epoch).tolist():
        here = epoch == one
        out[here] = _shuffle(size, int(_scramble(key, np.array([one]))[0]))[rank[here]]
    return out


@lru_cache(maxsize=8)
def _shuffle(size: int, key: int) -> np.ndarray:
    """The permutation of [0, size) that sorts hashes of its elements."""
    order = np.argsort(_scramble(np.array([key], np.uint64), np.arange(size)), kind="stable")
    order.flags.writeable = False
    return order


def _permuted(rank: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where the permutation of [0, size[i]) named key[i] puts rank[i], for every i; int64."""
    out = np.empty_like(rank)
    tiny = size <= TINY
    if tiny.any():
        out[tiny] = _shuffled_tiny(rank[tiny], size[tiny], key[tiny])
    if not tiny.all():
        large = ~tiny
        out[large] = _feistel(rank[large], size[large], key[large])
    return out


def _shuffled_tiny(rank: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """As `_shuffle`, for many permutations of at most TINY elements at once."""
    keys, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    elements = np.arange(size.max())
    hashes = _scramble(keys[:, None], elements)
    hashes[elements >= size[first][:, None]] = np.uint64(0xFFFFFFFFFFFFFFFF)  # sorts behind the elements
    return np.argsort(hashes, axis=1, kind="stable")[inverse, rank]


def _feistel(rank: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A Feistel network over pairs of digits in base ⌈√size⌉, walking the cycle until inside [0, size).

    Each round adds to one digit a hash of the other, modulo the base: invertible, hence a bijection of
    [0, base²); walking keeps it one on [0, size), and base² exceeds size by so little that few walk at all.
    """
    out = rank.astype(np.uint64)
    base = np.ceil(np.sqrt(size)).astype(np.uint64)  # exact below 2⁵⁰
    limit = size.astype(np.uint64)
    todo = np.arange(len(rank))
    while len(todo):
        left, right = np.divmod(out[todo], base[todo])
        for number in range(ROUNDS):
            digit = _scramble(key[todo] + np.uint64(number), right)
            left, right = right, (left + digit % base[todo]) % base[todo]
        out[todo] = left * base[todo] + right
        todo = todo[out[todo] >= limit[todo]]
    return out.astype(np.int64)
