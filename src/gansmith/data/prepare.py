"""Prepares a data set: any source → shards of small equal images, ready to be read at random.

    1. check all that can be checked first: settings, classes, destination, disk space
    2. decode, crop, resize and encode in parts, in parallel (`parts.py`), into DEST/.preparing
    3. drop what the settings exclude: damaged, too small, duplicate, too many or too few in a class
    (`selection.py`) 4. write the shards in a fixed shuffled order, then dataset.json (`shards.py`)

The result of each step is a function of source and settings alone, so that the same command goes on after a
kill, and the bytes depend neither on the number of workers nor on interruptions.
"""

import csv
import errno
import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gansmith.data import parts
from gansmith.data.cache import written_whole
from gansmith.data.destination import check_space, clean, is_finished, work_folder
from gansmith.data.progress import Progress
from gansmith.data.selection import Kept, Selection, shuffled
from gansmith.data.settings import PrepareSettings, merged_classes, read_merge_file
from gansmith.data.shards import EXTENSIONS, ShardWriter, open_prepared
from gansmith.data.sources import Source, open_source
from gansmith.errors import Stopped, TooFewClasses, UserError

__all__ = ["PrepareSettings", "PreparedReport", "prepare"]

IF_REJECTED = "accept them with a higher --max-rejected; the same command then goes on"
TOLERATED = 10  # so many damaged images are never too many, unless they are over a quarter of the set
# Payload relative to raw pixels, on the low side: a preparation is refused only when it cannot fit.
_LEAST_RATIO = {"raw": 1.0, "png": 0.3, "webp": 0.2}
_LEAST_JPEG_RATIO = 0.03


@dataclass
class PreparedReport:
    """What a preparation did. Counts are images; `already` means that nothing had to be done."""

    dest: str
    images: int = 0
    classes: int = 0
    rejected: int = 0
    too_small: int = 0
    duplicates: int = 0
    duplicates_across_classes: int = 0  # those among the duplicates whose first copy is in another class
    left_out: int = 0  # by the limits on classes and images per class
    enlarged: int = 0
    resumed: int = 0  # decoded by an earlier, interrupted command
    bytes: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0  # decoded now, while decoding
    content_hash: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    already: bool = False
    dry_run: bool = False


def prepare(
    src: str,
    dest: str | Path,
    settings: PrepareSettings,
    *,
    workers: int = 1,
    progress: bool = True,
    dry_run: bool = False,
    if_rejected: str = IF_REJECTED,
) -> PreparedReport:
    """Prepares the images of `src` in the folder `dest`.

    workers: processes; the result does not depend on them. progress: show it on stderr. dry_run: stop after
    the checks and write nothing. if_rejected: what else than repairing to do about too many damaged images,
    in words for the message. Raises UserError for anything wrong with source, settings or destination, and
    when more than the allowed share of images is damaged; Stopped on Ctrl-C. After any of these, and a kill,
    the same call goes on where it was.
    """
    start, dest = time.monotonic(), Path(dest)
    if workers < 1:
        raise UserError(f"--workers {workers} must be 1 or more.")
    settings.check()
    source = open_source(src, unconditional=settings.unconditional)
    settings = settings.resolved(source)
    selection = plan(source, settings)
    identity, fingerprint = settings.identity(), source.fingerprint()
    report = PreparedReport(str(dest), notes=list(source.notes), settings=identity, dry_run=dry_run)
    if is_finished(dest, src, identity, fingerprint):
        return _finished_already(dest, report)
    least = least_bytes(selection.expected(), settings)
    check_space(dest, least)
    if dry_run:
        report.images, report.classes, report.bytes = selection.expected(), int(selection.chosen.sum()), least
        return report

    with work_folder(dest, identity, fingerprint) as work:
        job = parts.Job(source, work, settings.processing(), settings.storage, settings.dedup)
        try:
            names = _process(
                selection, job, dest, settings.max_rejected, if_rejected, workers, report, progress
            )
            kept = selection.keep()
            _write_rejected(dest, source, selection)
            report.content_hash = _assemble(dest, work, names, selection, kept, settings, src, fingerprint)
        except KeyboardInterrupt:
            raise Stopped(f"stopped; what is prepared is kept in {work}: the same command goes on.") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(f"{dest}: no space left; free some, then the same command goes on.") from None
        clean(dest)
    _count(report, selection, kept, settings, dest)
    report.seconds = time.monotonic() - start
    return report


def plan(source: Source, settings: PrepareSettings) -> Selection:
    """Classes and images a preparation with these resolved settings starts from. Raises UserError if there is
    nothing to learn in them.
    """
    classes, labels = source.classes, source.labels
    if settings.merge_file:
        classes, labels = merged_classes(source, read_merge_file(settings.merge_file))
    assert settings.min_images is not None
    selection = Selection(
        labels,
        classes,
        min_images=settings.min_images,
        max_images=settings.max_images,
        top=settings.top_classes,
    )
    if selection.chosen.sum() == 1 and not settings.unconditional:
        raise TooFewClasses(
            f"{source.path} gives one class ({classes[int(np.argmax(selection.chosen))]}); a "
            "class-conditional network "
            "needs two or more. To train without classes add --unconditional."
        )
    return selection


def least_bytes(images: int, settings: PrepareSettings) -> int:
    """Size of a prepared set of so many images, on the low side."""
    assert settings.resolution is not None
    assert settings.channels is not None
    ratio = _LEAST_RATIO.get(settings.storage, _LEAST_JPEG_RATIO)
    return int(images * (settings.resolution**2 * settings.channels * ratio + 1536))


def _process(
    selection: Selection,
    job: parts.Job,
    dest: Path,
    max_rejected: float,
    if_rejected: str,
    workers: int,
    report: PreparedReport,
    shown: bool,
) -> list[str]:
    """Decodes in rounds: all candidates; then, where unusable ones left a class short of its limit, the
    next ones of that class, until every class is full or exhausted. Returns the names of the parts."""
    names: list[str] = []
    began = time.monotonic()
    expected = selection.expected()
    allowed = int(max(max_rejected * expected, min(TOLERATED, expected / 4) if max_rejected else 0))
    rounds = 0

    def finished(name: str, indices: np.ndarray) -> None:
        outcomes = parts.read_part(job.folder / name, len(indices))
        assert outcomes is not None, f"{name} was just written"
        selection.take(names.index(name), indices, outcomes)
        if len(selection.rejected) > allowed:
            _write_rejected(dest, job.source, selection)
            message = _too_many_rejected(job.source, selection, allowed, max_rejected, dest)
            raise UserError(f"{message} Repair or remove them, or {if_rejected}.")

    decoded = 0
    while len(candidates := selection.next_candidates()):
        cuts = [candidates[i : i + parts.PART_IMAGES] for i in range(0, len(candidates), parts.PART_IMAGES)]
        todo = [(f"part-{rounds:03d}-{i:06d}", indices) for i, indices in enumerate(cuts)]
        rounds += 1
        names += [name for name, _ in todo]
        missing = []
        for name, indices in todo:
            if parts.read_part(job.folder / name, len(indices)) is None:
                missing.append((name, indices))
            else:
                finished(name, indices)
                report.resumed += len(indices)
        there = len(candidates) - sum(len(indices) for _, indices in missing)
        bar = Progress("preparing", len(candidates), shown=shown, done=there)
        try:
            parts.make_parts(job, missing, workers=workers, tick=bar.advance, finished=finished)
        finally:
            bar.close()
        decoded += len(candidates) - there
    report.images_per_second = decoded / max(time.monotonic() - began, 1e-9)
    return names


def _too_many_rejected(
    source: Source, selection: Selection, allowed: int, max_rejected: float, dest: Path
) -> str:
    first = sorted(selection.rejected.items())[:5]
    listed = "".join(f"\n         {source.key(index)}: {reason}" for index, reason in first)
    return (
        f"{source.path}: {len(selection.rejected)} of {(selection.part >= 0).sum()} images read so far "
        "cannot be used; "
        f"allowed are {allowed} (a share of {max_rejected:g}, or a few). The first:{listed}\n"
        f"       All of them are listed in {dest / 'rejected.csv'}."
    )


def _write_rejected(dest: Path, source: Source, selection: Selection) -> None:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "reason"])
    rows.writerows((source.key(index), reason) for index, reason in sorted(selection.rejected.items()))
    with written_whole(dest / "rejected.csv") as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))


def _assemble(
    dest: Path,
    work: Path,
    names: list[str],
    selection: Selection,
    kept: Kept,
    settings: PrepareSettings,
    src: str,
    fingerprint: str,
) -> str:
    """Parts → shards, in the shuffled order. Shards that a killed command completed are taken over."""
    assert settings.resolution is not None
    assert settings.channels is not None
    extension = {"raw": "npy", "png": "png", "webp": "webp"}.get(settings.storage, "jpg")
    assert extension in EXTENSIONS
    writer = ShardWriter(dest, resume=True)
    order = shuffled(len(kept.indices))
    for position in range(len(writer.keys), len(order)):
        index = kept.indices[order[position]]
        with open(work / names[selection.part[index]], "rb") as file:
            file.seek(selection.offset[index])
            payload = file.read(selection.size[index])
        writer.add(f"{position:08d}", int(kept.labels[order[position]]), payload, extension)
    return writer.close(
        resolution=(settings.resolution, settings.resolution),
        channels=settings.channels,
        storage=settings.storage,
        class_names=kept.names,
        settings={**settings.identity(), "source_fingerprint": fingerprint},
        source=src,
    )


def _count(
    report: PreparedReport, selection: Selection, kept: Kept, settings: PrepareSettings, dest: Path
) -> None:
    assert settings.resolution is not None
    report.images, report.classes = len(kept.indices), len(kept.names)
    report.rejected, report.too_small = len(selection.rejected), selection.too_small
    report.duplicates, report.duplicates_across_classes = selection.duplicates()
    lost = report.images + report.rejected + report.too_small + report.duplicates
    report.left_out = len(selection.labels) - lost
    report.enlarged = int((selection.short_side[kept.indices] < settings.resolution).sum())
    report.bytes = sum(file.stat().st_size for file in dest.iterdir())


def _finished_already(dest: Path, report: PreparedReport) -> PreparedReport:
    clean(dest)  # an earlier command may have been killed at the very end
    dataset = open_prepared(str(dest), in_memory=False)
    report.already, report.images, report.classes = True, len(dataset), len(dataset.classes)
    report.content_hash = dataset.content_hash
    report.bytes = sum(file.stat().st_size for file in dest.iterdir() if file.is_file())
    return report
