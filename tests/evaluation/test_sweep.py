"""The truncation sweep: the FID–IS curve and the paper's three points on it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from gansmith.errors import UserError
from gansmith.evaluation import sweep
from gansmith.evaluation.evaluate import prepare
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.inception_score import inception_score
from gansmith.evaluation.subjects import Reference
from tests.evaluation.networks import Colour

pytestmark = pytest.mark.filterwarnings("ignore:.*covariance is singular")


def curve_of(*rows: tuple[float | None, float, float]) -> list[sweep.Point]:
    return [sweep.Point(threshold, {"frechet": fd, "is": score}) for threshold, fd, score in rows]


def test_the_paper_s_points_with_the_one_at_real_images_interpolated() -> None:
    points = curve_of((None, 12.0, 5.0), (1.0, 10.0, 7.0), (0.5, 20.0, 9.0))
    best, real, last = sweep.three_points(points, 8.0)
    assert (best.name, best.truncation, best.scores["frechet"]) == ("best Fréchet distance", 1.0, 10.0)
    assert (real.name, real.scores) == ("Inception score of real images", {"frechet": 15.0, "is": 8.0})
    assert (last.name, last.truncation, last.scores["is"]) == ("best Inception score", 0.5, 9.0)
    assert [p.name for p in sweep.three_points(points, 9.5)] == [best.name, last.name]  # never reached


def test_a_distance_that_is_not_finite_is_no_point() -> None:
    points = curve_of((None, float("nan"), 5.0), (1.0, 10.0, 7.0))
    assert sweep.three_points(points, None)[0].truncation == 1.0


def test_a_network_with_logits_gives_the_curve_of_distance_over_inception_score(
    fake_run: Path, reals: Path, tmp_path: Path
) -> None:
    evaluation = prepare(fake_run, reals, metrics=["fid"], features=[Colour()], num=40)
    curve = sweep.sweep(evaluation, (None, 0.5))
    assert [set(point.scores) for point in curve.points] == [{"frechet", "is", "precision", "recall"}] * 2
    logits = evaluation.references[0].features.logits
    assert logits is not None
    assert curve.real is not None
    assert curve.real == pytest.approx(inception_score(logits).value, rel=0.15)  # of 40 of the 60
    sweep.write_csv(tmp_path / "c.csv", curve)
    sweep.write_png(tmp_path / "c.png", curve, "title")
    with (tmp_path / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["truncation"] for row in rows if not row["point"]] == ["none", "0.5"]
    assert float(rows[0]["is"]) == curve.points[0].scores["is"]
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_the_score_of_reals_is_that_of_all_classes_where_a_set_is_sorted(fake_run: Path, reals: Path) -> None:
    evaluation = prepare(fake_run, reals, metrics=["fid"], features=[Colour()], num=30)
    logits = np.repeat(10 * np.eye(3, dtype=np.float32), 100, 0)
    found = FeatureSet(np.zeros((300, 3), np.float32), logits)
    evaluation.references[0] = Reference(found, torch.device("cpu"))
    score = sweep._of_reals(evaluation)
    assert score is not None
    assert score > 2  # the first 30 are of one class: their score is 1


def test_impossible_sweeps_are_told_before_an_image_is_made(fake_run: Path, reals: Path) -> None:
    few = prepare(fake_run, reals, metrics=["fid"], features=[Colour()], num=8)
    with pytest.raises(UserError, match="is cannot be computed: it needs at least 10"):
        sweep.sweep(few)
    evaluation = prepare(fake_run, reals, metrics=["fid"], features=[Colour()], num=40)
    with pytest.raises(UserError, match=r"--truncation 0\.001"):
        sweep.sweep(evaluation, (None, 1e-3))
