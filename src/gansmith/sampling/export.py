"""Images to disk while they are made: a folder of PNG files or one .npz, complete or absent, in bounded
memory.
"""

import re
import shutil
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from gansmith import files
from gansmith.errors import UserError

STAGING = ".gansmith-partial"


def check_destination(out: str | Path) -> Path:
    """Raises UserError unless `out` can be written without touching anything that exists; call before the
    work.

    A name ending in .npz or .png is a new file; any other name is a new or empty folder.
    """
    out = Path(out)
    if out.suffix.lower() in (".npz", ".png"):
        if out.exists():
            raise UserError(f"--out {out} exists and is never overwritten; give another name or delete it.")
        folder = out.parent
    else:
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file; give a folder for PNG files, or a name ending in .npz.")
        if (out / STAGING).exists():
            raise UserError(
                f"--out {out} holds images of another `gansmith sample` that is running or was killed; "
                f"give another folder, or delete {out / STAGING}."
            )
        if out.is_dir() and any(out.iterdir()):
            raise UserError(
                f"--out {out} is not empty, and nothing is added or overwritten; give a new folder."
            )
        folder = out
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()  # what permissions say is not all, as in /sys
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"--out {out}: {folder} cannot be written ({why}); give a folder that is yours."
        ) from None
    return out


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns a full disk or a lost permission into a UserError that names `out`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {out} could not be written ({error.strerror or error}); nothing was kept."
        ) from error


def file_stems(classes: Mapping[int, str]) -> dict[int, str]:
    """A file-name-safe, distinct word per class id: letters and digits of any script, the rest becomes
    `-`.
    """
    stems, taken = {}, set()
    for label, name in classes.items():
        stem = (
            re.sub(r"[^\w.]+", "-", unicodedata.normalize("NFC", name)).strip("-._")[:40] or f"class-{label}"
        )
        while stem.casefold() in taken:
            stem = f"{stem}-{label}"
        taken.add(stem.casefold())
        stems[label] = stem
    return stems


def to_folder(out: Path, batches: Iterable[np.ndarray], names: Iterable[str]) -> int:
    """Writes one PNG per image as out/NAME.png and returns their number; the folder stays empty if that
    fails.

    batches: uint8 (n, H, W, C) arrays. names: one per image, without suffix, distinct.
    """
    created = not out.exists()
    staging = out / STAGING
    staging.mkdir(parents=True)
    written, names = 0, iter(names)
    try:
        for batch in batches:
            for image in batch:
                picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
                picture.save(staging / f"{next(names)}.png")
                written += 1
        for file in staging.iterdir():
            file.rename(out / file.name)
        staging.rmdir()
    except BaseException:
        shutil.rmtree(out if created else staging, ignore_errors=True)
        raise
    files.sync(out)
    return written


def to_npz(
    out: Path, batches: Iterable[np.ndarray], *, shape: tuple[int, int, int, int], **columns: Iterable[int]
) -> None:
    """Streams images into one uncompressed .npz that `numpy.load` reads.

    shape: (N, H, W, C), known beforehand; the batches together must fill it. Member `images` is uint8 of that
    shape; each further column (`labels`, `seeds`) is int64 (N,). Memory holds one batch at a time. Atomic.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(out) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        _write_member(archive, "images", np.dtype(np.uint8), shape, batches)
        for name, values in columns.items():
            _write_member(archive, name, np.dtype(np.int64), shape[:1], _chunks(values))


def _write_member(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...], parts: Iterable[np.ndarray]
) -> None:
    header: dict[str, Any] = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    rows = 0
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        npy.write_array_header_1_0(member, header)
        for part in parts:
            assert (part.dtype, part.shape[1:]) == (dtype, shape[1:]), f"{name}: {part.dtype} {part.shape}"
            member.write(np.ascontiguousarray(part).data)
            rows += len(part)
    assert rows == shape[0], f"{name}: {rows} rows for a shape of {shape}"


def _chunks(values: Iterable[int], size: int = 65536) -> Iterator[np.ndarray]:
    values = iter(values)
    while len(chunk := np.fromiter(islice(values, size), np.int64)):
        yield chunk
