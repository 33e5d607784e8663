"""Tiles hold every pixel as it was; labels stand beside their rows."""

import numpy as np
import pytest
from PIL import Image

from gansmith.errors import UserError
from gansmith.sampling import grids


def noise(num: int, channels: int = 3, height: int = 8, width: int = 10) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, height, width, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [0, 2, 5])
@pytest.mark.parametrize("labelled", [False, True])
def test_tile_keeps_every_pixel(channels: int, padding: int, labelled: bool) -> None:
    images = noise(5, channels)
    picture = grids.tile(images, 2, ["a", "bb", "c"] if labelled else None, padding)
    assert picture.mode == ("L" if channels == 1 else "RGB")
    assert picture.height == 3 * 8 + 2 * padding
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    margin = picture.width - (2 * 10 + padding)
    assert (margin > 0) == labelled
    for index, image in enumerate(images):
        top, left = index // 2 * (8 + padding), margin + index % 2 * (10 + padding)
        assert np.array_equal(pixels[top : top + 8, left : left + 10], image)
    assert (pixels[-8:, margin + 10 + padding :] == 255).all()  # the sixth place is empty


def test_contrast_is_not_stretched() -> None:
    dim = np.full((4, 8, 8, 3), 100, np.uint8)
    assert set(np.unique(np.asarray(grids.tile(dim, 2)))) == {100, 255}


def test_labels_are_drawn_beside_their_own_row() -> None:
    images = noise(2, height=32, width=32)
    blank = np.asarray(grids.tile(images, 1, ["M", ""]))
    both = np.asarray(grids.tile(images, 1, ["M", "M"]))
    margin = blank.shape[1] - 32
    assert (blank[:32, :margin] < 128).any()
    assert (blank[34:, :margin] == 255).all()
    assert np.array_equal(both[:32, :margin], both[34:, :margin])


def test_long_labels_are_shortened_and_foreign_letters_replaced() -> None:
    images = noise(1)
    short = grids.tile(images, 1, ["hot dog " * 40])
    assert short.width < 10 + grids.LABEL_WIDTH + 10
    assert np.array_equal(*(np.asarray(grids.tile(images, 1, [text])) for text in ("süd", "sud")))
    assert np.array_equal(*(np.asarray(grids.tile(images, 1, [text])) for text in ("犬\n", "??")))


def test_pictures_open_again_without_a_warning(tmp_path) -> None:  # type: ignore[no-untyped-def]
    grids.tile(noise(4), 2).save(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (22, 18)


def test_a_picture_too_large_is_refused_before_it_is_made() -> None:
    with pytest.raises(
        UserError, match=r"1000 × 8 images of 512 × 512 has 2\d{3} million pixels; .*--classes"
    ):
        grids.check_size(1000, 8, 512, 512)


def test_wrong_arrays_are_programming_errors() -> None:
    with pytest.raises(AssertionError, match="uint8"):
        grids.tile(noise(2).astype(float), 1)
    with pytest.raises(AssertionError, match="channels"):
        grids.tile(noise(2, channels=4), 1)
    with pytest.raises(AssertionError, match="3 labels for 2 rows"):
        grids.tile(noise(2), 1, ["a", "b", "c"])
