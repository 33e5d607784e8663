"""Class leakage: what was asked for against what a classifier sees."""

import numpy as np
import pytest

from gansmith.errors import UserError
from gansmith.evaluation.leakage import class_leakage


def logits_for(seen: np.ndarray, classes: int, certainty: float = 5.0) -> np.ndarray:
    logits = np.zeros((len(seen), classes), np.float32)
    logits[np.arange(len(seen)), seen] = certainty
    return logits


def test_confusion_counts_asked_against_seen() -> None:
    asked, seen = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 2, 2])
    got = class_leakage(logits_for(seen, 3), asked)
    assert got.confusion.tolist() == [[1, 1, 0], [0, 2, 1], [0, 0, 1]]
    assert got.accuracy == pytest.approx(4 / 6)
    assert got.leakage == pytest.approx(2 / 6)
    assert got.class_accuracy.tolist() == pytest.approx([1 / 2, 2 / 3, 1])


def test_the_pair_that_leaks_most_comes_first_with_its_most_certain_examples() -> None:
    asked = np.repeat(np.arange(4), 50)
    seen = asked.copy()
    seen[50:80], seen[100:105] = 3, 0
    logits = logits_for(seen, 4)
    logits[[61, 70], 3] = 9, 7
    pairs = class_leakage(logits, asked, num_examples=3).pairs
    assert [(p.asked, p.seen, p.count, p.rate) for p in pairs] == [(1, 3, 30, 0.6), (2, 0, 5, 0.1)]
    assert pairs[0].examples == (61, 70, 50)


def test_the_classifiers_own_confusion_on_reals_is_the_floor() -> None:
    """Classes 0 and 1 are hard to tell apart in the data; 2 → 3 is the generator's own mistake."""
    asked = np.repeat(np.arange(4), 20)
    real_seen, fake_seen = asked.copy(), asked.copy()
    real_seen[:9] = 1
    fake_seen[:10], fake_seen[40:44] = 1, 3
    got = class_leakage(
        logits_for(fake_seen, 4), asked, real_logits=logits_for(real_seen, 4), real_labels=asked
    )
    assert [(p.asked, p.seen) for p in got.pairs] == [(2, 3), (0, 1)]
    assert (got.pairs[1].rate, got.pairs[1].real_rate) == (0.5, 0.45)
    assert got.real_accuracy == pytest.approx(71 / 80)


def test_shuffled_labels_fall_to_chance() -> None:
    random = np.random.default_rng(0)
    seen = random.integers(0, 10, 5000)
    got = class_leakage(logits_for(seen, 10), random.permutation(seen))
    assert got.accuracy == pytest.approx(0.1, abs=0.02)
    assert len(got.pairs) == 10


def test_a_class_never_asked_for_has_no_accuracy() -> None:
    got = class_leakage(logits_for(np.array([0, 1]), 3), np.array([0, 1]))
    assert got.class_accuracy.tolist()[:2] == [1, 1]
    assert np.isnan(got.class_accuracy[2])
    assert got.pairs == ()


def test_unusable_input_is_refused() -> None:
    logits = logits_for(np.array([0, 1]), 3)
    with pytest.raises(UserError, match="labels 0 … 3, but the classifier has 3 classes"):
        class_leakage(logits, np.array([0, 3]))
    with pytest.raises(UserError, match="at least 2 classes"):
        class_leakage(logits[:, :1], np.array([0, 0]))
    with pytest.raises(UserError, match="needs at least 1"):
        class_leakage(logits[:0], np.array([], np.int64))
    logits[0, 0] = np.nan
    with pytest.raises(UserError, match="1 of 2 images have NaN"):
        class_leakage(logits, np.array([0, 1]))
