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
from gansmith.data.sources import Source, archives, huggingface, open_source
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


# --- HDF5


@pytest.mark.parametrize("channels_last", [False, True])
def test_hdf5_of_biggan_pytorch(tmp_path, channels_last):
    h5py = pytest.importorskip("h5py")
    images = np.stack([noise(i) for i in range(4)])
    with h5py.File(tmp_path / "i.hdf5", "w") as file:
        file["imgs"] = images if channels_last else images.transpose(0, 3, 1, 2)
        file["labels"] = np.array([3, 0, 0, 1])
    source = open_source(str(tmp_path / "i.hdf5"))
    assert source.classes == ["0", "1", "2", "3"]  # ids are kept, the empty class too
    assert source.native == (40, 40, 3)
    source = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(source.read(2), images[2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.zeros(3)}, "holds x; expected are `imgs`"),
        ({"imgs": np.zeros((2, 3, 4, 4), np.float32), "labels": np.zeros(2, int)}, "expected is uint8"),
        ({"imgs": np.zeros((2, 3, 4, 4), np.uint8), "labels": np.zeros(3, int)}, "expected are 2 integers"),
        ({"imgs": np.zeros((2, 3, 4, 4), np.uint8), "labels": np.array([0, -1])}, "labels run from -1"),
    ],
)
def test_wrong_hdf5(tmp_path, content, message):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "i.h5", "w") as file:
        for name, array in content.items():
            file[name] = array
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / "i.h5"))


# --- IDX, CIFAR, digits


def idx(path: Path, array: np.ndarray) -> None:
    data = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files(tmp_path, suffix):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([7, 0, 1, 7, 2], np.uint8)
    for split in ("train", "t10k"):
        idx(tmp_path / f"{split}-images-idx3-ubyte{suffix}", images[: 5 if split == "train" else 2])
        idx(tmp_path / f"{split}-labels-idx1-ubyte{suffix}", labels[: 5 if split == "train" else 2])
    source = open_source(str(tmp_path))
    assert source.native == (28, 28, 1)
    assert source.labels.tolist() == labels.tolist()
    np.testing.assert_array_equal(source.read(3)[:, :, 0], images[3])
    assert "train-images" in source.notes[0]
    assert len(open_source(str(tmp_path / f"t10k-images-idx3-ubyte{suffix}"))) == 2


def test_wrong_idx(tmp_path):
    images = tmp_path / "train-images-idx3-ubyte"
    idx(images, np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(UserError, match="has no labels"):
        open_source(str(tmp_path))
    idx(tmp_path / "train-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(UserError, match=r"2 images.*3 labels"):
        open_source(str(tmp_path))
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(UserError, match="should hold 32 bytes"):
        open_source(str(tmp_path))


CIFAR = np.random.default_rng(1).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
NAMES = [f"name{i}" for i in range(10)]


def cifar_python(root: Path) -> Path:
    root.mkdir(parents=True)
    for batch in (1, 2):
        rows = CIFAR[(batch - 1) * 3 : batch * 3].reshape(3, -1)
        content = {b"data": rows, b"labels": [batch, 0, 9], b"batch_label": b"x"}
        (root / f"data_batch_{batch}").write_bytes(pickle.dumps(content, protocol=2))
    (root / "test_batch").write_bytes(pickle.dumps({b"data": rows, b"labels": [1, 1, 1]}, protocol=2))
    meta = {b"label_names": [n.encode() for n in NAMES]}
    (root / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return root


def cifar_binary(root: Path) -> Path:
    root.mkdir(parents=True)
    for batch in (1, 2):
        labels = np.array([[batch], [0], [9]], np.uint8)
        rows = CIFAR[(batch - 1) * 3 : batch * 3].reshape(3, -1)
        (root / f"data_batch_{batch}.bin").write_bytes(np.hstack([labels, rows]).tobytes())
    (root / "test_batch.bin").write_bytes(b"")
    (root / "batches.meta.txt").write_text("\n".join(NAMES) + "\n")
    return root


@pytest.mark.parametrize("make", [cifar_python, cifar_binary])
@pytest.mark.parametrize("form", ["folder", "above", "tar.gz"])
def test_cifar_10_archives(tmp_path, make, form):
    root = make(tmp_path / "d" / "cifar-10-batches")
    path = {"folder": root, "above": root.parent, "tar.gz": tmp_path / "cifar-10.tar.gz"}[form]
    if form == "tar.gz":
        with tarfile.open(path, "w:gz") as tar:
            tar.add(root, root.name)
    source = open_source(str(path))
    assert source.classes == NAMES
    assert source.labels.tolist() == [1, 0, 9, 2, 0, 9]
    for i in (0, 5):
        np.testing.assert_array_equal(source.read(i), CIFAR[i].transpose(1, 2, 0))
    assert "training set taken (6 images)" in source.notes[0]


def test_cifar_100_takes_fine_labels(tmp_path):
    content = {b"data": CIFAR.reshape(6, -1), b"fine_labels": [5, 4, 3, 2, 1, 0], b"coarse_labels": [0] * 6}
    (tmp_path / "train").write_bytes(pickle.dumps(content, protocol=2))
    (tmp_path / "meta").write_bytes(pickle.dumps({b"fine_label_names": NAMES}, protocol=2))
    assert open_source(str(tmp_path)).labels.tolist() == [5, 4, 3, 2, 1, 0]
    binary = tmp_path / "binary"
    binary.mkdir()
    labels = np.array([[0, 5], [0, 4], [0, 3], [0, 2], [0, 1], [0, 0]], np.uint8)
    (binary / "train.bin").write_bytes(np.hstack([labels, CIFAR.reshape(6, -1)]).tobytes())
    (binary / "fine_label_names.txt").write_text("\n".join(NAMES))
    source = open_source(str(binary))
    assert source.labels.tolist() == [5, 4, 3, 2, 1, 0]
    np.testing.assert_array_equal(source.read(1), CIFAR[1].transpose(1, 2, 0))


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_hostile_cifar_pickle_is_refused_and_not_run(tmp_path):
    root, victim = cifar_python(tmp_path / "c"), tmp_path / "was-here"
    for payload in (Hostile(victim), {b"data": Hostile(victim)}, {b"data": eval}, [1]):
        (root / "data_batch_1").write_bytes(pickle.dumps(payload, protocol=2))
        with pytest.raises(UserError, match=r"data_batch_1 (is refused|holds a list)"):
            open_source(str(root))
    assert not victim.exists()


def test_digits():
    pytest.importorskip("sklearn")
    source = open_source("builtin:digits")
    assert (len(source), source.native, source.classes) == (1797, (8, 8, 1), [str(i) for i in range(10)])
    assert source.read(0).max() <= 255
    assert max(source.read(i).max() for i in range(50)) == 255  # 16 → 255
    with pytest.raises(UserError, match="built in: builtin:digits"):
        open_source("builtin:letters")


def test_digits_without_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"gansmith\[digits\]"):
        archives.open_digits("builtin:digits")


# --- Hugging Face


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A folder with the same set as save_to_disk, as parquet, and as parquet without features."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("hf")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}
    )
    rows = {"image": [{"bytes": encoded(noise(i)), "path": None} for i in range(4)], "label": [0, 1, 1, 0]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(root / "single")
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(root / "dict")
    (root / "parquet" / "data").mkdir(parents=True)
    table.to_parquet(root / "parquet" / "data" / "train-00000-of-00001.parquet")
    table.select([0]).to_parquet(root / "parquet" / "data" / "test-00000-of-00001.parquet")
    return root


@pytest.mark.parametrize("form", ["single", "dict", "parquet"])
def test_local_hugging_face_sets(hugging_face, form):
    source = open_source(str(hugging_face / form))
    assert source.classes == ["dog", "cat"]  # ids are kept
    assert source.labels.tolist() == [0, 1, 1, 0]
    source = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(pixels(source, 2), noise(2))


def test_hugging_face_hub_ids(hugging_face, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.load_from_disk(str(hugging_face / "dict"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    source = open_source("some/thing")
    assert len(source) == 4
    assert "split train taken" in source.notes[0]
    open_source("hf:cifar100")
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match="does not exist"):
        open_source("here/typo")  # a typing error in a local path is no question for the network
    assert asked == [("some/thing", None, None), ("cifar100", None, None)]
    assert huggingface._HUB_ID.fullmatch("hf:a/b:conf@train[:10%]").groups() == ("a/b", "conf", "train[:10%]")


def test_hugging_face_columns_that_do_not_fit(tmp_path):
    datasets = pytest.importorskip("datasets")
    image = [{"bytes": encoded(noise(0)), "path": None}]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": image, "text": ["x"]}, features=features).save_to_disk(
        tmp_path / "a"
    )
    datasets.Dataset.from_dict({"label": [1]}).save_to_disk(tmp_path / "b")
    with pytest.raises(UserError, match="no label column; its columns are image, text"):
        open_source(str(tmp_path / "a"))
    assert len(open_source(str(tmp_path / "a"), unconditional=True)) == 1
    with pytest.raises(UserError, match="no image column; its columns are label"):
        open_source(str(tmp_path / "b"))


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
