"""Latent vectors and class labels as pure functions of a seed: training streams, seeds, truncation.

Training noise is addressed by position, like the images: the z at position p of a stream is the same whatever
the batch, the micro-batch or the number of ranks, and nothing has to be saved but a counter. Knows no
networks and touches no global random state.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from gansmith.errors import UserError

KINDS = ("normal", "uniform", "bernoulli", "censored_normal")
TRUNCATION_KINDS = ("resample", "scale")
LARGEST_IN_BLOCKS = 1024  # numbers per position that are drawn 256 positions at a time
BLOCK = 256  # positions drawn together from one generator; part of the stream's definition
SMALLEST_RESAMPLED = 0.02  # below, fewer than 1.6 % of the draws are kept
SCALED_RANGE = 2.0  # `scale` multiplies a normal truncated to [-2, 2]


def _generator(*parts: object) -> np.random.Generator:
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _noise(random: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Draws one of the latents of BigGAN's appendix E, float32."""
    if kind == "normal":
        return random.standard_normal(shape, dtype=np.float32)
    if kind == "censored_normal":  # max(N(0, 1), 0)
        return np.maximum(random.standard_normal(shape, dtype=np.float32), 0)
    if kind == "unit":  # U[0, 1), of augmentations
        return random.random(shape, dtype=np.float32)
    if kind == "uniform":  # U[-1, 1]
        return 2 * random.random(shape, dtype=np.float32) - 1
    if kind == "bernoulli":  # {0, 1}
        return (random.random(shape, dtype=np.float32) < 0.5).astype(np.float32)
    raise UserError(f"latent {kind!r} is unknown; choose one of {', '.join(KINDS)}.")


@lru_cache(maxsize=64)
def _block(
    seed: int, name: str, index: int, dim: int, kind: str, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    random = _generator("stream", seed, name, index)
    z = _noise(random, (BLOCK, dim), kind)
    y = random.integers(0, max(num_classes, 1), BLOCK)
    return z, y


def stream(
    seed: int, name: str, positions: np.ndarray, *, dim: int, num_classes: int, kind: str = "normal"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and uniform labels at the given positions of an endless stream.

    seed, name: which stream (training uses "d" and "g"). positions: int64 (N,), not negative, in any order.
    Returns z float32 (N, dim) and y int64 (N,) on the CPU; y is all zeros when there are no classes.
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


def field(
    seed: int, name: str, positions: np.ndarray, shape: tuple[int, ...], kind: str = "normal"
) -> torch.Tensor:
    """Arrays of any shape at the given positions of an endless stream: float32 (N, *shape) on the CPU.

    kind: `normal`, or `unit` for numbers in [0, 1). Small ones are drawn in blocks, large ones each by
    itself.
    """
    size, name = math.prod(shape), f"field {kind} {name}"
    if size <= LARGEST_IN_BLOCKS:
        drawn, _ = stream(seed, name, positions, dim=size, num_classes=0, kind=kind)
        return drawn.view(len(positions), *shape)
    rows = [_noise(_generator("stream", seed, name, "at", p), shape, kind) for p in positions.tolist()]
    return torch.from_numpy(np.stack(rows))


def from_seeds(
    seeds: Sequence[int],
    *,
    dim: int,
    kind: str = "normal",
    truncation: float | None = None,
    how: str = "resample",
    purpose: str = "seed",
) -> torch.Tensor:
    """One latent per seed, float32 (N, dim) on the CPU; a seed gives the same latent in any company.

    truncation: None (the full latent) or a threshold t > 0, usually 0.1 to 2. how: `resample` redraws every
    entry outside [-t, t] and keeps the others (BigGAN, section 3.1), so a seed stays itself as t shrinks;
    `scale` is t · normal truncated to [-2, 2], the rule of the published TF-Hub and Hugging Face modules.
    purpose: names another family of seeds; standing statistics must not be estimated on the user's own
    latents. Raises UserError for t ≤ 0, an unknown rule, or a latent that is not normal.
    """
    if truncation is not None:
        check_truncation(truncation, how, kind)
    z = np.empty((len(seeds), dim), np.float32)
    for row, seed in enumerate(seeds):
        random = _generator(purpose, seed)
        z[row] = _noise(random, (dim,), kind)
        if truncation is not None:
            _truncate(z[row], random, truncation, how)
    return torch.from_numpy(z)


def _truncate(row: np.ndarray, random: np.random.Generator, truncation: float, how: str) -> None:
    threshold = truncation if how == "resample" else SCALED_RANGE
    while (outside := np.abs(row) > threshold).any():
        row[outside] = random.standard_normal(int(outside.sum()), dtype=np.float32)
    if how == "scale":
        row *= np.float32(truncation)


def check_truncation(truncation: float, how: str, kind: str) -> None:
    """Raises UserError unless the truncation can be applied to this latent."""
    if how not in TRUNCATION_KINDS:
        raise UserError(
            f"--truncation-kind {how!r} is unknown; choose resample (the paper) or scale (TF-Hub, Hugging "
            "Face)."
        )
    if not (truncation > 0 and math.isfinite(truncation)):
        raise UserError(f"--truncation {truncation:g} must be a number above 0; useful values are 0.1 to 2.")
    if how == "resample" and truncation < SMALLEST_RESAMPLED:
        raise UserError(
            f"--truncation {truncation:g} by resampling would draw for ever; use {SMALLEST_RESAMPLED} or "
            "more, "
            "or --truncation-kind scale."
        )
    if kind != "normal":
        raise UserError(
            f"--truncation needs a normal latent; this network was trained with {kind}: leave it out."
        )
