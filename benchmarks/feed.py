"""Images per second that one core feeds, by storage, with and without flips, against a plain loop over files.

    python benchmarks/feed.py
    python benchmarks/feed.py --resolution 256 --images 1000 --batch 64

The plain loop does per image what a PyTorch `Dataset` with the default collation does: open a file, decode,
flip, make a tensor; then stack. Feed and loop read the same images in the same random order, in turns, pinned
to one core, one thread of torch. Seconds are the processor's, of all threads together, so that what other
programs take does not enter; the best of the rounds counts. Everything is in the page cache. Images are noise
with the spectrum of photographs.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gansmith.data.codecs import encode
from gansmith.data.feed import Feed
from gansmith.data.order import Order, Segment, SetRef
from gansmith.data.shards import Dataset, ShardWriter, open_prepared

CLASSES = 10
# name of the row → storage, whether decoded images are kept in memory
ROWS = {
    "raw": ("raw", False),
    "png": ("png", False),
    "jpeg-95": ("jpeg-95", False),
    "png, in memory": ("png", True),
    "jpeg-95, in memory": ("jpeg-95", True),
}


def photograph_like(random: np.random.Generator, side: int) -> np.ndarray:
    """uint8 (side, side, 3): noise whose amplitude falls as 1/frequency, equal in part between the
    channels."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    spectrum = np.fft.rfft2(random.standard_normal((4, side, side))) / np.maximum(frequency, 1 / side)
    planes = np.fft.irfft2(spectrum, s=(side, side))
    planes = planes[:3] + 2 * planes[3]
    return np.clip(128 + 50 * planes / planes.std(), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def write_sets(folder: Path, images: int, side: int) -> None:
    """The same images as prepared sets and as loose files, in every storage."""
    random = np.random.default_rng(0)
    different = [photograph_like(random, side) for _ in range(min(images, 256))]
    for storage in sorted({storage for storage, _ in ROWS.values()}):
        writer = ShardWriter(folder / storage)
        (folder / f"{storage}-files").mkdir()
        encoded = [encode(image, storage) for image in different]
        for number in range(images):
            payload, extension = encoded[number % len(encoded)]
            writer.add(f"{number:08d}", number % CLASSES, payload, extension)
            (folder / f"{storage}-files" / f"{number:08d}.{extension}").write_bytes(payload)
        writer.close(
            resolution=(side, side),
            channels=3,
            storage=storage,
            class_names=[str(label) for label in range(CLASSES)],
            settings={},
            source="made by benchmarks/feed.py",
        )


def plain_batch(files: list[Path], order: Order, flip: bool, positions: np.ndarray) -> torch.Tensor:
    """A batch as a map-style data set makes it: a file, an array and a tensor per image."""
    located = order.locate(positions)
    tensors = []
    for sample, mirrored in zip(located.sample, located.flip):
        file = files[sample]
        image = np.load(file) if file.suffix == ".npy" else np.asarray(Image.open(file).convert("RGB"))
        tensors.append(torch.from_numpy((image[:, ::-1] if flip and mirrored else image).copy()))
    return torch.stack(tensors)


def images_per_second(
    make: Callable[[list[np.ndarray]], int], start: int, batch: int, seconds: float
) -> float:
    """Calls `make` on four batches at a time until the time is over."""
    done, begun = 0, time.process_time()
    while (passed := time.process_time() - begun) < seconds:
        at = start + done
        done += make([np.arange(at + step * batch, at + (step + 1) * batch) for step in range(4)])
    return done / passed


def measure(data: Dataset, files: list[Path], flip: bool, args: argparse.Namespace) -> list[float]:
    """Best images/s of the plain loop, of `Feed.read` and of `Feed.stream` with one background thread."""
    order = Order(0, (Segment(0, (SetRef(data.content_hash, len(data)),)),))
    feed = Feed(data, order, flip=flip, num_classes=CLASSES, workers=1)
    ways = [
        lambda many: sum(len(plain_batch(files, order, flip, positions)) for positions in many),
        lambda many: sum(len(feed.read(positions)[0]) for positions in many),
        lambda many: sum(len(images) for images, _ in feed.stream(many)),
    ]
    expected = plain_batch(files, order, flip, np.arange(args.batch))
    assert torch.equal(feed.read(np.arange(args.batch))[0], expected), "loop and feed differ"
    best = [0.0] * len(ways)
    for turn in range(args.rounds):
        for number, way in enumerate(ways):
            rate = images_per_second(way, turn * 10_000, args.batch, args.seconds)
            best[number] = max(best[number], rate)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=128, help="side of the images (default 128)")
    parser.add_argument("--images", type=int, default=4000, help="size of each set (default 4000)")
    parser.add_argument("--batch", type=int, default=64, help="images read together (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="turns each way gets (default 5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a turn (default 0.5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{args.images} images of {args.resolution} px, batches of {args.batch}; images per CPU second")
    titles = f"{'plain loop':>12}{'Feed.read':>12}{'Feed.stream':>13}{'read ÷ loop':>13}"
    print(f"{'storage':<20}{'flips':<8}{titles}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_sets(folder, args.images, args.resolution)
        for row, (storage, in_memory) in ROWS.items():
            data = open_prepared(folder / storage, cache_dir=folder / "cache", in_memory=in_memory)
            files = sorted((folder / f"{storage}-files").iterdir())
            for flip in (False, True):
                plain, read, stream = measure(data, files, flip, args)
                flips = "yes" if flip else "no"
                print(
                    f"{row:<20}{flips:<8}{plain:>12,.0f}{read:>12,.0f}{stream:>13,.0f}{read / plain:>13.1f}"
                )


if __name__ == "__main__":
    main()
