"""The classification accuracy score (Ravuri & Vinyals 2019): a classifier trained on fakes, tested on reals.

High only where the fakes have both the look and the variety of the reals, class by class. It knows images
and labels; where they came from is the caller's.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gansmith.evaluation.classifier import (
    Accuracy,
    Images,
    Progress,
    accuracy,
    default_steps,
    train_classifier,
)


@dataclass(frozen=True)
class Budget:
    """How long the classifier is trained: steps, or seconds of wall clock (not repeatable); None for both:
    `default_steps`.
    """

    steps: int | None = None
    seconds: float | None = None


USUAL = Budget()


@dataclass(frozen=True)
class Score:
    """accuracy: on the reals, after training on the fakes. num_fake: images trained on. steps: taken."""

    accuracy: Accuracy
    num_fake: int
    steps: int


def classification_accuracy_score(
    fakes: Images,
    fake_labels: np.ndarray,
    reals: Images,
    real_labels: np.ndarray,
    num_classes: int,
    *,
    budget: Budget = USUAL,
    seed: int = 0,
    mirror: bool | None = None,
    width: int = 16,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Score:
    """Trains the classifier of `evaluation/classifier.py` on fakes and tests it on reals; seeded, and with
    a budget of steps repeatable on the same machine.

    fakes, reals: uint8 (n, C, H, W), or read as such; labels: int (n,). Compare only scores of equal steps,
    counts and tests; training the same way on as many reals gives the value to hold them against.
    """
    steps = budget.steps
    if steps is None and budget.seconds is None:
        steps = default_steps(len(fake_labels))
    taken = 0

    def advanced(done: int, total: int | None, loss: float) -> None:
        nonlocal taken
        taken = done
        if progress is not None:
            progress(done, total, loss)

    net = train_classifier(
        fakes,
        fake_labels,
        num_classes,
        steps=steps,
        seconds=budget.seconds,
        seed=seed,
        mirror=mirror,
        width=width,
        device=device,
        progress=advanced,
    )
    return Score(accuracy(net, reals, real_labels), len(fake_labels), taken)
