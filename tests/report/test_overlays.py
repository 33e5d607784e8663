"""References: other runs and CSV files, with messages for what cannot be understood."""

from pathlib import Path

import pytest

from gansmith.errors import UserError
from gansmith.report import overlays


def table(tmp_path: Path, text: str, name: str = "curve.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_published_curve_in_steps(tmp_path: Path) -> None:
    path = table(tmp_path, "# BigGAN-PyTorch, its log\nitr, FID, d_loss\n1000, 61.3, 1.5\n2000, , 1.25\n")
    source = overlays.read(f"{path},step=512,name=published")
    assert source.name == "published"
    status = source.log.of("status")
    assert [(row.images, row.data["step"], row.data["loss_d"]) for row in status] == [
        (512_000, 1000, 1.5),
        (1_024_000, 2000, 1.25),
    ]
    scores = source.log.of("evaluation")
    assert [(row.images, row.data["results"]) for row in scores] == [
        (512_000, [{"name": "FID", "value": 61.3, "better": "lower"}])
    ]


@pytest.mark.parametrize(
    ("header", "images"),
    [("images_seen", 2000), ("kimg", 2_000_000), ("Images", 2000)],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_positions_and_separators(tmp_path: Path, header: str, images: int, separator: str) -> None:
    path = table(tmp_path, f"{header}{separator}precision-EffNetLite0\n2000{separator}0.5\n")
    (row,) = overlays.read(str(path)).log.of("evaluation")
    assert row.images == images
    assert row.data["results"] == [{"name": "precision-EffNetLite0", "value": 0.5, "better": "higher"}]


def test_columns_are_mapped_or_left_out(tmp_path: Path) -> None:
    path = table(tmp_path, "images,my fid,comment\n2,9,good\n1,8,better\n")
    source = overlays.read(f"{path},my fid=fid,comment=")
    assert [row.images for row in source.log.rows] == [1, 2]
    assert [row.data["results"][0]["name"] for row in source.log.rows] == ["FID", "FID"]


def test_a_score_of_the_run_names_a_column(tmp_path: Path) -> None:
    path = table(tmp_path, "images,fd-mine\n1,8\n")
    (row,) = overlays.read(str(path), scores=["FD-Mine"]).log.rows
    assert row.data["results"][0]["name"] == "FD-Mine"


def test_another_run_is_read_by_its_folder_or_its_log(run: Path) -> None:
    by_folder, by_file = overlays.read(str(run)), overlays.read(f"{run / 'metrics.jsonl'},name=other")
    assert (by_folder.name, by_file.name) == ("run", "other")
    assert len(by_folder.log.rows) == len(by_file.log.rows) > 10


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "images,speling\n1,2\n",
            "",
            r"unknown columns: speling\. .*speling=.*leave them out .*Known: .*FID",
        ),
        ("images,FID\n1,abc\n", "", r"row 2, column FID: 'abc' is no number"),
        ("step,FID\n1,2\n", "", r"counts steps; say how many real images .*,step=4096"),
        ("step,FID\n1,2\n", ",step=0", r"step=0: must be a number of images"),
        ("FID,IS\n1,2\n", "", r"no column that says when: one of .*images"),
        ("1,2\n3,4\n", "", r"first line must name the columns"),
        ("images,FID\n", "", r"no row with a number"),
        ("", "", r"is empty"),
        ("images,FID\n1,2\n", ",fid=FID", r"no column 'fid'; its columns: images, FID"),
        ("images,FID,other\n1,2,3\n", ",other=FID", r"two columns are FID; leave one out"),
        ("a\0b,c\n", "", r"no text file"),
    ],
)
def test_tables_that_mean_nothing_here(tmp_path: Path, text: str, options: str, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(UserError, match=message):
        overlays.read(f"{path}{options}")


def test_references_that_are_no_tables(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="is not there"):
        overlays.read(str(tmp_path / "nothing.csv"))
    with pytest.raises(UserError, match=r"no metrics\.jsonl in it"):
        overlays.read(str(tmp_path))
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "config.yaml").write_text("preset: null\n")
    with pytest.raises(UserError, match=r"converted has not trained yet: it has no metrics\.jsonl; leave"):
        overlays.read(str(tmp_path / "converted"))
    with pytest.raises(UserError, match="no text file"):
        overlays.read(str(run / "reals.png"))
    with pytest.raises(UserError, match="step= is for CSV files"):
        overlays.read(f"{run},step=4")
    (tmp_path / "metrics.jsonl").write_text('{"type": "start", "images_seen": 0}\n')
    with pytest.raises(UserError, match="no status or evaluation rows yet"):
        overlays.read(str(tmp_path))
