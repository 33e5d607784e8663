"""Tar archives: WebDataset shards, a tar of class tars (ImageNet's training set), plain trees of images.

Headers are read once, when the source is opened; images are then read by offset, in any order.
"""

import glob
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gansmith.data.images import MAX_FILE_BYTES, Rejected
from gansmith.data.sources.base import Source, fingerprint_of_files, numbered_classes
from gansmith.data.sources.tree import grow, is_image
from gansmith.errors import UserError

_LABEL_KEYS = ("label", "cls", "class", "class_id", "label_id")


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a tar: its name and where its bytes lie in the tar."""

    name: str
    offset: int
    size: int


class TarSource(Source):
    """Images at known places of one or several tars."""

    def __init__(
        self,
        path: str,
        tars: list[str],
        images: list[tuple[int, Member]],
        classes: list[str],
        labels: np.ndarray,
        *,
        kind: str,
        numbered: bool = False,
        notes: list[str] | None = None,
    ) -> None:
        super().__init__(path, classes, labels, numbered=numbered, notes=notes or [])
        self.kind = kind
        self._tars = tars
        self._images = images

    def key(self, index: int) -> str:
        tar, member = self._images[index]
        return member.name if len(self._tars) == 1 else f"{os.path.basename(self._tars[tar])}/{member.name}"

    def read(self, index: int) -> bytes | np.ndarray:
        tar, member = self._images[index]
        if member.size > MAX_FILE_BYTES:
            raise Rejected(f"file larger than {MAX_FILE_BYTES >> 20} MB")
        with open(self._tars[tar], "rb") as file:
            data = os.pread(file.fileno(), member.size, member.offset)
        if len(data) < member.size:
            raise Rejected("the tar ends before this file does")
        return _array(data) if member.name.endswith(".npy") else data

    def fingerprint(self) -> str:
        return fingerprint_of_files(Path(tar) for tar in self._tars)


def open_tars(path: str, *, unconditional: bool = False) -> TarSource:
    """A tar, a folder of tars, or a pattern (`shard-{000..146}.tar`, `shard-*.tar`).

    One tar may hold class tars, a tree of class folders, or WebDataset samples; several hold WebDataset
    samples.
    """
    tars = _expand(path)
    if len(tars) == 1:
        members = list(_members(tars[0]))
        inner = [m for m in members if m.name.lower().endswith(".tar")]
        if inner and not any(is_image(m.name) for m in members):
            return _class_tars(path, tars[0], inner, unconditional)
        labelled = any(m.name.endswith((".cls", ".json")) and "/" not in m.name for m in members)
        if not labelled and not _keys_with_labels(members):
            return _tree(path, tars[0], members, unconditional)
    return _webdataset(path, tars, unconditional)


def looks_like_tars(path: str) -> bool:
    """Whether the path is a tar, a pattern of tars, or a folder whose files are tars."""
    if path.lower().endswith(".tar"):
        return True
    return os.path.isdir(path) and bool(glob.glob(os.path.join(glob.escape(path), "*.tar")))


def _expand(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        return sorted(glob.glob(os.path.join(glob.escape(path), "*.tar")))
    found = []
    for pattern in _braces(path):
        matches = sorted(glob.glob(pattern)) if re.search(r"[*?\[]", pattern) else [pattern]
        missing = [match for match in matches if not os.path.isfile(match)]
        if missing or not matches:
            raise UserError(f"{path}: {(missing or [pattern])[0]} does not exist; correct the pattern.")
        found += matches
    return found


def _braces(pattern: str) -> list[str]:
    """Expands {a,b} and {000..146}, as a shell does."""
    brace = re.search(r"\{([^{}]*)\}", pattern)
    if not brace:
        return [pattern]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", brace[1])
    if span:
        first, last, digits = int(span[1]), int(span[2]), len(span[1])
        choices = [str(number).zfill(digits) for number in range(first, last + 1)]
    else:
        choices = brace[1].split(",")
    head, tail = pattern[: brace.start()], pattern[brace.end() :]
    return list(itertools.chain.from_iterable(_braces(head + choice + tail) for choice in choices))


def _members(path: str, offset: int = 0) -> Iterator[Member]:
    """Files of the tar that starts at `offset` of the file; offsets count from the beginning of the file."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    # tarfile would keep every header: gigabytes for a large set
                    tar.members = []  # type: ignore[attr-defined]
                    if info.isreg():
                        yield Member(info.name.removeprefix("./"), info.offset_data, info.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{path} is not a readable, uncompressed tar ({error}); unpack a compressed one first (gunzip)."
        ) from None


def _class_tars(path: str, tar: str, inner: list[Member], unconditional: bool) -> TarSource:
    """ILSVRC2012_img_train.tar: n01440764.tar … each holding the images of one class."""
    inner = sorted(inner, key=lambda m: m.name)
    classes = [os.path.basename(m.name).rsplit(".", 1)[0] for m in inner]
    images, labels = [], []
    for label, member in enumerate(inner):
        for image in _members(tar, member.offset):
            if is_image(image.name):
                images.append((0, Member(f"{classes[label]}/{image.name}", image.offset, image.size)))
                labels.append(label)
    if not images:
        raise UserError(f"{path} holds tars, but none of them holds images.")
    source = TarSource(path, [tar], images, classes, np.array(labels), kind="tar of class tars")
    if unconditional:
        source.as_one_class()
    return source


def _tree(path: str, tar: str, members: list[Member], unconditional: bool) -> TarSource:
    places = {m.name: m for m in members}

    def read(name: str) -> bytes:
        with open(tar, "rb") as file:
            return os.pread(file.fileno(), places[name].size, places[name].offset)

    tree = grow(places, path, read, unconditional=unconditional)
    images = [(0, places[name]) for name in tree.paths]
    return TarSource(
        path,
        [tar],
        images,
        tree.classes,
        tree.labels,
        kind="tar of images",
        numbered=tree.numbered,
        notes=tree.notes,
    )


def _split(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the base name."""
    folder, _, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _keys_with_labels(members: list[Member]) -> bool:
    labels = {key for key, extension in (_split(m.name) for m in members) if extension in ("cls", "json")}
    return any(_split(m.name)[0] in labels for m in members if is_image(m.name) or m.name.endswith(".npy"))


def _webdataset(path: str, tars: list[str], unconditional: bool) -> TarSource:
    images: list[tuple[int, Member]] = []
    labels: list[int | str] = []
    unlabelled = 0
    for number, tar in enumerate(tars):
        with open(tar, "rb") as file:
            for _, parts in itertools.groupby(_members(tar), lambda m: _split(m.name)[0]):
                sample = {_split(m.name)[1].rsplit(".", 1)[-1]: m for m in parts}
                image = next((m for e, m in sample.items() if e == "npy" or is_image(m.name)), None)
                if image is None:
                    continue
                label = None if unconditional else _label(sample, file.fileno(), tar)
                if label is None and not unconditional:
                    unlabelled += 1
                    continue
                images.append((number, image))
                labels.append(0 if label is None else label)
    kind = "WebDataset tars"
    if not images:
        found = "images without .cls or .json beside them" if unlabelled else "no images"
        raise UserError(
            f"{path} holds {found}; a sample is KEY.jpg and KEY.cls (or --unconditional without labels)."
        )
    notes = [f"{unlabelled:,} images without a label left aside"] if unlabelled else []
    if unconditional:
        classes, ids, numbered = ["all"], np.zeros(len(images), np.int64), False
    elif all(isinstance(label, int) for label in labels):
        ids, numbered = np.array(labels, np.int64), True
        classes = numbered_classes(ids, path)
    else:
        names = [str(label) for label in labels]
        classes, numbered = sorted(set(names)), False
        position = {name: i for i, name in enumerate(classes)}
        ids = np.array([position[name] for name in names])
    return TarSource(path, tars, images, classes, ids, kind=kind, numbered=numbered, notes=notes)


def _label(sample: dict[str, Member], descriptor: int, tar: str) -> int | str | None:
    """The sample's label: a number or a name, from KEY.cls or a field of KEY.json."""
    if "cls" in sample:
        member = sample["cls"]
        text = os.pread(descriptor, member.size, member.offset).decode(errors="replace").strip()
        return int(text) if re.fullmatch(r"\d+", text) else text or None
    if "json" not in sample:
        return None
    member = sample["json"]
    try:
        record = json.loads(os.pread(descriptor, member.size, member.offset))
    except ValueError as error:
        raise UserError(f"{tar}: {member.name} is not JSON ({error}).") from None
    if isinstance(record, int | str):
        return record
    found = (
        next((record[key] for key in _LABEL_KEYS if key in record), None)
        if isinstance(record, dict)
        else None
    )
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None


def _array(data: bytes) -> np.ndarray:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:
        raise Rejected(f"not a .npy array: {error}") from None
