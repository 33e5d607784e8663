"""One image to and from the bytes of a shard: raw (.npy), PNG, lossless WebP, JPEG of a stated quality."""

import io
import re

import numpy as np
from PIL import Image

from gansmith.errors import UserError

STORAGES = "raw, png, webp or jpeg-Q with Q from 1 to 100 (jpeg-95)"


class DamagedImage(Exception):
    """The payload is not the image the data set promises."""


def check_storage(storage: str) -> None:
    """Raises UserError unless the storage is known."""
    if storage not in ("raw", "png", "webp"):
        quality = re.fullmatch(r"jpeg-(\d{1,3})", storage)
        if not quality or not 1 <= int(quality[1]) <= 100:
            raise UserError(f"--storage {storage} is unknown; choose {STORAGES}.")


def encode(image: np.ndarray, storage: str) -> tuple[bytes, str]:
    """The stored form of a uint8 (h, w, c) image, c = 1 or 3: (payload, file extension).

    Raw is the .npy of the (h, w, c) array: pixels, contiguous, after a header of constant length.
    """
    buffer = io.BytesIO()
    if storage == "raw":
        np.lib.format.write_array(buffer, np.ascontiguousarray(image), version=(1, 0), allow_pickle=False)
        return buffer.getvalue(), "npy"
    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    if storage == "png":
        picture.save(buffer, "PNG", compress_level=6)
    elif storage == "webp":
        picture.save(buffer, "WEBP", lossless=True, quality=50, method=4)
    else:
        picture.save(buffer, "JPEG", quality=int(storage.removeprefix("jpeg-")), subsampling=0, optimize=True)
    return buffer.getvalue(), {"png": "png", "webp": "webp"}.get(storage, "jpg")


def decode(payload: bytes, resolution: tuple[int, int], channels: int) -> np.ndarray:
    """The uint8 (h, w, c) image of a PNG, WebP or JPEG payload. Raises DamagedImage for anything else."""
    try:
        with Image.open(io.BytesIO(payload), formats=("PNG", "WEBP", "JPEG")) as picture:
            # WebP has no grayscale: a gray image comes back as RGB with three equal channels.
            image = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise DamagedImage(str(error)) from error
    if image.shape[:2] != tuple(resolution):
        raise DamagedImage(
            f"{image.shape[1]}×{image.shape[0]} pixels instead of {resolution[1]}×{resolution[0]}"
        )
    return image.reshape(*resolution, channels)
