"""How different images are from each other, in any features: pure functions.

All of it is relative to real images in the same features, as features of a D that trains drift: 1 is as
varied as the reals, 0 is one image again and again. Must not know networks or runs.
"""

import math
from typing import Any

import torch
from torch import Tensor

from gansmith.evaluation.duplicates import NEAR


def compare(fake: Tensor, real: Tensor, fake_labels: Tensor, real_labels: Tensor) -> dict[str, Any]:
    """What the features of generated images, (N, dim), say beside those of real ones, (M, dim).

    labels: int64; equal ones mean that images belong together. `diversity`, `effective_rank` and, by label,
    `diversity_class` are ratios of fakes to reals; of classes with fewer than two images of either nothing is
    known. `duplicates` is the share of fakes whose nearest other fake of its class lies within
    `evaluation.duplicates.NEAR` of the usual (median) distance between nearest reals of a class. NaN where
    features are not finite or the reals do not differ.
    """
    fake, real = fake.double().cpu(), real.double().cpu()
    if not (fake.isfinite().all() and real.isfinite().all()):
        return dict.fromkeys(("diversity", "effective_rank", "duplicates"), math.nan) | {
            "diversity_class": {}
        }
    between_fakes, between_reals = distances(fake), distances(real)
    by_class = {}
    for label in sorted(set(fake_labels.tolist()) & set(real_labels.tolist())):
        of_fakes = _within(between_fakes, fake_labels == label)
        of_reals = _within(between_reals, real_labels == label)
        if len(of_fakes) > 1 and len(of_reals) > 1:
            by_class[label] = _ratio(mean_distance(of_fakes), mean_distance(of_reals))
    alone, usual = nearest(between_fakes, fake_labels), nearest(between_reals, real_labels)
    near = NEAR * float(usual[usual.isfinite()].median())
    return {
        "diversity": _ratio(mean_distance(between_fakes), mean_distance(between_reals)),
        "diversity_class": by_class,
        "effective_rank": _ratio(effective_rank(fake), effective_rank(real)),
        "duplicates": float((alone <= near).double().mean()) if near > 0 else math.nan,
    }


def distances(features: Tensor) -> Tensor:
    """Euclidean, (N, dim) -> (N, N)."""
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")


def mean_distance(distances: Tensor) -> float:
    """Of all pairs, from (N, N)."""
    return float(distances.sum()) / (len(distances) * (len(distances) - 1))


def nearest(distances: Tensor, labels: Tensor) -> Tensor:
    """How far the nearest other image of the same label is, (N,); infinite where there is none."""
    apart = labels[:, None] != labels
    apart.fill_diagonal_(True)
    return distances.masked_fill(apart, torch.inf).amin(1)


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the eigenvalues of the covariance of (N, dim), normalised to 1 (Roy and Vetterli
    2007): in how many directions images differ, at most N − 1. 0 where they do not.
    """
    centred = features - features.mean(0)
    gram = centred @ centred.t()  # has the covariance's eigenvalues, times N
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp()) if values.sum() > 0 else 0.0


def _ratio(fake: float, real: float) -> float:
    return fake / real if real > 0 else math.nan


def _within(distances: Tensor, members: Tensor) -> Tensor:
    return distances[members][:, members]
