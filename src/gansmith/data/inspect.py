"""Looks at a data set as a careful person would before spending a GPU-hour on it: sizes, classes, oddities,
samples.

Works on prepared sets and on any source; of the latter a sample is decoded, nothing is written.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gansmith.data.images import Rejected, is_gray, measure, process
from gansmith.data.shards import is_prepared, open_prepared
from gansmith.data.sources import Source, open_source

SAMPLE = 200  # images decoded to judge an unprepared source
SHEET_CLASSES, SHEET_COLUMNS = 20, 10
SHEET_PIXELS = 64  # of a tile, for unprepared sources; prepared ones are shown as they are, up to 128
LISTED_CLASSES = 30  # more than these are summarised
TINY = 50  # images; fewer teach a network little about a class
BAR = 40


@dataclass
class Inspection:
    """What was found. classes: (name, images). sizes: (width, height) → how many of the sampled images."""

    path: str
    kind: str
    images: int
    classes: list[tuple[str, int]]
    sizes: dict[tuple[int, int], int]
    sampled: int
    gray: int  # sampled images without colour
    damaged: list[tuple[str, str]]
    channels: int | None = None  # as stored; None for files of any kind
    storage: str | None = None  # of a prepared set
    content_hash: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    oddities: list[str] = field(default_factory=list)

    @property
    def imbalance(self) -> float:
        """Images of the largest class per image of the smallest that has any."""
        counts = [count for _, count in self.classes if count]
        return max(counts) / min(counts)


def inspect(path: str, *, unconditional: bool = False) -> Inspection:
    """Looks at the data set at a path. Raises UserError as `open_source` does."""
    source = open_source(path, unconditional=unconditional)
    counts = np.bincount(source.labels, minlength=len(source.classes)).tolist()
    sizes: Counter[tuple[int, int]] = Counter()
    damaged, gray = [], 0
    sample = _spread(len(source), SAMPLE)
    for index in sample:
        try:
            data = source.read(index)
            sizes[measure(data)] += 1
            pixels, _ = process(data, resolution=32, crop="pad")
            gray += int(is_gray(pixels))
        except Rejected as reason:
            damaged.append((source.key(index), str(reason)))
    found = Inspection(
        path=path,
        kind=source.kind,
        images=len(source),
        classes=list(zip(source.classes, counts, strict=True)),
        sizes=dict(sizes.most_common()),
        sampled=len(sample),
        gray=gray,
        damaged=damaged,
        channels=source.native[2] if source.native else None,
        notes=source.notes,
    )
    if is_prepared(path):
        dataset = open_prepared(path, in_memory=False)
        found.storage, found.content_hash = dataset.storage, dataset.content_hash
        found.settings = dataset.settings
    found.oddities = _oddities(found)
    return found


def contact_sheet(path: str, *, unconditional: bool = False) -> tuple[np.ndarray, list[str]]:
    """Up to 20 classes × 10 images, evenly spread: uint8 (rows·10, h, w, c) row by row, and a label per row.

    Damaged or missing images are white.
    """
    source = open_source(path, unconditional=unconditional)
    size = min(source.native[0], 128) if source.native and is_prepared(path) else SHEET_PIXELS
    channels = source.native[2] if source.native else 3
    rows = _spread(len(source.classes), SHEET_CLASSES)
    tiles = np.full((len(rows) * SHEET_COLUMNS, size, size, channels), 255, np.uint8)
    labels = []
    for row, label in enumerate(rows):
        members = np.flatnonzero(source.labels == label)
        labels.append(f"{source.classes[label]} ({len(members):,})")
        for column, place in enumerate(_spread(len(members), SHEET_COLUMNS)):
            tile = _tile(source, int(members[place]), size, channels)
            if tile is not None:
                tiles[row * SHEET_COLUMNS + column] = tile
    return tiles, labels


def _tile(source: Source, index: int, size: int, channels: int) -> np.ndarray | None:
    try:
        return process(source.read(index), resolution=size, channels=channels)[0]
    except Rejected:
        return None


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers 0 … count − 1, evenly spread, the first included."""
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]


def _oddities(found: Inspection) -> list[str]:
    counts = np.array([count for _, count in found.classes])
    names = [name for name, _ in found.classes]
    odd = []
    if len(names) == 1 and names != ["all"]:
        odd.append("one class: class-conditional training needs two or more (--unconditional trains without)")
    if (counts == 0).any():
        odd.append(f"{_classes(names, counts == 0)} without images: their samples will be meaningless")
    tiny = (counts > 0) & (counts < TINY)
    if tiny.any():
        odd.append(
            f"{_classes(names, tiny)} with fewer than {TINY} images: expect copies; --min-images leaves "
            "them out"
        )
    if found.imbalance >= 10:
        odd.append(
            f"imbalance {found.imbalance:.0f}: the largest class has that many times the images of the "
            "smallest; "
            "consider --max-images when preparing"
        )
    if found.images < 1000:
        odd.append(f"{found.images:,} images are few: a network of this kind learns them by heart")
    usable = found.sampled - len(found.damaged)
    if usable and found.gray == usable and found.channels == 3:
        odd.append("grayscale stored as RGB: --channels 1 saves two thirds")
    elif usable and found.gray == usable and found.channels is None:
        odd.append("all sampled images are gray: prepare with --channels 1")
    elif found.gray and found.channels != 1:
        odd.append(f"{found.gray} of {usable} sampled images are gray among coloured ones")
    if found.damaged:
        key, reason = found.damaged[0]
        odd.append(f"{len(found.damaged)} of {found.sampled} sampled images are damaged, as {key}: {reason}")
    if len(found.sizes) > 1:
        sides = [min(size) for size, n in found.sizes.items() for _ in range(n)]
        if min(sides) < 64 and np.median(sides) >= 128:
            odd.append(f"some images are tiny (shorter side {min(sides)} px): --min-size leaves them out")
    return odd


def _classes(names: list[str], which: np.ndarray) -> str:
    chosen = [name for name, there in zip(names, which.tolist(), strict=True) if there]
    listed = ", ".join(chosen[:5]) + ("…" if len(chosen) > 5 else "")
    return f"{len(chosen)} {'class' if len(chosen) == 1 else 'classes'} ({listed})"


def report(found: Inspection) -> str:
    """The inspection as text, at most 100 columns of which the class names take 24."""
    lines = [
        f"{found.path}: {found.kind}",
        f"  images       {found.images:,}",
        f"  classes      {len(found.classes):,}",
        f"  size         {_sizes(found)}",
    ]
    if found.channels:
        lines.append(f"  channels     {found.channels} ({'RGB' if found.channels == 3 else 'grayscale'})")
    if found.storage:
        lines.append(f"  storage      {found.storage}")
        lines.append(f"  content      {found.content_hash}")
    lines.append(f"  imbalance    {found.imbalance:.2f} (largest class / smallest)")
    lines += [f"  note         {note}" for note in found.notes]
    lines += ["", *_histogram(found.classes), ""]
    lines += [f"  ! {oddity}" for oddity in found.oddities] or ["  nothing odd"]
    return "\n".join(lines)


def _sizes(found: Inspection) -> str:
    if not found.sizes:
        return "unknown: no sampled image could be read"
    if len(found.sizes) == 1:
        width, height = next(iter(found.sizes))
        return f"{width}×{height}"
    sides = sorted(min(size) for size, n in found.sizes.items() for _ in range(n))
    width, height = next(iter(found.sizes))
    return (
        f"mixed; shorter side {sides[0]} to {sides[-1]} px, median {sides[len(sides) // 2]}; "
        f"most frequent {width}×{height} ({len(sides)} sampled)"
    )


def _histogram(classes: list[tuple[str, int]]) -> list[str]:
    """A bar per class; for many classes the largest and smallest, and how the sizes are distributed."""
    if len(classes) <= LISTED_CLASSES:
        return _bars(classes)
    ordered = sorted(classes, key=lambda c: (-c[1], c[0]))
    counts = np.array([count for _, count in classes])
    edges = np.unique(np.linspace(counts.min(), counts.max() + 1, 11).round().astype(int))
    histogram, _ = np.histogram(counts, edges)
    spans = [
        (f"{low:,} to {high - 1:,} images", int(n))
        for low, high, n in zip(edges, edges[1:], histogram, strict=False)
    ]
    return [
        "  largest classes",
        *_bars(ordered[:5]),
        "  smallest classes",
        *_bars(ordered[-5:], ordered[0][1]),
        "  classes by size",
        *_bars(spans),
    ]


def _bars(rows: list[tuple[str, int]], full: int | None = None) -> list[str]:
    full = full or max(count for _, count in rows) or 1
    width = min(max(len(name) for name, _ in rows), 24)
    return [
        f"  {_cut(name, width):<{width}} {count:>9,} {'█' * round(BAR * count / full)}".rstrip()
        for name, count in rows
    ]


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
