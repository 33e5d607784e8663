"""Scores and features for the built-in digits at the 8×8 pixels they were made of: cheap, plain to people.

A support vector machine of real digits reads the generated ones, as in the demo.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.svm import SVC

CLASSES = 10


def blocks(images: torch.Tensor) -> torch.Tensor:
    """A feature network (`--features ablation.digits:blocks`): uint8 (N, 3, H, W) → the 8×8 means of an image
    in the digits' own range 0 … 16, (N, 64).
    """
    return F.adaptive_avg_pool2d(images.float().mean(1, keepdim=True), 8).flatten(1) / 255 * 16


@cache
def _reals() -> tuple[np.ndarray, np.ndarray, Any]:
    images, labels = load_digits(return_X_y=True)
    return images, labels, SVC(gamma=0.001).fit(images, labels)


def scores(small: np.ndarray, asked: np.ndarray | None) -> dict[str, float | None]:
    """small: (N, 64) of `blocks`. asked: the digits that were asked for, (N,), or None without classes.

    read-as-asked: share that the machine reads as asked. worst-class: the same of the class that is read
    worst. variety: variance within a class over that of the real digits. evenness: entropy of what is read
    over its largest, log 10: 1 where every digit occurs equally often, 0 where there is but one.
    """
    real, labels, classifier = _reals()
    read = classifier.predict(small)
    shares = np.bincount(read, minlength=CLASSES) / len(read)
    some = shares[shares > 0]
    found: dict[str, float | None] = {"evenness": float(-(some * np.log(some)).sum() / np.log(CLASSES))}
    if asked is None:
        return found | {"read-as-asked": None, "worst-class": None, "variety": None}
    right = [float((read[asked == digit] == digit).mean()) for digit in range(CLASSES)]
    variety = _variance_within(small, asked) / _variance_within(real, labels)
    return found | {"read-as-asked": float(np.mean(right)), "worst-class": min(right), "variety": variety}


def _variance_within(images: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the summed variance of pixels within the class. images: (N, pixels)."""
    return float(np.mean([images[labels == label].var(0).sum() for label in np.unique(labels)]))
