"""`gansmith guard replay`: logs of this and other programs, and files that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gansmith.cli.guard import guard
from gansmith.errors import UserError
from gansmith.guard import tables
from tests.guard import logs


def replay(*words: object) -> str:
    result = CliRunner().invoke(guard, ["replay", *map(str, words)])
    if result.exception:
        raise result.exception
    return result.output


def as_json(*words: object) -> dict[str, Any]:
    return json.loads(replay(*words, "--json"))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    return write(path, logs.rows(logs.grows, until=0.65))


def test_log_of_a_run_is_told_with_its_votes(collapsed: Path) -> None:
    text = replay(collapsed, "--duration", "20M")
    assert "suspect: mode collapse" in text
    assert "collapsed: mode collapse" in text
    assert "sigma0/G.linear" in text
    assert text.rstrip().endswith("at the end: collapsed")


def test_same_file_gives_the_same_answer(collapsed: Path) -> None:
    assert as_json(collapsed) == as_json(collapsed)


def test_healthy_log_says_nothing(tmp_path: Path) -> None:
    log = write(tmp_path / "metrics.jsonl", logs.rows(until=0.4))
    assert as_json(log) | {"signals": []} == {
        "rows": 160, "unit": "images_seen", "signals": [], "verdicts": [], "end": "ok"
    }  # fmt: skip


def test_where_the_run_went_back_the_guard_knows_what_it_knew_there(tmp_path: Path) -> None:
    bad = logs.rows(logs.grows, until=0.65)
    good = [row for row in logs.rows(until=0.7) if row["images_seen"] > 0.5 * logs.DURATION]
    back = {"type": "rollback", "images_seen": logs.DURATION // 2}
    there = as_json(write(tmp_path / "bad.jsonl", [*bad, back, *good]), "--duration", "20M")
    assert [v["state"] for v in there["verdicts"]] == ["suspect", "collapsed", "ok"]
    assert there["verdicts"][-1]["position"] == logs.DURATION // 2
    assert there["end"] == "ok"


def test_foreign_csv_is_read_through_a_mapping(tmp_path: Path) -> None:
    lines = ["It;Disc;sv0;what"]
    for row in logs.rows(logs.grows, until=0.65):
        lines.append(f"{row['step']};{row['loss_d']};{row['sigma0']['G.linear']};x")
    (tmp_path / "log.csv").write_text("\n".join(lines))
    told = as_json(
        tmp_path / "log.csv", "--map", "Disc=loss_d", "--map", "sv0=sigma0/G.linear", "--map", "It=position"
    )
    assert told["unit"] == "It"
    assert told["signals"] == ["loss_d", "sigma0/G.linear"]
    assert told["verdicts"][0]["state"] == "suspect"
    assert told["verdicts"][0]["position"] == pytest.approx(0.605 * logs.DURATION / 4096, rel=0.02)


def test_scores_by_iteration_of_another_program_need_no_mapping(tmp_path: Path) -> None:
    scores = [50, 30, 20, 15, 12, 11, 14.5, 23, 30]
    rows = [{"itr": 1000 * at, "IS_mean": 5.0, "FID": fid} for at, fid in enumerate(scores, 1)]
    told = as_json(write(tmp_path / "log.jsonl", rows))
    assert [(v["state"], v["position"], v["since"]) for v in told["verdicts"]] == [
        ("suspect", 7000, 6000), ("collapsed", 8000, 6000)
    ]  # fmt: skip


def test_evaluations_of_a_run_vote_by_their_first_frechet_distance(tmp_path: Path) -> None:
    def row(images: int, value: float | None) -> dict[str, Any]:
        results = [
            {"metric": "is", "value": 1.0, "better": "higher", "protocol_id": "b"},
            {"metric": "frechet", "value": value, "better": "lower", "protocol_id": "a"},
        ]
        return {"type": "evaluation", "images_seen": images, "results": results}

    status = {"type": "status", "images_seen": 100, "loss_d": 1.0}
    told = as_json(write(tmp_path / "m.jsonl", [status, row(100, 20.0), row(200, None), row(300, 50.0)]))
    assert [(v["state"], v["position"]) for v in told["verdicts"]] == [("collapsed", 300)]


@pytest.mark.parametrize(
    ("text", "words", "says"),
    [
        ("", (), "is empty"),
        ("time,colour\n1,red\n", (), "has no column that the guard looks at; it has colour, time"),
        ("a,b\n1,2\n", ("--map", "c=loss_d"), "has no such column; it has a, b"),
        ("a,b\n1,2\n", ("--map", "a=los_d"), "there is no such signal"),
        ("a,b\n1,2\n", ("--map", "a"), "write COLUMN=SIGNAL"),
        ("itr,FID\n1,2\n", ("--duration", "long"), "is no length"),
        ("\x80\x81", (), "is no text"),
        ("itr,FID\n1," + "2" * 200_000, (), r"is no table \(field larger than field limit"),
        ('[{"itr": 1, "FID": 2}]', (), "not JSON lines: write one object per line"),
        ('{\n "itr": 1\n}', (), "not JSON lines: write one object per line"),
        (
            "step,skipped_steps\n1,2\n",
            (),
            "guard looks at; it has skipped_steps, step",
        ),
        ("itr,loss_d\n", (), "has no rows"),
        ("itr,comment\n1,fine\n", ("--map", "comment=loss_d"), "column comment of .* holds no numbers"),
        ("itr,d_held_out\n1,2\n", (), "has no column that the guard looks at"),
        ("itr,loss_d\n1,n/a\n", (), "has no column that the guard looks at"),
        ("itr,d_loss,loss_d\n1,2,3\n", (), "columns d_loss and loss_d are both loss_d.*--map d_loss=loss_d"),
        ("itr,a,b\n1,2,3\n", ("--map", "a=loss_d", "--map", "b=loss_d"), "two columns cannot be one signal"),
        (
            "epoch,batch_no,loss_d\n" + "".join(f"{n // 4},{n},1\n" for n in range(20)),
            (),
            "15 of 20 rows are not later .* by epoch, .* --map batch_no=position",
        ),
        ("itr,loss_d\n" + "".join(f"{9 - n},1\n" for n in range(9)), (), "8 of 9 .* by itr.*; sort the file"),
    ],
)
def test_what_cannot_be_replayed_gets_one_clear_message(
    tmp_path: Path, text: str, words: tuple[str, ...], says: str
) -> None:
    (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=says):
        replay(tmp_path / "log.csv", *words)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        replay(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match=r"is a folder without a metrics\.jsonl"):
        replay(tmp_path)


def test_a_runs_folder_stands_for_its_log(collapsed: Path) -> None:
    assert as_json(collapsed.parent) == as_json(collapsed)


def test_silence_about_a_short_log_is_told_from_silence_about_a_long_one(tmp_path: Path) -> None:
    rows = logs.rows(until=0.4)
    assert "nothing; but 7 rows are few" in replay(write(tmp_path / "short.jsonl", rows[:7]))
    assert replay(write(tmp_path / "long.jsonl", rows)).endswith("would have said nothing\n")
    scores = [{"itr": at, "FID": 9.0 - at / 9} for at in range(7)]
    assert replay(write(tmp_path / "scores.jsonl", scores)).endswith("would have said nothing\n")


def test_a_duration_may_end_within_the_last_step_only(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("itr,loss_d\n" + "".join(f"{n},1\n" for n in range(300)))
    assert as_json(tmp_path / "log.csv", "--duration", "298")["end"] == "ok"
    with pytest.raises(UserError, match="--duration 100: the log goes on to itr 299"):
        replay(tmp_path / "log.csv", "--duration", "100")


def test_text_where_a_number_belongs_is_missing_and_numbers_that_are_none_are_not(tmp_path: Path) -> None:
    rows = "".join(f"{n},{n % 3 / 9 + 1},{{}}\n" for n in range(60))
    (tmp_path / "text.csv").write_text("itr,loss_d,gradient_norm_d\n" + rows.format(*["n/a"] * 60))
    assert as_json(tmp_path / "text.csv")["end"] == "ok"
    broken = rows.format(*[1.0] * 50, *["nan"] * 5, *["inf"] * 5)
    (tmp_path / "nan.csv").write_text("itr,loss_d,gradient_norm_d\n" + broken)
    assert as_json(tmp_path / "nan.csv")["end"] == "collapsed"


def test_an_evaluation_without_a_number_is_none() -> None:
    def row(*values: object) -> dict[str, Any]:
        return {"results": [{"metric": "frechet", "value": value, "protocol_id": "p"} for value in values]}

    assert tables.distance(row("n/a", None, 3)) == (3.0, "p")
    assert tables.distance(row("n/a")) is None


def test_the_users_mapping_comes_before_what_names_mean(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("itr,d_loss,g_loss,best_fid\n1,2,3,4\n")
    table = tables.read(tmp_path / "log.csv", {"d_loss": "loss_g"})
    assert table.rows == [(1.0, {"loss_g": 2.0}, None)]  # and the best so far is no score of now


def test_positions_stay_in_the_logs_own_unit(tmp_path: Path) -> None:
    scores = [50, 30, 20, 15, 12, 11, 14.5, 23, 30]
    log = write(tmp_path / "log.jsonl", [{"kimg": 100 * at, "FID": fid} for at, fid in enumerate(scores, 1)])
    told = as_json(log, "--duration", "2000")
    assert (told["unit"], [v["position"] for v in told["verdicts"]]) == ("kimg", [700, 800])


def test_a_run_that_began_again_a_few_times_without_saying_so_is_in_order(tmp_path: Path) -> None:
    steps = [*range(40), *range(30, 60), *range(50, 80)]
    (tmp_path / "log.csv").write_text("itr,loss_d\n" + "".join(f"{step},1\n" for step in steps))
    assert len(tables.read(tmp_path / "log.csv", {}).back) == 2
