"""What preparing leaves out, what it refuses, and the pure functions that decide."""

import csv
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import contents, encoded, folder, noise, write

from gansmith.data import destination, parts
from gansmith.data.images import process
from gansmith.data.prepare import PrepareSettings, prepare
from gansmith.data.selection import Selection, shuffled
from gansmith.data.settings import read_merge_file
from gansmith.data.shards import open_prepared
from gansmith.data.sources import open_source
from gansmith.errors import UserError

AT_32 = PrepareSettings(resolution=32)

# --- what is rejected and left out


def test_damaged_images_are_listed_and_skipped(tmp_path):
    root = folder(tmp_path / "src", {"a": 20, "b": 20})
    (root / "a" / "empty.png").write_bytes(b"")
    (root / "a" / "text.png").write_text("I am a text")
    (root / "b" / "short.jpg").write_bytes(encoded(noise(1, 300, 300), "JPEG")[:900])
    report = prepare(str(root), tmp_path / "out", AT_32, progress=False)
    assert (report.images, report.rejected) == (40, 3)
    rows = list(csv.reader((tmp_path / "out" / "rejected.csv").open()))
    assert rows[0] == ["path", "reason"]
    assert [row[0] for row in rows[1:]] == ["a/empty.png", "a/text.png", "b/short.jpg"]
    assert rows[1][1] == "empty file (0 bytes)"
    assert rows[2][1] == "not an image, or of an unknown format"
    assert "truncated" in rows[3][1]


def test_too_many_damaged_images_are_an_error_naming_the_first(tmp_path):
    root = folder(tmp_path / "src", {"a": 6, "b": 6})
    for i in range(5):
        (root / "a" / f"x{i}.png").write_text("x")
    with pytest.raises(UserError, match=r"5 of 17 .*allowed are 4 .*\n *a/x0.png: not an image") as caught:
        prepare(str(root), tmp_path / "out", PrepareSettings(resolution=32, max_rejected=0.2), progress=False)
    assert "rejected.csv" in str(caught.value)
    assert len((tmp_path / "out" / "rejected.csv").read_text().splitlines()) == 6
    report = prepare(
        str(root), tmp_path / "out", PrepareSettings(resolution=32, max_rejected=1), progress=False
    )
    assert (report.images, report.resumed) == (12, 17)


def test_duplicates_keep_the_first_in_the_sources_order(tmp_path):
    root = folder(tmp_path / "src", {"a": 3, "b": 3})
    shutil.copy(root / "a" / "001.png", root / "b" / "0.png")
    write(root / "a" / "zz.png", 0)  # the picture of a/000.png
    report = prepare(str(root), tmp_path / "out", AT_32, progress=False)
    assert (report.images, report.duplicates, report.duplicates_across_classes) == (6, 2, 1)
    assert [c.count for c in open_prepared(tmp_path / "out").classes] == [3, 3]
    kept = PrepareSettings(resolution=32, dedup=False)
    assert prepare(str(root), tmp_path / "all", kept, progress=False).images == 8


def test_limits_on_images_and_classes(tmp_path):
    root = folder(tmp_path / "src", {"a": 9, "b": 5, "c": 2, "d": 7})
    for name, settings, expected in (
        ("min", {"min_images": 3}, {"a": 9, "b": 5, "d": 7}),
        ("max", {"max_images": 4}, {"a": 4, "b": 4, "c": 2, "d": 4}),
        ("top", {"top_classes": 2}, {"a": 9, "d": 7}),
        ("all", {"top_classes": 3, "max_images": 5, "min_images": 6}, {"a": 5, "d": 5}),
    ):
        if name == "all":  # a limit below the minimum leaves nothing
            with pytest.raises(UserError, match="no image is left"):
                prepare(
                    str(root), tmp_path / name, PrepareSettings(resolution=32, **settings), progress=False
                )
            continue
        prepare(str(root), tmp_path / name, PrepareSettings(resolution=32, **settings), progress=False)
        classes = open_prepared(tmp_path / name).classes
        assert {c.name: c.count for c in classes} == expected
        assert [c.id for c in classes] == list(range(len(expected)))


def test_a_full_class_is_made_of_its_first_usable_images(tmp_path):
    root = folder(tmp_path / "src", {"a": 8, "b": 3})
    (root / "a" / "000.png").write_text("x")
    write(root / "a" / "002.png", 1)  # repeats 001
    write(root / "a" / "003.png", 900, 20, 20)  # too small
    settings = PrepareSettings(resolution=32, max_images=3, min_size=30, max_rejected=0.5)
    report = prepare(str(root), tmp_path / "out", settings, progress=False)
    source = open_source(str(root))
    expected = sorted(process(source.read(i), resolution=32)[0].tobytes() for i in (1, 4, 5))
    assert contents(tmp_path / "out")["a"] == expected
    assert (report.rejected, report.duplicates, report.too_small) == (1, 1, 1)


def test_merged_classes(tmp_path):
    root = folder(tmp_path / "src", {"poodle": 2, "pug": 3, "tabby": 4, "tree": 5})
    yaml_file, csv_file = tmp_path / "m.yaml", tmp_path / "m.csv"
    yaml_file.write_text("dog: [poodle, pug]\ncat: [tabby]\n")
    csv_file.write_text("dog,poodle,pug\ncat,tabby\n")
    assert read_merge_file(str(yaml_file)) == read_merge_file(str(csv_file))
    prepare(
        str(root), tmp_path / "out", PrepareSettings(resolution=32, merge_file=str(yaml_file)), progress=False
    )
    assert {c.name: c.count for c in open_prepared(tmp_path / "out").classes} == {
        "cat": 4,
        "dog": 5,
        "tree": 5,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog: [podle]", "'podle', which .* does not have; did you mean"),
        ("dog: [poodle, poodle]", "poodle more than once"),
        ("dog: poodle", "must be YAML"),
        ("[1", "cannot be read"),
        ("tree: [poodle]", "'tree', which is a class already"),
    ],
)
def test_wrong_merge_files(tmp_path, text, message):
    root = folder(tmp_path / "src", {"poodle": 1, "tree": 1})
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        prepare(
            str(root), tmp_path / "out", PrepareSettings(resolution=32, merge_file=str(tmp_path / "m.yaml"))
        )


def test_ids_that_are_data_keep_their_place(tmp_path):
    for i in range(2):
        write(tmp_path / "src" / f"{i}.png", i)
    (tmp_path / "src" / "labels.csv").write_text("0.png,0\n1.png,3\n")
    prepare(str(tmp_path / "src"), tmp_path / "out", AT_32, progress=False)
    assert [c.count for c in open_prepared(tmp_path / "out").classes] == [1, 0, 0, 1]


def test_one_class_needs_unconditional(tmp_path):
    root = folder(tmp_path / "src", {"only": 3})
    with pytest.raises(UserError, match=r"one class \(only\).*--unconditional"):
        prepare(str(root), tmp_path / "out", AT_32, progress=False)
    prepare(str(root), tmp_path / "out", PrepareSettings(resolution=32, unconditional=True), progress=False)
    assert [c.name for c in open_prepared(tmp_path / "out").classes] == ["all"]


def test_small_images_are_enlarged_and_counted(tmp_path):
    root = folder(tmp_path / "src", {"a": 2, "b": 2})
    assert prepare(str(root), tmp_path / "out", PrepareSettings(resolution=64), progress=False).enlarged == 4


# --- settings and destination


def test_all_wrong_settings_are_reported_together():
    settings = PrepareSettings(
        resolution=2, crop="left", resize="cubic", channels=2, min_size=-1, storage="gif", max_rejected=2
    )
    with pytest.raises(UserError) as caught:
        settings.check()
    for flag in (
        "--resolution",
        "--crop",
        "--resize",
        "--channels",
        "--min-size",
        "--storage",
        "--max-rejected",
    ):
        assert flag in str(caught.value)


def test_resolution_and_channels_come_from_the_source_where_it_fixes_them(tmp_path):
    pytest.importorskip("sklearn")
    source = open_source("builtin:digits")
    settings = PrepareSettings().resolved(source)
    assert (settings.resolution, settings.channels) == (8, 1)
    with pytest.raises(UserError, match="--resolution is needed"):
        PrepareSettings().resolved(open_source(str(folder(tmp_path / "src", {"a": 1, "b": 1}))))


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder where nobody can create files")
def test_a_destination_that_cannot_be_made_is_told_before_its_size(tmp_path):
    root = folder(tmp_path / "src", {"a": 2, "b": 2})
    with pytest.raises(UserError, match="/sys/p cannot be made: /sys is not writable"):
        prepare(str(root), "/sys/p", AT_32, progress=False)


def test_destinations_in_the_way(tmp_path):
    root = folder(tmp_path / "src", {"a": 2, "b": 2})
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    for dest, message in (
        (root / "out", "inside the source"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "full", r"not empty \(it holds thesis.txt"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(str(root), dest, AT_32, progress=False)
    prepare(str(root), tmp_path / "out", AT_32, progress=False)
    with pytest.raises(UserError, match=r"other settings \(resolution: 32 → 64"):
        prepare(str(root), tmp_path / "out", PrepareSettings(resolution=64), progress=False)
    assert (tmp_path / "full" / "thesis.txt").read_text() == "x"


def test_an_unwritable_destination_is_found_first(tmp_path, monkeypatch):
    root = folder(tmp_path / "src", {"a": 1, "b": 1})
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match="not writable"):
        prepare(str(root), tmp_path / "out", AT_32, progress=False)


def test_a_full_disk_is_found_first(tmp_path, monkeypatch):
    root = folder(tmp_path / "src", {"a": 1, "b": 1})
    monkeypatch.setattr(destination.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 5000))
    with pytest.raises(UserError, match=r"and 0\.0 MB are free"):
        prepare(str(root), tmp_path / "out", AT_32, progress=False)
    assert not (tmp_path / "out").exists()


def test_two_preparations_of_one_folder_do_not_mix(tmp_path):
    with (
        destination.work_folder(tmp_path / "out", {}, ""),
        pytest.raises(UserError, match="another gansmith is preparing"),
        destination.work_folder(tmp_path / "out", {}, ""),
    ):
        pass


def test_dry_run_writes_nothing(tmp_path):
    root = folder(tmp_path / "src", {"a": 3, "b": 2})
    report = prepare(str(root), tmp_path / "out", PrepareSettings(resolution=32, max_images=2), dry_run=True)
    assert (report.images, report.classes, report.dry_run) == (4, 2, True)
    assert report.bytes >= 4 * 32 * 32 * 3
    assert not (tmp_path / "out").exists()


def test_finished_parts_are_counted_by_one_thread_at_a_time(tmp_path, monkeypatch):
    def cat(job):
        return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(parts, "_start_worker", cat)
    monkeypatch.setattr(parts, "_ask", lambda process, part: iter(()))
    inside, alone, names = threading.Semaphore(1), [], []

    def finished(name, indices):
        alone.append(inside.acquire(blocking=False))
        time.sleep(0.01)
        names.append(name)
        inside.release()

    job = parts.Job(None, tmp_path, {}, "raw", False)
    todo = [(f"part-{i}", np.array([i])) for i in range(12)]
    parts.make_parts(job, todo, workers=4, tick=lambda images: None, finished=finished)
    assert sorted(names) == sorted(name for name, _ in todo)
    assert all(alone)


# --- pure parts


@pytest.mark.parametrize("count", [0, 1, 2, 100, 5000])
def test_the_shuffle_is_a_permutation(count):
    assert sorted(shuffled(count).tolist()) == list(range(count))


def test_the_shuffle_never_changes():
    """Prepared sets made by different versions must agree: these are the values of the first release."""
    assert shuffled(8).tolist() == [2, 4, 6, 5, 1, 7, 0, 3]


def test_candidates_refill_classes_that_lost_images():
    selection = Selection(np.array([0, 0, 0, 0, 1, 1]), ["a", "b"], min_images=1, max_images=2, top=None)
    assert selection.next_candidates().tolist() == [0, 1, 4, 5]
    stored = [parts.Stored(0, 1, f"{i}", 9) for i in range(3)]
    selection.take(0, np.array([0, 1, 4, 5]), ["damaged", stored[0], stored[1], stored[2]])
    assert selection.next_candidates().tolist() == [2]
    selection.take(1, np.array([2]), [stored[1]])  # an earlier copy of image 4: class b loses one
    assert selection.duplicates() == (1, 1)
    assert selection.next_candidates().tolist() == []
    assert selection.keep().indices.tolist() == [1, 2, 5]
