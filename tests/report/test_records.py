"""Logs are read as far as they can be, and what a run went back from is told apart."""

from pathlib import Path

import pytest

from gansmith.errors import UserError
from gansmith.report import records
from tests.report.writing import status, write_rows


def test_rows_beyond_the_place_a_run_went_back_to_are_abandoned(run: Path) -> None:
    rows = records.read(run / "metrics.jsonl").of("status")
    gone = [row.images for row in rows if row.abandoned]
    alive = [row.images for row in rows if not row.abandoned]
    assert gone == [7000, 8000, 9000, 10000]
    assert alive == [1000 * n for n in range(1, 13)]
    assert all(row.data["loss_d"] == 0.125 for row in rows if not row.abandoned and row.images > 6000)


def test_a_clean_resume_abandons_nothing(tmp_path: Path) -> None:
    resume = {"type": "resume", "images_seen": 3000, "changes": []}
    write_rows(tmp_path, [status(n) for n in (1000, 2000, 3000)] + [resume, status(4000)])
    assert not any(row.abandoned for row in records.read(tmp_path / "metrics.jsonl").rows)


def test_repeated_images_without_an_event_abandon_the_earlier_rows(tmp_path: Path) -> None:
    write_rows(tmp_path, [status(n) for n in (1000, 2000, 3000, 2000, 3000, 4000)])
    rows = records.read(tmp_path / "metrics.jsonl").rows
    assert [row.abandoned for row in rows] == [False, True, True, False, False, False]


def test_a_late_evaluation_of_an_old_snapshot_abandons_nothing(tmp_path: Path) -> None:
    late = {"type": "evaluation", "images_seen": 1000, "results": []}
    resume = {"type": "resume", "images_seen": 3000, "changes": []}
    write_rows(tmp_path, [status(n) for n in (1000, 2000, 3000)] + [late, resume, status(4000)])
    assert not any(row.abandoned for row in records.read(tmp_path / "metrics.jsonl").rows)


def test_half_written_last_line_and_damaged_lines_are_left_out_and_named(tmp_path: Path) -> None:
    lines = [
        '{"type": "status", "images_seen": 1}',
        "\x00\xff",
        "[1, 2]",
        '{"type": "status", "images_seen": 2}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"type": "sta', encoding="latin-1")
    log = records.read(tmp_path / "metrics.jsonl")
    assert [row.images for row in log.rows] == [1, 2]
    assert log.problems == [
        "metrics.jsonl: the last line is half-written and was left out",
        "metrics.jsonl: 2 damaged lines were left out (line 2, 3)",
    ]


def test_a_missing_log_is_empty_and_an_unreadable_one_is_the_users_mistake(tmp_path: Path) -> None:
    assert records.read(tmp_path / "metrics.jsonl").rows == []
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        records.read(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("value", [None, True, "3", float("nan"), float("inf"), 10**400, [1]])
def test_what_is_no_finite_number_is_none(value: object) -> None:
    assert records.number(value) is None
