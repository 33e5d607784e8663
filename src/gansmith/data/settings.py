"""How a data set is prepared: every choice, its default, its check; and which classes that leaves.

Pure: no image is touched here.
"""

import csv
import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gansmith.data import codecs, images
from gansmith.data.sources import Source
from gansmith.errors import UserError

RESOLUTIONS = range(4, 4097)


@dataclass(frozen=True)
class PrepareSettings:
    """Choices of a preparation. `None` means: as the source suggests."""

    resolution: int | None = (
        None  # pixels, images become square; None: as stored, where the source has one size
    )
    crop: str = "center"  # center | top | pad (white) | none (images that are not square are rejected)
    resize: str = "lanczos"  # lanczos | box, both antialiased
    channels: int | None = None  # 3 (RGB) | 1 (grayscale); None: as stored, RGB for image files
    min_size: int = 0  # pixels of the shorter side; smaller images are left out
    min_images: int | None = (
        None  # classes with fewer are left out; None: 1, or 0 where ids are part of the data
    )
    max_images: int | None = None  # per class: the first ones that are usable
    top_classes: int | None = None  # only the K classes with most images in the source
    merge_file: str | None = None  # YAML {new: [old, …]} or CSV rows new,old,old…; other classes stay
    dedup: bool = True  # of images with equal pixels after resizing, only the first in the source's order
    storage: str = "raw"  # raw | png | webp (lossless) | jpeg-Q
    unconditional: bool = False  # all images are one class
    max_rejected: float = 0.01  # share of damaged images above which preparing is an error

    def check(self) -> None:
        """Raises UserError naming every setting that is not allowed."""
        problems = []
        if self.resolution is not None and self.resolution not in RESOLUTIONS:
            problems.append(f"--resolution {self.resolution} is not allowed; choose 32, 64, 128, 256 or 512.")
        for flag, value, allowed in (
            ("--crop", self.crop, images.CROPS),
            ("--resize", self.resize, tuple(images.FILTERS)),
            ("--channels", self.channels, (None, 1, 3)),
        ):
            if value not in allowed:
                names = ", ".join(str(v) for v in allowed if v is not None)
                problems.append(f"{flag} {value} is unknown; choose one of {names}.")
        for flag, number, least in (
            ("--min-size", self.min_size, 0),
            ("--min-images", self.min_images, 0),
            ("--max-images", self.max_images, 1),
            ("--top-classes", self.top_classes, 1),
        ):
            if number is not None and number < least:
                problems.append(f"{flag} {number} must be {least} or more.")
        if not 0 <= self.max_rejected <= 1:
            problems.append(f"--max-rejected {self.max_rejected:g} is a share: 0 (none) to 1 (any).")
        if self.merge_file and self.unconditional:
            problems.append("--merge joins classes, and --unconditional has none; give only one of them.")
        try:
            codecs.check_storage(self.storage)
        except UserError as error:
            problems.append(str(error))
        if problems:
            raise UserError("\n       ".join(problems))

    def resolved(self, source: Source) -> "PrepareSettings":
        """The settings with everything the source decides filled in. Raises UserError if it cannot."""
        self.check()
        resolution, channels, numbered = (
            self.resolution,
            self.channels,
            source.numbered and not self.merge_file,
        )
        if resolution is None:
            if source.native is None:
                raise UserError(
                    f"--resolution is needed: {source.path} is an {source.kind} with images of any size. "
                    "Choose 32, 64, 128, 256 or 512."
                )
            if source.native[0] != source.native[1]:
                raise UserError(
                    f"--resolution is needed: images of {source.path} are not square {source.native[:2]}."
                )
            resolution = source.native[0]
        if channels is None:
            channels = source.native[2] if source.native else 3
        min_images = self.min_images if self.min_images is not None else int(not numbered)
        return replace(self, resolution=resolution, channels=channels, min_images=min_images)

    def processing(self) -> dict[str, Any]:
        """The keyword arguments of `images.process`."""
        names = ("resolution", "crop", "resize", "channels", "min_size")
        return {name: getattr(self, name) for name in names}

    def identity(self) -> dict[str, Any]:
        """What decides the result, as it is stored in dataset.json: equal identities give equal data sets."""
        return {
            "resolution": self.resolution,
            "crop": self.crop,
            "resize": self.resize,
            "channels": self.channels,
            "min_size": self.min_size,
            "min_images": self.min_images,
            "max_images": self.max_images,
            "top_classes": self.top_classes,
            "merge": read_merge_file(self.merge_file) if self.merge_file else None,
            "dedup": self.dedup,
            "storage": self.storage,
            "unconditional": self.unconditional,
        }


def read_merge_file(path: str) -> dict[str, list[str]]:
    """New class → old classes. Raises UserError for another form, or an old class named twice."""
    expected = "YAML `new: [old, …]` per class, or CSV rows `new,old,old…`"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if path.endswith(".csv"):
            rows = [[cell.strip() for cell in row if cell.strip()] for row in csv.reader(text.splitlines())]
            found: Any = {row[0]: row[1:] for row in rows if row}
        else:
            found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, csv.Error) as error:
        raise UserError(f"--merge {path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(old, list) and old for old in found.values()):
        raise UserError(f"--merge {path} must be {expected}.")
    merge = {str(new): [str(old) for old in olds] for new, olds in found.items()}
    every = [old for olds in merge.values() for old in olds]
    twice = sorted({old for old in every if every.count(old) > 1})
    if twice:
        raise UserError(
            f"--merge {path} names {', '.join(twice)} more than once; a class can go to one place."
        )
    return merge


def merged_classes(source: Source, merge: dict[str, list[str]]) -> tuple[list[str], np.ndarray]:
    """Class names after merging, sorted, and the label of each image. Raises UserError for unknown
    classes.
    """
    known = set(source.classes)
    new_name = {old: new for new, olds in merge.items() for old in olds}
    for old in new_name:
        if old not in known:
            near = difflib.get_close_matches(old, source.classes, 3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UserError(f"--merge names the class {old!r}, which {source.path} does not have{hint}")
    for new, olds in merge.items():
        if new in known and new not in olds and new not in new_name:
            raise UserError(
                f"--merge makes {new!r}, which is a class already; list it among its old classes too."
            )
    names = {new_name.get(name, name) for name in source.classes}
    numeric = all(name.isascii() and name.isdigit() for name in names)
    classes = sorted(names, key=lambda name: (int(name), name) if numeric else (0, name))
    position = {name: i for i, name in enumerate(classes)}
    lookup = np.array([position[new_name.get(name, name)] for name in source.classes])
    return classes, lookup[source.labels]


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The settings that differ, as "name: before → now"."""
    return [f"{name}: {before.get(name)} → {now.get(name)}" for name in now if before.get(name) != now[name]]
