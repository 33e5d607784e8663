"""Randomness for what is done to images while training: a function of their positions in the stream.

The same image of the same phase gets the same draws, whatever the micro-batch and the number of processes,
and nothing has to be saved.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from gansmith.hardware import send
from gansmith.sampling import latents


@dataclass(frozen=True)
class Draws:
    """stream: of which phase. positions: int64 (N,), of this micro-batch's images in it."""

    seed: int
    stream: str
    positions: np.ndarray
    device: torch.device

    def normal(self, name: str, *shape: int) -> torch.Tensor:
        """float32 (N, *shape) of N(0, 1). name: what it is for; two names are independent."""
        return self._drawn("normal", name, shape)

    def uniform(self, name: str, *shape: int) -> torch.Tensor:
        """float32 (N, *shape) in [0, 1)."""
        return self._drawn("unit", name, shape)

    def keys(self, name: str) -> torch.Tensor:
        """int64 (N,), a key of each image, for numbers that the device makes itself (models/keyed.py)."""
        digest = hashlib.blake2b(f"{self.seed}/{self.stream}/{name}".encode(), digest_size=8).digest()
        return send(torch.from_numpy(self.positions + (int.from_bytes(digest, "little") >> 2)), self.device)

    def _drawn(self, kind: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        values = latents.field(self.seed, f"{self.stream}/{name}", self.positions, shape, kind)
        return send(values, self.device)
