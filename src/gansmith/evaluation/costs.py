"""How long an evaluation will take: a few images are tried, and the scores' products counted over a measured
rate.

For one sentence before the work: the images' time is right, that of the scores within a factor of about two.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from gansmith.data.progress import duration
from gansmith.evaluation import cas, classifier, indexed
from gansmith.evaluation.reference import is_cached

if TYPE_CHECKING:
    from gansmith.evaluation.evaluate import Evaluation

TRIAL = 768  # side of the matrices whose product is timed


@dataclass(frozen=True)
class _Size:
    n: float  # fakes
    m: float  # reals
    d: float  # features
    classes: float

    @property
    def of_class(self) -> float:
        """Images of a class on both sides, no more than there are dimensions."""
        return min((self.n + self.m) / (2 * self.classes), self.d)


# Multiplications and additions in float64; those in float32 count half. Eigenvalues take about 2 d³,
# eigenvectors 5 d³, at the rate of a product.
_WORK: dict[str, Callable[[_Size], float]] = {
    "frechet": lambda s: 2 * s.n * s.d**2 + 6 * s.d**3,
    "frechet-infinity": lambda s: 4 * s.n * s.d**2 + 42 * s.d**3,
    "kid": lambda s: 400 * min(1000, s.n, s.m) ** 2 * s.d,
    "is": lambda s: 5e4 * s.n,
    "precision-recall": lambda s: 2 * s.d * (s.n**2 + s.n * s.m),
    "per-class": lambda s: s.classes * (12 * s.d * s.of_class**2 + 5 * s.of_class**3) + 8e6 * s.classes,
    "leakage": lambda s: s.m * s.d**2 + s.d**3,
    "duplicates": lambda s: 2 * s.d * min(s.n, s.m) ** 2,
    "memorisation": lambda s: 2 * s.d * s.n * s.m,
}
_SAME = {"density-coverage": "precision-recall"}  # one pass serves both
# What of the reals is kept for the next pass.
_OF_REALS: dict[str, Callable[[_Size], float]] = {
    "moments": lambda s: 2 * s.m * s.d**2 + 5 * s.d**3,
    "neighbours": lambda s: 2 * s.d * s.m**2,
}
_NEEDS = {
    "frechet": "moments",
    "frechet-infinity": "moments",
    "precision-recall": "neighbours",
    "memorisation": "neighbours",
}


def expected(it: "Evaluation", repeats: int = 1) -> str:
    """How long it will take, from a few images that are made for this sentence alone."""
    few = min(it.num, it.target.chunk_size)
    some = np.arange(few)
    images = it.target.pick(some, seed=0, num=it.num).images
    started = time.monotonic()
    images = it.target.pick(some, seed=0, num=it.num).images
    fakes, reals, unknown = (time.monotonic() - started) / few, 0.0, 0
    for network in it.networks:
        network(images[:2])  # what only a first call does is not what the others take
        started = time.monotonic()
        network(images)
        took = (time.monotonic() - started) / few
        fakes += took
        if not is_cached(it.dataset, network, it.num_real):
            reals += took * it.num_real
            unknown += it.num_real
        if it.held_out and "memorisation" in it.metrics and not is_cached(it.held_out, network):
            reals += took * len(it.held_out)
            unknown += len(it.held_out)
    fakes *= it.num * repeats / it.ranks.size
    again = f" × {repeats} seeds" if repeats > 1 else ""
    of_reals = f"{unknown:,} reals {duration(reals)}" if unknown else f"{it.num_real:,} reals are known"
    scores = seconds(
        it.metrics,
        [network.dim for network in it.networks],
        num_fake=it.num,
        num_real=it.num_real,
        classes=len(it.dataset.classes),
        repeats=repeats,
        known=len(it.references) == len(it.networks),
    )
    if "cas" in it.metrics:
        scores += repeats * training(images, it.cas, it.num, it.ranks.device)
    return (
        f"expected {duration(fakes + reals + scores)}: {it.num:,} images{again} {duration(fakes)}, "
        f"{of_reals}, scores about {duration(scores)} ({', '.join(net.name for net in it.networks)} on "
        f"{it.ranks.device})"
    )


def seconds(
    metrics: Collection[str],
    dims: Sequence[int],
    *,
    num_fake: int,
    num_real: int,
    classes: int,
    repeats: int = 1,
    known: bool = False,
    rate: float | None = None,
) -> float:
    """Of these scores on networks of these dimensions. known: the reals have been through them before.
    rate: float64 operations per second; None measures it.
    """
    names = {_SAME.get(name, name) for name in metrics} & _WORK.keys()
    of_reals = set() if known else {_NEEDS[name] for name in names if name in _NEEDS}
    work = 0.0
    for dim in dims:
        size = _Size(num_fake, num_real, dim, max(classes, 1))
        work += repeats * sum(_WORK[name](size) for name in names)
        work += sum(_OF_REALS[part](size) for part in of_reals)
    return work / (rate or _rate())


def training(images: torch.Tensor, budget: cas.Budget, num: int, device: torch.device) -> float:
    """Seconds of the classifier of `cas`, by two updates on these images, uint8 (n, C, H, W)."""
    if budget.seconds is not None:
        return budget.seconds
    few = indexed.as_small(images)
    steps = budget.steps or classifier.default_steps(num)
    started = time.monotonic()
    classifier.train_classifier(few, np.arange(len(few)) % 2, 2, steps=2, device=device)
    return (time.monotonic() - started) / 2 * steps


def _rate() -> float:
    square = np.ones((TRIAL, TRIAL))
    square @ square  # threads start
    started = time.monotonic()
    square @ square
    return 2 * TRIAL**3 / max(time.monotonic() - started, 1e-9)
