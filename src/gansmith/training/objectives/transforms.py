"""Differentiable transformations of images, each image its own: what augmentation is made of.

Everything that moves pixels reads rows and columns apart, as two small matrix products: exact for whole
pixels, differentiable any number of times, and repeatable on every device (gathering and grid sampling add up
gradients in any order on GPUs). Knows no random numbers and no probabilities.
"""

import torch
from torch import Tensor


def read_at(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (N, C, H, W) read at source rows (N, h) and columns (N, w), in pixels, bilinear: (N, C, h, w).

    Outside of the image there are zeros.
    """
    down, across = (_interpolation(at, side) for at, side in ((rows, x.shape[2]), (columns, x.shape[3])))
    return _laid_out_like(x, down @ x @ across.transpose(2, 3))


def _interpolation(at: Tensor, side: int) -> Tensor:
    """(N, n) → (N, 1, n, side): 1 at a whole pixel, shared by two neighbours between."""
    pixels = torch.arange(side, device=at.device, dtype=at.dtype)
    return (1 - (at[:, None, :, None] - pixels).abs()).clamp_min(0)


def mirrored(at: Tensor, side: int) -> Tensor:
    """Coordinates outside of [0, side − 1] reflected into it: the border pixel is not repeated."""
    period = 2 * (side - 1)
    folded = at.remainder(period)
    return torch.minimum(folded, period - folded)


def pixels(x: Tensor) -> Tensor:
    """0 … side − 1 of a square image, float, on its device."""
    return torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)


def shifted(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Moved by whole pixels, (N,) each; what comes in is zero."""
    at = pixels(x)
    return read_at(x, at - down[:, None], at - right[:, None])


def flipped(x: Tensor, flip: Tensor) -> Tensor:
    """Mirrored left to right where flip (N,), bool."""
    return torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)


def transposed(x: Tensor, transpose: Tensor) -> Tensor:
    """Rows and columns of a square image exchanged where transpose (N,), bool."""
    return _laid_out_like(x, torch.where(transpose.view(-1, 1, 1, 1), x.transpose(2, 3), x))


def cut_out(x: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Zeros in a square of `size` pixels from (top, left), (N,) each; it may lie partly outside."""
    at = pixels(x)
    rows, columns = ((at >= start[:, None]) & (at < start[:, None] + size) for start in (top, left))
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def recoloured(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """matrix (N, C, C) · colour + offset (N, C) at every pixel."""
    colours = torch.baddbmm(offset[:, :, None], matrix, x.flatten(2))
    return _laid_out_like(x, colours.view(x.shape))


def _laid_out_like(x: Tensor, out: Tensor) -> Tensor:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return out.contiguous(memory_format=torch.channels_last) if last else out
