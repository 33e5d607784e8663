"""The prepared form of a data set: plain tar shards, an offset index and `dataset.json`.

A prepared folder holds

    shard-000000.tar …   KEY.npy (or .png, .webp, .jpg) followed by KEY.cls, the class id as text
    index.npz            per image: shard, offset and size of the payload, label
    dataset.json         resolution, classes, settings, content hash, names and sizes of the shards

so that WebDataset tools read it as it is, and gansmith reads any image without parsing a tar. Raw storage is
`.npy`: its pixels are used in place, out of a memory map. `dataset.json` is written last; a folder without it
is unfinished.

This room knows bytes, keys and labels. It must not know where images came from or in which order they are
wanted.
"""

import copy
import hashlib
import json
import math
import mmap
import os
import re
import tarfile
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from gansmith.data import memory, remote
from gansmith.data.cache import cache_folder, written_whole
from gansmith.data.codecs import DamagedImage, decode
from gansmith.data.manifest import FORMAT, VERSION, ClassInfo, content_hash, read_index, read_manifest
from gansmith.errors import UserError
from gansmith.files import sync

EXTENSIONS = ("npy", "png", "webp", "jpg")
BLOCK = 512  # tar's unit
_KEY = re.compile(r"[A-Za-z0-9_\-]{1,90}")  # no dot: WebDataset splits the name at the first one


def _tar_member(name: str, payload: bytes) -> bytes:
    """A USTAR header and the padded payload; owner 0 and time 0, so equal content gives equal bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(payload)
    return info.tobuf(tarfile.USTAR_FORMAT) + payload + bytes(-len(payload) % BLOCK)


class ShardWriter:
    """Writes a prepared folder: shards get their names when complete and synced; `close` finishes the set.

    dest: folder, created when missing. shard_bytes: a shard is closed before it would grow beyond this.
    resume: go on after the complete shards of a killed writer; `keys` then starts with what they hold, and
    the caller adds what follows. The result equals that of an uninterrupted writer. Without it, a folder that
    already holds shards is a UserError.
    """

    def __init__(self, dest: Path, *, shard_bytes: int = 256 << 20, resume: bool = False) -> None:
        self.dest = Path(dest)
        self.dest.mkdir(parents=True, exist_ok=True)
        self.shard_bytes = shard_bytes
        self.keys: list[str] = []
        self._columns: dict[str, list] = {"shard": [], "offset": [], "size": [], "label": [], "digest": []}
        self._shards: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._first = 0  # index of the open shard's first image
        existing = sorted(self.dest.glob("shard-*.tar"))
        if existing and not resume:
            raise UserError(
                f"{self.dest} already holds {existing[0].name}; choose another folder, or delete this one."
            )
        while self._recover_shard():
            pass
        for leftover in (*self.dest.glob("shard-*.tar.part"), *existing[len(self._shards) :]):
            leftover.unlink()

    def add(self, key: str, label: int, payload: bytes, extension: str) -> None:
        """Appends an image: `key` names it (letters, digits, - and _), `payload` is the file itself."""
        assert _KEY.fullmatch(key), f"{key!r} cannot be the key of an image in a tar shard"
        assert extension in EXTENSIONS, f"{extension!r} is not one of {EXTENSIONS}"
        assert label >= 0, f"label {label} of {key} is negative"
        image = _tar_member(f"{key}.{extension}", payload)
        record = image + _tar_member(f"{key}.cls", str(int(label)).encode())
        if self._file and self._file.tell() + len(record) + 2 * BLOCK > self.shard_bytes:
            self._seal_shard()
        if self._file is None:
            self._file = open(self._part_path(), "wb")  # noqa: SIM115 (closed when the shard is sealed)
            self._first = len(self.keys)
        row = (
            len(self._shards),
            self._file.tell() + BLOCK,
            len(payload),
            int(label),
            hashlib.sha256(payload).digest(),
        )
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        self.keys.append(key)
        self._file.write(record)

    def close(
        self,
        *,
        resolution: tuple[int, int],
        channels: int,
        storage: str,
        class_names: Sequence[str],
        settings: dict[str, Any],
        source: str,
    ) -> str:
        """Finishes the set: last shard, index, then `dataset.json`. Returns the content hash.

        class_names[i] is the name of label i; classes without images are kept with count 0.
        """
        assert self.keys, "a data set needs at least one image"
        if self._file:
            self._seal_shard()
        labels = np.array(self._columns["label"], np.int64)
        assert labels.max() < len(class_names), f"label {labels.max()} has no name"
        counts = np.bincount(labels, minlength=len(class_names))
        digest = content_hash(self._columns["label"], self._columns["digest"])
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "resolution": list(resolution),
            "channels": channels,
            "storage": storage,
            "num_images": len(labels),
            "content_hash": digest,
            "settings": settings,
            "source": source,
            "classes": [asdict(ClassInfo(i, name, int(counts[i]))) for i, name in enumerate(class_names)],
            "shards": self._shards,
        }
        with written_whole(self.dest / "index.npz") as file:
            np.savez(
                file,
                shard=np.array(self._columns["shard"], np.int32),
                offset=np.array(self._columns["offset"], np.int64),
                size=np.array(self._columns["size"], np.int32),
                label=labels.astype(np.int32),
            )
        with written_whole(self.dest / "dataset.json") as file:
            file.write(json.dumps(manifest, indent=1, ensure_ascii=False).encode())
        for number in range(len(self._shards)):
            self._sidecar_path(number).unlink(missing_ok=True)
        return digest

    def _part_path(self) -> Path:
        return self.dest / f"shard-{len(self._shards):06d}.tar.part"

    def _sidecar_path(self, number: int) -> Path:
        return self.dest / f".shard-{number:06d}.npz"

    def _seal_shard(self) -> None:
        """Ends the open shard, with its part of the index beside it so that a killed writer can go on."""
        assert self._file is not None
        self._file.write(bytes(2 * BLOCK))
        num_bytes = self._file.tell()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        columns: dict[str, Any] = {name: column[self._first :] for name, column in self._columns.items()}
        columns["digest"] = np.frombuffer(b"".join(columns["digest"]), np.uint8).reshape(-1, 32)
        columns |= {"key": self.keys[self._first :], "bytes": num_bytes}
        with written_whole(self._sidecar_path(len(self._shards))) as file:
            np.savez(file, **columns)
        part = self._part_path()
        name = part.name.removesuffix(".part")
        part.rename(self.dest / name)
        sync(self.dest)
        self._shards.append({"name": name, "bytes": num_bytes, "images": len(self.keys) - self._first})

    def _recover_shard(self) -> bool:
        """Takes over the next complete shard of a killed writer, if there is one."""
        number = len(self._shards)
        sidecar, shard = self._sidecar_path(number), self.dest / f"shard-{number:06d}.tar"
        if not (sidecar.exists() and shard.exists()):
            return False
        with np.load(sidecar) as saved:
            if shard.stat().st_size != saved["bytes"]:
                return False
            self.keys += saved["key"].tolist()
            for name in ("shard", "offset", "size", "label"):
                self._columns[name] += saved[name].tolist()
            self._columns["digest"] += [row.tobytes() for row in saved["digest"]]
            self._shards.append(
                {"name": shard.name, "bytes": int(saved["bytes"]), "images": len(saved["key"])}
            )
        return True


class Dataset:
    """A prepared data set, opened for reading. Made by `open_prepared`; immutable; safe to use from threads.

    path: where it was opened from. resolution: (height, width). labels: int64 (n,). storage: raw | png | webp
    | jpeg-Q. classes: by id. content_hash: see `content_hash`. settings: those of the preparation.
    """

    def __init__(
        self, path: str, files: remote.Files, manifest: dict[str, Any], index: dict[str, np.ndarray]
    ) -> None:
        self.path = path
        self.resolution: tuple[int, int] = (manifest["resolution"][0], manifest["resolution"][1])
        self.channels: int = manifest["channels"]
        self.classes = [ClassInfo(**c) for c in manifest["classes"]]
        self.labels: np.ndarray = index["label"].astype(np.int64)
        self.content_hash: str = manifest["content_hash"]
        self.storage: str = manifest["storage"]
        self.settings: dict[str, Any] = manifest["settings"]
        self.source: str = manifest["source"]
        self._files = files
        self._shards: list[dict[str, Any]] = manifest["shards"]
        self._shard, self._offset, self._size = index["shard"], index["offset"], index["size"]
        self._maps: dict[int, np.ndarray] = {}  # shard number → its bytes
        self._decoded: np.ndarray | None = None  # (n, h·w·c), once decoded into a file
        self._rows: np.ndarray | None = None  # where a subset's images lie in it
        self._lock = threading.Lock()
        self._image_bytes = math.prod(self.resolution) * self.channels

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """How many labels there are, classes without images included."""
        return len(self.classes)

    @property
    def decoded_bytes(self) -> int:
        """Size of all images as uint8 pixels."""
        return len(self) * self._image_bytes

    def read(self, indices: np.ndarray) -> np.ndarray:
        """The images at these indices: uint8 (len, h, w, c). Raises UserError naming a damaged one."""
        out = np.empty((len(indices), *self.resolution, self.channels), np.uint8)
        for row, index in enumerate(np.asarray(indices).tolist()):
            out[row] = self.image(index)
        return out

    def image(self, index: int) -> np.ndarray:
        """One image, uint8 (h, w, c), read-only: a view of mapped memory where the pixels lie there."""
        if self._decoded is not None:
            pixels = self._decoded[index if self._rows is None else self._rows[index]]
        elif self.storage == "raw":
            # The pixels end the payload: what precedes them is the header of the .npy file.
            end = int(self._offset[index]) + int(self._size[index])
            pixels = self._bytes_of(int(self._shard[index]))[end - self._image_bytes : end]
        else:
            pixels = self._decode(index)
        return pixels.reshape(*self.resolution, self.channels)

    def subset(self, indices: np.ndarray) -> "Dataset":
        """The images at these indices (int64) as a set of its own, which shares files and memory with this.

        Classes keep their ids and names, with other counts; the content hash is another one.
        """
        view = copy.copy(self)
        view._rows = indices if self._rows is None else self._rows[indices]
        view.labels = self.labels[indices]
        view._shard, view._offset, view._size = (
            column[indices] for column in (self._shard, self._offset, self._size)
        )
        counts = np.bincount(view.labels, minlength=len(self.classes)).tolist()
        view.classes = [replace(info, count=counts[info.id]) for info in self.classes]
        chosen = np.asarray(indices, "<i8").tobytes()
        view.content_hash = hashlib.sha256(self.content_hash.encode() + chosen).hexdigest()
        return view

    def payload(self, index: int) -> bytes:
        """The stored file of an image (.npy, .png, .webp or .jpg), as it lies in the shard."""
        offset = int(self._offset[index])
        return self._bytes_of(int(self._shard[index]))[offset : offset + int(self._size[index])].tobytes()

    def key(self, index: int) -> str:
        """The name of an image inside its shard, without extension."""
        offset = int(self._offset[index])
        name = self._bytes_of(int(self._shard[index]))[offset - BLOCK : offset - BLOCK + 100].tobytes()
        return name.rstrip(b"\0").decode(errors="replace").rpartition(".")[0]

    def _decode(self, index: int) -> np.ndarray:
        try:
            return decode(self.payload(index), self.resolution, self.channels)
        except DamagedImage as error:
            shard = self._shards[int(self._shard[index])]["name"]
            raise UserError(
                f"{self.path}/{shard}: image {self.key(index)} is damaged ({error}); prepare the set again."
            ) from error

    def _bytes_of(self, shard: int) -> np.ndarray:
        """The whole shard as uint8, memory-mapped at first use (and fetched, where it is remote)."""
        found = self._maps.get(shard)
        if found is None:
            with self._lock:
                path = self._files.local(self._shards[shard]["name"], self._shards[shard]["bytes"])
                found = self._maps.setdefault(shard, _mapped(path))
        return found

    def keep_in_memory(self, folder: Path) -> None:
        """Makes reading a copy out of the page cache, which all ranks, threads and runs of a machine share.

        Raw shards are asked into memory as they are. Compressed images are decoded once into a file in
        `folder`, named after the content hash; others wait for the one who decodes and map the same file.
        """
        if self.storage != "raw":
            self._decoded = memory.decoded_once(
                folder / "decoded" / f"{self.content_hash[:32]}.u8", self._image_bytes, len(self), self.read
            )
            self._rows = None
            return
        for shard in range(len(self._shards)):
            memory.ask_into_memory(self._bytes_of(shard))


def _mapped(path: Path) -> np.ndarray:
    with open(path, "rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def is_prepared(path: str | Path) -> bool:
    """Whether the path or URL is a prepared data set (of any version)."""
    try:
        manifest = json.loads(remote.files_at(str(path), cache_folder()).read("dataset.json"))
    except (UserError, OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def open_prepared(
    path_or_url: str | Path, *, cache_dir: Path | None = None, in_memory: Literal["auto"] | bool = "auto"
) -> Dataset:
    """Opens a prepared data set: a local folder, or a URL of any kind fsspec knows (extra `remote`).

    cache_dir: for shards of URLs and decoded images; default $GANSMITH_CACHE or ~/.cache/gansmith.
    in_memory: "auto" keeps the set in memory if its pixels take at most half of what is available, True
    insists, False reads from disk. Memory is the page cache, shared by ranks and threads; never /dev/shm.
    Raises UserError when something is missing, truncated or foreign.
    """
    path, folder = str(path_or_url).rstrip("/"), cache_folder(cache_dir)
    files = remote.files_at(path, folder)
    manifest = read_manifest(path, files)
    dataset = Dataset(path, files, manifest, read_index(path, files, manifest))
    files.check(manifest["shards"])
    if in_memory is True or (in_memory == "auto" and memory.fits(dataset.decoded_bytes)):
        try:
            dataset.keep_in_memory(folder)
        except (OSError, memory.NoRoom) as error:
            if in_memory is True:
                raise UserError(
                    f"data.in_memory=true: {path} cannot be decoded into {folder} ({error}); "
                    f"set $GANSMITH_CACHE to a folder with {dataset.decoded_bytes / 1e9:.1f} GB free, "
                    f"or data.in_memory=false."
                ) from error
    return dataset
