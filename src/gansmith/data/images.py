"""One image: from the bytes of a file, or an array, to uint8 pixels of the wanted size.

Everything that can be wrong with a picture is found here and said in a few words. This room must not know
where the picture came from or where it goes.
"""

import contextlib
import importlib
import io
import math
import warnings

import numpy as np
from PIL import Image

CROPS = ("center", "top", "pad", "none")
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}
# What Pillow may try. Formats that start other programs (EPS), are no pictures (PDF), or have no signature
# (TGA: any text would do) stay out. Importing a plugin registers it.
for _plugin in ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Ppm", "Jpeg2K", "Avif"):
    with contextlib.suppress(ImportError):  # AVIF came with Pillow 11.3
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)
PAD = 255  # transparent and padded areas are white
# A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as 1.25 × the pixels needed remain: 1.6 times
# as fast for 500×375 → 128 px. The result differs from a full decode less than Lanczos differs from box
# (benchmarks/prepare.py).
DRAFT_MARGIN = 1.25
MAX_FILE_BYTES = 1 << 30
_ORIENTATION = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Rejected(Exception):
    """The picture cannot be used; the message is the reason, as it appears in rejected.csv."""


class TooSmall(Exception):
    """The picture's shorter side is below the minimum asked for."""


def process(
    data: bytes | np.ndarray,
    *,
    resolution: int,
    crop: str = "center",
    resize: str = "lanczos",
    channels: int = 3,
    min_size: int = 0,
) -> tuple[np.ndarray, int]:
    """Decodes, crops and resizes one picture.

    data: the bytes of an image file, or uint8 (h, w) or (h, w, c) with c = 1 or 3.
    crop: center, top (centred sideways), pad (whole picture on white) or none (pictures that are not square
    are rejected: nothing is stretched). resize: lanczos | box, both antialiased.
    Returns uint8 (resolution, resolution, channels) and the shorter side of the original in pixels.
    Raises Rejected or TooSmall.
    """
    if isinstance(data, np.ndarray):
        _check_array(data)
        height, width = data.shape[:2]
        _check_size(width, height, crop, min_size)
        if height == width == resolution:
            return _with_channels(data, channels), resolution
        picture, content, short = (
            Image.fromarray(data[:, :, 0] if data.shape[2:] == (1,) else data),
            (width, height),
            min(width, height),
        )
    else:
        picture, content, short = _decode(data, resolution, crop, channels, min_size)
    pixels = np.asarray(_fit(_plain(picture, channels), *content, resolution, crop, FILTERS[resize]))
    return pixels.reshape(resolution, resolution, channels), short


def is_gray(pixels: np.ndarray) -> bool:
    """Whether a picture, uint8 (h, w, 3), has no colour but for what JPEG adds."""
    return bool(np.ptp(pixels.astype(np.int16), axis=2).max() <= 2)


def measure(data: bytes | np.ndarray) -> tuple[int, int]:
    """Width and height as stored (before EXIF rotation), without decoding the pixels. Raises Rejected."""
    if isinstance(data, np.ndarray):
        _check_array(data)
        return data.shape[1], data.shape[0]
    return _open(data).size


def _open(data: bytes) -> Image.Image:
    if not data:
        raise Rejected("empty file (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise Rejected("not an image, or of an unknown format") from None
    except Image.DecompressionBombError:
        raise Rejected(f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels") from None
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise Rejected(_reason(error)) from None


def _decode(
    data: bytes, resolution: int, crop: str, channels: int, min_size: int
) -> tuple[Image.Image, tuple[float, float], int]:
    """The picture upright, maybe at a fraction of its size; the exact (fractional) size of its content; the
    shorter side of the original."""
    picture = _open(data)
    width, height = picture.size
    try:
        _check_size(width, height, crop, min_size)
        content: tuple[float, float] = (width, height)
        if picture.format in ("JPEG", "MPO"):
            scale = DRAFT_MARGIN * resolution / (max(width, height) if crop == "pad" else min(width, height))
            mode = "L" if channels == 1 and picture.mode == "RGB" else picture.mode
            draft = picture.draft(mode, (math.ceil(width * scale), math.ceil(height * scale)))
            if draft:
                content = (draft[1][2], draft[1][3])
        orientation = _orientation(picture)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.load()
        if orientation in _TRANSPOSE:
            picture = picture.transpose(_TRANSPOSE[orientation])
            content = content[::-1] if orientation >= 5 else content
        return picture, content, min(width, height)
    except (Rejected, TooSmall):
        raise
    except MemoryError:
        raise Rejected(f"{width}×{height} pixels do not fit in memory") from None
    except Exception as error:
        raise Rejected(_reason(error)) from None


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not spoil the picture; broken pixels are found by load()
        return 1


def _check_size(width: int, height: int, crop: str, min_size: int) -> None:
    if min(width, height) < min_size:
        raise TooSmall
    if crop == "none" and width != height:
        raise Rejected(f"{width}×{height} is not square, and --crop none keeps pictures whole")


def _check_array(array: np.ndarray) -> None:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))):
        raise Rejected(f"array of {array.dtype} {array.shape}; images are uint8 (h, w) or (h, w, 1 or 3)")
    if 0 in array.shape:
        raise Rejected(f"array of {array.shape} has no pixels")


def _with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    array = array.reshape(*array.shape[:2], -1)
    if array.shape[2] == channels:
        return np.ascontiguousarray(array)
    if channels == 3:
        return np.repeat(array, 3, axis=2)
    return np.asarray(Image.fromarray(array).convert("L"))[:, :, None]


def _plain(picture: Image.Image, channels: int) -> Image.Image:
    """Any mode of Pillow → L or RGB: 16 bits scaled to 8, transparency composited on white."""
    mode = "L" if channels == 1 else "RGB"
    if picture.mode == mode and "transparency" not in picture.info:
        return picture
    try:
        if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
            picture = _eight_bits(picture)
        if picture.has_transparency_data:
            rgba = picture.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (PAD, PAD, PAD, 255))
            picture = Image.alpha_composite(white, rgba).convert("RGB")
        elif picture.mode not in ("L", "RGB", "1"):
            picture = picture.convert("RGB")
        return picture.convert(mode)
    except Rejected:
        raise
    except Exception as error:
        raise Rejected(_reason(error)) from None


def _eight_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise Rejected(f"pixels of mode {picture.mode} have no fixed range; save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _fit(
    picture: Image.Image, width: float, height: float, resolution: int, crop: str, method: Image.Resampling
) -> Image.Image:
    """Crops and resizes; width and height are the content's size, which a JPEG draft rounds up to whole
    pixels.
    """
    if crop == "pad":
        scale = resolution / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        inner = picture.resize(size, method, box=(0, 0, width, height))
        if size == (resolution, resolution):
            return inner
        canvas = Image.new(picture.mode, (resolution, resolution), PAD if picture.mode == "L" else (PAD,) * 3)
        canvas.paste(inner, ((resolution - size[0]) // 2, (resolution - size[1]) // 2))
        return canvas
    side = min(width, height)
    left, top = (width - side) / 2, 0 if crop == "top" else (height - side) / 2
    # Whole pixels where the picture has the right size already, so that nothing is interpolated.
    if side == resolution:
        left, top = math.floor(left), math.floor(top)
    return picture.resize((resolution, resolution), method, box=(left, top, left + side, top + side))


def _reason(error: Exception) -> str:
    """A short text without addresses of objects, equal in every process."""
    text = " ".join(str(error).split())
    return type(error).__name__ if not text or " object at 0x" in text else text[:200]
