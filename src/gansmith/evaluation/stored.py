"""Images that are there already, by index: image files, prepared sets and .npz files, as they were found.

Nothing is cropped, resized or cached. Must not know scores, nor what drew the images.
"""

import hashlib
import os
import struct
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import numpy as np

from gansmith import files
from gansmith.data.images import Rejected, TooSmall, is_gray, measure, process
from gansmith.data.shards import open_prepared
from gansmith.data.sources import Source, open_source
from gansmith.errors import UserError


class StoredImages(ABC):
    """uint8 images of one size by index, as they were found."""

    kind: str
    shape: tuple[int, int, int]
    labels: np.ndarray | None
    classes: list[str]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (n, h, w, c)"""

    @abstractmethod
    def sha256(self) -> str: ...


class PreparedImages(StoredImages):
    kind = "prepared set"

    def __init__(self, path: str) -> None:
        self.dataset = open_prepared(path, in_memory=False)
        self.shape = (self.dataset.channels, *self.dataset.resolution)
        self.labels = self.dataset.labels
        self.classes = [info.name for info in self.dataset.classes]

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.dataset.read(indices)

    def sha256(self) -> str:
        return self.dataset.content_hash


class ImageFiles(StoredImages):
    """Image files as they are: nothing is cropped, resized or cached, so every one must have one size."""

    def __init__(self, path: str) -> None:
        try:
            self.source: Source = open_source(path)
            self.labels, self.classes = self.source.labels, self.source.classes
        except UserError:  # no classes to be seen: images all the same
            self.source = open_source(path, unconditional=True)
            self.labels, self.classes = None, []
        self.kind = self.source.kind
        width, height = self._size(0)
        self.shape = (3, height, width)
        few = np.linspace(0, len(self) - 1, min(len(self), 8)).astype(int)
        if all(is_gray(image) for image in self.read(few)):
            self.shape = (1, height, width)

    def __len__(self) -> int:
        return len(self.source)

    def _size(self, index: int) -> tuple[int, int]:
        try:
            return measure(self.source.read(index))
        except Rejected as error:
            raise UserError(self._damaged(index, str(error))) from None

    def _damaged(self, index: int, why: str) -> str:
        return f"{self.source.path}: {self.source.key(index)} cannot be scored ({why}); mend or delete it."

    def read(self, indices: np.ndarray) -> np.ndarray:
        channels, height, width = self.shape
        out = np.empty((len(indices), height, width, channels), np.uint8)
        for row, index in enumerate(indices.tolist()):
            if (found := self._size(index)) != (width, height):
                raise UserError(
                    f"{self.source.path}: {self.source.key(index)} is {found[0]}×{found[1]}, the first image "
                    f"{width}×{height}; images to be scored have one size: resize them in your own way first."
                )
            try:
                out[row] = process(
                    self.source.read(index), resolution=height, crop="none", channels=channels
                )[0]
            except (Rejected, TooSmall) as error:
                raise UserError(self._damaged(index, str(error))) from None
        return out

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for index in range(len(self)):
            data = self.source.read(index)
            digest.update(f"{self.source.key(index)}\n".encode(errors="replace"))
            digest.update(data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes())
        return digest.hexdigest()


def _mapped(path: Path, name: str) -> np.ndarray | None:
    """An array of an .npz as a memory map of the file; None where it is compressed."""
    with zipfile.ZipFile(path) as archive:
        info = {each.filename: each for each in archive.infolist()}.get(f"{name}.npy")
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            return None
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)  # of the local header: lengths of the name and of what follows
        file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
        if np.lib.format.read_magic(file) != (1, 0):
            return None
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or 0 in shape:
            return None
        order: Literal["C", "F"] = "F" if fortran else "C"
        return np.memmap(file, dtype, "r", file.tell(), shape, order)


class NpzImages(StoredImages):
    """`images` or `arr_0`: uint8 (n, h, w, c); `labels` or `arr_1`, if there: whole numbers (n,).

    Images that np.savez wrote are read when asked for; those of np.savez_compressed lie in memory.
    """

    kind = ".npz"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as opened:
                names = list(opened.files)
                name = next((name for name in ("images", "arr_0") if name in names), None)
                if name is None:
                    raise UserError(
                        f"{path} holds {', '.join(names) or 'nothing'}; images must be under `images` or "
                        "`arr_0`."
                    )
                mapped = _mapped(path, name)
                self._images: np.ndarray = opened[name] if mapped is None else mapped
                labels = next((opened[name] for name in ("labels", "arr_1") if name in names), None)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
            pickled = "pickle" in str(error).lower()
            why = "it holds pickled objects, which are never loaded" if pickled else str(error)
            raise UserError(
                f"{path} cannot be read: {why}; save it with np.savez(…, images=uint8 array)."
            ) from None
        found = self._images
        if found.dtype != np.uint8 or found.ndim != 4 or found.shape[-1] not in (1, 3) or not found.size:
            raise UserError(
                f"{path}: `{name}` is {found.dtype} {found.shape}; images are uint8 (n, height, width, "
                "1 or 3)."
            )
        self.shape = (found.shape[3], found.shape[1], found.shape[2])
        self.classes = []
        self.labels = self._checked(labels)

    def _checked(self, labels: np.ndarray | None) -> np.ndarray | None:
        if labels is None:
            return None
        if labels.dtype.kind not in "iu" or labels.shape != (len(self._images),):
            raise UserError(
                f"{self.path}: `labels` are {labels.dtype} {labels.shape}; one whole number per image is "
                "needed."
            )
        return labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self._images[indices])

    def sha256(self) -> str:
        return files.sha256(self.path)
