"""Scoring in the middle of training: the following steps do not notice, and a failure costs none of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gansmith.errors import UserError
from gansmith.evaluation import best, targets
from gansmith.training import checkpoint
from tests.training.conftest import images, tiny  # noqa: F401 (fixtures)

SCORED = {
    "eval.every": 16,
    "eval.features": "pixels",
    "eval.num": 24,
    "eval.metrics": ["frechet", "precision-recall", "memorisation", "per-class", "leakage"],
}
Start = Callable[..., Path]


def saved(run: Path) -> dict[str, torch.Tensor]:
    return {
        f"{folder.name}/{group}/{key}": value
        for folder in checkpoint.listed(run / "checkpoints")
        for group, tensors in checkpoint.read_tensors(folder).items()
        for key, value in tensors.items()
    }


def test_evaluating_in_the_middle_leaves_the_following_steps_bit_identical(tiny: Start) -> None:  # noqa: F811
    plain = tiny("plain")
    scored = tiny("scored", SCORED)
    left, right = saved(plain), saved(scored)
    assert len(checkpoint.listed(plain / "checkpoints")) == 4
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)
    rows = best.read(scored)
    assert [row["images_seen"] for row in rows] == [16, 32, 48, 64]
    assert [row["snapshot"] for row in rows] == [f"{n:012d}" for n in (16, 32, 48, 64)]
    first = rows[0]["results"][0]
    assert (first["metric"], first["protocol"]["n_fake"], first["protocol"]["n_real"]) == ("frechet", 24, 21)
    assert first["value"] > 0
    values = {row["snapshot"]: row["results"][0]["value"] for row in rows}
    assert targets.name_of(scored / "best") == min(values, key=lambda name: values[name])
    assert "evaluation of 000000000016: FD-pixels" in (scored / "log.txt").read_text()
    assert (scored / "evaluation" / "000000000016-neighbours-pixels.png").is_file()


def test_the_best_snapshot_outlives_retention(tiny: Start, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    worse: list[dict[str, Any]] = []
    original = targets.row

    def ever_worse(*arguments: Any) -> dict[str, Any]:
        row = original(*arguments)
        worse.append(row)
        row["results"][0]["value"] = float(len(worse))
        return row

    monkeypatch.setattr(targets, "row", ever_worse)
    run = tiny("run", SCORED | {"eval.metrics": "frechet", "log.keep_snapshots": 1})
    names = sorted(path.stem for path in (run / "snapshots").glob("*.safetensors"))
    assert names == ["000000000016", "000000000064"]
    assert (run / "best").resolve().stem == "000000000016"


def test_a_failing_evaluation_is_a_warning(tiny: Start, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from gansmith.evaluation import frechet

    def broken(*_: Any, **__: Any) -> float:
        raise MemoryError("no room for a covariance")

    monkeypatch.setattr(frechet, "frechet_distance", broken)
    run = tiny("run", SCORED | {"eval.metrics": "frechet"})
    log = (run / "log.txt").read_text()
    assert log.count("failed (no room for a covariance); training goes on") == 4
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["type"] == "finished"
    assert not (run / "best").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eval.features": "inception", "eval.weights": "/nowhere/w.pth"}, "/nowhere/w.pth"),
        ({"eval.features": "pixel"}, "did you mean pixels"),
        ({"eval.metrics": "freshet"}, "did you mean frechet"),
        ({"eval.metrics": "is"}, "no classifier"),
        ({"eval.best_by": "recall", "eval.metrics": "frechet"}, "not computed"),
        ({"eval.num": 1}, "at least 2"),
        ({"eval.data": "/nowhere"}, "does not exist"),
    ],
)
def test_what_would_fail_every_time_is_told_before_training(
    tiny: Start,  # noqa: F811
    tmp_path: Path,
    changed: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        tiny("run", SCORED | changed)
    assert not (tmp_path / "run").exists()
