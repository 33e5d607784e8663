"""The golden FID network's weights, from the formula in the reference files' README."""

import zlib

import numpy as np
import torch
from torch import Tensor

from gansmith.evaluation.features.inception import Network


def golden_state() -> dict[str, Tensor]:
    """A state dict with the published names; values from each name's CRC-32."""
    with torch.device("meta"):
        shapes = {
            key: tuple(value.shape) for key, value in Network().state_dict().items() if "tracked" not in key
        }
    return {key: torch.from_numpy(_values(key, shape)) for key, shape in shapes.items()}


def _values(key: str, shape: tuple[int, ...]) -> np.ndarray:
    v = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if key.endswith(".conv.weight"):
        v = v * np.sqrt(2 / np.prod(shape[1:]))
    elif key == "fc.weight":
        v = v * np.sqrt(1 / shape[1])
    elif key.endswith(".bn.weight"):
        v = 1 + 0.1 * v
    elif key.endswith(".running_var"):
        v = 1 + 0.1 * np.abs(v)
    else:
        v = 0.1 * v
    return v.astype(np.float32)
