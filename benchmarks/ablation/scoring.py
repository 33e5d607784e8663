"""The scores of a trained network: gansmith's own, and the benchmark's for the digits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gansmith
from gansmith.sampling.sampler import Sampler

# name → which is better
OWN = {"read-as-asked": "higher", "worst-class": "higher", "variety": "higher", "evenness": "higher"}

Scores = dict[str, dict[str, Any]]  # name → {"value": number or None, "better": lower | higher}


def scores(
    file: Path,
    data: str,
    metrics: Sequence[str],
    *,
    features: str,
    num: int,
    truncation: Sequence[float | None],
) -> Scores:
    """Scores of a run, snapshot or checkpoint against the images at `data`, each at every truncation.

    Arguments as of `spec.Score`. Raises UserError for what cannot be scored.
    """
    found: Scores = {}
    own = [name for name in metrics if name in OWN]
    theirs = [name for name in metrics if name not in OWN]
    sampler = gansmith.load(file) if own else None
    for threshold in truncation:
        suffix = "" if threshold is None else f" at {threshold:g}"
        if sampler is not None:
            values = _of_digits(sampler, num, threshold)
            found |= {f"{name}{suffix}": {"value": values[name], "better": OWN[name]} for name in own}
        if theirs:
            results = gansmith.evaluate(
                file, data, metrics=theirs, features=features, num=num, truncation=threshold
            )
            found |= {f"{r.metric}{suffix}": {"value": r.value, "better": r.better} for r in results}
    return found


def _of_digits(sampler: Sampler, num: int, truncation: float | None) -> dict[str, float | None]:
    from ablation import digits  # scikit-learn is only needed here

    classes = len(sampler.class_ids(None))
    images = sampler.sample(num // classes, truncation=truncation, micro_batch=100)
    small = digits.blocks(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    # Random labels have ids, but no digit is meant by them.
    named = bool(sampler.info["classes"])
    return digits.scores(small, np.arange(classes).repeat(num // classes) if named else None)
