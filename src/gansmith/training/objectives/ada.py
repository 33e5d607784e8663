"""Adaptive discriminator augmentation (Karras et al. 2020): transformations that do not leak into what G
draws, each applied with a probability p that follows D's overfitting.

Of the paper's recommended pipeline (pixel blitting, geometry, colour) rotations by other than 90° are left
out, and what is scaled is interpolated linearly instead of through low-pass filters.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gansmith.models.layers import full_precision
from gansmith.training.objectives import transforms

FAMILIES = ("blit", "geometry", "color")
UNIFORM, NORMAL = 17, 7  # numbers an image needs
SHIFT = 0.125  # of the side: the farthest whole-pixel move, and one sd of a fractional one


def augment(x: Tensor, p: Tensor, families: Sequence[str], uniform: Tensor, normal: Tensor) -> Tensor:
    """x (N, C, R, R) in [-1, 1], each image changed by itself. p: probability of each transformation, ().

    blit: mirror, turn by 90°, move by whole pixels. geometry: zoom, stretch, move by fractions of a pixel.
    color: brightness, contrast, luma flip, hue, saturation. uniform (N, 17) in [0, 1), normal (N, 7): fresh
    numbers. What moves into the image is its own reflection. In float32 whatever autocast says.
    """
    with full_precision(x):
        if "blit" in families or "geometry" in families:
            x = _moved(x, p, families, uniform[:, :10], normal[:, :4])
        return _recoloured(x, p, uniform[:, 10:], normal[:, 4:]) if "color" in families else x


def _moved(x: Tensor, p: Tensor, families: Sequence[str], u: Tensor, n: Tensor) -> Tensor:
    # The pixels of the result, from its middle; undone step by step they say where each is read.
    side, middle = x.shape[-1], (x.shape[-1] - 1) / 2
    rows = columns = (transforms.pixels(x) - middle).expand(len(x), -1)
    if "geometry" in families:
        zoom, stretch = (_either(u[:, i] < p, (0.2 * n[:, i]).exp2(), 1.0) for i in (0, 1))
        down, right = (_either(u[:, 2] < p, SHIFT * side * n[:, i], 0.0) for i in (2, 3))
        rows = (rows - down[:, None]) / (zoom / stretch)[:, None]
        columns = (columns - right[:, None]) / (zoom * stretch)[:, None]
    if "blit" in families:
        down, right = (_either(u[:, 3] < p, (SHIFT * side * (2 * u[:, i] - 1)).round(), 0.0) for i in (4, 5))
        turns, mirror = _either(u[:, 6] < p, (4 * u[:, 7]).floor(), 0.0), (u[:, 8] < p) & (u[:, 9] < 0.5)
        # A mirror and k quarter turns: exchange of rows and columns, then flips of both.
        odd = turns.remainder(2) == 1
        up_down = ((turns == 1) | (turns == 2)) ^ (odd & mirror)
        left_right = (turns >= 2) ^ (~odd & mirror)
        x = transforms.transposed(x, odd)
        rows = (rows - down[:, None]) * (1 - 2 * up_down.to(x.dtype))[:, None]
        columns = (columns - right[:, None]) * (1 - 2 * left_right.to(x.dtype))[:, None]
    rows, columns = (transforms.mirrored(at + middle, side) for at in (rows, columns))
    return transforms.read_at(x, rows, columns)


def _recoloured(x: Tensor, p: Tensor, u: Tensor, n: Tensor) -> Tensor:
    """Every step keeps the grey axis (1, 1, 1) and the plane across it, so that all of them together are a
    factor along the axis, and a factor and an angle across.
    """
    brightness = _either(u[:, 0] < p, 0.2 * n[:, 0], 0.0)
    contrast = _either(u[:, 1] < p, (0.5 * n[:, 1]).exp2(), 1.0)
    luma = _either((u[:, 2] < p) & (u[:, 3] < 0.5), -torch.ones_like(contrast), 1.0)
    hue = _either(u[:, 4] < p, math.pi * (2 * u[:, 5] - 1), 0.0)
    saturation = _either(u[:, 6] < p, n[:, 2].exp2(), 1.0)
    channels = x.shape[1]
    identity = torch.eye(channels, device=x.device, dtype=x.dtype)
    axis = torch.full_like(identity, 1 / channels)  # projects onto the grey axis
    turn = (identity.roll(-1, 1) - identity.roll(1, 1)) / math.sqrt(3)  # by 90° about it; 0 for grey images
    along, across = (contrast * luma).view(-1, 1, 1), (contrast * saturation).view(-1, 1, 1)
    cos, sin = hue.cos().view(-1, 1, 1), hue.sin().view(-1, 1, 1)
    matrix = along * axis + across * (cos * (identity - axis) + sin * turn)
    offset = (along.view(-1) * brightness)[:, None].expand(-1, channels)
    return transforms.recoloured(x, matrix, offset)


def _either(changes: Tensor, changed: Tensor, plain: float) -> Tensor:
    return torch.where(changes, changed, plain)


# The probability
# -------------------------------------------------------------------------------------------------------


def memory(start: float) -> dict[str, Tensor]:
    """What adaptation remembers: p; and since its last change the sum of E[sign D(x)], steps and images."""
    return {
        "ada_p": torch.tensor(start),
        "ada_signs": torch.zeros(()),
        "ada_steps": torch.zeros(()),
        "ada_images": torch.zeros(()),
    }


@torch.no_grad()
def adapt(
    memory: dict[str, Tensor], sign: Tensor, batch: int, *, target: float, every: int, images: int
) -> None:
    """Takes note of a D step; after `every` of them moves p by images-since-then/`images`, up where
    E[sign D(x)] was above `target`, down where below (the paper, section 3).

    sign: E[sign D(x)] of the step's whole batch of `batch` reals; one that is not finite does not count.
    images: in which p would go from 0 to 1. Nothing is read from the device.
    """
    counts = sign.isfinite()
    memory["ada_signs"].add_(torch.where(counts, sign, 0.0))
    memory["ada_steps"].add_(counts)
    memory["ada_images"].add_(counts * batch)
    due = memory["ada_steps"] >= every
    overfit = torch.sign(memory["ada_signs"] / memory["ada_steps"].clamp_min(1) - target)
    memory["ada_p"].add_(due * overfit * memory["ada_images"] / images).clamp_(0, 1)
    for name in ("ada_signs", "ada_steps", "ada_images"):
        memory[name].mul_(~due)
