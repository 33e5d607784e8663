"""Images side by side in one picture, with labels beside the rows.

Pixels are copied as they are: nothing stretches the contrast, so grids of different moments can be compared.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gansmith.errors import UserError

MAX_PIXELS = 150_000_000  # Pillow refuses to open pictures above 179 million
LABEL_WIDTH = 240  # pixels at most; longer labels end in dots


def tile(
    images: np.ndarray, columns: int, row_labels: Sequence[str] | None = None, padding: int = 2
) -> Image.Image:
    """Tiles images row by row into one picture on white.

    images: uint8 (N, H, W, C), C = 1 or 3; a last row may be short. row_labels: one text per row, drawn to
    its left. padding: white pixels between images. Raises UserError when the picture would be too large to
    open again.
    """
    images = np.asarray(images)
    assert images.dtype == np.uint8, f"images are {images.dtype}, not uint8"
    assert images.ndim == 4, f"images are {images.shape}, not (N, H, W, C)"
    assert images.shape[-1] in (1, 3), f"images have {images.shape[-1]} channels, not 1 or 3"
    num, height, width, channels = images.shape
    rows = -(-num // columns)
    margin, font = 0, None
    if row_labels is not None:
        assert len(row_labels) == rows, f"{len(row_labels)} labels for {rows} rows"
        font = _font(min(max(height // 4, 11), 24))
        row_labels = [_shorten(_drawable(text), font) for text in row_labels]
        margin = max((_width(text, font) for text in row_labels), default=0) + 8
    check_size(rows, columns, height, width, padding, margin)
    size = (rows * (height + padding) - padding, margin + columns * (width + padding) - padding)
    canvas = np.full((*size, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top = index // columns * (height + padding)
        left = margin + index % columns * (width + padding)
        canvas[top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas[..., 0] if channels == 1 else canvas)
    if row_labels is not None:
        draw = ImageDraw.Draw(picture)
        for row, text in enumerate(row_labels):
            middle = row * (height + padding) + height / 2
            _, text_top, text_right, text_bottom = draw.textbbox((0, 0), text, font=font)
            draw.text(
                (margin - 6 - text_right, middle - (text_top + text_bottom) / 2), text, fill=0, font=font
            )
    return picture


def check_size(rows: int, columns: int, height: int, width: int, padding: int = 2, margin: int = 0) -> None:
    """Raises UserError for a grid too large for one picture, before anything is computed for it."""
    pixels = rows * (height + padding) * (margin + columns * (width + padding))
    if pixels > MAX_PIXELS:
        raise UserError(
            f"a grid of {rows} × {columns} images of {width} × {height} has {pixels / 1e6:.0f} million "
            "pixels; "
            f"at most {MAX_PIXELS / 1e6:.0f} fit one picture: give fewer --classes or --seeds."
        )


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """Pillow's own font is ASCII: accents go, other scripts become question marks instead of empty boxes."""
    letters = unicodedata.normalize("NFKD", text)
    return "".join(
        letter if " " <= letter <= "~" else "?" for letter in letters if not unicodedata.combining(letter)
    )


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(np.ceil(font.getbbox(text)[2]))


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if _width(text, font) <= LABEL_WIDTH:
        return text
    while text and _width(text + "...", font) > LABEL_WIDTH:
        text = text[:-1]
    return text.rstrip() + "..."
