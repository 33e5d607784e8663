"""The page says what the run's files say, whatever state they are in, and loads nothing."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from gansmith import report
from gansmith.cli.report import report as command
from gansmith.errors import UserError
from gansmith.report import pictures, records, scores, settings
from gansmith.report.curves import Source
from tests.report.writing import evaluation, picture, result, status, write_rows


def data_of(page: Path) -> dict[str, Any]:
    match = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL
    )
    assert match
    return json.loads(match[1])


def test_curves_scores_pictures_and_marks_are_in_the_page(run: Path) -> None:
    data = data_of(report.write(run))
    titles = [chart["title"] for chart in data["charts"]]
    assert titles[:4] == ["FID", "IS", "Losses", "D’s output"]
    assert {"σ0 in G", "σ0 in D", "Learning rates", "Batch", "Speed"} <= set(titles)
    (change,) = [mark for mark in data["marks"] if mark["kind"] == "change"]
    assert (change["images"], change["text"]) == (6000, "resume: optim.lr_g 0.0002 → 0.0001")
    kinds = data["samples"]["kinds"]
    assert [kind["title"] for kind in kinds] == ["averaged G", "G as trained"]
    assert [frame["images"] for frame in kinds[0]["frames"]] == [None, 4000, 8000]
    assert kinds[0]["frames"][0]["src"].startswith("data:image/")
    assert data["samples"]["reals"]["width"] == 48


def test_a_batch_that_grew_is_shown_as_it_is_now(run: Path) -> None:
    assert "<dd>64<" in report.write(run).read_text()
    write_rows(run, [status(1000), status(2000, batch=1024)])
    assert "<dd>1,024<small>grown from 64; 1 D phases" in report.write(run).read_text()


def test_the_page_loads_nothing_and_escapes_what_the_run_says(run: Path) -> None:
    text = report.write(run).read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert text.count("</script>") == 2
    assert "photos  # not a comment" in text


def test_scores_of_other_protocols_are_other_lines(run: Path) -> None:
    log = records.read(run / "metrics.jsonl")
    (fid, inception), tables = scores.charts([Source("run", log)], 5)
    assert [line["label"] for line in fid["lines"]] == ["FID · 5,000 fakes", "FID · 50,000 fakes"]
    assert fid["lines"][0]["v"] == [80, 60, 70]
    assert fid["lines"][0]["table"] == 5
    assert tables[0]["images"] == [4000, 8000, 12000]
    assert fid["lines"][1]["v"] == [55]
    assert inception["lines"][0]["v"] == [2, None]


def test_a_published_score_never_shares_a_line_with_a_measured_one(run: Path, tmp_path: Path) -> None:
    (tmp_path / "paper.csv").write_text("images,FID\n4000,9\n")
    data = data_of(report.write(run, references=[str(tmp_path / "paper.csv")]))
    labels = [line["label"] for line in data["charts"][0]["lines"]]
    assert labels == ["FID · 5,000 fakes", "FID · 50,000 fakes", "paper, protocol not known"]


def test_newest_and_best_score_of_each_protocol(run: Path) -> None:
    rows = scores.newest(records.read(run / "metrics.jsonl").of("evaluation"))
    found = {(row["name"], row["protocol_id"]): row for row in rows}
    assert found["FID", "aaa"]["newest"] == {"images": 12000, "value": 70, "sd": None}
    assert found["FID", "aaa"]["best"] == {"images": 8000, "value": 60, "sd": None}
    assert found["IS", "ccc"]["best"]["value"] == 2  # the newest one was not finite
    assert found["FID", "bbb"]["telling"] == "50,000 fakes"


def test_results_without_protocol_id_are_told_apart_by_their_protocols(tmp_path: Path) -> None:
    one, two, odd = (result("FID", v, "", n_fake=n) for v, n in ((1.0, 10), (2.0, 20), (3.0, 20)))
    write_rows(tmp_path, [evaluation(1, one, two), evaluation(2, odd, "no result"), {"type": "evaluation"}])
    (chart,), _ = scores.charts([Source("run", records.read(tmp_path / "metrics.jsonl"))], 0)
    assert sorted(line["v"] for line in chart["lines"]) == [[1], [2, 3]]


def test_scores_against_other_data_are_named_and_the_headline_names_its_protocol(run: Path) -> None:
    own, other = "a1" * 32, "b2" * 32
    (run / "checkpoints" / "000000012000").mkdir(parents=True)
    (run / "checkpoints" / "000000012000" / "state.json").write_text(
        json.dumps({"data": {"content_hash": own}})
    )
    many = {"n_fake": 50_000, "n_real": 900}
    rows = [
        evaluation(1000, result("FD", 30.0, "few", n_fake=100, n_real=900, reference=own)),
        evaluation(2000, result("FD", 40.0, "own", **many, reference=own)),
        evaluation(3000, result("FD", 10.0, "other", **many, reference=other)),
        evaluation(4000, result("FD", 20.0, "few", n_fake=100, n_real=900, reference=own)),
    ]
    write_rows(run, rows)
    page = report.write(run)
    text = page.read_text()
    assert "<dd>40<small>best, at 2,000 images; 50,000 fakes, own data</small></dd>" in text
    headings = re.findall(r'<tr class="group"><td colspan="4">(.*?)</td>', text)
    ours, theirs = "50,000 fakes; 900 reals; own data", "50,000 fakes; 900 reals; other data b2b2b2b2b2b2"
    assert set(headings) == {"100 fakes; 900 reals; own data", ours, theirs}
    (chart,) = (chart for chart in data_of(page)["charts"] if chart["title"] == "FD")
    values = {line["label"]: line["v"] for line in chart["lines"]}
    assert values["FD · 50,000 fakes, other data b2b2b2b2b2b2"] == [10]
    assert [30, 20] in values.values()
    (run / "checkpoints" / "000000012000" / "state.json").write_text("{")
    rows[2]["results"][0]["protocol_id"] = rows[1]["results"][0]["protocol_id"] = ""
    write_rows(run, rows)
    page = report.write(run)
    text = page.read_text()
    assert "50,000 fakes, data b2b2b2b2b2b2</small>" in text  # nothing tells which is its own: the newest
    (chart,) = (chart for chart in data_of(page)["charts"] if chart["title"] == "FD")
    assert sorted(line["v"] for line in chart["lines"]) == [[10], [30, 20], [40]]


def test_configuration_shows_origins_and_what_differs_from_the_preset(run: Path) -> None:
    def preset_values(name: str | None) -> Mapping[str, Any]:
        assert name == "digits"
        return {"data.path": None, "data.flip": False, "train.duration": "48k", "train.batch": 64,
                "optim.schedule_steps": {}}  # fmt: skip

    read = settings.read(run, preset_values)
    changed = {s.path: (s.preset_value, s.value, s.origin) for s in read.values if s.changed}
    assert changed == {
        "data.path": (None, "photos  # not a comment", "command line"),
        "train.duration": ("48k", "20k", "command line"),
    }
    assert {s.path: s.origin for s in read.values}["data.flip"] == "preset digits"
    unknown = settings.read(run, lambda name: None)
    assert [s.path for s in unknown.values if s.changed] == ["data.path", "train.duration"]


@pytest.mark.parametrize(
    ("text", "per_epoch", "images"),
    [
        ("20k", None, 20_000),
        ("1.5M", None, 1_500_000),
        ("3ep", 500.0, 1500),
        ("3ep", None, None),
        ("?", 1.0, None),
    ],
)
def test_duration_in_images(text: str, per_epoch: float | None, images: float | None) -> None:
    read = settings.Settings([settings.Setting("train.duration", text, "default", False, False)])
    assert settings.duration(read, per_epoch) == images


def test_a_run_without_any_row(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    page = report.write(run)
    assert data_of(page)["charts"] == []
    assert "nothing logged yet" in page.read_text()


def test_only_a_log_is_enough(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"type": "status"}, {"images_seen": 3}, {"type": "finished", "images_seen": "x"}])
    text = report.write(tmp_path).read_text()
    assert "config.yaml is missing" in text
    assert "finished" in text


def test_damaged_files_are_named_and_the_rest_is_shown(run: Path) -> None:
    whole = (run / "samples" / "000000004000.png").read_bytes()
    (run / "samples" / "000000004000.png").write_bytes(whole[: len(whole) // 2])
    (run / "samples" / "000000008000.png").write_bytes(b"")
    (run / "reals.png").write_bytes(b"no picture")
    (run / "config.yaml").write_text("a: [1\n")
    (run / "environment.json").write_text("{")
    page = report.write(run)
    text = page.read_text()
    for name in ("000000004000.png", "000000008000.png", "reals.png", "config.yaml", "environment.json"):
        assert re.search(rf"<li>[^<]*{re.escape(name)}", text), name
    assert [frame["images"] for frame in data_of(page)["samples"]["kinds"][0]["frames"]] == [None]


def test_pictures_stay_within_the_budget_and_are_spread(tmp_path: Path) -> None:
    for n in range(60):
        picture(tmp_path / "samples" / f"{n * 1000:012d}.png", side=64, seed=n)
    found = pictures.collect(tmp_path, budget=150_000)
    frames = found.frames[""]
    assert len(frames) == 48
    assert found.left_out == 12
    assert (frames[0]["images"], frames[-1]["images"]) == (0, 59_000)
    assert sum(len(frame["src"]) for frame in frames) < 150_000 * 4 / 3 + 48 * 40
    assert {frame["width"] for frame in frames} == {64}


def test_a_large_grid_is_shrunk(tmp_path: Path) -> None:
    path = picture(tmp_path / "grid.png", side=900)
    with Image.open(path) as image:
        data, kind = pictures.shrunk(image, 20_000)
    assert len(data) <= 20_000
    assert kind in ("webp", "jpeg")


def test_of_each_evaluation_picture_the_newest_is_shown(run: Path) -> None:
    (shown,) = pictures.collect(run).others
    assert (shown["title"], shown["width"]) == ("Neighbours, at 8,000 images", 32)


def test_a_long_run_makes_a_page_of_stated_size(tmp_path: Path) -> None:
    layers = {f"{net}.layer{k}": 1.2345678 for net in "GD" for k in range(40)}
    write_rows(tmp_path, [status(n * 100, sigma0=layers) for n in range(1, 2001)])
    for n in range(20):
        picture(tmp_path / "samples" / f"{n:012d}.png", side=300, seed=n)
    assert report.write(tmp_path).stat().st_size < report.LARGEST_MB * 1e6


def test_mistakes_are_said_and_leave_nothing(run: Path, tmp_path: Path) -> None:
    for folder, message in (
        (tmp_path / "no", "is not there"),
        (run / "config.yaml", "is a file"),
        (run / "samples", "is no run"),
    ):
        with pytest.raises(UserError, match=message):
            report.write(folder)
    with pytest.raises(UserError, match="is a folder"):
        report.write(run, run)
    with pytest.raises(UserError, match="folder that is not there"):
        report.write(run, tmp_path / "no" / "report.html")
    with pytest.raises(UserError, match="is not there"):
        report.write(run, references=["no.csv"])
    assert not list(run.glob("*.html"))


def test_command_compares_with_the_recipe(run: Path) -> None:
    made = CliRunner().invoke(command, [str(run), "--out", str(run / "page.html")])
    assert made.exit_code == 0, made.output
    assert "page.html" in made.output
    text = (run / "page.html").read_text()
    assert re.search(r"preset digits</th>", text)
    assert re.search(r"train\.duration</code>.*?48k.*?20k", text)
