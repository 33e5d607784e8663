"""How often the generator makes the same image again: exact copies by their bytes, near ones by features.

Compares fakes with fakes only; copies of training images are the concern of `memorisation`.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from gansmith.evaluation.arrays import checked_pair, some
from gansmith.evaluation.neighbours import Neighbours, nearest_others

DIGEST = 16  # bytes that stand for an image
NEAR = 0.25  # of the reals' median nearest-neighbour distance: images that people take for the same


@dataclass(frozen=True)
class Duplicates:
    """Fakes that have a near twin among the fakes."""

    rate: float  # share of fakes whose nearest other fake lies within `threshold`
    real_rate: float  # the same share among as many reals: what the data itself contains
    threshold: float  # NEAR × the reals' median distance to their nearest other real
    distance_ratio: float  # fakes' median nearest-neighbour distance over the reals'
    num_real: int  # reals that set the threshold
    nearest: np.ndarray  # int64 (n,): nearest other fake of each fake
    distances: np.ndarray  # float64 (n,): how far it is


def near_duplicates(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    near: float = NEAR,
    seed: int = 0,
    device: torch.device | str = "cpu",
    real_neighbours: Neighbours | None = None,
    fake_neighbours: Neighbours | None = None,
) -> Duplicates:
    """Share of fakes with another fake within `near` × the usual distance between neighbouring reals.

    real, fake: float32 (n, dim). That usual distance shrinks with the number of images, so as many reals as
    fakes set it (drawn by `seed`; all, where there are fewer: then the threshold is a little large). The
    median keeps it meaningful when the reals hold duplicates themselves. Exact copies count as near ones.
    real_neighbours, fake_neighbours: `nearest_others` of either, if known; the reals' are of use where all
    reals are. Raises UserError for fewer than 2 images and non-finite features.
    """
    real, fake = checked_pair(real, fake)
    if len(real) > len(fake):
        real, real_neighbours = real[some(len(real), len(fake), seed)], None
    of_reals = real_neighbours or nearest_others(real, 1, device=device, name="the reals")
    found = fake_neighbours or nearest_others(fake, 1, device=device, name="the fakes")
    real_distances = of_reals.distances[:, 0]
    distances = found.distances[:, 0]
    usual = float(np.median(real_distances))
    threshold = near * usual
    median = float(np.median(distances))
    return Duplicates(
        rate=float((distances <= threshold).mean()),
        real_rate=float((real_distances <= threshold).mean()),
        threshold=threshold,
        distance_ratio=median / usual if usual else float("nan"),
        num_real=len(real),
        nearest=found.indices[:, 0],
        distances=distances,
    )


def digests_of(images: np.ndarray) -> np.ndarray:
    """uint8 (n, 16): a digest of each image's pixels. images: uint8 (n, …), of one shape where compared."""
    assert images.dtype == np.uint8, f"images are {images.dtype}, not uint8"
    found = b"".join(hashlib.blake2b(image.tobytes(), digest_size=DIGEST).digest() for image in images)
    return np.frombuffer(found, np.uint8).reshape(-1, DIGEST)


def exact_duplicate_rate(digests: np.ndarray) -> float:
    """Share of images that repeat an earlier one: 1 − different / all. digests: of all images."""
    return 1 - len({row.tobytes() for row in digests}) / len(digests) if len(digests) else 0.0
