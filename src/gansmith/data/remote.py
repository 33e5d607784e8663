"""Where the files of a prepared set lie: a local folder, or any URL fsspec knows, cached here shard by shard.

Over a network one request per image is not an order but a bill: a shard is fetched whole when its first image
is wanted, once for all ranks of the machine. Knows names and sizes of files, nothing of what is in them.
"""

import hashlib
import importlib
import io
import shutil
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from gansmith.data.cache import locked, written_whole
from gansmith.errors import UserError


class Files(Protocol):
    """The files of a prepared set, by name."""

    def open(self, name: str) -> BinaryIO:
        """A small file, for reading. Raises FileNotFoundError."""

    def read(self, name: str) -> bytes:
        """A small file's content. Raises FileNotFoundError."""

    def check(self, shards: list[dict[str, Any]]) -> None:
        """Raises UserError if a shard is known to be missing or truncated."""

    def local(self, name: str, num_bytes: int) -> Path:
        """A local path of a shard, fetched if need be."""


def files_at(path: str, cache: Path) -> Files:
    """The files in a local folder, or below a URL (`scheme://…`). Raises UserError if there is none."""
    return RemoteFiles(path, cache) if "://" in path else LocalFiles(path)


class LocalFiles:
    """Files of a local folder."""

    def __init__(self, path: str) -> None:
        self.folder = Path(path)
        if not self.folder.is_dir():
            raise UserError(f"{path}: no such folder; give one made by: gansmith data prepare SRC DEST")

    def open(self, name: str) -> BinaryIO:
        return open(self.folder / name, "rb")

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def check(self, shards: list[dict[str, Any]]) -> None:
        for shard in shards:
            path = self.folder / shard["name"]
            if not path.is_file():
                raise UserError(f"{path} is missing; copy it again, or prepare the data set again.")
            if path.stat().st_size != shard["bytes"]:
                raise UserError(
                    f"{path} has {path.stat().st_size:,} bytes instead of {shard['bytes']:,}: "
                    f"copy it again, or prepare the data set again."
                )

    def local(self, name: str, num_bytes: int) -> Path:
        return self.folder / name


class RemoteFiles:
    """Files below a URL; shards are kept whole in `cache`/remote, by URL and content of dataset.json."""

    def __init__(self, url: str, cache: Path) -> None:
        try:
            fsspec = importlib.import_module("fsspec")
        except ModuleNotFoundError:
            raise UserError(
                f"{url}: reading URLs needs fsspec; type: pip install 'gansmith[remote]'"
            ) from None
        self.url = url
        try:
            self.filesystem, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(f"{url}: {error}; for s3:// and gs://: pip install 'gansmith[remote]'") from error
        self.cache = cache / "remote"
        self._folder: Path | None = None

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read(name))

    def read(self, name: str) -> bytes:
        try:
            return self.filesystem.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            raise
        except Exception as error:  # each protocol has its own kinds: credentials, time-outs, addresses
            raise UserError(f"{self.url}/{name} cannot be read: {error or type(error).__name__}") from error

    def check(self, shards: list[dict[str, Any]]) -> None:
        """Nothing now: a request per shard is slow, and `local` verifies what it fetches."""

    def local(self, name: str, num_bytes: int) -> Path:
        path = self._cache_folder() / name
        if not (path.exists() and path.stat().st_size == num_bytes):
            with locked(path):
                if not (path.exists() and path.stat().st_size == num_bytes):
                    self._fetch(name, num_bytes, path)
        return path

    def _cache_folder(self) -> Path:
        if self._folder is None:
            version = hashlib.sha256(self.url.encode() + b"\n" + self.read("dataset.json")).hexdigest()
            self._folder = self.cache / version[:32]
        return self._folder

    def _fetch(self, name: str, num_bytes: int, target: Path) -> None:
        try:
            with written_whole(target) as file:
                with self.filesystem.open(f"{self.root}/{name}", "rb") as source:
                    shutil.copyfileobj(source, file, 8 << 20)
                if file.tell() != num_bytes:
                    raise UserError(
                        f"{self.url}/{name} has {file.tell():,} bytes instead of {num_bytes:,}: "
                        f"upload it again."
                    )
        except FileNotFoundError:
            raise UserError(f"{self.url}/{name} is missing; upload it again.") from None
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{self.url}/{name} cannot be fetched: {error or type(error).__name__}"
            ) from error
