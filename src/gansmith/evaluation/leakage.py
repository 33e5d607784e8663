"""Class leakage: images asked for as one class that a classifier of the real images takes for another.

The classifier's own confusions on real images are the floor: a pair leaks as far as it exceeds them.
"""

from dataclasses import dataclass

import numpy as np

from gansmith.errors import UserError
from gansmith.evaluation.arrays import checked, refuse_few


@dataclass(frozen=True)
class LeakingPair:
    """Images asked for as class `asked` and seen as class `seen`."""

    asked: int
    seen: int
    count: int  # fakes that went this way
    rate: float  # share of the fakes asked for as `asked`
    real_rate: float  # the same share among reals of class `asked`, 0 where no reals were given
    examples: tuple[int, ...]  # indices of such fakes, the most certain first


@dataclass(frozen=True)
class Leakage:
    """Confusion of generated classes."""

    confusion: np.ndarray  # int64 (K, K): row asked for, column seen
    accuracy: float  # share of fakes seen as what was asked for
    class_accuracy: np.ndarray  # float64 (K,), NaN for classes without fakes
    real_accuracy: float | None  # of the classifier on reals
    pairs: tuple[LeakingPair, ...]  # the largest excess over the reals first

    @property
    def leakage(self) -> float:
        """Share of fakes seen as another class."""
        return 1 - self.accuracy


def class_leakage(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    real_logits: np.ndarray | None = None,
    real_labels: np.ndarray | None = None,
    num_pairs: int = 10,
    num_examples: int = 8,
) -> Leakage:
    """Confusion matrix of the fakes and the pairs of classes that leak most.

    logits (n, K): of a classifier trained on the real classes, column c for class c. labels int64 (n,): the
    classes asked for. real_logits, real_labels: of reals the classifier was not trained on, for the floor.
    Raises UserError for no images, non-finite logits, fewer than 2 classes, and labels beyond K.
    """
    seen = _seen(logits, labels, "the fakes")
    num_classes = logits.shape[1]
    confusion = _confusion(labels, seen, num_classes)
    floor, real_accuracy = np.zeros((num_classes, num_classes)), None
    if real_logits is not None and real_labels is not None:
        if real_logits.shape[1] != num_classes:
            raise UserError(
                f"class leakage: the reals were classified into {real_logits.shape[1]} classes, the fakes "
                f"into {num_classes}; use one classifier for both (--features classifier:FILE)."
            )
        real = _confusion(real_labels, _seen(real_logits, real_labels, "the reals"), num_classes)
        floor, real_accuracy = _rates(real), float(np.trace(real) / real.sum())
    rates = _rates(confusion)
    excess = np.where(np.eye(num_classes, dtype=bool) | (confusion == 0), -np.inf, rates - floor)
    order = np.argsort(-excess, axis=None, kind="stable")[:num_pairs]
    pairs = []
    for asked, column in zip(*np.unravel_index(order, excess.shape)):
        if excess[asked, column] == -np.inf:
            continue
        members = np.flatnonzero((labels == asked) & (seen == column))
        certain = np.argsort(-_certainty(logits[members], int(column)), kind="stable")[:num_examples]
        pairs.append(
            LeakingPair(
                asked=int(asked),
                seen=int(column),
                count=int(confusion[asked, column]),
                rate=float(rates[asked, column]),
                real_rate=float(floor[asked, column]),
                examples=tuple(int(index) for index in members[certain]),
            )
        )
    with np.errstate(invalid="ignore"):
        class_accuracy = np.diag(confusion) / confusion.sum(1)
    accuracy = float(np.trace(confusion) / confusion.sum())
    return Leakage(confusion, accuracy, class_accuracy, real_accuracy, tuple(pairs))


def _seen(logits: np.ndarray, labels: np.ndarray, what: str) -> np.ndarray:
    """Class of the largest logit of each image, once the input is known to be usable."""
    checked(logits, what, 1)
    refuse_few(len(labels), what, 1)
    assert len(labels) == len(logits), f"{len(labels)} labels for {len(logits)} rows of logits"
    num_classes = logits.shape[1]
    if num_classes < 2:
        raise UserError("class leakage needs a classifier of at least 2 classes; this one has 1.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UserError(
            f"class leakage: {what} have labels {labels.min()} … {labels.max()}, but the classifier has "
            f"{num_classes} classes. Train it on the same data: gansmith eval train-classifier --data …"
        )
    return logits.argmax(1)


def _confusion(labels: np.ndarray, seen: np.ndarray, num_classes: int) -> np.ndarray:
    flat = np.bincount(labels.astype(np.int64) * num_classes + seen, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def _rates(confusion: np.ndarray) -> np.ndarray:
    return confusion / confusion.sum(1, keepdims=True).clip(min=1)


def _certainty(logits: np.ndarray, column: int) -> np.ndarray:
    """Log-probability of `column`."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    return shifted[:, column] - np.log(np.exp(shifted).sum(1))
