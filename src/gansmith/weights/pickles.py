"""Reads PyTorch's pickled files without executing what they hold.

Files of tensors go through torch's own `weights_only` reader. Descriptions (`state_dict.pth`) hold more:
activation objects, numpy scalars, references to a module's source code, which that reader refuses. They are
read by the unpickler below, whose every name is on a short list and stands for inert data, so that nothing of
the file is ever imported or called. Anything else is refused, naming it. This room knows no network.
"""

import io
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gansmith.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # begins files of torch before 1.6
LARGEST_DESCRIPTION = 64 << 20  # bytes
_STORAGES = {
    "HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8", "ByteStorage": "u1",
    "CharStorage": "i1", "ShortStorage": "<i2", "IntStorage": "<i4", "LongStorage": "<i8", "BoolStorage": "?",
}  # fmt: skip


def read_tensors(path: Path) -> Any:
    """What torch.save wrote: tensors in dicts and lists, on the CPU. Raises UserError for a missing, cut,
    foreign or hostile file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is refused below with a message of its own
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_refused(path, str(error))) from None
    except Exception as error:  # torch reports damage in whatever its parsers stumble over
        raise UserError(_unreadable(path, error)) from None


def read_description(path: Path) -> Any:
    """A small file of numbers and names (`state_dict.pth`): dicts, lists, strings and numbers. Activation
    objects become `Inert`, tensors of one element numbers, larger ones None. Raises UserError as
    `read_tensors` does.
    """
    try:
        if path.stat().st_size > LARGEST_DESCRIPTION:
            raise UserError(f"{path} has {path.stat().st_size >> 20} MB: it holds weights, no description.")
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        return _read_legacy(path)
    except _Refused as error:
        raise UserError(_refused(path, f"GLOBAL {error}")) from None
    except UserError:
        raise
    except Exception as error:  # the unpickler reports damage in whatever it stumbles over
        raise UserError(_unreadable(path, error)) from None


class Inert:
    """Stands for an object of the file: its class by name, its attributes as data."""

    name = ""

    def __setstate__(self, state: Any) -> None:
        self.__dict__["attributes"] = state

    def __repr__(self) -> str:
        return f"<{self.name}>"


class _Refused(Exception):
    """The file asks for a name that is not on the list."""


class _Storage:
    def __init__(self, kind: Any, key: str, count: int) -> None:
        self.kind, self.key, self.count = str(kind), key, count
        self.values: np.ndarray | None = None

    def fill(self, content: bytes) -> None:
        if self.kind in _STORAGES:
            self.values = np.frombuffer(content, _STORAGES[self.kind])


class _Element:
    """A tensor of the file, of which only a single element is of interest."""

    def __init__(self, storage: _Storage, offset: int, size: tuple) -> None:
        self.storage, self.offset, self.size = storage, offset, size

    def value(self) -> Any:
        values = self.storage.values
        return None if values is None or any(n != 1 for n in self.size) else values[self.offset].item()


def _tensor(storage: Any, offset: int, size: tuple, *_: Any) -> _Element:
    return _Element(storage, offset, size)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _numpy_scalar(dtype: Any, content: Any = b"") -> Any:
    content = content.encode("latin1") if isinstance(content, str) else content
    value = np.frombuffer(content, np.dtype(dtype.code)).item()
    return value if isinstance(value, bool | int | float | str) else None


class _Dtype:
    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch(r"[biuf][1248]|b1|\?", code):
            raise _Refused(f"numpy.dtype {code!r}")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if state[1] == ">":
            self.code = ">" + self.code


def _encoded(text: str, *_: Any) -> bytes:
    return text.encode("latin1")


def _activation(dotted: str) -> type:
    return type("Activation", (Inert,), {"name": dotted.rpartition(".")[2]})


_ALLOWED: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encoded,
    "__builtin__.set": set,
    "builtins.set": set,
    **{
        dotted: _activation(dotted)
        for name in ("ReLU", "LeakyReLU", "Softplus", "ELU", "Tanh", "Sigmoid")
        for dotted in [f"torch.nn.modules.activation.{name}"]
    },
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        if (found := _ALLOWED.get(f"{module}.{name}")) is None:
            raise _Refused(f"{module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # (class, path and text of its source), as torch before 1.6 noted
            return pid[1]
        if pid[0] != "storage":
            raise _Refused(f"persistent object {pid[0]!r}")
        return self.storages.setdefault(str(pid[2]), _Storage(pid[1], str(pid[2]), int(pid[4])))


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        (described,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        reader = _Reader(io.BytesIO(archive.read(described)))
        result = reader.load()
        for key, storage in reader.storages.items():
            storage.fill(archive.read(described.removesuffix("data.pkl") + f"data/{key}"))
    return _plain(result)


def _read_legacy(path: Path) -> Any:
    with path.open("rb") as file:
        if _Reader(file).load() != LEGACY_MAGIC:
            raise ValueError("it is no file of torch.save")
        for _ in ("protocol", "system"):
            _Reader(file).load()
        reader = _Reader(file)
        result = reader.load()
        for key in _Reader(file).load():
            (count,) = struct.unpack("<q", file.read(8))
            storage = reader.storages[str(key)]
            if count != storage.count or storage.kind not in _STORAGES:
                raise ValueError("a storage is not what was announced")
            storage.fill(file.read(count * np.dtype(_STORAGES[storage.kind]).itemsize))
    return _plain(result)


def _plain(value: Any, known: dict[int, Any] | None = None) -> Any:
    """The same with tensors as numbers, or None. What is there several times is looked at once: lists of the
    same lists would otherwise grow without end.
    """
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)]
    plain = value
    if isinstance(value, dict):
        plain = {key: _plain(entry, known) for key, entry in value.items()}
    elif isinstance(value, list | tuple):
        plain = [_plain(entry, known) for entry in value]
    elif isinstance(value, _Element):
        plain = value.value()
    known[id(value)] = plain
    return plain


def _refused(path: Path, report: str) -> str:
    named = re.search(r"GLOBAL (\S+)", report)
    if named is None:
        reason = report.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0][:100]
        return f"{path} is damaged, or no file of torch.save ({reason}); nothing of it was run."
    name = named[1].rstrip(".,;:`'")
    return (
        f"{path} holds a reference to the code {name}, which weights have no use for; it was refused and "
        "nothing of it was run. If you trust whoever made it, save the tensors alone there: "
        "torch.save(net.state_dict(), FILE)."
    )


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist."
    if isinstance(error, PermissionError | IsADirectoryError):
        return f"{path} cannot be read: {error.strerror}."
    reason = str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
    return f"{path} is cut short or damaged, or no file of torch.save ({reason}); fetch it again."
