"""Prepared sets at a URL: whole shards, fetched once, trouble named."""

import sys
import threading

import fsspec
import numpy as np
import pytest

from gansmith.data import remote
from gansmith.data.shards import is_prepared, open_prepared
from gansmith.errors import UserError


@pytest.fixture
def at_url(make_prepared):
    """A prepared set in fsspec's own memory: (url, images)."""
    folder, images, _ = make_prepared()
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(folder), "/bucket/set", recursive=True)
    yield "memory://bucket/set", images
    filesystem.rm("/bucket", recursive=True)


def count_fetches(monkeypatch) -> list[str]:
    fetched, original = [], remote.RemoteFiles._fetch

    def fetch(self, name, num_bytes, target):
        fetched.append(name)
        original(self, name, num_bytes, target)

    monkeypatch.setattr(remote.RemoteFiles, "_fetch", fetch)
    return fetched


def test_shards_at_a_url_are_fetched_whole_when_first_wanted(at_url, tmp_path, monkeypatch):
    url, images = at_url
    fetched = count_fetches(monkeypatch)
    assert is_prepared(url)
    data = open_prepared(url, cache_dir=tmp_path, in_memory=False)
    assert fetched == []
    assert np.array_equal(data.read(np.array([0, 1])), images[:2])
    assert fetched == ["shard-000000.tar"]
    assert np.array_equal(data.read(np.arange(40)), images)
    assert np.array_equal(open_prepared(url, cache_dir=tmp_path).read(np.arange(40)), images)
    assert len(fetched) == len(set(fetched)) == len(data._shards)


def test_ranks_and_threads_fetch_a_shard_once(at_url, tmp_path, monkeypatch):
    url, images = at_url
    fetched, right = count_fetches(monkeypatch), []

    def rank() -> None:
        data = open_prepared(url, cache_dir=tmp_path, in_memory=False)
        right.append(np.array_equal(data.read(np.arange(40)), images))

    threads = [threading.Thread(target=rank) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 5
    assert len(fetched) == len(set(fetched))


def test_another_set_at_the_same_url_is_not_mistaken_for_the_cached_one(at_url, make_prepared, tmp_path):
    url, images = at_url
    assert np.array_equal(open_prepared(url, cache_dir=tmp_path).read(np.arange(40)), images)
    other, other_images, _ = make_prepared(name="other", seed=5)
    filesystem = fsspec.filesystem("memory")
    for file in other.iterdir():
        filesystem.put_file(str(file), f"/bucket/set/{file.name}")
    assert not np.array_equal(other_images, images)
    assert np.array_equal(open_prepared(url, cache_dir=tmp_path).read(np.arange(40)), other_images)


def test_trouble_at_a_url_is_named(at_url, tmp_path, monkeypatch):
    url, _ = at_url
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/bucket/set/shard-000001.tar", b"short")
    with pytest.raises(UserError, match=r"set/shard-000001\.tar has 5 bytes instead of .*upload it again"):
        open_prepared(url, cache_dir=tmp_path, in_memory=False).read(np.arange(40))
    assert not list(tmp_path.glob("remote/*/shard-000001.tar"))
    filesystem.rm_file("/bucket/set/shard-000001.tar")
    with pytest.raises(UserError, match=r"set/shard-000001\.tar is missing; upload it again"):
        open_prepared(url, cache_dir=tmp_path, in_memory=False).read(np.arange(40))
    with pytest.raises(UserError, match=r"memory://bucket/none holds no dataset\.json"):
        open_prepared("memory://bucket/none")
    with pytest.raises(UserError, match=r"nonsense://x.*gansmith\[remote\]"):
        open_prepared("nonsense://x/y")
    monkeypatch.setattr(filesystem.__class__, "cat_file", lambda *a, **k: 1 / 0)
    with pytest.raises(UserError, match=r"dataset\.json cannot be read: division by zero"):
        open_prepared(url)


def test_urls_without_fsspec_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UserError, match=r"pip install 'gansmith\[remote\]'"):
        open_prepared("s3://bucket/set")
