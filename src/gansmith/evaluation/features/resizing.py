"""From uint8 pixels to a network's input: resizing as the published codes do it, and ImageNet's scaling.

A resizing is one matrix per side: out = rows @ image @ columnsᵀ.

Scores depend on it (clean-fid, figure 1), so it is ours and fixed, whatever libraries do later. Nothing is
rounded to whole pixel values afterwards.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def tf1_bilinear(images: Tensor, size: int) -> Tensor:
    """As tf.image.resize_bilinear of TensorFlow 1, align_corners=False: source = target · scale, without the
    half-pixel shift; no antialiasing. (N, C, H, W) of any dtype → float32 (N, C, size, size), same range.
    """
    return _resized(images, size, _tf1_weights)


def antialiased_bicubic(images: Tensor, size: int) -> Tensor:
    """As Pillow's BICUBIC on float channels (clean-fid): a = −½, widened when shrinking, clipped to [0, 255].
    uint8 or float in [0, 255] (N, C, H, W) → float32 (N, C, size, size).
    """
    return _resized(images, size, _bicubic_weights).clamp_(0, 255)


def imagenet_normalized(images: Tensor) -> Tensor:
    """float32 (N, 3, H, W) in [0, 255] → / 255, minus ImageNet's mean colour, by its standard deviation."""
    mean = torch.tensor([0.485, 0.456, 0.406], device=images.device).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225], device=images.device).view(3, 1, 1)
    return (images / 255 - mean) / deviation


def _resized(images: Tensor, size: int, weights: Callable[[int, int], np.ndarray]) -> Tensor:
    height, width = images.shape[2:]
    x = images.float()
    if height == size == width:
        return x.clone() if x is images else x
    rows = torch.from_numpy(weights(height, size)).to(x.device)
    columns = torch.from_numpy(weights(width, size)).to(x.device)
    # Autocast would round the weights and the pixels: resizing is fp32 in every precision.
    with torch.autocast(x.device.type, enabled=False):
        return rows @ (x @ columns.T)


@lru_cache(64)
def _tf1_weights(source: int, target: int) -> np.ndarray:
    """float32 (target, source); positions in float32, as TensorFlow computes them."""
    position = np.arange(target, dtype=np.float32) * (np.float32(source) / np.float32(target))
    lower = np.minimum(position.astype(np.int64), source - 1)
    upper = np.minimum(lower + 1, source - 1)
    share = position - lower.astype(np.float32)
    weights = np.zeros((target, source), np.float32)
    np.add.at(weights, (np.arange(target), lower), 1 - share)
    np.add.at(weights, (np.arange(target), upper), share)
    return weights


@lru_cache(64)
def _bicubic_weights(source: int, target: int) -> np.ndarray:
    """float32 (target, source) of Pillow's cubic filter, computed in float64."""
    scale = source / target
    widening = max(scale, 1.0)
    weights = np.zeros((target, source))
    for row in range(target):
        center = (row + 0.5) * scale
        first = max(0, math.floor(center - 2 * widening + 0.5))
        last = min(source, math.floor(center + 2 * widening + 0.5))
        taps = _cubic((np.arange(first, last) - center + 0.5) / widening)
        weights[row, first:last] = taps / taps.sum()
    return weights.astype(np.float32)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = −½."""
    x = np.abs(x)
    inner = (1.5 * x - 2.5) * x * x + 1
    outer = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))
