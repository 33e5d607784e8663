"""BigGAN-PyTorch's HDF5 files: `imgs` uint8 (n, c, h, w) and `labels` (n,), also with channels last."""

import numpy as np

from gansmith.data.images import Rejected
from gansmith.data.sources.base import Source, numbered_classes
from gansmith.errors import UserError

CACHE_BYTES = 128 << 20  # holds a few of BigGAN-PyTorch's chunks of 500 images, so that each is unpacked once


class HDF5Source(Source):
    """Images in an HDF5 file, read slice by slice."""

    kind = "HDF5 file"

    def __init__(self, path: str) -> None:
        file = _open(path)
        if "imgs" not in file or "labels" not in file:
            raise UserError(
                f"{path} holds {', '.join(file) or 'nothing'}; expected are `imgs` (uint8, n×c×h×w) and "
                "`labels` (n), "
                "as BigGAN-PyTorch writes them."
            )
        images, labels = file["imgs"], np.asarray(file["labels"][:])
        shape = images.shape
        self._channels_last = len(shape) == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3)
        if images.dtype != np.uint8 or len(shape) != 4 or not (shape[1] in (1, 3) or self._channels_last):
            raise UserError(f"{path}: imgs is {images.dtype} {shape}; expected is uint8 (n, 1 or 3, h, w).")
        if labels.shape != shape[:1] or labels.dtype.kind not in "iu":
            raise UserError(
                f"{path}: labels is {labels.dtype} {labels.shape}; expected are {shape[0]} integers."
            )
        native = (shape[1], shape[2], shape[3]) if self._channels_last else (shape[2], shape[3], shape[1])
        super().__init__(path, numbered_classes(labels, path), labels, numbered=True, native=native)
        self._open = file

    def key(self, index: int) -> str:
        return f"imgs[{index}]"

    def read(self, index: int) -> np.ndarray:
        if self._open is None:
            self._open = _open(self.path)
        try:
            image = self._open["imgs"][index]
        except OSError as error:
            raise Rejected(f"damaged in the HDF5 file: {error}") from None
        return image if self._channels_last else np.ascontiguousarray(image.transpose(1, 2, 0))


def _open(path: str):
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path}: reading HDF5 needs h5py; type: pip install 'gansmith[hdf5]'") from None
    try:
        return h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES)
    except OSError as error:
        raise UserError(f"{path} is not a readable HDF5 file ({error}).") from None
