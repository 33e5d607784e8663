"""The Inception score against torchmetrics and its known extremes."""

import numpy as np
import pytest
import torch
from torchmetrics.image.inception import InceptionScore

from gansmith.errors import UserError
from gansmith.evaluation.inception_score import inception_score


def some_logits(n: int, classes: int) -> np.ndarray:
    return (3 * np.random.default_rng(0).standard_normal((n, classes))).astype(np.float32)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`", "ignore:std")
def test_equals_torchmetrics_on_equal_logits() -> None:
    logits = some_logits(900, 50)
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(torch.from_numpy(logits))
    ours = inception_score(logits, splits=1)
    assert ours.value == pytest.approx(float(theirs.compute()[0]), rel=1e-5)  # theirs sums in float32
    assert ours.sd == 0


def test_certain_and_even_predictions_score_the_number_of_classes() -> None:
    logits = np.full((1000, 10), -200.0)
    logits[np.arange(1000), np.arange(1000) % 10] = 200
    assert inception_score(logits, splits=1).value == pytest.approx(10, rel=1e-12)


def test_one_class_or_no_opinion_scores_one() -> None:
    assert inception_score(np.zeros((100, 10))).value == pytest.approx(1, abs=1e-12)
    one = np.zeros((100, 10))
    one[:, 3] = 1e4  # its exponential overflows unless it is shifted first
    assert inception_score(one).value == pytest.approx(1, abs=1e-12)


def test_images_sorted_by_class_are_shuffled_before_they_are_split() -> None:
    logits = np.full((5000, 10), -200.0)
    logits[np.arange(5000), np.arange(5000) // 500] = 200
    got = inception_score(logits, splits=10)
    assert 9.8 < got.value < 10  # 1 if each split saw one class
    assert got.sd < 0.1
    assert got == inception_score(logits, splits=10)


def test_no_image_is_left_out_by_splits_that_do_not_divide_them() -> None:
    logits = some_logits(103, 5)
    log_p = np.log(torch.from_numpy(logits).double().softmax(1).numpy())
    scores = []
    for part in np.array_split(np.random.default_rng(0).permutation(103), 10):
        p = np.exp(log_p[part])
        scores.append(np.exp((p * (log_p[part] - np.log(p.mean(0)))).sum(1).mean()))
    got = inception_score(logits, splits=10)
    assert (got.value, got.sd) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-9)


def test_the_first_outputs_alone_enter_when_asked_for() -> None:
    logits = some_logits(500, 1008)
    first = inception_score(logits, outputs=1000)
    assert first.outputs == 1000
    assert first.value == pytest.approx(inception_score(logits[:, :1000]).value, rel=1e-12)
    assert inception_score(logits).outputs == 1008
    assert inception_score(logits).value != first.value


def test_unusable_logits_are_refused() -> None:
    logits = some_logits(30, 10)
    with pytest.raises(UserError, match="30 images; this score needs at least 50"):
        inception_score(logits, splits=50)
    with pytest.raises(UserError, match="choose 2 to 10"):
        inception_score(logits, outputs=11)
    with pytest.raises(UserError, match="at least 2 classes"):
        inception_score(logits[:, :1])
    logits[4, 0] = np.nan
    with pytest.raises(UserError, match="1 of 30 images have NaN"):
        inception_score(logits)
