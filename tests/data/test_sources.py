"""Anything that holds labelled images is opened: classes, labels and pixels are those that were put in."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numbered_sets import numbered_images, write_prepared
from pictures import encoded, folder, noise, write

from gansmith.data.images import Rejected, process
from gansmith.data.sources import Source, open_source
from gansmith.errors import UserError


def pixels(source: Source, index: int) -> np.ndarray:
    return process(source.read(index), resolution=40)[0]


def listed(source: Source) -> dict[str, str]:
    """Key → class name."""
    return {source.key(i): source.classes[source.labels[i]] for i in range(len(source))}


# --- folders


def test_folder_classes_are_the_sorted_subfolders(tmp_path):
    source = open_source(str(folder(tmp_path / "d", {"dog": 2, "cat": 3, "class10": 1, "class9": 1})))
    assert source.classes == ["cat", "class10", "class9", "dog"]
    assert source.labels.tolist() == [0, 0, 0, 1, 2, 3, 3]
    assert source.key(0) == "cat/000.png"
    np.testing.assert_array_equal(pixels(source, 0), noise(1000))  # cat was written second: seeds from 1000


def test_train_folder_beside_test_is_taken_and_said(tmp_path):
    for split, count in (("train", 3), ("test", 2)):
        folder(tmp_path / split, {"a": count, "b": count})
    source = open_source(str(tmp_path))
    assert len(source) == 6
    assert source.classes == ["a", "b"]
    assert "train/ taken (6 images)" in source.notes[0]
    assert f"{tmp_path}/test" in source.notes[0]
    assert len(open_source(str(tmp_path / "test"))) == 4


def test_splits_without_train_ask_which(tmp_path):
    for split in ("val", "test"):
        folder(tmp_path / split, {"a": 1, "b": 1})
    with pytest.raises(UserError, match=f"give the one to use: {tmp_path}/test or {tmp_path}/val"):
        open_source(str(tmp_path))


def test_one_level_too_high_names_the_path_to_give(tmp_path):
    folder(tmp_path / "x", {"a": 1, "b": 1})
    with pytest.raises(UserError, match=f"one level too high.*give {tmp_path}/x$"):
        open_source(str(tmp_path))


def test_flat_folder_needs_unconditional(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", i)
    with pytest.raises(UserError, match="--unconditional"):
        open_source(str(tmp_path))
    source = open_source(str(tmp_path), unconditional=True)
    assert (source.classes, source.labels.tolist()) == (["all"], [0, 0, 0])


def test_images_deeper_in_class_folders_belong_to_the_class(tmp_path):
    write(tmp_path / "a" / "x" / "1.png", 1)
    write(tmp_path / "b" / "2.png", 2)
    assert listed(open_source(str(tmp_path))) == {"a/x/1.png": "a", "b/2.png": "b"}


def test_other_files_hidden_files_and_loose_images_are_left_aside_with_a_note(tmp_path):
    root = folder(tmp_path, {"a": 1, "b": 1})
    (root / "a" / "readme.txt").write_text("x")
    (root / "a" / ".DS_Store").write_text("x")
    write(root / ".hidden" / "1.png", 1)
    write(root / "loose.png", 2)
    source = open_source(str(root))
    assert len(source) == 2
    assert source.notes == [
        "1 other file left aside (.txt)",
        "1 file beside the class folders left aside",
    ]


def test_links_that_form_a_circle_end(tmp_path):
    root = folder(tmp_path / "d", {"a": 1, "b": 1})
    (root / "a" / "loop").symlink_to(root)
    assert len(open_source(str(root))) == 2


def test_missing_empty_and_foreign_paths(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x")
    (tmp_path / "nested").mkdir()
    (tmp_path / "nested" / "data.zip").write_text("x")
    (tmp_path / "file.txt").write_text("x")
    for path, message in (
        ("nowhere", "nowhere does not exist"),
        ("empty", "is empty; expected are one sub-folder"),
        ("texts", r"holds 1 file \(1 .txt\) but no images"),
        ("nested", "nested/data.zip"),
        ("file.txt", "no known kind"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(str(tmp_path / path))


# --- label files


def test_labels_csv_with_names(tmp_path):
    for i in range(3):
        write(tmp_path / "pics" / f"{i}.png", i)
    (tmp_path / "labels.csv").write_text("filename,label\npics/2.png,zebra\npics/0.png,ape\n")
    source = open_source(str(tmp_path))
    assert listed(source) == {"pics/0.png": "ape", "pics/2.png": "zebra"}
    assert "1 images not listed in labels.csv left aside" in source.notes


def test_labels_csv_with_numbers_keeps_the_ids(tmp_path):
    for i in range(2):
        write(tmp_path / f"{i}.png", i)
    (tmp_path / "labels.csv").write_text("0.png,10\n1.png,2\n")
    source = open_source(str(tmp_path))
    assert source.numbered
    assert len(source.classes) == 11
    assert {source.key(i): int(source.labels[i]) for i in range(2)} == {"0.png": 10, "1.png": 2}


def test_stylegan_dataset_json(tmp_path):
    for i in range(2):
        write(tmp_path / "00000" / f"img{i}.png", i)
    labels = [["00000/img0.png", 1], ["00000/img1.png", 0]]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    source = open_source(str(tmp_path))
    assert {source.key(i): int(source.labels[i]) for i in range(2)} == dict(labels)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "0.png,1\n9.png,1\n", r"lists 1 of 2 images that .* does not hold: 9\.png"),
        ("labels.csv", "0.png,1\n0.png,2\n", "0.png more than once"),
        ("labels.csv", "0.png\n", "row 1"),
        ("labels.csv", "", "no rows"),
        ("dataset.json", "{", "dataset.json is not"),
        ("dataset.json", '{"labels": [["0.png", -1]]}', "labels run from -1"),
        ("dataset.json", '{"labels": 3}', "dataset.json is not"),
    ],
)
def test_wrong_label_files_say_what_is_wrong(tmp_path, name, text, message):
    write(tmp_path / "0.png", 0)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path))


# --- zip


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_zip_is_read_like_the_folder_it_was_made_of(tmp_path):
    files = {f"{s}/{c}/{i}.png": encoded(noise(i)) for s in ("train", "test") for c in "ab" for i in range(3)}
    path = zipped(tmp_path / "d.zip", {**files, "__MACOSX/train/a/._0.png": b"x"})
    source = open_source(str(path))
    assert source.classes == ["a", "b"]
    assert len(source) == 6
    np.testing.assert_array_equal(pixels(source, 2), noise(2))
    other = pickle.loads(pickle.dumps(source))  # as a worker gets it
    np.testing.assert_array_equal(pixels(other, 2), noise(2))


def test_a_folder_inside_a_zip_can_be_given(tmp_path):
    path = zipped(tmp_path / "d.zip", {f"test/{c}/0.png": encoded(noise(1)) for c in "abc"})
    assert open_source(f"{path}/test").classes == ["a", "b", "c"]
    with pytest.raises(UserError, match="holds no folder valid; its folders are test"):
        open_source(f"{path}/valid")


@pytest.mark.parametrize("entry", ["../a/0.png", "a/../../0.png", "/a/0.png", "C:/a/0.png", "..\\a\\0.png"])
def test_zip_entries_that_point_outside_are_refused(tmp_path, entry):
    path = zipped(tmp_path / "d.zip", {entry: encoded(noise(0)), "b/0.png": encoded(noise(1))})
    with pytest.raises(UserError, match="points outside the archive"):
        open_source(str(path))


def test_a_damaged_zip_member_is_rejected_when_read(tmp_path):
    path = zipped(tmp_path / "d.zip", {f"{c}/0.png": encoded(noise(0)) for c in "ab"})
    data = bytearray(path.read_bytes())
    data[60:100] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(Rejected, match="damaged in the zip"):
        open_source(str(path)).read(0)


# --- tars


def tarred(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_with_cls(tmp_path):
    for shard in range(2):
        files = {}
        for i in range(3):
            files[f"{shard}{i}.jpg"] = encoded(noise(10 * shard + i), "JPEG")
            files[f"{shard}{i}.cls"] = str(i + shard).encode()
        tarred(tmp_path / f"s-{shard:03d}.tar", files)
    for path in (tmp_path, tmp_path / "s-{000..001}.tar", tmp_path / "s-*.tar"):
        source = open_source(str(path))
        assert source.labels.tolist() == [0, 1, 2, 1, 2, 3]
        assert source.numbered
        assert source.key(4) == "s-001.tar/11.jpg"
    assert len(open_source(str(tmp_path / "s-000.tar"))) == 3


def test_webdataset_with_json_names_and_npy(tmp_path):
    array = noise(3)
    buffer = io.BytesIO()
    np.save(buffer, array)
    files = {
        "a.json": b'{"label": "tench", "width": 1}',
        "a.png": encoded(noise(1)),
        "b.npy": buffer.getvalue(),
        "b.json": b'{"label": "goldfish"}',
        "c.png": encoded(noise(2)),
    }
    source = open_source(str(tarred(tmp_path / "s.tar", files)))
    assert source.classes == ["goldfish", "tench"]
    assert source.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(pixels(source, 1), array)
    assert source.notes == ["1 images without a label left aside"]


def test_tar_of_class_tars(tmp_path):
    inner = {}
    for number, name in enumerate(("n02", "n01")):
        files = {f"{name}_{i}.JPEG": encoded(noise(number * 10 + i), "PNG") for i in range(2)}
        inner[f"{name}.tar"] = tarred(tmp_path / "inner.tar", files).read_bytes()
    source = open_source(str(tarred(tmp_path / "ILSVRC.tar", inner)))
    assert source.classes == ["n01", "n02"]
    assert listed(source)["n02/n02_1.JPEG"] == "n02"
    np.testing.assert_array_equal(pixels(source, 0), noise(10))  # n01_0
    np.testing.assert_array_equal(pixels(source, 3), noise(1))


def test_tar_of_class_folders(tmp_path):
    path = tarred(tmp_path / "d.tar", {f"train/{c}/0.png": encoded(noise(1)) for c in "ba"})
    assert open_source(str(path)).classes == ["a", "b"]


def test_wrong_tars(tmp_path):
    (tmp_path / "junk.tar").write_bytes(b"no tar at all")
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(tarred(tmp_path / "y.tar", {"a/0.png": b"x"}).read_bytes())
    for path, message in (
        ("junk.tar", "not a readable, uncompressed tar"),
        ("x.tar.gz", "unpack it"),
        ("s-{0..3}.tar", "s-0.tar does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(str(tmp_path / path))
    # cut in the middle of a payload
    cut = tarred(tmp_path / "cut.tar", {"0.cls": b"0", "0.png": encoded(noise(1, 200, 200))})
    cut.write_bytes(cut.read_bytes()[:5000])
    with pytest.raises((UserError, Rejected)):
        open_source(str(cut)).read(0)


# --- prepared sets, fingerprints


def test_a_prepared_set_is_a_source(tmp_path):
    images = numbered_images(6)
    path = write_prepared(tmp_path / "p", images, np.array([0, 2, 3, 0, 2, 3]), "png", 10**6)
    source = pickle.loads(pickle.dumps(open_source(str(path))))
    assert source.labels.tolist() == [0, 2, 3, 0, 2, 3]
    np.testing.assert_array_equal(source.read(4), images[4])


def test_the_fingerprint_changes_with_the_files(tmp_path):
    root = folder(tmp_path / "d", {"a": 2, "b": 2})
    before = open_source(str(root)).fingerprint()
    assert open_source(str(root)).fingerprint() == before
    write(root / "a" / "new.png", 77)
    added = open_source(str(root)).fingerprint()
    (root / "a" / "new.png").write_bytes(encoded(noise(78)))
    changed = open_source(str(root)).fingerprint()
    assert len({before, added, changed}) == 3


def test_unconditional_makes_one_class_of_any_source(tmp_path):
    root = folder(tmp_path / "d", {"a": 2, "b": 2})
    source = open_source(str(root), unconditional=True)
    assert (source.classes, source.labels.tolist()) == (["all"], [0, 0, 0, 0])
