"""From positions to tensors: exactly the images of the order, the same from threads, nothing in /dev/shm."""

import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from numbered_sets import numbered_images, write_prepared

from gansmith.data import feed as feed_module
from gansmith.data.feed import Feed, to_device
from gansmith.data.order import Order, Segment, SetRef, slices
from gansmith.data.shards import Dataset, open_prepared
from gansmith.errors import UserError


def order_of(data: Dataset, seed: int = 0) -> Order:
    return Order(seed, (Segment(0, (SetRef(data.content_hash, len(data)),)),))


@pytest.fixture
def open_set(make_prepared, tmp_path):
    """open_set(n=40, storage="raw", …) → (data set, images, labels), read from disk."""

    def make(*args, **kwargs):
        folder, images, labels = make_prepared(*args, **kwargs)
        return open_prepared(folder, in_memory=False), images, labels

    return make


def feed_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("gansmith-feed")]


# -- what is read


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("storage", ["raw", "png"])
def test_reading_gives_the_images_of_the_order_flipped_where_it_says(open_set, storage, channels):
    data, images, labels = open_set(storage=storage, channels=channels, height=8, width=12)
    order, positions = order_of(data), np.arange(35, 135)
    located = order.locate(positions)
    x, y = Feed(data, order, flip=True, num_classes=4).read(positions)
    expected = images[located.sample]
    expected[located.flip] = expected[located.flip][:, :, ::-1]
    assert 20 < located.flip.sum() < 80
    assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)
    assert np.array_equal(x.numpy(), expected)
    assert np.array_equal(y.numpy(), labels[located.sample])
    plain, _ = Feed(data, order, flip=False, num_classes=4).read(positions)
    assert np.array_equal(plain.numpy(), images[located.sample])


def test_a_random_crop_lies_where_the_order_says_and_reaches_every_edge(open_set):
    data, images, _ = open_set(height=8, width=11)
    order, positions = order_of(data), np.arange(400)
    located = order.locate(positions)
    tops, lefts = (located.crop_y * 3).astype(int), (located.crop_x * 6).astype(int)
    x, _ = Feed(data, order, flip=True, num_classes=4, crop=6).read(positions)
    assert x.shape == (400, 6, 6, 3)
    for n in range(400):
        part = images[located.sample[n], tops[n] : tops[n] + 6, lefts[n] : lefts[n] + 6]
        assert np.array_equal(x[n].numpy(), part[:, ::-1] if located.flip[n] else part)
    assert set(tops.tolist()) == {0, 1, 2}
    assert set(lefts.tolist()) == {0, 1, 2, 3, 4, 5}


def test_labels_may_be_random_and_are_zero_without_classes(open_set):
    data, _, labels = open_set()
    order, positions = order_of(data), np.arange(8_000)
    _, random = Feed(data, order, flip=False, labels="random", num_classes=1000).read(positions)
    assert random.min() >= 0
    assert random.max() < 1000
    assert abs(random.double().mean() - 499.5) < 4 * 1000 / (12 * 8000) ** 0.5
    true = torch.from_numpy(labels[order.locate(positions).sample])
    assert abs(np.corrcoef(true, random)[0, 1]) < 4 / 8000**0.5
    _, again = Feed(data, order, flip=False, labels="random", num_classes=1000).read(positions[100:200])
    assert torch.equal(again, random[100:200])
    _, none = Feed(data, order, flip=False, num_classes=0).read(positions[:10])
    assert none.tolist() == [0] * 10


def test_every_cut_into_ranks_and_micro_batches_gives_the_same_images(open_set):
    data, _, _ = open_set()
    feed = Feed(data, order_of(data), flip=True, num_classes=4)
    whole, whole_labels = feed.read(np.arange(48))
    for micro, world in [(1, 1), (4, 2), (8, 6), (24, 2)]:
        for rank in range(world):
            for positions in slices(0, 48, micro, rank, world):
                x, y = feed.read(positions)
                assert torch.equal(x, whole[positions])
                assert torch.equal(y, whole_labels[positions])


def test_what_is_read_belongs_to_the_reader(open_set):
    data, _, _ = open_set()
    feed = Feed(data, order_of(data), flip=False, num_classes=4)
    first, _ = feed.read(np.arange(40))
    kept = first.clone()
    first.zero_()
    second, _ = feed.read(np.arange(40))
    assert torch.equal(second, kept)


def test_balanced_order_feeds_classes_equally(open_set):
    data, _, _ = open_set(40)
    order = Order(0, order_of(data).segments, balanced=True, labels=data.labels)
    _, y = Feed(data, order, flip=False, num_classes=4).read(np.arange(300))
    assert torch.bincount(y).tolist() == [100, 0, 100, 100]


# -- the stream


@pytest.mark.parametrize("storage", ["raw", "jpeg-90"])
@pytest.mark.parametrize(("workers", "prefetch"), [(1, 0), (1, 1), (3, 2), (8, 5)])
def test_a_stream_gives_what_reading_gives_in_order(open_set, storage, workers, prefetch):
    data, _, _ = open_set(storage=storage)
    feed = Feed(data, order_of(data), flip=True, num_classes=4, workers=workers, prefetch=prefetch)
    batches = [
        np.arange(start, stop) for start, stop in itertools.pairwise([0, 1, 60, 61, 61, 200, 364, 400])
    ]
    streamed = list(feed.stream(batches))
    assert len(streamed) == len(batches)
    for (x, y), batch in zip(streamed, batches, strict=True):
        read_x, read_y = feed.read(batch)
        assert torch.equal(x, read_x)
        assert torch.equal(y, read_y)
    assert not feed_threads()


def test_a_stream_does_not_depend_on_the_timing_of_its_threads(open_set, monkeypatch):
    data, _, _ = open_set()
    feed = Feed(data, order_of(data), flip=True, num_classes=4, workers=6, prefetch=3)
    batches = [np.arange(start, start + 64) for start in range(0, 640, 64)]
    calm = [x for x, _ in feed.stream(batches)]
    image, random = Dataset.image, np.random.default_rng()

    def sluggish(self, index):
        time.sleep(random.random() * 1e-3)
        return image(self, index)

    monkeypatch.setattr(Dataset, "image", sluggish)
    assert all(torch.equal(a, b) for a, (b, _) in zip(calm, feed.stream(batches), strict=True))


def test_a_stream_reads_ahead_only_as_far_as_told(open_set):
    data, _, _ = open_set()
    asked = []

    def positions():
        for step in itertools.count():
            asked.append(step)
            yield np.arange(step * 8, step * 8 + 8)

    stream = Feed(data, order_of(data), flip=False, num_classes=4, prefetch=2).stream(positions())
    next(stream)
    assert len(asked) == 3
    next(stream)
    assert len(asked) == 4
    stream.close()


def count_images(monkeypatch, seconds: float = 0) -> list[int]:
    """The list that will hold every sample read, each of which takes at least these seconds."""
    read, image = [], Dataset.image

    def counted(self, index):
        time.sleep(seconds)
        read.append(index)
        return image(self, index)

    monkeypatch.setattr(Dataset, "image", counted)
    return read


def test_batches_are_made_while_the_consumer_computes(open_set, monkeypatch):
    data, _, _ = open_set()
    read = count_images(monkeypatch)
    stream = Feed(data, order_of(data), flip=False, num_classes=4, workers=4, prefetch=2).stream(
        np.arange(start, start + 64) for start in itertools.count(0, 64)
    )
    next(stream)  # and then ask for nothing
    deadline = time.monotonic() + 30
    while len(read) < 3 * 64 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(read) == 3 * 64
    stream.close()


def test_what_goes_wrong_in_a_thread_is_raised_in_the_consumer(open_set, tmp_path):
    data, _, _ = open_set(storage="png")
    order = order_of(data)
    broken = order.locate(np.arange(16, 24)).sample[3]
    with np.load(tmp_path / "prepared-png" / "index.npz") as index:
        shard, offset = index["shard"][broken], index["offset"][broken]
    with open(tmp_path / "prepared-png" / f"shard-{shard:06d}.tar", "r+b") as file:
        file.seek(offset)
        file.write(bytes(50))
    stream = Feed(data, order, flip=True, num_classes=4, workers=2).stream(
        np.arange(start, start + 8) for start in range(0, 800, 8)
    )
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(UserError, match=f"image {broken:08d} is damaged"):
        next(stream)
    assert not feed_threads()


def test_what_goes_wrong_in_the_positions_is_raised_and_ends_the_threads(open_set):
    data, _, _ = open_set()

    def positions():
        yield np.arange(8)
        raise RuntimeError("no more")

    stream = Feed(data, order_of(data), flip=True, num_classes=4, prefetch=0).stream(positions())
    next(stream)
    with pytest.raises(RuntimeError, match="no more"):
        next(stream)
    assert not feed_threads()


@pytest.mark.parametrize("how", ["close", "drop", "break"])
def test_closing_a_stream_ends_its_threads_and_drops_what_waits(open_set, monkeypatch, how):
    data, _, _ = open_set()
    read = count_images(monkeypatch, seconds=1e-3)
    endless = (np.arange(start, start + 512) for start in itertools.count(0, 512))
    stream = Feed(data, order_of(data), flip=True, num_classes=4, workers=4, prefetch=10).stream(endless)
    next(stream)
    assert feed_threads()
    if how == "close":
        stream.close()
    elif how == "break":
        for _ in stream:
            break
    del stream
    assert not feed_threads()
    assert len(read) < 9 * 512  # of 5,632 or more asked for; each thread finishes 64 at most


# -- what does not belong together


def test_a_feed_refuses_another_set_than_the_orders(open_set):
    data, _, _ = open_set()
    other, _, _ = open_set(name="other", seed=1)
    with pytest.raises(
        UserError, match=r"--data .*other: other images \(40, hash .*\) than the run's stream"
    ):
        Feed(other, order_of(data), flip=False, num_classes=4)


def test_positions_of_an_earlier_set_are_refused(open_set):
    data, _, _ = open_set()
    other, images, _ = open_set(name="other", seed=1)
    order = order_of(data).opened_at(100, [SetRef(other.content_hash, 40)])
    feed = Feed(other, order, flip=False, num_classes=4)
    x, _ = feed.read(np.arange(100, 140))
    assert np.array_equal(x.numpy(), images[order.locate(np.arange(100, 140)).sample])
    with pytest.raises(UserError, match="other images than those of position 99"):
        feed.read(np.arange(99, 110))


def test_a_crop_larger_than_the_images_and_too_few_classes_are_refused(open_set):
    data, _, _ = open_set(height=8, width=12)
    with pytest.raises(UserError, match="crop of 9 pixels does not fit images of 12×8; use 8 or less"):
        Feed(data, order_of(data), flip=False, num_classes=4, crop=9)
    with pytest.raises(UserError, match="has 4 classes, the networks 3; merge classes"):
        Feed(data, order_of(data), flip=False, num_classes=3)
    Feed(data, order_of(data), flip=False, num_classes=3, labels="random")


def test_ranks_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(24)), raising=False)
    assert feed_module.reading_threads() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert feed_module.reading_threads() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert feed_module.reading_threads() == 1


# -- to the device


@pytest.mark.parametrize("channels", [1, 3])
def test_images_reach_the_device_as_floats_between_minus_one_and_one(channels):
    images = torch.randint(0, 256, (5, 8, 6, channels), dtype=torch.uint8)
    images[0, 0, 0, 0], images[0, 0, 1, 0] = 0, 255
    x = to_device(images, "cpu")
    assert x.dtype == torch.float32
    assert x.shape == (5, channels, 8, 6)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert x[0, 0, 0, 0] == -1
    assert x[0, 0, 0, 1] == 1


# -- shared memory

FEED_LARGE_BATCHES = """
import os, sys
import numpy as np
from pathlib import Path
from gansmith.data.feed import Feed
from gansmith.data.order import Order, Segment, SetRef
from gansmith.data.shards import open_prepared

batch = 100_000_000 // (128 * 128 * 3)  # 100 MB of pixels
for folder in sys.argv[2:]:
    data = open_prepared(folder, cache_dir=Path(sys.argv[1]), in_memory=True)
    order = Order(0, (Segment(0, (SetRef(data.content_hash, len(data)),)),))
    feed = Feed(data, order, flip=True, num_classes=4, workers=4)
    for x, y in feed.stream(np.arange(start, start + batch) for start in range(0, 3 * batch, batch)):
        assert len(x) == batch
        mapped = Path("/proc/self/maps").read_text()
        assert "/dev/shm" not in mapped
        opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert "/dev/shm" not in "".join(opened)
print("fed", os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize, os.listdir("/dev/shm"))
"""


@pytest.fixture
def feed_large_batches(tmp_path) -> list[str]:
    """A command that feeds batches of 100 MB from raw and from compressed images kept in memory."""
    images, labels = numbered_images(24, 128, 128), np.arange(24) % 4
    folders = [write_prepared(tmp_path / name, images, labels, name, 10**6) for name in ("raw", "png")]
    return [sys.executable, "-c", FEED_LARGE_BATCHES, str(tmp_path / "cache"), *map(str, folders)]


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="reads /proc, which only Linux has")
def test_feeding_large_batches_touches_no_shared_memory(feed_large_batches):
    done = subprocess.run(feed_large_batches, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("fed ")


def test_batches_larger_than_a_64_mb_dev_shm_are_fed(feed_large_batches):
    """Containers have 64 MB of /dev/shm; larger batches killed BigGAN-PyTorch's workers by bus errors."""
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mount = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    try:
        subprocess.run([*inside, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine does not let us mount a small /dev/shm: {error}")
    done = subprocess.run(
        [*inside, f'{mount} && exec "$@"', "sh", *feed_large_batches], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"fed {64 << 20} []\n"
