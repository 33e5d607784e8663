"""The classics as they are downloaded: MNIST's IDX files, CIFAR's python and binary archives, scikit-learn's
digits.

CIFAR's python archives are pickles. They are read by an unpickler that can build numpy arrays and nothing
else.
"""

import gzip
import io
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gansmith.data.sources.base import ArraySource, fingerprint_of_files, numbered_classes
from gansmith.errors import UserError

_PICKLED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}
# pattern of the training files → test file (and, in the binary version, label bytes before each image)
_CIFAR_PYTHON = {r"data_batch_[1-5]": "test_batch", r"train": "test"}
_CIFAR_BINARY = {r"data_batch_[1-5]\.bin": ("test_batch.bin", 1), r"train\.bin": ("test.bin", 2)}


class MemorySource(ArraySource):
    """Arrays that a function loads: in the process that opens the source and again in every worker."""

    def __init__(
        self,
        path: str,
        loader: Callable[[str], tuple[np.ndarray, np.ndarray, list[str], list[str]]],
        kind: str,
    ) -> None:
        images, labels, classes, notes = loader(path)
        shape = images.shape
        super().__init__(
            path, classes, labels, numbered=True, native=(shape[1], shape[2], shape[3]), notes=notes
        )
        self.kind = kind
        self._loader = loader
        self._open = images

    def load(self) -> np.ndarray:
        return self._loader(self.path)[0]

    def fingerprint(self) -> str:
        return "built in" if self.path.startswith("builtin:") else fingerprint_of_files([Path(self.path)])


def open_digits(path: str) -> MemorySource:
    """`builtin:digits`: scikit-learn's 1,797 handwritten digits, 8×8, grayscale."""
    return MemorySource(path, _digits, "built-in digits")


def _digits(path: str) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(f"{path} comes with scikit-learn; type: pip install 'gansmith[digits]'") from None
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]  # 0…16 → 0…255
    return images, digits.target.astype(np.int64), [str(i) for i in range(10)], []


# --- IDX ------------------------------------------------------------------------------------------


def find_idx(path: str) -> dict[str, str]:
    """The IDX image files at a path (a folder, or one file): split name → file."""
    names = os.listdir(path) if os.path.isdir(path) else [os.path.basename(path)]
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    found = {}
    for name in sorted(names):
        match = re.fullmatch(r"(.*?)[-_.]?images[-_.]idx3[-_.]ubyte(\.gz)?", name)
        if match:
            found[match[1]] = os.path.join(folder, name)
    return found


def open_idx(path: str) -> MemorySource:
    """MNIST, Fashion-MNIST, KMNIST, EMNIST: `…images-idx3-ubyte` beside `…labels-idx1-ubyte`, plain or
    .gz.
    """
    return MemorySource(path, _idx, "IDX files (MNIST)")


def _idx(path: str) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    splits = find_idx(path)
    training = [name for name in splits if "train" in name]
    if len(splits) > 1 and len(training) != 1:
        raise UserError(f"{path} holds {', '.join(sorted(splits.values()))}; give one of these files.")
    file = splits[training[0]] if training else next(iter(splits.values()))
    notes = []
    if len(splits) > 1:
        other = next(f for f in splits.values() if f != file)
        notes.append(f"{os.path.basename(file)} taken; for the other split give {other}")
    base = re.sub(r"images([-_.])idx3", r"labels\1idx1", os.path.basename(file))
    beside = os.path.join(os.path.dirname(file), base)
    candidates = [beside, beside.removesuffix(".gz"), f"{beside}.gz"]
    label_file = next((name for name in candidates if os.path.isfile(name)), None)
    if label_file is None:
        raise UserError(f"{file} has no labels: {beside} is missing.")
    images, labels = _read_idx(file, 3), _read_idx(label_file, 1).astype(np.int64)
    if len(images) != len(labels):
        raise UserError(
            f"{file} holds {len(images)} images, {label_file} {len(labels)} labels; they do not match."
        )
    return images[..., None], labels, numbered_classes(labels, path), notes


def _read_idx(path: str, dimensions: int) -> np.ndarray:
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again.") from None
    header = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, 8, dimensions)) or len(data) < header:
        raise UserError(
            f"{path} is not an IDX file of uint8 with {dimensions} dimensions; download it again."
        )
    shape = tuple(np.frombuffer(data[4:header], ">u4").tolist())
    if len(data) - header != int(np.prod(shape)):
        raise UserError(
            f"{path} should hold {int(np.prod(shape)):,} bytes of data, but holds {len(data) - header:,}; "
            "download it again."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


# --- CIFAR ----------------------------------------------------------------------------------------


def find_cifar(names: list[str]) -> str | None:
    """Which of CIFAR's archives these base names belong to: "python", "binary" or None."""
    for kind, patterns, companion in (
        ("binary", _CIFAR_BINARY, ("batches.meta.txt", "fine_label_names.txt")),
        ("python", _CIFAR_PYTHON, ("batches.meta", "meta")),
    ):
        if set(companion) & set(names) and any(re.fullmatch(p, n) for p in patterns for n in names):
            return kind
    return None


def open_cifar(path: str) -> MemorySource:
    """CIFAR-10 or CIFAR-100 (fine labels), python or binary version, as .tar.gz or as the unpacked folder."""
    return MemorySource(path, _cifar, "CIFAR archive")


def is_cifar_folder(path: str) -> bool:
    """Whether the folder holds an unpacked CIFAR archive, itself or in its only sub-folder (what `tar xf`
    makes).
    """
    return find_cifar(os.listdir(_unpacked(path))) is not None


def _unpacked(path: str) -> str:
    names = os.listdir(path)
    inner = os.path.join(path, names[0]) if len(names) == 1 else path
    return inner if os.path.isdir(inner) else path


def _cifar_files(path: str) -> dict[str, bytes] | None:
    """The archive's files by base name, or None if this is no CIFAR archive."""
    if os.path.isdir(path):
        folder = Path(_unpacked(path))
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    try:
        with tarfile.open(path) as tar:
            members = [m for m in _first_members(tar) if m.isreg()]
            if not find_cifar([os.path.basename(m.name) for m in members]):
                return None
            return {os.path.basename(m.name): _content(tar, m) for m in members}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a readable tar archive ({error}); download it again.") from None


def _first_members(tar: tarfile.TarFile, limit: int = 64) -> list[tarfile.TarInfo]:
    """The first members only: CIFAR has nine, and other archives may have millions."""
    members = []
    for info in tar:
        members.append(info)
        if len(members) == limit:
            break
    return members


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, f"{member.name} is a regular file"
    return file.read()


def _cifar(path: str) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    files = _cifar_files(path)
    if files is None:
        raise UserError(
            f"{path} is a tar, but not one of CIFAR's (python or binary version); unpack it and give the "
            "folder."
        )
    kind = find_cifar(list(files))
    parts = _cifar_binary(files, path) if kind == "binary" else _cifar_python(files, path)
    images, labels, classes, tests = parts
    # (n, 3, 32, 32) as stored → (n, 32, 32, 3)
    images = np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    notes = [f"training set taken ({len(images):,} images); {tests} left aside"] if tests else []
    return images, labels, numbered_classes(labels, path, classes), notes


def _cifar_python(files: dict[str, bytes], path: str) -> tuple[np.ndarray, np.ndarray, list[str], str | None]:
    pattern = next(p for p in _CIFAR_PYTHON if any(re.fullmatch(p, n) for n in files))
    batches = [unpickle(files[n], f"{path}: {n}") for n in sorted(files) if re.fullmatch(pattern, n)]
    meta_name = "batches.meta" if "batches.meta" in files else "meta"
    meta = unpickle(files[meta_name], f"{path}: {meta_name}")
    try:
        images = np.concatenate([np.asarray(b[b"data"], np.uint8) for b in batches])
        key = b"labels" if b"labels" in batches[0] else b"fine_labels"
        labels = np.concatenate([np.asarray(b[key], np.int64) for b in batches])
        names = meta[b"label_names" if b"label_names" in meta else b"fine_label_names"]
        classes = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not laid out like CIFAR's python archive ({error!r}); download it again."
        ) from None
    _check_cifar(images, labels, path)
    test = _CIFAR_PYTHON[pattern]
    return images, labels, classes, test if test in files else None


def _cifar_binary(files: dict[str, bytes], path: str) -> tuple[np.ndarray, np.ndarray, list[str], str | None]:
    pattern = next(p for p in _CIFAR_BINARY if any(re.fullmatch(p, n) for n in files))
    test, label_bytes = _CIFAR_BINARY[pattern]
    data = b"".join(files[n] for n in sorted(files) if re.fullmatch(pattern, n))
    record = label_bytes + 3072
    if not data or len(data) % record:
        raise UserError(
            f"{path}: {len(data):,} bytes are no whole number of CIFAR records; download it again."
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    names = files.get("batches.meta.txt", b"") or files.get("fine_label_names.txt", b"")
    classes = names.decode().split()
    # CIFAR-100: coarse label, then fine label
    return (
        rows[:, label_bytes:],
        rows[:, label_bytes - 1].astype(np.int64),
        classes,
        test if test in files else None,
    )


def _check_cifar(images: np.ndarray, labels: np.ndarray, path: str) -> None:
    if images.ndim != 2 or images.shape[1] != 3072 or labels.shape != images.shape[:1]:
        raise UserError(
            f"{path}: data {images.shape} with labels {labels.shape} is not CIFAR's (n, 3072) with n labels."
        )


class _NumpyOnly(pickle.Unpickler):
    """Builds numpy arrays and plain containers. Anything else a pickle asks for is refused, not run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PICKLED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def unpickle(data: bytes, where: str) -> dict[Any, Any]:
    """The dictionary of a CIFAR batch. Raises UserError for anything that is not plain data."""
    try:
        found = _NumpyOnly(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a hostile or damaged pickle may raise anything
        raise UserError(
            f"{where} is refused: {error}; a CIFAR batch holds only arrays. Download it again."
        ) from None
    if not isinstance(found, dict):
        raise UserError(f"{where} holds a {type(found).__name__}, not CIFAR's dictionary; download it again.")
    return found
