"""One picture → pixels: crops, filters, modes, orientation, and what is rejected."""

import io

import numpy as np
import pytest
from pictures import encoded, noise
from PIL import Image

from gansmith.data.images import Rejected, TooSmall, measure, process


def halves(height: int, width: int, first, second, axis: int) -> np.ndarray:
    """A picture of two colours, split across the axis."""
    array = np.empty((height, width, 3), np.uint8)
    array[:] = second
    if axis == 0:
        array[: height // 2] = first
    else:
        array[:, : width // 2] = first
    return array


def test_center_crop_takes_the_middle_square():
    array = noise(1, 40, 60)
    pixels, short = process(array, resolution=40, crop="center")
    np.testing.assert_array_equal(pixels, array[:, 10:50])
    assert short == 40


def test_top_crop_takes_the_top_of_a_portrait():
    array = noise(2, 60, 40)
    np.testing.assert_array_equal(process(array, resolution=40, crop="top")[0], array[:40])


def test_pad_keeps_the_whole_picture_on_white():
    pixels, _ = process(np.zeros((20, 40, 3), np.uint8), resolution=40, crop="pad")
    assert (pixels[:10] == 255).all()
    assert (pixels[30:] == 255).all()
    assert (pixels[10:30] == 0).all()


def test_crop_none_rejects_what_is_not_square_and_takes_what_is():
    with pytest.raises(Rejected, match="60×40 is not square"):
        process(encoded(noise(3, 40, 60)), resolution=32, crop="none")
    assert process(encoded(noise(3)), resolution=32, crop="none")[0].shape == (32, 32, 3)


def test_box_resize_by_a_whole_factor_is_the_mean():
    array = noise(4, 64, 64)
    mean = array.reshape(32, 2, 32, 2, 3).astype(float).mean((1, 3))
    assert np.abs(process(array, resolution=32, resize="box")[0] - mean).max() <= 1  # rounded per direction


def test_downsizing_is_antialiased():
    """A one-pixel checkerboard becomes gray; sampling without a filter would give black or white."""
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    for resize in ("lanczos", "box"):
        pixels, _ = process(checkers, resolution=16, resize=resize, channels=1)
        assert np.abs(pixels[2:-2].astype(int) - 127).max() <= 2


def test_a_picture_of_the_right_size_is_untouched():
    array = noise(5)
    np.testing.assert_array_equal(process(encoded(array), resolution=40)[0], array)


@pytest.mark.parametrize(
    ("height", "width", "resolution"), [(375, 500, 128), (500, 333, 64), (1000, 1000, 40)]
)
def test_jpeg_draft_gives_nearly_the_pixels_of_a_full_decode(height, width, resolution):
    jpeg = encoded(noise(6, height, width), "JPEG", quality=95)
    full = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    drafted, _ = process(jpeg, resolution=resolution)
    reference, _ = process(full, resolution=resolution)
    # Smooth pictures: the scaled DCT and the filter agree to within rounding at most places.
    assert np.abs(drafted.astype(int) - reference).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = halves(40, 40, (250, 10, 10), (10, 10, 250), axis=0)
    upright[:20, :20] = (10, 250, 10)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.ascontiguousarray(undo(upright)), "PNG", exif=exif)
    np.testing.assert_array_equal(process(data, resolution=40)[0], upright)


def test_exif_rotation_comes_before_the_crop():
    stored = halves(40, 80, (255, 255, 255), (0, 0, 0), axis=1)  # upright: white above black
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels, _ = process(encoded(stored, "JPEG", exif=exif, quality=95), resolution=40, crop="top")
    assert pixels[2:-2].min() > 240


def test_transparency_is_composited_on_white():
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[:20] = (255, 0, 0, 255)
    rgba[20:] = (0, 0, 0, 128)
    pixels, _ = process(encoded(rgba), resolution=40)
    assert (pixels[:20] == (255, 0, 0)).all()
    assert np.abs(pixels[20:].astype(int) - 127).max() <= 1


def test_palette_with_a_transparent_entry():
    picture = Image.new("P", (40, 40), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.paste(1, (0, 0, 40, 20))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=0)
    pixels, _ = process(buffer.getvalue(), resolution=40)
    assert pixels[0, 0].tolist() == [200, 100, 50]
    assert pixels[39, 0].tolist() == [255, 255, 255]


def test_sixteen_bits_are_scaled_to_eight():
    ramp = np.linspace(0, 65535, 40).round().astype(np.uint16)[None].repeat(40, 0)
    pixels, _ = process(encoded(ramp), resolution=40, channels=1)
    assert np.abs(pixels[0, :, 0] - ramp[0] / 257).max() <= 0.51


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_of_a_gray_picture_gives_gray(mode, channels):
    gray = Image.new("L", (50, 40), 255)
    picture = Image.fromarray(np.full((40, 50), 65535, np.uint16)) if mode == "I;16" else gray.convert(mode)
    buffer = io.BytesIO()
    picture.save(buffer, "TIFF")
    pixels, _ = process(buffer.getvalue(), resolution=32, channels=channels)
    assert pixels.shape == (32, 32, channels)
    assert (pixels >= 254).all()


def test_cmyk_jpeg_keeps_its_colour():
    picture = Image.new("RGB", (64, 64), (200, 60, 30)).convert("CMYK")
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    pixels, _ = process(buffer.getvalue(), resolution=32)
    assert np.abs(pixels.astype(int) - (200, 60, 30)).max() <= 6


def test_gray_from_colour_is_luma():
    pixels, _ = process(np.full((8, 8, 3), (255, 0, 0), np.uint8), resolution=8, channels=1)
    assert (pixels == 76).all()  # 0.299 · 255


def test_minimum_size_is_of_the_shorter_side():
    process(noise(7, 40, 60), resolution=32, min_size=40)
    with pytest.raises(TooSmall):
        process(encoded(noise(7, 40, 60), "JPEG"), resolution=32, min_size=41)


def test_what_is_no_picture_is_rejected_with_a_reason():
    png, jpeg = encoded(noise(8)), encoded(noise(8, 300, 300), "JPEG")
    for data, reason in (
        (b"", r"empty file \(0 bytes\)"),
        (b"hello, I am a text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not an image"),
        (png[: len(png) // 2], "truncated|Truncated"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
    ):
        with pytest.raises(Rejected, match=reason):
            process(data, resolution=32)


def test_a_decompression_bomb_is_rejected_without_decoding():
    buffer = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(buffer, "PNG")
    with pytest.raises(Rejected, match="million pixels"):
        process(buffer.getvalue(), resolution=32)


def test_floating_point_pictures_are_rejected():
    buffer = io.BytesIO()
    Image.fromarray(np.ones((40, 40), np.float32)).save(buffer, "TIFF")
    with pytest.raises(Rejected, match="no fixed range"):
        process(buffer.getvalue(), resolution=32)


def test_reasons_hold_no_addresses():
    """rejected.csv must be equal in every process."""
    for data in (b"RIFF0000WEBPVP8 " + b"x" * 40, b"II*\0" + b"\xff" * 90, b"GIF89a" + b"\1" * 9):
        with pytest.raises(Rejected) as caught:
            process(data, resolution=32)
        assert "0x" not in str(caught.value)


def test_measure_reads_the_size():
    assert measure(encoded(noise(9, 30, 50))) == (50, 30)
    assert measure(noise(9, 30, 50)) == (50, 30)
