"""Side by side: a winner only within one protocol and beyond chance."""

import json
from pathlib import Path
from typing import Any

import pytest

from gansmith.errors import UserError
from gansmith.evaluation import best, compare, protocol
from gansmith.evaluation.protocol import Result, Score

COMMON: dict[str, Any] = {
    "n_real": 100, "n_fake": 50, "split": "train", "reference": "abc", "labels": "balanced",
    "truncation": None, "truncation_kind": "none", "ema": True, "batchnorm": "standing statistics",
    "seed": 0, "target_sha256": "x",
}  # fmt: skip


def result(value: float, sd: float | None = None, metric: str = "frechet", **changed: Any) -> Result:
    better = "lower" if metric == "frechet" else "higher"
    score = Score(metric, metric.upper(), value, better, features={"name": "pixels", "resizer": "area"})
    made = protocol.results([[score]], COMMON | changed)[0]
    return Result(**(made.as_json() | {"sd": sd}))


def judge(*results: Result) -> compare.Row:
    return compare.compare([[each] for each in results], [chr(65 + i) for i in range(len(results))])[0]


def test_the_better_one_is_named_beyond_five_per_cent() -> None:
    assert judge(result(10.0), result(9.0)).winner == 1
    assert judge(result(10.0), result(9.6)).winner is None
    assert judge(result(0.5, metric="recall"), result(0.4, metric="recall")).winner == 0
    assert judge(result(10.0), result(8.0), result(9.9)).winner == 1


def test_with_repeats_the_deviations_decide() -> None:
    assert judge(result(10.0, 0.1), result(9.7, 0.1)).winner == 1
    assert judge(result(10.0, 1.0), result(8.5, 0.6)).winner is None


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"n_fake": 10}, "n_fake 50 / 10"),
        ({"split": "test", "reference": "def"}, "split train / test; reference abc / def"),
        ({"truncation": 0.5, "truncation_kind": "resample"}, "truncation none / 0.5"),
        ({"ema": False}, "ema True / False"),
    ],
)
def test_unlike_protocols_are_shown_and_never_ranked(changed: dict[str, Any], named: str) -> None:
    row = judge(result(10.0), result(1.0, **changed))
    assert row.winner is None
    assert [each.value for each in row.values if each] == [10.0, 1.0]
    assert "not ranked" in row.verdict
    assert named in row.verdict


def test_who_was_scored_and_with_which_seed_is_no_difference() -> None:
    one, other = result(10.0), result(9.0, seed=3, target_sha256="y", code_version="9")
    assert one.protocol_id == other.protocol_id
    assert judge(one, other).winner == 1


def test_images_without_their_network_may_be_ranked_with_any() -> None:
    unknown = {"truncation": None, "truncation_kind": protocol.UNKNOWN, "ema": None, "batchnorm": None}
    assert judge(result(10.0), result(5.0, **unknown)).winner == 1
    # but two networks that differ are not made equal by a third that does not say
    cut = {"truncation": 0.5, "truncation_kind": "resample"}
    assert judge(result(10.0), result(5.0, **unknown), result(7.0, **cut)).winner is None


def test_results_are_read_from_files_and_runs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"results": [result(3.0).as_json()]}))
    assert compare.load(tmp_path / "a.json") == [result(3.0)]
    lines = [
        json.dumps({"type": "status", "images_seen": 1}),
        json.dumps({"type": "evaluation", "snapshot": "1", "results": [result(5.0).as_json()]}),
        json.dumps({"type": "evaluation", "snapshot": "2", "results": [result(4.0).as_json()]}),
        '{"type": "evaluation", "resul',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert compare.load(tmp_path) == [result(4.0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("[1]", "no results"),
        ("nonsense", "no results"),
        ('{"results": []}', "never"),
    ],
)
def test_what_holds_no_results_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "x.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        compare.load(file)


def test_the_best_snapshot_is_linked_among_those_of_one_protocol_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    rows = [("1", result(1.0, n_fake=10)), ("2", result(2.0)), ("3", result(4.0)), ("4", result(3.0))]
    for name in ("1", "3", "4"):
        best.snapshot_file(tmp_path, name).touch()
    lines = [{"type": "evaluation", "snapshot": n, "results": [r.as_json()]} for n, r in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert best.update(tmp_path, "frechet") == "best by frechet: 4 (3)"  # 1 is of another protocol, 2 is gone
    assert (tmp_path / "best").resolve() == best.snapshot_file(tmp_path, "4")
    assert best.update(tmp_path, "frechet") is None
    assert best.update(tmp_path, "recall") is None


def test_a_snapshot_that_was_abandoned_stays_the_best_until_a_better_one_comes(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()

    def scored(name: str, images: int, value: float) -> dict[str, Any]:
        row = {"type": "evaluation", "images_seen": images, "snapshot": name}
        return row | {"results": [result(value).as_json()]}

    lines = [scored("1", 1, 9.0), scored("2", 2, 3.0), {"type": "rollback", "images_seen": 1}]
    (tmp_path / "best").symlink_to("snapshots/2.safetensors.abandoned")
    for name in ("1.safetensors", "2.safetensors.abandoned", "2-1.safetensors", "3-1.safetensors"):
        (tmp_path / "snapshots" / name).touch()
    for row, now in (
        (scored("2-1", 2, 4.0), "2.safetensors.abandoned"),
        ({"type": "resume", "images_seen": 2}, "2.safetensors.abandoned"),
        (scored("3-1", 3, 2.0), "3-1.safetensors"),
    ):
        lines.append(row)
        (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        best.update(tmp_path, "frechet")
        assert (tmp_path / "best").readlink().name == now
