"""Training accepts any source: one that is not prepared is prepared once, into the cache, and found again.

The cache entry is named after everything that decides its content (the source's files with sizes and times,
and the settings), so it is never stale: a changed source is another entry.
"""

import contextlib
import csv
import hashlib
import json
import os
import re
import shlex
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from gansmith.data.cache import cache_folder, locked
from gansmith.data.destination import check_space
from gansmith.data.images import Rejected, is_gray, process
from gansmith.data.manifest import ClassInfo
from gansmith.data.memory import usable_cpus
from gansmith.data.prepare import least_bytes, plan, prepare
from gansmith.data.progress import duration
from gansmith.data.settings import PrepareSettings
from gansmith.data.shards import Dataset, is_prepared, open_prepared
from gansmith.data.sources import Source, open_source
from gansmith.errors import UserError


@dataclass(frozen=True)
class Planned:
    """A data set that is still to be prepared, as far as it is known before an image is decoded.

    classes: those that will be there; counts are upper limits, as damaged and repeated images are left out.
    """

    source: str
    kind: str  # of the source, in words
    target: Path
    resolution: tuple[int, int]
    channels: int
    classes: list[ClassInfo]

    def __len__(self) -> int:
        return sum(info.count for info in self.classes)


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
    suitable, settings = _suits(_found(src), src, settings, margin=0)
    return Path(src) if suitable else _prepared_once(src, settings, cache_dir, workers)


def open_dataset(
    path: str | Path,
    *,
    resolution: int | None = None,
    margin: int = 0,
    cache_dir: Path | None = None,
    in_memory: Literal["auto"] | bool = "auto",
    **settings: Any,
) -> Dataset:
    """Opens any images for training: a prepared data set (folder or URL), or a source that is prepared first.

    resolution: pixels; needed for image files of any size. margin: for random crops of `resolution` pixels:
    what is not prepared is prepared larger by this many, and a prepared set of at least `resolution` is taken
    as it is. in_memory: see `open_prepared`. settings: the other fields of PrepareSettings (crop="top",
    channels=1, …). Raises UserError for bad sources and settings.
    """
    path, wanted = os.path.expanduser(path), _wanted(resolution, settings)
    found = _found(path)
    suitable, wanted = _suits(found, path, wanted, margin)
    _say_what_is_kept(found, settings, suitable, margin and resolution)
    folder = path if suitable else _prepared_once(path, wanted, cache_dir)
    return open_prepared(folder, cache_dir=cache_dir, in_memory=in_memory)


def expect_dataset(
    path: str | Path,
    *,
    resolution: int | None = None,
    margin: int = 0,
    cache_dir: Path | None = None,
    **settings: Any,
) -> Dataset | Planned:
    """What `open_dataset` would open: a prepared set, read from disk, or the plan of one. Writes nothing.

    Raises UserError wherever `open_dataset` would, up to decoding an image.
    """
    path, wanted = os.path.expanduser(path), _wanted(resolution, settings)
    found = _found(path)
    suitable, wanted = _suits(found, path, wanted, margin)
    _say_what_is_kept(found, settings, suitable, margin and resolution)
    if suitable:
        return open_prepared(path, cache_dir=cache_dir, in_memory=False)
    source = open_source(path, unconditional=wanted.unconditional)
    target = _cache_entry(path, source, wanted, cache_dir)
    if (target / "dataset.json").exists():
        _say_left_out(target)
        return open_prepared(target, cache_dir=cache_dir, in_memory=False)
    wanted = wanted.resolved(source)
    assert wanted.resolution is not None
    assert wanted.channels is not None
    selection = plan(source, wanted)
    check_space(target, least_bytes(selection.expected(), wanted))
    side = wanted.resolution
    return Planned(path, source.kind, target, (side, side), wanted.channels, selection.expected_classes())


def _wanted(resolution: int | None, settings: dict[str, Any]) -> PrepareSettings:
    known = [field.name for field in fields(PrepareSettings)]
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"open_dataset has no setting {name!r}{hint} (known: {', '.join(known)})")
    wanted = PrepareSettings(resolution=resolution, **settings)
    wanted.check()
    return wanted


def _found(path: str) -> Dataset | None:
    """The prepared set at a path, read from disk; None for any other source."""
    return open_prepared(path, in_memory=False) if "://" in path or is_prepared(path) else None


def _suits(
    dataset: Dataset | None, path: str, wanted: PrepareSettings, margin: int
) -> tuple[bool, PrepareSettings]:
    """Whether a prepared set is used as it is; if not, with which settings the path is prepared.

    Raises UserError for a prepared set that preparing again would make worse, or that lies elsewhere.
    """
    if dataset is None:
        return False, replace(wanted, resolution=wanted.resolution and wanted.resolution + margin)
    height, width = dataset.resolution
    asked, side = wanted.resolution, min(height, width)
    if asked is not None and asked > side:
        raise UserError(
            f"{path} is prepared at {side} px, and {asked} px are asked for; enlarging gains nothing: "
            f"prepare {dataset.source} again with --resolution {asked}, or ask for {side} px."
        )
    right_size = asked is None or margin > 0 or dataset.resolution == (asked, asked)
    if right_size and wanted.channels in (None, dataset.channels):
        return True, wanted
    if "://" in path:
        raise UserError(
            f"{path} is prepared at {width}×{height} px with {dataset.channels} channels; asked for are "
            f"{asked or side} px, {wanted.channels or dataset.channels} channels. Prepare it again where it "
            "lies, or copy it here."
        )
    # Resized once already: where only the channels are wrong, not a second time.
    return False, replace(wanted, resolution=side if right_size else asked)


def _say_what_is_kept(
    dataset: Dataset | None, asked: dict[str, Any], suits: bool, crop_to: int | None
) -> None:
    """Choices of a prepared set's own that win over those asked for."""
    if dataset is None:
        return
    own = [
        f"its own {name} {dataset.settings[name]} is used, not {asked[name]}"
        for name in (("crop", "resize") if suits else ("crop",))
        if name in asked and dataset.settings.get(name, asked[name]) != asked[name]
    ]
    if own:
        _say(f"{dataset.path} is prepared already; {' and '.join(own)}")
    if crop_to and dataset.resolution == (crop_to, crop_to):
        _say(f"{dataset.path} is prepared at exactly {crop_to} px: random crops find nothing to cut away")


def _cache_entry(src: str, source: Source, settings: PrepareSettings, cache_dir: Path | None) -> Path:
    identity = settings.resolved(source).identity()
    key = json.dumps([os.path.abspath(src), source.fingerprint(), identity], sort_keys=True)
    name = re.sub(r"[^\w.-]+", "-", Path(src).stem or "data").strip("-")[:60] or "data"
    entry = f"{name}-{identity['resolution']}px-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    return cache_folder(cache_dir) / "prepared" / entry


def _prepared_once(
    src: str, settings: PrepareSettings, cache_dir: Path | None, workers: int | None = None
) -> Path:
    source = open_source(src, unconditional=settings.unconditional)
    target = _cache_entry(src, source, settings, cache_dir)
    with locked(target):
        if (target / "dataset.json").exists():
            _say(f"{src} was prepared before; using {target}")
            _say_left_out(target)
        else:
            final = settings.resolved(source)
            plan(source, final)  # refuses what cannot be prepared before saying that it is
            what = f"{src} ({len(source):,} images)"
            shape = f"{final.resolution}×{final.resolution}×{final.channels}"
            _say(f"{what} is not prepared as {shape}; preparing it once into {target}")
            if final.channels == 1 and _has_colour(source):
                _say("note: the images are colour, the network is greyscale (model.channels=1)")
            report = prepare(
                src, target, settings, workers=workers or usable_cpus(), if_rejected=_by_hand(src, final)
            )
            took = duration(report.seconds)
            _say(f"prepared {report.images:,} images of {report.classes:,} classes in {took}")
            _say_left_out(target)
            for note in report.notes:
                _say(note)
    return target


def _has_colour(source: Source) -> bool:
    """Whether one of the first images has."""
    for index in range(min(len(source), 8)):
        try:
            if not is_gray(process(source.read(index), resolution=32, crop="pad")[0]):
                return True
        except Rejected:
            continue
    return False


def _by_hand(src: str, settings: PrepareSettings) -> str:
    """How to prepare the same set where more damaged images are accepted, which training has no flag for."""
    plain, flags = PrepareSettings(), ""
    for name in ("resolution", "crop", "resize", "channels"):
        if getattr(settings, name) not in (getattr(plain, name), None):
            flags += f" --{name} {getattr(settings, name)}"
    flags += " --unconditional" if settings.unconditional else ""
    command = f"gansmith data prepare {shlex.quote(src)} DEST{flags} --max-rejected 0.5"
    return f"prepare it with `{command}` and train on DEST"


def _say_left_out(prepared: Path) -> None:
    """On every start: what was lost once is missing for ever."""
    table = prepared / "rejected.csv"
    try:
        with open(table, encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.reader(file))[1:]
    except OSError:
        return
    if not rows:
        return
    images = "1 image was" if len(rows) == 1 else f"{len(rows):,} images were"
    such = "" if len(rows) == 1 else "such as "
    _say(f"{images} left out as unreadable ({such}{': '.join(rows[0])}); all are listed in {table}")


def _say(text: str) -> None:
    # A full disk behind stdout, or a closed one, is no reason not to train.
    with contextlib.suppress(OSError, ValueError):
        print(f"data: {text}", flush=True)
