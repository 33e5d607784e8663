"""`open_dataset`: when a prepared set is taken as it is, what is said then, and the plan of a dry run."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import folder

from gansmith import open_dataset
from gansmith.data.ensure import Planned, expect_dataset
from gansmith.data.prepare import PrepareSettings, prepare
from gansmith.data.shards import Dataset
from gansmith.errors import UserError


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A set of 6 images of 32 px in two classes, of crop top and filter box."""
    settings = PrepareSettings(resolution=32, crop="top", resize="box", storage="png")
    prepare(str(folder(tmp_path / "photos", {"a": 3, "b": 3})), tmp_path / "p32", settings, progress=False)
    return tmp_path / "p32"


def everything_below(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*"))


# --- what preparing by itself says


def test_images_that_are_left_out_are_said(tmp_path, capsys):
    root = folder(tmp_path / "photos", {"a": 3, "b": 3})
    (root / "a" / "broken.png").write_bytes(b"nothing")
    opened = open_dataset(root, resolution=32, cache_dir=tmp_path / "cache")
    reason = "a/broken.png: not an image, or of an unknown format"
    said = (
        f"data: 1 image was left out as unreadable ({reason}); all are listed in {opened.path}/rejected.csv\n"
    )
    assert said in capsys.readouterr().out
    for look in (open_dataset, expect_dataset):  # every start says so, a dry run too
        look(root, resolution=32, cache_dir=tmp_path / "cache")
        assert said in capsys.readouterr().out
    (Path(opened.path) / "rejected.csv").unlink()
    open_dataset(root, resolution=32, cache_dir=tmp_path / "cache")
    assert "left out" not in capsys.readouterr().out


def test_too_many_broken_images_name_a_command_that_accepts_them(tmp_path):
    root = folder(tmp_path / "my photos", {"a": 3, "b": 3})
    for number in range(4):
        (root / "a" / f"{number}.jpg").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        open_dataset(root, resolution=32, crop="top", cache_dir=tmp_path / "cache")
    command = (
        f"gansmith data prepare '{root}' DEST --resolution 32 --crop top --channels 3 --max-rejected 0.5"
    )
    assert str(caught.value).endswith(f"or prepare it with `{command}` and train on DEST.")


@pytest.mark.parametrize(("channels", "said"), [(1, True), (3, False)])
def test_colour_that_gets_lost_is_said(tmp_path, capsys, channels, said):
    root = folder(tmp_path / "photos", {"a": 3, "b": 3})
    open_dataset(root, resolution=32, channels=channels, cache_dir=tmp_path / "cache")
    assert ("note: the images are colour, the network is greyscale" in capsys.readouterr().out) == said


# --- choices of a prepared set's own


def test_settings_that_a_prepared_set_overrules_are_said(prepared, capsys):
    open_dataset(prepared, resolution=32, crop="center", resize="lanczos")
    assert capsys.readouterr().out == (
        f"data: {prepared} is prepared already; its own crop top is used, not center and "
        "its own resize box is used, not lanczos\n"
    )
    open_dataset(prepared, resolution=32, crop="top", resize="box")
    open_dataset(prepared)
    assert capsys.readouterr().out == ""


def test_of_a_set_that_is_made_smaller_only_the_crop_is_its_own(prepared, tmp_path, capsys):
    open_dataset(prepared, resolution=16, crop="center", resize="lanczos", cache_dir=tmp_path / "cache")
    out = capsys.readouterr().out
    assert "is prepared already; its own crop top is used, not center\n" in out
    assert "is not prepared as 16×16×3; preparing it once into" in out


# --- random crops


@pytest.mark.parametrize("side", [20, 32])
def test_a_prepared_set_large_enough_for_random_crops_is_not_resized_again(prepared, capsys, side):
    dataset = open_dataset(prepared, resolution=side, margin=4)
    assert dataset.path == str(prepared)
    assert dataset.resolution == (32, 32)
    assert ("random crops find nothing to cut away" in capsys.readouterr().out) == (side == 32)


def test_other_channels_do_not_change_the_size_of_a_set_for_random_crops(prepared, tmp_path):
    dataset = open_dataset(prepared, resolution=20, margin=4, channels=1, cache_dir=tmp_path / "cache")
    assert (dataset.resolution, dataset.channels) == ((32, 32), 1)


def test_unprepared_images_are_prepared_with_the_margin(prepared, tmp_path):
    source = tmp_path / "photos"
    dataset = open_dataset(source, resolution=24, margin=3, cache_dir=tmp_path / "cache")
    assert dataset.resolution == (27, 27)
    with pytest.raises(UserError, match="prepared at 32 px, and 33 px are asked for"):
        open_dataset(prepared, resolution=33, margin=4)


# --- the plan


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 32},
        {"resolution": 16},
        {"resolution": 24, "margin": 3},
        {"resolution": 32, "margin": 4},
        {"resolution": 32, "channels": 1},
        {"resolution": 32, "max_images": 2},
        {"resolution": 32, "unconditional": True},
    ],
)
@pytest.mark.parametrize("name", ["photos", "p32"])
def test_the_plan_is_what_is_opened_then_and_writes_nothing(prepared, tmp_path, name, options):
    cache, before = tmp_path / "cache", everything_below(tmp_path)
    planned = expect_dataset(tmp_path / name, cache_dir=cache, **options)
    assert everything_below(tmp_path) == before
    opened = open_dataset(tmp_path / name, cache_dir=cache, **options)
    assert (len(planned), planned.resolution) == (len(opened), opened.resolution)
    assert (planned.channels, planned.classes) == (opened.channels, opened.classes)
    again = expect_dataset(tmp_path / name, cache_dir=cache, **options)
    assert isinstance(again, Dataset)  # nothing is left to plan
    assert again.path == opened.path
    assert isinstance(planned, Planned) == (opened.path != str(prepared))


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        ({"a": 2, "b": 2}, {"crop": "left", "resolution": 32}, "--crop left"),
        ({"a": 2, "b": 2}, {}, "--resolution is needed"),
        ({"a": 2, "b": 2}, {"resolutions": 32}, "did you mean resolution"),
        ({"only": 2}, {"resolution": 32}, "one class"),
        ({"a": 1, "b": 1}, {"resolution": 32, "min_images": 2}, "leaves no class"),
    ],
)
def test_what_cannot_be_opened_cannot_be_planned(tmp_path, classes, options, message):
    source = folder(tmp_path / "src", classes)
    for function in (expect_dataset, open_dataset):
        with pytest.raises(UserError, match=message):
            function(source, cache_dir=tmp_path / "cache", **options)


# --- a terminal that fails


def test_an_stdout_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    source = folder(tmp_path / "süß", {"a": 2, "b": 2})
    for number, stream in enumerate((Full(), io.TextIOWrapper(io.BytesIO(), "ascii"))):
        monkeypatch.setattr(sys, "stdout", stream)
        dataset = open_dataset(source, resolution=32, cache_dir=tmp_path / f"{number}")
        assert np.array_equal(np.bincount(dataset.labels), [2, 2])
