"""The one gate that feature arrays pass before a score is computed: shape, enough images, nothing non-finite.

Knows arrays only: no networks, no files, no protocols.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from gansmith.errors import UserError

CHUNK = 1024  # rows handled together; fixed, because sums in another grouping differ in the last bit


def checked(features: np.ndarray, what: str, at_least: int = 2) -> np.ndarray:
    """The array as given, once it is known to be usable: (n, dim), n ≥ at_least, all finite.

    features: (n, dim) floating point; may be a read-only memmap, which is read in chunks and never copied
    whole. what: how messages call it, e.g. "the fakes". Raises UserError for too few images, and for NaN or
    infinite features with the number of images that have them.
    """
    features = np.asanyarray(features)
    assert features.ndim == 2, f"features of {what} are {features.shape}, not (n, dim)"
    refuse_few(len(features), what, at_least)
    bad = sum(count_bad(chunk) for chunk in chunks(features))
    refuse_bad(bad, len(features), what)
    return features


def refuse_few(given: int, what: str, at_least: int) -> None:
    """Raises UserError when fewer images are given than a score needs."""
    if given < at_least:
        raise UserError(
            f"{what}: {_images(given)}; this score needs at least {at_least}: give more images (--num), or "
            "leave this score out of --metrics."
        )


def count_bad(chunk: np.ndarray) -> int:
    """Rows that hold a NaN or an infinity."""
    return int((~np.isfinite(chunk).all(1)).sum())


def refuse_bad(bad: int, given: int, what: str) -> None:
    """Raises UserError when any image has non-finite features."""
    if bad:
        raise UserError(
            f"{what}: {bad} of {_images(given)} have NaN or infinite features. The images, or the network "
            "that made them, are broken: look at them with `gansmith sample grid`, and evaluate an earlier "
            "snapshot."
        )


def checked_pair(
    real: np.ndarray,
    fake: np.ndarray,
    at_least: int = 2,
    *,
    names: tuple[str, str] = ("the reals", "the fakes"),
) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays through `checked`, of one dimension. Raises UserError as it does."""
    real, fake = checked(real, names[0], at_least), checked(fake, names[1], at_least)
    if real.shape[1] != fake.shape[1]:
        raise UserError(
            f"{names[0]} have {real.shape[1]} features per image, {names[1]} {fake.shape[1]}: both must come "
            "from one feature network; compute them with the same --features."
        )
    return real, fake


def chunks(array: np.ndarray, size: int = CHUNK) -> Iterator[np.ndarray]:
    """Consecutive row slices of `size`, the last one shorter."""
    for start in range(0, len(array), size):
        yield array[start : start + size]


def grouped(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """For each class the ascending indices of its rows."""
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(num_classes + 1))
    return [order[start:end] for start, end in pairwise(bounds)]


def some(count: int, num: int | None, seed: int) -> np.ndarray:
    """Ascending indices of `num` of `count` rows, drawn without replacement; all of them for None."""
    if num is None or num >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, num, replace=False))


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
