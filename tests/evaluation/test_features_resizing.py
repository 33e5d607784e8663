"""Resizing against Pillow, against torch, and against TensorFlow 1's formula written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from gansmith.evaluation.features.resizing import antialiased_bicubic, tf1_bilinear

SIZES = [((32, 32), 299), ((150, 200), 299), ((512, 300), 299), ((1, 1), 16), ((7, 1), 224), ((64, 64), 31)]


def images(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_clean_is_pillows_bicubic_on_float_channels(source: tuple[int, int], target: int) -> None:
    x = images(*source)
    ours = antialiased_bicubic(x, target)
    for image, result in zip(x.flatten(0, 1), ours.flatten(0, 1)):
        picture = Image.fromarray(image.numpy().astype(np.float32))
        right = np.asarray(picture.resize((target, target), Image.Resampling.BICUBIC)).clip(0, 255)
        assert np.abs(result.numpy() - right).max() < 255 * 1e-6  # float rounding


@pytest.mark.parametrize(("source", "target"), SIZES[:3])
def test_clean_agrees_with_torch(source: tuple[int, int], target: int) -> None:
    x = images(*source)
    theirs = F.interpolate(x.float(), (target, target), mode="bicubic", antialias=True).clamp(0, 255)
    assert (antialiased_bicubic(x, target) - theirs).abs().max() < 1e-2  # torch's positions are float32


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_tf1_starts_at_the_corner_without_half_pixels(source: tuple[int, int], target: int) -> None:
    x = images(*source)
    lines, shares = zip(*[divmod(np.arange(target) * side / target, 1) for side in source])
    (y0, x0), (dy, dx) = [line.astype(int) for line in lines], (shares[0][:, None], shares[1])
    y1, x1 = np.minimum(y0 + 1, source[0] - 1), np.minimum(x0 + 1, source[1] - 1)
    pixels = x.numpy().astype(np.float64)
    top, bottom = pixels[..., y0, :], pixels[..., y1, :]
    top = top[..., x0] * (1 - dx) + top[..., x1] * dx
    bottom = bottom[..., x0] * (1 - dx) + bottom[..., x1] * dx
    right = top * (1 - dy) + bottom * dy
    # positions are float32, as TensorFlow's are: 512 · 2⁻²⁴ pixels, times 255 per pixel
    assert np.abs(tf1_bilinear(x, target).numpy() - right).max() < 255 * 1e-4 * max(source) / 512 + 1e-4


@pytest.mark.parametrize("resize", [tf1_bilinear, antialiased_bicubic])
def test_the_right_size_is_left_as_it_is(resize) -> None:
    x = images(20, 20)
    assert torch.equal(resize(x, 20), x.float())


@pytest.mark.parametrize("resize", [tf1_bilinear, antialiased_bicubic])
def test_resizing_is_fp32_under_autocast(resize) -> None:
    x = images(40, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resize(x, 30), resize(x, 30).float())
        inside = resize(x, 30)
    assert torch.equal(inside, resize(x, 30))


def test_clean_stays_in_range() -> None:
    edge = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    edge[..., 4:] = 255
    result = antialiased_bicubic(edge, 64)
    assert result.min() == 0
    assert result.max() == 255
