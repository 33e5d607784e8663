"""Latent vectors and class labels as pure functions of a seed: training streams, seeds, truncation.

Training noise is addressed by position, like the images: the z at position p of a stream is the same whatever the
batch, the micro-batch or the number of ranks, and nothing has to be saved but a counter.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from gansmith.errors import UserError

KINDS = ("normal", "uniform", "bernoulli", "censored_normal")
BLOCK = 256  # positions drawn together from one generator


def _key(*parts: object) -> int:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")


def _generator(*parts: object) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=_key(*parts)))


def _shape_noise(normal_or_uniform: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Draws one of the latents of BigGAN's appendix E, float32."""
    if kind == "normal":
        return normal_or_uniform.standard_normal(shape, dtype=np.float32)
    if kind == "censored_normal":  # max(N(0, 1), 0)
        return np.maximum(normal_or_uniform.standard_normal(shape, dtype=np.float32), 0)
    uniform = normal_or_uniform.random(shape, dtype=np.float32)
    if kind == "uniform":  # U[-1, 1]
        return 2 * uniform - 1
    if kind == "bernoulli":  # {0, 1}
        return (uniform < 0.5).astype(np.float32)
    raise UserError(f"latent {kind!r} is unknown; choose one of {', '.join(KINDS)}.")


@lru_cache(maxsize=16)
def _block(seed: int, name: str, index: int, dim: int, kind: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = _generator("stream", seed, name, index)
    z = _shape_noise(random, (BLOCK, dim), kind)
    y = random.integers(0, max(num_classes, 1), BLOCK)
    return z, y


def stream(
    seed: int, name: str, positions: np.ndarray, *, dim: int, num_classes: int, kind: str = "normal"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and uniform labels at the given positions of an endless stream.

    seed, name: which stream (training uses "d" and "g"). positions: int64 (N,), ascending.
    Returns z float32 (N, dim) and y int64 (N,) on the CPU.
    """
    z = np.empty((len(positions), dim), np.float32)
    y = np.empty(len(positions), np.int64)
    blocks = positions // BLOCK
    for index in np.unique(blocks):
        here = blocks == index
        block_z, block_y = _block(seed, name, int(index), dim, kind, num_classes)
        rows = positions[here] - index * BLOCK
        z[here], y[here] = block_z[rows], block_y[rows]
    return torch.from_numpy(z), torch.from_numpy(y)


def from_seeds(
    seeds: Sequence[int], *, dim: int, kind: str = "normal", truncation: float | None = None, how: str = "resample"
) -> torch.Tensor:
    """One latent per seed, float32 (N, dim); the same seed gives the same latent in any company.

    truncation: None or 1-and-up-to-2-ish threshold t > 0. `resample` redraws every entry outside [-t, t] (BigGAN,
    section 3.1); `scale` is t · truncated normal(−2, 2), the rule of the published TF-Hub and Hugging Face modules.
    Raises UserError for t ≤ 0, an unknown rule, or a latent that is not normal.
    """
    if truncation is not None:
        check_truncation(truncation, how, kind)
    rows = []
    for seed in seeds:
        random = _generator("seed", seed)
        row = _shape_noise(random, (dim,), kind)
        if truncation is not None:
            threshold = truncation if how == "resample" else 2.0
            while (outside := np.abs(row) > threshold).any():
                row[outside] = random.standard_normal(int(outside.sum()), dtype=np.float32)
            if how == "scale":
                row *= np.float32(truncation)
        rows.append(row)
    return torch.from_numpy(np.stack(rows) if rows else np.empty((0, dim), np.float32))


def check_truncation(truncation: float, how: str, kind: str) -> None:
    """Raises UserError unless the truncation can be applied to this latent."""
    if how not in ("resample", "scale"):
        raise UserError(f"truncation rule {how!r} is unknown; choose resample (the paper) or scale (TF-Hub, HF).")
    if not truncation > 0:
        raise UserError(f"--truncation {truncation:g} must be above 0; useful values are 0.1 to 2.")
    if how == "resample" and truncation < 0.02:
        raise UserError(f"--truncation {truncation:g} by resampling would take for ever; use 0.02 or more.")
    if kind != "normal":
        raise UserError(f"--truncation needs a normal latent; this network was trained with {kind}.")
