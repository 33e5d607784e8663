"""Exports are whole or absent, never overwrite, and name files that every system can hold."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gansmith.errors import UserError
from gansmith.sampling import export


def batches(num: int = 7, channels: int = 3) -> Iterator[np.ndarray]:
    images = pixels(num, channels)
    yield from (images[first : first + 3] for first in range(0, num, 3))


def pixels(num: int = 7, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, 6, 5, channels), np.uint8)


def broken() -> Iterator[np.ndarray]:
    yield next(batches())
    raise RuntimeError("the power went out")


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_holds_what_was_drawn(tmp_path: Path, channels: int) -> None:
    out = tmp_path / "new" / "samples.npz"
    labels = (n % 2 for n in range(7))
    export.to_npz(out, batches(channels=channels), shape=(7, 6, 5, channels), labels=labels, seeds=range(7))
    with np.load(out) as archive:
        assert archive.files == ["images", "labels", "seeds"]
        assert np.array_equal(archive["images"], pixels(channels=channels))
        assert archive["labels"].tolist() == [0, 1, 0, 1, 0, 1, 0]
        assert archive["labels"].dtype == np.int64
        assert archive["seeds"].tolist() == list(range(7))
    assert os.listdir(out.parent) == ["samples.npz"]


def test_npz_columns_longer_than_a_chunk(tmp_path: Path) -> None:
    num = 70_000
    images = np.zeros((num, 1, 1, 1), np.uint8)
    export.to_npz(tmp_path / "many.npz", iter([images]), shape=images.shape, seeds=range(num))
    with np.load(tmp_path / "many.npz") as archive:
        assert np.array_equal(archive["seeds"], np.arange(num))


def test_a_wrong_count_leaves_no_npz(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="images: 7 rows"):
        export.to_npz(tmp_path / "samples.npz", batches(), shape=(8, 6, 5, 3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_holds_what_was_drawn(tmp_path: Path, channels: int) -> None:
    names = [f"cat_{n:06d}" for n in range(7)]
    assert export.to_folder(tmp_path / "a/b", batches(channels=channels), names) == 7
    assert sorted(os.listdir(tmp_path / "a/b")) == [f"{name}.png" for name in names]
    for name, image in zip(names, pixels(channels=channels), strict=True):
        with Image.open(tmp_path / "a/b" / f"{name}.png") as picture:
            assert np.array_equal(np.asarray(picture).reshape(image.shape), image)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "new", tmp_path / "empty"):
        with pytest.raises(RuntimeError, match="power"):
            export.to_folder(out, broken(), map(str, range(9)))
    with pytest.raises(RuntimeError, match="power"):
        export.to_npz(tmp_path / "samples.npz", broken(), shape=(7, 6, 5, 3))
    assert os.listdir(tmp_path) == ["empty"]
    assert not os.listdir(tmp_path / "empty")


def test_existing_results_are_never_touched(tmp_path: Path) -> None:
    full, partial, file = tmp_path / "full", tmp_path / "partial", tmp_path / "file.npz"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    (partial / export.STAGING).mkdir(parents=True)
    file.write_text("mine")
    (tmp_path / "plain").write_text("mine")
    for out, message in [
        (full, "is not empty"),
        (partial, "running or was killed"),
        (file, "never overwritten"),
        (tmp_path / "plain", "is a file"),
        (tmp_path / "plain" / "below", "cannot be written"),
    ]:
        with pytest.raises(UserError, match=message):
            export.check_destination(out)
    (tmp_path / "empty").mkdir()
    assert export.check_destination(tmp_path / "empty") == tmp_path / "empty"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        export.check_destination(tmp_path / "samples")


def test_a_full_disk_is_one_message() -> None:
    with (
        pytest.raises(UserError, match=r"--out x could not be written \(No space left on device\)"),
        export.disk_errors(Path("x")),
    ):
        raise OSError(28, "No space left on device")


def test_file_names_are_safe_and_distinct() -> None:
    names = ["cat", "Cat", "a/b", "a b", "../up", "犬", "süß", "", "...", "n" * 300, "CON:x?"]
    stems = export.file_stems(dict(enumerate(names)))
    assert len({stem.casefold() for stem in stems.values()}) == len(names)
    assert stems[0] == "cat"
    assert stems[1] == "Cat-1"
    assert stems[2] == "a-b"
    assert stems[3] == "a-b-3"
    assert stems[5] == "犬"
    assert stems[7] == "class-7"
    for stem in stems.values():
        assert not set(stem) & set('/\\:?*"<>| ')
        assert not stem.startswith(".")
        assert len(stem.encode()) < 200
