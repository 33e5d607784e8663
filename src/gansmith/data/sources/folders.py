"""Image files in a folder or in a zip archive."""

import os
import zipfile
from pathlib import Path

from gansmith.data.images import MAX_FILE_BYTES, Rejected
from gansmith.data.sources.base import Source, fingerprint_of_files, walk
from gansmith.data.sources.tree import Tree, grow
from gansmith.errors import UserError


class _TreeSource(Source):
    """Files under a root, classed by `tree.grow`."""

    def __init__(self, path: str, tree: Tree) -> None:
        super().__init__(path, tree.classes, tree.labels, numbered=tree.numbered, notes=tree.notes)
        self._paths = tree.paths

    def key(self, index: int) -> str:
        return self._paths[index]


class FolderSource(_TreeSource):
    """Image files below a folder."""

    kind = "image folder"

    def __init__(self, path: str, *, unconditional: bool = False) -> None:
        root = Path(path)
        tree = grow(
            walk(root), path.rstrip("/"), lambda name: (root / name).read_bytes(), unconditional=unconditional
        )
        super().__init__(path, tree)

    def read(self, index: int) -> bytes:
        file = os.path.join(self.path, self._paths[index])
        try:
            if os.path.getsize(file) > MAX_FILE_BYTES:
                raise Rejected(f"file larger than {MAX_FILE_BYTES >> 20} MB")
            with open(file, "rb") as opened:
                return opened.read()
        except OSError as error:
            raise Rejected(f"cannot be read: {error.strerror}") from None


class ZipSource(_TreeSource):
    """Image files in a zip archive, read in place; every process opens the archive for itself."""

    kind = "zip archive"

    def __init__(self, path: str, inside: str = "", *, unconditional: bool = False) -> None:
        self._archive, self._inside = path, inside
        archive = _open_zip(path)
        prefix = f"{inside}/" if inside else ""
        names = [
            name[len(prefix) :]
            for name in _checked_names(archive, path)
            if name.startswith(prefix) and name != prefix
        ]
        if inside and not names:
            raise UserError(f"{path} holds no folder {inside}; its folders are {_folders(archive)}.")
        where = f"{path}/{inside}".rstrip("/")
        tree = grow(names, where, lambda name: archive.read(prefix + name), unconditional=unconditional)
        super().__init__(where, tree)
        self._open = archive

    def read(self, index: int) -> bytes:
        if self._open is None:
            self._open = _open_zip(self._archive)
        name = f"{self._inside}/{self._paths[index]}" if self._inside else self._paths[index]
        try:
            if self._open.getinfo(name).file_size > MAX_FILE_BYTES:
                raise Rejected(f"file larger than {MAX_FILE_BYTES >> 20} MB")
            return self._open.read(name)
        except (
            zipfile.BadZipFile,
            RuntimeError,
            NotImplementedError,
            EOFError,
            OSError,
            ValueError,
        ) as error:
            raise Rejected(f"damaged in the zip: {error}") from None
        except Exception as error:  # zlib, lzma and bz2 have errors of their own
            raise Rejected(f"damaged in the zip: {type(error).__name__}") from None

    def fingerprint(self) -> str:
        return fingerprint_of_files([Path(self._archive)])


def _open_zip(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a readable zip archive ({error}); copy or download it again."
        ) from None


def _checked_names(archive: zipfile.ZipFile, path: str) -> list[str]:
    """Names of the files. An archive that reaches outside itself is refused as a whole."""
    for info in archive.infolist():
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
            raise UserError(
                f"{path} holds the entry {info.filename!r}, which points outside the archive; "
                "such archives are refused. Pack the images again."
            )
        if info.flag_bits & 1:
            raise UserError(f"{path} is encrypted; unpack it and give the folder.")
    return [info.filename for info in archive.infolist() if not info.is_dir()]


def _folders(archive: zipfile.ZipFile) -> str:
    first = sorted({name.split("/", 1)[0] for name in archive.namelist() if "/" in name})
    return ", ".join(first[:8]) + ("…" if len(first) > 8 else "") if first else "none"
