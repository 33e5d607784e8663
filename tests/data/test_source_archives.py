"""Sets as they are distributed: HDF5, MNIST's and CIFAR's files, digits, Hugging Face datasets."""

import gzip
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, noise

from gansmith.data.images import process
from gansmith.data.sources import Source, archives, huggingface, open_source
from gansmith.errors import UserError


def pixels(source: Source, index: int) -> np.ndarray:
    return process(source.read(index), resolution=40)[0]


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
