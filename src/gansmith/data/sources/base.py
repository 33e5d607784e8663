"""What every source of images offers: keys, labels, class names, and the bytes or pixels of image i.

A source is cheap to open (it lists, it does not decode), reads in any order, and travels to other processes
without its open files. Subclasses know one family of formats each.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gansmith.errors import UserError

MAX_CLASSES = 1_000_000


class Source:
    """Images with labels, as they were found.

    path: as the user gave it. kind: for people ("image folder"). classes: names, in the order of their ids.
    labels: int64 (n,). numbered: the ids are part of the data, so that classes without images keep their
    place. native: (height, width, channels) where the format fixes them, else None. notes: what the user
    should know about how the data was understood.
    """

    kind = "images"

    def __init__(
        self,
        path: str,
        classes: Sequence[str],
        labels: np.ndarray | Sequence[int],
        *,
        numbered: bool = False,
        native: tuple[int, int, int] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        self.path = path
        self.classes = list(classes)
        self.labels = np.asarray(labels, np.int64)
        self.numbered = numbered
        self.native = native
        self.notes = list(notes)
        self._open: Any = None  # files and arrays, opened when first needed; never sent to another process

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def key(self, index: int) -> str:
        """Where image `index` lies inside the source, for people."""
        return f"image {index}"

    def read(self, index: int) -> bytes | np.ndarray:
        """The bytes of the image's file, or its uint8 (h, w, c) pixels. Raises Rejected for damaged ones."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Changes whenever the data may have changed: a hash of names, sizes and modification times."""
        return fingerprint_of_files([Path(self.path)])

    def as_one_class(self) -> None:
        """Forgets the labels (unconditional training)."""
        self.classes, self.labels, self.numbered = ["all"], np.zeros(len(self), np.int64), False


class ArraySource(Source):
    """A source whose images fit in memory as one uint8 array (n, h, w, c), loaded again in every process."""

    def read(self, index: int) -> np.ndarray:
        if self._open is None:
            self._open = self.load()
        return self._open[index]

    def load(self) -> np.ndarray:
        """All images, uint8 (n, h, w, c)."""
        raise NotImplementedError


def fingerprint_of_files(files: Iterable[Path]) -> str:
    """Hash of the names, sizes and modification times of the files; a folder stands for all files in it."""
    digest = hashlib.sha256()
    for file in files:
        for path, size, mtime in sorted(_listing(file)):
            digest.update(f"{path}\0{size}\0{mtime}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _listing(root: Path) -> Iterable[tuple[str, int, int]]:
    if not root.is_dir():
        status = root.stat()
        yield str(root.absolute()), status.st_size, status.st_mtime_ns
        return
    for name in walk(root):
        status = os.stat(root / name)
        yield str(root.absolute() / name), status.st_size, status.st_mtime_ns


def walk(root: Path) -> list[str]:
    """All files below a folder as sorted relative paths with forward slashes; links to folders are followed
    once.
    """
    found: list[str] = []
    seen: set[str] = set()
    pending = [(str(root), "")]
    while pending:
        folder, prefix = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        pending.append((entry.path, f"{prefix}{entry.name}/"))
                    elif entry.is_file():
                        found.append(prefix + entry.name)
        except PermissionError:
            raise UserError(f"{folder} cannot be read (permission denied); make it readable.") from None
    return sorted(found)


def numbered_classes(labels: np.ndarray, where: str, names: Sequence[str] = ()) -> list[str]:
    """Names for labels that are ids: those given, else the numbers. Raises UserError for impossible
    labels.
    """
    if len(labels) == 0:
        raise UserError(f"{where} holds no images.")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MAX_CLASSES:
        raise UserError(f"{where}: labels run from {low} to {high}; allowed are 0 to {MAX_CLASSES - 1}.")
    if names and high >= len(names):
        raise UserError(f"{where}: label {high} has no name; only {len(names)} names are given.")
    return list(names) or [str(i) for i in range(high + 1)]
