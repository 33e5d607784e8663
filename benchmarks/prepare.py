"""Images per second and core that preparing reaches for JPEG photographs, against a plain loop.

    python benchmarks/prepare.py
    python benchmarks/prepare.py --resolution 256 --images 300

Makes its own 500×375 JPEGs: noise with the spectrum of photographs, edges, and sensor noise, as large as
ImageNet's. The plain loop does per image what most scripts do: open, decode in full, convert, crop, resize
with Lanczos. "decode" is gansmith's replacement of that loop; "prepare" is the whole command with one worker:
reading, decoding, finding duplicates, raw payloads, part files, shards, index, everything synced to disk. All
run in turns, pinned to one core; the best of the rounds counts, since another program can only slow a round
down.
"""

import argparse
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image

from gansmith.data.images import process
from gansmith.data.prepare import PrepareSettings, prepare

WIDTH, HEIGHT, QUALITY = 500, 375, 92
CLASSES = 10


def photograph(seed: int) -> Image.Image:
    """Noise whose amplitude falls as 1/frequency, a few discs with sharp edges, sensor noise."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None])
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        phase = np.exp(2j * np.pi * random.random(frequency.shape))
        channels.append(np.fft.irfft2(phase / frequency, (HEIGHT, WIDTH)))
    picture = np.stack(channels, -1)
    picture = (0.6 * picture.mean(-1, keepdims=True) + 0.4 * picture) / picture.std() * 45
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for _ in range(6):
        disc = (x - random.integers(WIDTH)) ** 2 + (y - random.integers(HEIGHT)) ** 2 < random.integers(
            10, 120
        ) ** 2
        picture[disc] += random.normal(0, 40, 3)
    picture += random.normal(0, 3, picture.shape)
    return Image.fromarray(np.clip(picture + 128, 0, 255).astype(np.uint8))


def write_photographs(root: Path, count: int) -> list[Path]:
    files = []
    for i in range(count):
        file = root / f"class{i % CLASSES}" / f"{i:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(i).save(file, quality=QUALITY)
        files.append(file)
    return files


def plain(file: Path, resolution: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(file.read_bytes())).convert("RGB")
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    picture = picture.crop((left, top, left + side, top + side))
    return np.asarray(picture.resize((resolution, resolution), Image.Resampling.LANCZOS))


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def draft_against_full_decode(resolution: int) -> list[tuple[str, float, float]]:
    """On scikit-learn's two photographs at 500×333: (name, dB draft to full decode, dB box to Lanczos)."""
    rows = []
    for file in sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg")):
        buffer = io.BytesIO()
        Image.open(file).resize((500, 333), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=QUALITY)
        pixels = np.asarray(Image.open(buffer).convert("RGB"))
        full = process(pixels, resolution=resolution)[0]
        drafted = process(buffer.getvalue(), resolution=resolution)[0]
        box = process(pixels, resolution=resolution, resize="box")[0]
        rows.append((file.name, psnr(full, drafted), psnr(full, box)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    with tempfile.TemporaryDirectory() as folder:
        source, dest = Path(folder) / "photos", Path(folder) / "prepared"
        files = write_photographs(source, arguments.images)
        size = sum(file.stat().st_size for file in files) / len(files)
        settings = PrepareSettings(resolution=arguments.resolution)

        def whole() -> None:
            shutil.rmtree(dest, ignore_errors=True)
            prepare(str(source), dest, settings, workers=1, progress=False)

        rows: dict[str, Callable[[], object]] = {
            "plain loop": lambda: [plain(file, arguments.resolution) for file in files],
            "decode": lambda: [process(f.read_bytes(), resolution=arguments.resolution) for f in files],
            "prepare": whole,
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for _ in range(arguments.rounds):
            for name, work in rows.items():
                times[name].append(seconds(work))

    print(
        f"{len(files)} JPEGs of {WIDTH}×{HEIGHT}, {size / 1e3:.0f} kB each, to {arguments.resolution} px, "
        "raw, one core"
    )
    print(f"{'':<12}{'images/s':>12}{'× plain':>9}{'images/s of':>14}{'× plain':>9}")
    print(f"{'':<12}{'on the wall':>12}{'':>9}{'processor time':>14}")
    best = {name: np.array(values).min(0) for name, values in times.items()}
    for name, (wall, processor) in best.items():
        plain_wall, plain_processor = best["plain loop"]
        print(
            f"{name:<12}{len(files) / wall:>12.0f}{plain_wall / wall:>9.2f}"
            f"{len(files) / processor:>14.0f}{plain_processor / processor:>9.2f}"
        )
    for name, draft, box in draft_against_full_decode(arguments.resolution):
        print(f"{name}: draft against full decode {draft:.1f} dB; box filter against Lanczos {box:.1f} dB")


if __name__ == "__main__":
    main()
