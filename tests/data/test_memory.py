"""Sets kept in memory: decoded once for all ranks, only where they fit, never in private copies."""

import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from gansmith.data import memory, shards
from gansmith.data.codecs import decode
from gansmith.data.shards import open_prepared
from gansmith.errors import UserError


def test_compressed_images_are_decoded_once_for_everybody(make_prepared, tmp_path, monkeypatch):
    folder, images, _ = make_prepared(storage="png")
    decoded, count = [], threading.Lock()

    def counted(payload, *shape):
        with count:
            decoded.append(1)
        return decode(payload, *shape)

    monkeypatch.setattr(shards, "decode", counted)
    opened: list[shards.Dataset] = []
    threads = [
        threading.Thread(target=lambda: opened.append(open_prepared(folder, cache_dir=tmp_path / "cache")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    for data in opened:
        assert np.array_equal(data.read(np.arange(40)), images)
        assert not data.image(3).flags.writeable
    assert len(decoded) == 40
    files = list((tmp_path / "cache" / "decoded").glob("[!.]*"))
    assert [file.stat().st_size for file in files] == [images.size]


def test_several_processes_decode_once(make_prepared, tmp_path):
    folder = make_prepared(200, storage="png")[0]
    program = (
        "import sys, numpy as np; from pathlib import Path; from gansmith.data.shards import open_prepared\n"
        "data = open_prepared(sys.argv[1], cache_dir=Path(sys.argv[2]), in_memory=True)\n"
        "file = next(Path(sys.argv[2], 'decoded').glob('*.u8')).stat()\n"
        "print(file.st_ino, file.st_mtime_ns, data.read(np.arange(200)).sum())\n"
    )
    command = [sys.executable, "-c", program, str(folder), str(tmp_path / "cache")]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    answers = {rank.communicate()[0] for rank in ranks}
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert len(answers) == 1


def test_a_decoded_file_cut_short_is_made_again(make_prepared, tmp_path):
    folder, images, _ = make_prepared(storage="png")
    open_prepared(folder, cache_dir=tmp_path / "cache")
    file = next((tmp_path / "cache" / "decoded").glob("*.u8"))
    os.truncate(file, 100)
    data = open_prepared(folder, cache_dir=tmp_path / "cache")
    assert np.array_equal(data.read(np.arange(40)), images)


def test_auto_keeps_a_set_only_if_its_pixels_take_half_of_the_free_memory(
    make_prepared, tmp_path, monkeypatch
):
    folder, images, _ = make_prepared(storage="png")
    for available, kept in [(2 * images.size, 1), (2 * images.size - 2, 0)]:
        monkeypatch.setattr(memory, "available_bytes", lambda available=available: available)
        cache = tmp_path / f"cache-{kept}"
        data = open_prepared(folder, cache_dir=cache)
        assert len(list(cache.glob("decoded/*.u8"))) == kept
        assert np.array_equal(data.read(np.arange(40)), images)


def test_a_full_disk_falls_back_to_decoding_unless_memory_was_demanded(make_prepared, tmp_path, monkeypatch):
    folder, images, _ = make_prepared(storage="png")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    data = open_prepared(folder, cache_dir=tmp_path / "cache")
    assert np.array_equal(data.read(np.arange(40)), images)
    with pytest.raises(UserError, match=r"data\.in_memory=true.*free.*\$GANSMITH_CACHE"):
        open_prepared(folder, cache_dir=tmp_path / "cache", in_memory=True)


def test_raw_sets_need_no_copy_to_be_in_memory(make_prepared, tmp_path):
    folder, images, _ = make_prepared()
    data = open_prepared(folder, cache_dir=tmp_path / "cache", in_memory=True)
    assert not (tmp_path / "cache").exists()
    assert np.array_equal(data.read(np.arange(40)), images)


def test_available_memory_is_less_than_the_machine_has():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.available_bytes() <= total
