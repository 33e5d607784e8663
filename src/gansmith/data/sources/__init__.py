"""Opens anything that holds labelled images, by looking at the path.

One module per family: `folders` (folder, zip), `tars`, `hdf5`, `archives` (IDX, CIFAR, digits),
`huggingface`, `prepared`. This room lists and reads; it must not know what becomes of the images.
"""

import os

from gansmith.data.shards import is_prepared
from gansmith.data.sources import archives, huggingface, tars
from gansmith.data.sources.base import Source
from gansmith.data.sources.folders import FolderSource, ZipSource
from gansmith.data.sources.hdf5 import HDF5Source
from gansmith.data.sources.prepared import PreparedSource
from gansmith.errors import UserError

__all__ = ["Source", "open_source"]

KNOWN = (
    "an image folder, a zip, WebDataset or class tars, HDF5, MNIST's IDX files, a CIFAR archive, a Hugging "
    "Face "
    "dataset (hf:user/name), builtin:digits, or a prepared data set"
)
BUILTIN = {"builtin:digits": archives.open_digits}


def open_source(path: str, *, unconditional: bool = False) -> Source:
    """Opens the images at a path, whatever their form; lists but does not decode them.

    unconditional: all images are one class, so none need be named. Raises UserError if nothing usable is
    there, saying what to give instead.
    """
    source = _detect(os.path.expanduser(os.fspath(path)), unconditional)
    if unconditional and source.classes != ["all"]:
        source.as_one_class()
    if len(source) == 0:
        raise UserError(f"{path} holds no images.")
    return source


def _detect(path: str, unconditional: bool) -> Source:
    if path.startswith("builtin:"):
        if path not in BUILTIN:
            raise UserError(f"{path} is unknown; built in: {', '.join(BUILTIN)}")
        return BUILTIN[path](path)
    if "://" in path:
        if is_prepared(path):
            return PreparedSource(path)
        raise UserError(
            f"{path} is no prepared data set; other sources must be local: copy it to a disk first."
        )
    if "{" in path or "*" in path:
        return tars.open_tars(path, unconditional=unconditional)
    if os.path.isdir(path):
        return _detect_folder(path, unconditional)
    if os.path.isfile(path):
        return _detect_file(path, unconditional)
    return _detect_missing(path, unconditional)


def _detect_folder(path: str, unconditional: bool) -> Source:
    if is_prepared(path):
        return PreparedSource(path)
    if archives.find_idx(path):
        return archives.open_idx(path)
    if archives.is_cifar_folder(path):
        return archives.open_cifar(path)
    if tars.looks_like_tars(path):
        return tars.open_tars(path, unconditional=unconditional)
    if huggingface.looks_like_huggingface(path):
        return huggingface.open_huggingface(path, unconditional=unconditional)
    return FolderSource(path, unconditional=unconditional)


def _detect_file(path: str, unconditional: bool) -> Source:
    lower = path.lower()
    if lower.endswith(".zip"):
        return ZipSource(path, unconditional=unconditional)
    if lower.endswith((".h5", ".hdf5")):
        return HDF5Source(path)
    if archives.find_idx(path):
        return archives.open_idx(path)
    if lower.endswith((".tar.gz", ".tgz")):
        return archives.open_cifar(path)
    if lower.endswith(".tar"):
        return tars.open_tars(path, unconditional=unconditional)
    if lower.endswith((".parquet", ".arrow")):
        return huggingface.open_huggingface(path, unconditional=unconditional)
    raise UserError(f"{path} is a file of no known kind; give {KNOWN}.")


def _detect_missing(path: str, unconditional: bool) -> Source:
    """A path that does not exist: a folder inside a zip, a set of the hub, or a mistake."""
    outer = path
    while outer not in ("", "/", "."):
        outer, _ = os.path.split(outer.rstrip("/"))
        if os.path.isfile(outer) and outer.lower().endswith(".zip"):
            return ZipSource(outer, os.path.relpath(path, outer), unconditional=unconditional)
    if huggingface.is_hub_id(path):
        return huggingface.open_huggingface(path, unconditional=unconditional)
    raise UserError(f"{path} does not exist; give {KNOWN}.")
