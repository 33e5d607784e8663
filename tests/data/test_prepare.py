"""Preparing: the images asked for, whatever the workers and interruptions, and errors before work is lost."""

import errno
import hashlib
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import contents, folder, write

from gansmith import open_dataset
from gansmith.data import parts, progress
from gansmith.data.ensure import ensure_prepared
from gansmith.data.images import process
from gansmith.data.prepare import PrepareSettings, prepare
from gansmith.data.shards import open_prepared
from gansmith.data.sources import open_source
from gansmith.errors import UserError

AT_32 = PrepareSettings(resolution=32)


def hashes(root: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.iterdir())}


def test_every_image_arrives_with_its_class(tmp_path):
    root = folder(tmp_path / "src", {"dog": 4, "cat": 3})
    report = prepare(str(root), tmp_path / "out", AT_32, progress=False)
    source = open_source(str(root))
    expected = {
        name: sorted(
            process(source.read(i), resolution=32)[0].tobytes()
            for i in range(7)
            if source.classes[source.labels[i]] == name
        )
        for name in ("cat", "dog")
    }
    assert contents(tmp_path / "out") == expected
    assert (report.images, report.classes, report.rejected, report.duplicates) == (7, 2, 0, 0)
    dataset = open_prepared(tmp_path / "out")
    assert (dataset.resolution, dataset.channels, dataset.storage) == ((32, 32), 3, "raw")
    assert dataset.content_hash == report.content_hash
    assert not (tmp_path / "out" / ".preparing").exists()


@pytest.mark.parametrize(
    ("storage", "channels", "tolerance"), [("png", 3, 0), ("webp", 3, 0), ("webp", 1, 0), ("jpeg-95", 3, 12)]
)
def test_storages_keep_the_pixels(tmp_path, storage, channels, tolerance):
    root = folder(tmp_path / "src", {"a": 2, "b": 2})
    for name, settings in (("raw", "raw"), ("other", storage)):
        wanted = PrepareSettings(resolution=32, storage=settings, channels=channels)
        prepare(str(root), tmp_path / name, wanted, progress=False)
    raw, other = (open_prepared(tmp_path / name).read(np.arange(4)).astype(int) for name in ("raw", "other"))
    assert np.abs(raw - other).max() <= tolerance


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_IMAGES", 8)
    monkeypatch.setattr(parts, "FEW_PARTS", 1)
    root = folder(tmp_path / "src", {"a": 30, "b": 25})
    (root / "a" / "bad.png").write_text("no picture")
    results = []
    for workers in (1, 2, 3):
        prepare(str(root), tmp_path / str(workers), AT_32, workers=workers, progress=False)
        results.append(hashes(tmp_path / str(workers)))
    assert results[0] == results[1] == results[2]


COMMAND = """
import sys
from gansmith.data import parts
from gansmith.data.prepare import PrepareSettings, prepare
parts.PART_IMAGES, parts.FEW_PARTS = 8, 1
print("ready", flush=True)
prepare(sys.argv[1], sys.argv[2], PrepareSettings(resolution=32), workers=int(sys.argv[3]), progress=False)
"""


@pytest.mark.parametrize(("workers", "kills"), [(1, 6), (2, 3)])
def test_killed_at_any_time_the_same_command_goes_on_to_the_same_bytes(tmp_path, workers, kills):
    root = folder(tmp_path / "src", {"a": 80, "b": 80}, suffix=".jpg")

    def start(dest: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", COMMAND, str(root), str(dest), str(workers)]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert started.stdout is not None
        started.stdout.readline()  # ready: from here on there is work to lose
        return started

    whole = start(tmp_path / "whole")
    began = time.monotonic()
    assert whole.wait() == 0
    needed, clock = time.monotonic() - began, random.Random(workers)
    for _ in range(kills):
        victim = start(tmp_path / "killed")
        time.sleep(clock.uniform(0, needed))
        victim.kill()
        victim.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def test_a_resumed_preparation_decodes_only_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_IMAGES", 4)
    root = folder(tmp_path / "src", {"a": 10, "b": 10})
    finished, original = [], parts.make_part

    def stop_after_three(job, name, indices, tick):
        if len(finished) == 3:
            raise KeyboardInterrupt
        original(job, name, indices, tick)
        finished.append(name)

    monkeypatch.setattr(parts, "make_part", stop_after_three)
    with pytest.raises(Exception, match="the same command goes on"):
        prepare(str(root), tmp_path / "out", AT_32, progress=False)
    monkeypatch.setattr(parts, "make_part", original)
    report = prepare(str(root), tmp_path / "out", AT_32, progress=False)
    assert report.resumed == 12
    assert report.images == 20
    again = prepare(str(root), tmp_path / "out", AT_32, progress=False)
    assert again.already
    assert again.content_hash == report.content_hash


def test_a_worker_that_dies_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_IMAGES", 2)
    root = folder(tmp_path / "src", {"a": 10, "b": 10})
    start = parts._start_worker

    def start_and_kill(job):
        process_ = start(job)
        process_.kill()
        return process_

    monkeypatch.setattr(parts, "_start_worker", start_and_kill)
    with pytest.raises(UserError, match=r"ended with code -9.*same command"):
        prepare(str(root), tmp_path / "out", AT_32, workers=2, progress=False)


def test_a_disk_that_fills_up_keeps_what_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_IMAGES", 4)
    root = folder(tmp_path / "src", {"a": 5, "b": 5})
    original = parts.codecs.encode
    written = []

    def full_after_six(pixels, storage):
        if len(written) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(1)
        return original(pixels, storage)

    monkeypatch.setattr(parts.codecs, "encode", full_after_six)
    with pytest.raises(UserError, match="no space left"):
        prepare(str(root), tmp_path / "out", AT_32, progress=False)
    monkeypatch.setattr(parts.codecs, "encode", original)
    report = prepare(str(root), tmp_path / "out", AT_32, progress=False)
    assert (report.images, report.resumed) == (10, 4)


def test_progress_is_plain_lines_in_a_log(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    bar = progress.Progress("preparing", 1000)
    bar.advance(250)
    line = capsys.readouterr().err
    assert re.fullmatch(r"preparing: 250 of 1,000 images, [\d,]+/s, \d+ s left\n", line)
    progress.Progress("preparing", 1000, shown=False).advance(250)
    assert capsys.readouterr().err == ""
    assert [progress.duration(s) for s in (42.4, 185, 7800)] == ["42 s", "3 min 5 s", "2 h 10 min"]


def test_a_changed_source_starts_again(tmp_path, monkeypatch):
    root = folder(tmp_path / "src", {"a": 3, "b": 3})
    (root / "a" / "bad.png").write_text("x")
    strict = PrepareSettings(resolution=32, max_rejected=0)
    with pytest.raises(UserError, match="1 of 7 images"):
        prepare(str(root), tmp_path / "out", strict, progress=False)
    write(root / "a" / "bad.png", 500)
    report = prepare(str(root), tmp_path / "out", strict, progress=False)
    assert (report.images, report.resumed) == (7, 0)
    write(root / "a" / "more.png", 501)
    with pytest.raises(UserError, match="before that changed"):
        prepare(str(root), tmp_path / "out", strict, progress=False)


# --- the cache


def test_ensure_prepared_prepares_once_and_notices_changes(tmp_path, capsys):
    root = folder(tmp_path / "my photos", {"a": 3, "b": 3})
    cache = tmp_path / "cache"
    first = ensure_prepared(str(root), AT_32, cache_dir=cache)
    assert "preparing it once into" in capsys.readouterr().out
    assert first.name.startswith("my-photos-32px-")
    assert ensure_prepared(str(root), AT_32, cache_dir=cache) == first
    assert "was prepared before; using" in capsys.readouterr().out
    assert ensure_prepared(str(first), AT_32, cache_dir=cache) == first  # prepared: itself
    assert ensure_prepared(str(root), PrepareSettings(resolution=16), cache_dir=cache) != first
    write(root / "a" / "new.png", 55)
    changed = ensure_prepared(str(root), AT_32, cache_dir=cache)
    assert changed != first
    assert len(open_prepared(changed)) == 7


def test_ensure_prepared_by_several_processes_prepares_once(tmp_path):
    root = folder(tmp_path / "src", {"a": 20, "b": 20})
    code = (
        "import sys; from pathlib import Path; from gansmith.data.ensure import *;"
        "print(ensure_prepared(sys.argv[1], PrepareSettings(resolution=32), cache_dir=Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process_.communicate()[0] for process_ in running]
    assert sum("preparing it once" in output for output in outputs) == 1
    assert len({output.strip().splitlines()[-1] for output in outputs}) == 1


def test_open_dataset_takes_anything(tmp_path):
    root = folder(tmp_path / "src", {"a": 3, "b": 3})
    dataset = open_dataset(root, resolution=32, crop="top", cache_dir=tmp_path / "cache")
    assert (len(dataset), dataset.resolution, dataset.settings["crop"]) == (6, (32, 32), "top")
    smaller = open_dataset(dataset.path, resolution=16, cache_dir=tmp_path / "cache")
    assert smaller.resolution == (16, 16)
    with pytest.raises(UserError, match="prepared at 32 px, and 64 px are asked for"):
        open_dataset(dataset.path, resolution=64, cache_dir=tmp_path / "cache")
    with pytest.raises(UserError, match="no setting 'crops'; did you mean crop"):
        open_dataset(root, resolution=32, crops="top")
