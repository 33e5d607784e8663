"""Training accepts any source: one that is not prepared is prepared once, into the cache, and found again.

The cache entry is named after everything that decides its content (the source's files with sizes and times,
and the settings), so it is never stale: a changed source is another entry.
"""

import hashlib
import json
import os
import re
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from gansmith.data.cache import cache_folder, locked
from gansmith.data.prepare import prepare
from gansmith.data.progress import duration
from gansmith.data.settings import PrepareSettings
from gansmith.data.shards import Dataset, is_prepared, open_prepared
from gansmith.data.sources import open_source
from gansmith.errors import UserError


def default_workers() -> int:
    """How many processes may run here: the processors this process is allowed to use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ensure_prepared(
    src: str | Path, settings: PrepareSettings, *, cache_dir: Path | None = None, workers: int | None = None
) -> Path:
    """The folder of a prepared data set with the images of `src`.

    A prepared folder that suits the settings is returned as it is; anything else is prepared into
    $GANSMITH_CACHE or ~/.cache/gansmith, or found there, saying so on stdout. Of several processes one
    prepares and the others wait. Raises UserError as `prepare` does.
    """
    settings.check()
    src = str(src)
    if is_prepared(src) and _suits(src, settings):
        return Path(src)
    source = open_source(src, unconditional=settings.unconditional)
    identity = settings.resolved(source).identity()
    key = json.dumps([os.path.abspath(src), source.fingerprint(), identity], sort_keys=True)
    name = re.sub(r"[^\w.-]+", "-", Path(src).stem or "data").strip("-")[:60] or "data"
    entry = f"{name}-{identity['resolution']}px-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    target = cache_folder(cache_dir) / "prepared" / entry
    with locked(target):
        if (target / "dataset.json").exists():
            print(f"data: {src} was prepared before; using {target}")
        else:
            print(
                f"data: {src} ({len(source):,} images) is not prepared; preparing it once into {target}",
                flush=True,
            )
            report = prepare(src, target, settings, workers=workers or default_workers())
            print(
                f"data: prepared {report.images:,} images of {report.classes:,} classes in "
                f"{duration(report.seconds)}"
            )
            for note in report.notes:
                print(f"data: {note}")
    return target


def open_dataset(
    path: str | Path,
    *,
    resolution: int | None = None,
    cache_dir: Path | None = None,
    in_memory: Literal["auto"] | bool = "auto",
    **settings: Any,
) -> Dataset:
    """Opens any images for training: a prepared data set (folder or URL), or a source that is prepared first.

    resolution: pixels; needed for image files of any size. settings: the other fields of PrepareSettings
    (crop="top", channels=1, …). in_memory: see `open_prepared`. Raises UserError for bad sources and
    settings.
    """
    known = [field.name for field in fields(PrepareSettings)]
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"open_dataset has no setting {name!r}{hint} (known: {', '.join(known)})")
    path = str(path)
    if "://" in path:
        _suits(path, PrepareSettings(resolution=resolution, **settings), refuse=True)
        return open_prepared(path, cache_dir=cache_dir, in_memory=in_memory)
    prepared = ensure_prepared(path, PrepareSettings(resolution=resolution, **settings), cache_dir=cache_dir)
    return open_prepared(prepared, cache_dir=cache_dir, in_memory=in_memory)


def _suits(path: str, settings: PrepareSettings, *, refuse: bool = False) -> bool:
    """Whether a prepared set can be used as it is. Raises UserError where preparing it again would lose
    quality.
    """
    dataset = open_prepared(path, in_memory=False)
    size = dataset.resolution[0]
    if settings.resolution is not None and settings.resolution > size:
        raise UserError(
            f"{path} is prepared at {size} px, and {settings.resolution} px are asked for; enlarging gains "
            "nothing: "
            f"prepare {dataset.source} again with --resolution {settings.resolution}."
        )
    suits = settings.resolution in (None, size) and settings.channels in (None, dataset.channels)
    if refuse and not suits:
        raise UserError(
            f"{path} is prepared at {size} px with {dataset.channels} channels; asked for are "
            f"{settings.resolution} px, "
            f"{settings.channels or dataset.channels} channels. Prepare it again where it lies, or copy it "
            "here."
        )
    return suits
