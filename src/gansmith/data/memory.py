"""What the machine has to give, and keeping a data set in memory: a decoded copy that all processes share.

Memory here is the page cache behind a mapped file: counted once however many ranks read it, given back when
others need it, and independent of /dev/shm (64 MB in a container by default, where BigGAN-PyTorch died of bus
errors).
"""

import mmap
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gansmith.data.cache import locked, written_whole
from gansmith.data.progress import Progress

CHUNK = 256  # images decoded and written together


class NoRoom(Exception):
    """The disk of the cache folder has no room for the decoded images."""


def usable_cpus() -> int:
    """The processors this process is allowed to use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_bytes() -> int:
    """Memory that can be used without swapping: of the machine, or of the container if that is less."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # another kind of machine, or "max": no limit
            continue
    return max(free, 0)


def fits(num_bytes: int) -> bool:
    """Whether that much can be kept: at most half of what is available; networks need the rest."""
    return num_bytes <= available_bytes() // 2


def ask_into_memory(mapped: np.ndarray) -> None:
    """Asks the system to read a mapped file ahead; returns at once."""
    base = mapped.base
    while isinstance(base, memoryview):
        base = base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_WILLNEED"):
        base.madvise(mmap.MADV_WILLNEED)


def decoded_once(
    target: Path, image_bytes: int, num_images: int, read: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The decoded images (num_images, image_bytes), mapped from `target`, which the first to come writes.

    read: indices → images; called from several threads. Raises NoRoom, or OSError if it cannot be written.
    """
    size = image_bytes * num_images
    if not target.exists() or target.stat().st_size != size:
        with locked(target):
            if not target.exists() or target.stat().st_size != size:
                _decode_into(target, num_images, size, read)
    with open(target, "rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    ask_into_memory(mapped)
    return mapped.reshape(num_images, image_bytes)


def _decode_into(target: Path, num_images: int, size: int, read: Callable[[np.ndarray], np.ndarray]) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < size * 1.05:
        raise NoRoom(f"{size / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
    chunks = [np.arange(start, min(start + CHUNK, num_images)) for start in range(0, num_images, CHUNK)]
    workers = os.cpu_count() or 1
    progress = Progress("decoding once", num_images)
    try:
        with written_whole(target) as file, ThreadPoolExecutor(workers) as pool:
            # A few chunks at a time: `map` over all of them would hold the whole set in private memory.
            for first in range(0, len(chunks), 2 * workers):
                for images in pool.map(read, chunks[first : first + 2 * workers]):
                    file.write(images.data)
                    progress.advance(len(images))
    finally:
        progress.close()
