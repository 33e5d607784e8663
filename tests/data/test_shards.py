"""The prepared form: bytes anybody can read, any image without parsing, kills survived, damage named."""

import filecmp
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from numbered_sets import finish, numbered_images, write_prepared

from gansmith.data.codecs import check_storage, decode, encode
from gansmith.data.shards import ClassInfo, ShardWriter, is_prepared, open_prepared
from gansmith.errors import UserError

LOSSLESS = ["raw", "png", "webp"]


def assert_same_folder(one: Path, other: Path) -> None:
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in other.iterdir())
    assert filecmp.cmpfiles(one, other, names, shallow=False) == (names, [], [])


# -- reading back


@pytest.mark.parametrize("in_memory", [True, False, "auto"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("storage", LOSSLESS)
def test_every_image_comes_back_as_it_was(make_prepared, tmp_path, storage, channels, in_memory):
    folder, images, labels = make_prepared(storage=storage, channels=channels, height=8, width=12)
    data = open_prepared(folder, cache_dir=tmp_path / "cache", in_memory=in_memory)
    order = np.random.default_rng(0).permutation(40)
    assert np.array_equal(data.read(order), images[order])
    assert np.array_equal(data.read(np.array([7, 7, 0])), images[[7, 7, 0]])
    assert data.read(np.array([], np.int64)).shape == (0, 8, 12, channels)
    assert np.array_equal(data.labels, labels)
    assert data.labels.dtype == np.int64
    assert (len(data), data.resolution, data.channels, data.storage) == (40, (8, 12), channels, storage)
    assert data.settings == {"resize": "lanczos"}


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_comes_back_nearly_as_it_was(make_prepared, tmp_path, channels):
    ramp = np.linspace(0, 255, 16 * 16 * channels).reshape(1, 16, 16, channels).astype(np.uint8)
    folder = write_prepared(tmp_path / "p", ramp, np.array([0]), "jpeg-95")
    found = open_prepared(folder, in_memory=False).read(np.array([0]))
    assert np.abs(found.astype(int) - ramp).max() <= 8  # quality 95 of a smooth image
    with tarfile.open(folder / "shard-000000.tar") as tar:
        assert tar.getnames() == ["00000000.jpg", "00000000.cls"]


def test_classes_have_ids_names_and_counts_empty_ones_included(make_prepared):
    data = open_prepared(make_prepared(40)[0])
    assert data.classes == [
        ClassInfo(0, "class 0", 14),
        ClassInfo(1, "class 1", 0),
        ClassInfo(2, "class 2", 13),
        ClassInfo(3, "class 3", 13),
    ]
    assert data.num_classes == 4


def test_reading_from_many_threads_gives_the_same(make_prepared):
    folder, images, _ = make_prepared(storage="png")
    data, wrong = open_prepared(folder, in_memory=False), []

    def read(seed: int) -> None:
        for _ in range(10):
            order = np.random.default_rng(seed).integers(0, 40, 20)
            wrong.extend([seed] * (not np.array_equal(data.read(order), images[order])))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- the bytes


@pytest.mark.parametrize("storage", LOSSLESS)
def test_shards_are_plain_tars_of_pairs_as_webdataset_wants_them(make_prepared, storage):
    folder, images, labels = make_prepared(storage=storage)
    tars = sorted(folder.glob("*.tar"))
    assert len(tars) > 1
    number = 0
    for path in tars:
        assert path.read_bytes()[257:265] == b"ustar\x0000"  # POSIX, not GNU
        assert path.stat().st_size <= 20_000
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for image, label in zip(members[::2], members[1::2], strict=True):
                assert Path(image.name).stem == Path(label.name).stem == f"{number:08d}"
                assert label.name.endswith(".cls")
                assert int(tar.extractfile(label).read()) == labels[number]
                payload = tar.extractfile(image)
                if storage == "raw":
                    assert np.array_equal(np.load(io.BytesIO(payload.read())), images[number])
                else:
                    assert np.array_equal(decode(payload.read(), (8, 8), 3), images[number])
                number += 1
    assert number == 40


def test_the_index_gives_the_place_of_every_payload(make_prepared):
    folder, images, _ = make_prepared()
    names = [s["name"] for s in json.loads((folder / "dataset.json").read_text())["shards"]]
    with np.load(folder / "index.npz") as index:
        for number in (0, 1, 17, 39):
            place = slice(index["offset"][number], index["offset"][number] + index["size"][number])
            payload = (folder / names[index["shard"][number]]).read_bytes()[place]
            assert payload.startswith(b"\x93NUMPY")
            assert payload[-8 * 8 * 3 :] == images[number].tobytes()
    data = open_prepared(folder)
    assert [data.key(n) for n in (0, 17, 39)] == ["00000000", "00000017", "00000039"]
    assert data.payload(17) == encode(images[17], "raw")[0]


def test_equal_content_gives_equal_bytes(make_prepared):
    assert_same_folder(make_prepared(name="one")[0], make_prepared(name="other")[0])


def test_an_image_larger_than_a_shard_gets_a_shard_of_its_own(make_prepared):
    folder, images, _ = make_prepared(5, shard_bytes=100)
    assert len(list(folder.glob("*.tar"))) == 5
    assert np.array_equal(open_prepared(folder).read(np.arange(5)), images)


def test_the_content_hash_names_images_labels_and_order_and_nothing_else(tmp_path):
    images, labels = numbered_images(20), np.arange(20) % 4

    def hash_of(images, labels, **options) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return open_prepared(write_prepared(folder, images, labels, **options)).content_hash

    original = hash_of(images, labels)
    assert len(original) == 64
    assert hash_of(images, labels, shard_bytes=5_000) == original
    changed = images.copy()
    changed[13, 4, 4, 1] ^= 1
    relabelled = labels.copy()
    relabelled[[0, 1]] = relabelled[[1, 0]]
    others = {
        hash_of(changed, labels),
        hash_of(images, relabelled),
        hash_of(images[::-1], labels[::-1]),
        hash_of(images[:19], labels[:19]),
        hash_of(images, labels, storage="png"),
    }
    assert len(others | {original}) == 6


def test_encoding_refuses_what_it_does_not_know():
    for storage in ("raw", "png", "webp", "jpeg-1", "jpeg-95", "jpeg-100"):
        check_storage(storage)
    for storage in ("jpeg", "jpeg-0", "jpeg-101", "jpeg-9x", "tiff", ""):
        with pytest.raises(UserError, match="choose raw, png, webp or jpeg-Q"):
            check_storage(storage)


# -- writing


def test_a_writer_never_adds_to_a_finished_folder_unasked(make_prepared):
    folder, _, _ = make_prepared()
    with pytest.raises(UserError, match=r"already holds shard-000000\.tar"):
        ShardWriter(folder)


@pytest.mark.parametrize("killed_after", [1, 12, 13, 14, 25, 39, 40])
def test_a_killed_writer_resumes_to_the_same_bytes(make_prepared, tmp_path, killed_after):
    whole, images, labels = make_prepared(name="whole")
    records = [(f"{n:08d}", int(labels[n]), *encode(images[n], "raw")) for n in range(40)]
    killed = ShardWriter(tmp_path / "killed", shard_bytes=20_000)
    for record in records[:killed_after]:
        killed.add(*record)
    assert not is_prepared(tmp_path / "killed")
    with pytest.raises(UserError, match="not a prepared data set"):
        open_prepared(tmp_path / "killed")
    del killed  # what it had not sealed is lost
    resumed = ShardWriter(tmp_path / "killed", shard_bytes=20_000, resume=True)
    kept = len(resumed.keys)
    assert kept <= killed_after
    assert killed_after - kept <= 13  # at most the open shard
    assert resumed.keys == [record[0] for record in records[:kept]]
    for record in records[kept:]:
        resumed.add(*record)
    finish(resumed, images, "raw", 4)
    assert_same_folder(tmp_path / "killed", whole)


def test_a_writer_killed_by_the_system_leaves_a_folder_that_resumes(tmp_path):
    program = (
        "import sys, numpy as np; from pathlib import Path; from gansmith.data.shards import ShardWriter\n"
        "writer = ShardWriter(Path(sys.argv[1]), shard_bytes=20_000)\n"
        "for n in range(10**9): writer.add(f'{n:08d}', 0, bytes(1000), 'npy'); print(n, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if int(line) >= 60:
                process.send_signal(signal.SIGKILL)
                break
    written = len(list(tmp_path.glob("shard-*.tar")))
    assert written >= 3
    writer = ShardWriter(tmp_path, shard_bytes=20_000, resume=True)
    assert writer.keys == [f"{n:08d}" for n in range(len(writer.keys))]
    assert len(writer.keys) >= 7 * written  # 2.5 KB a record, 7 a shard
    assert not list(tmp_path.glob("*.part"))


def test_a_truncated_shard_of_a_killed_writer_is_written_again(make_prepared, tmp_path):
    whole, images, labels = make_prepared(name="whole")
    killed = ShardWriter(tmp_path / "killed", shard_bytes=20_000)
    for n in range(39):
        killed.add(f"{n:08d}", int(labels[n]), *encode(images[n], "raw"))
    del killed
    os.truncate(tmp_path / "killed" / "shard-000001.tar", 3000)
    resumed = ShardWriter(tmp_path / "killed", shard_bytes=20_000, resume=True)
    for n in range(len(resumed.keys), 40):
        resumed.add(f"{n:08d}", int(labels[n]), *encode(images[n], "raw"))
    finish(resumed, images, "raw", 4)
    assert_same_folder(tmp_path / "killed", whole)


# -- opening what is not right


def edit_manifest(folder: Path, **changes) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate_index(folder: Path) -> None:
    os.truncate(folder / "index.npz", 500)


def flip_index(folder: Path) -> None:
    content = bytearray((folder / "index.npz").read_bytes())
    content[300] ^= 0xFF
    (folder / "index.npz").write_bytes(content)


DAMAGES = {
    "truncated shard": (
        lambda f: os.truncate(f / "shard-000001.tar", 5000),
        r"shard-000001\.tar has 5,000 bytes instead of .* copy it again",
    ),
    "missing shard": (lambda f: (f / "shard-000001.tar").unlink(), r"shard-000001\.tar is missing; copy it"),
    "no manifest": (lambda f: (f / "dataset.json").unlink(), "holds no dataset.json.*gansmith data prepare"),
    "half a manifest": (lambda f: os.truncate(f / "dataset.json", 100), r"dataset\.json is damaged"),
    "another program's": (
        lambda f: (f / "dataset.json").write_text('{"labels": [["00000/img00000000.png", 6]]}'),
        r"dataset\.json belongs to another program; type: gansmith data prepare",
    ),
    "a list": (lambda f: (f / "dataset.json").write_text("[1, 2]"), "belongs to another program"),
    "newer": (lambda f: edit_manifest(f, version=2), "format version 2, this gansmith reads 1: update it"),
    "no index": (lambda f: (f / "index.npz").unlink(), r"index\.npz is missing"),
    "half an index": (truncate_index, r"index\.npz is damaged"),
    "flipped index": (flip_index, r"index\.npz is damaged"),
    "other index": (
        lambda f: edit_manifest(f, classes=[{"id": 0, "name": "x", "count": 40}]),
        "belong to different data sets",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_with_the_file_and_the_cure(make_prepared, damage):
    folder = make_prepared()[0]
    harm, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(UserError, match=message):
        open_prepared(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        open_prepared(tmp_path / "nowhere")


def test_is_prepared_knows_its_own(make_prepared, tmp_path):
    folder = make_prepared()[0]
    assert is_prepared(folder)
    assert is_prepared(str(folder) + "/")
    assert is_prepared(f"file://{folder}")
    assert not is_prepared(tmp_path)
    assert not is_prepared(tmp_path / "nowhere")
    (tmp_path / "dataset.json").write_text('{"labels": null}')
    assert not is_prepared(tmp_path)
    assert not is_prepared("nonsense://bucket")


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("damage", ["noise", "other size"])
def test_a_damaged_image_is_named_by_its_key(make_prepared, tmp_path, damage, in_memory):
    folder, _, _ = make_prepared(storage="png")
    with np.load(folder / "index.npz") as index:
        shard, offset, size = index["shard"][17], index["offset"][17], index["size"][17]
    payload = bytes(size) if damage == "noise" else encode(numbered_images(1, 4, 4)[0], "png")[0]
    with open(folder / f"shard-{shard:06d}.tar", "r+b") as file:
        file.seek(offset)
        file.write(payload)
    with pytest.raises(UserError, match=rf"shard-{shard:06d}\.tar: image 00000017 is damaged"):
        open_prepared(folder, cache_dir=tmp_path / "cache", in_memory=in_memory).read(np.arange(40))
    assert not list(tmp_path.glob("cache/decoded/*.u8"))
