"""From positions of the stream to tensors: order + data set + threads.

Threads only, never worker processes: copying and Pillow's decoding release the GIL, nothing is pickled, and
nothing passes through /dev/shm, so a larger batch needs no more shared memory. The only room of data/ that
imports torch. It must not know batches of training: it is given positions and answers with what lies there.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from gansmith.data.memory import usable_cpus
from gansmith.data.order import Located, Order
from gansmith.data.shards import Dataset
from gansmith.errors import UserError

SMALLEST_PART, LARGEST_PART = 16, 64  # images worth handing to a thread; what closing may wait for


class Feed:
    """Reads the images and labels at positions of an order.

    flip: mirror images where the order says so. labels: "dataset", or "random" for labels that mean nothing,
    drawn per position. num_classes: of the networks; 0 gives labels 0. crop: None, or the side of a random
    crop. workers: threads of `stream`; "auto" takes what this process can use. prefetch: batches read ahead.
    pinned: into memory that an accelerator copies from by itself.
    Raises UserError where order, data set, classes and crop do not belong together.
    """

    def __init__(
        self,
        dataset: Dataset,
        order: Order,
        *,
        flip: bool,
        labels: Literal["dataset", "random"] = "dataset",
        num_classes: int,
        crop: int | None = None,
        workers: int | Literal["auto"] = "auto",
        prefetch: int = 2,
        pinned: bool = False,
    ) -> None:
        self.dataset, self.order = dataset, order
        self.flip, self.labels, self.num_classes = flip, labels, num_classes
        self.workers = reading_threads() if workers == "auto" else workers
        self.prefetch, self.pinned = prefetch, pinned
        self.size = dataset.resolution if crop is None else (crop, crop)
        # Which segments walk the data set at hand; the others' images are elsewhere.
        self._at_hand = np.array([s.sets[0].content_hash == dataset.content_hash for s in order.segments])
        self._check()

    def _check(self) -> None:
        given, height, width = self.dataset, *self.dataset.resolution
        last = self.order.segments[-1].sets[0]
        if not self._at_hand[-1] or last.size != len(given):
            raise UserError(
                f"--data {given.path}: other images ({len(given):,}, hash {given.content_hash[:9]}) "
                f"than the run's stream is made of ({last.size:,}, hash {last.content_hash[:9]}); "
                f"give the set it was started with."
            )
        if self.size[0] < 1 or self.size[0] > height or self.size[1] > width:
            raise UserError(
                f"data: a random crop of {self.size[0]} pixels does not fit images of {width}×{height}; "
                f"use {min(height, width)} or less, or prepare the data larger."
            )
        if self.labels == "dataset" and 0 < self.num_classes < len(given.classes):
            raise UserError(
                f"--data {given.path} has {len(given.classes)} classes, the networks {self.num_classes}; "
                f"merge classes when preparing, or start networks with {len(given.classes)}."
            )

    def read(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The images, uint8 (N, h, w, c), and labels, int64 (N,), at these positions. Pure; in this
        thread."""
        job = self._job(positions)
        self._fill(job, 0, len(job.images))
        return job.tensors()

    def stream(
        self, positions: Iterable[np.ndarray]
    ) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
        """`read` of each of the position arrays in turn, made ahead of time by background threads.

        The threads end when the iterator does, is closed or dropped. What goes wrong in them is raised here.
        """
        jobs: deque[tuple[_Job, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="gansmith-feed")
        upcoming = iter(positions)
        try:
            while True:
                while len(jobs) <= self.prefetch and (ahead := next(upcoming, None)) is not None:
                    jobs.append(self._submitted(pool, ahead))
                if not jobs:
                    return
                job, parts = jobs.popleft()
                for part in parts:
                    part.result()
                yield job.tensors()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _job(self, positions: np.ndarray) -> "_Job":
        segments = self.order.segment_of(positions)
        if not self._at_hand[segments].all():
            first = int(np.asarray(positions)[~self._at_hand[segments]][0])
            raise UserError(
                f"--data {self.dataset.path} holds other images than those of position {first:,}."
            )
        located = self.order.locate(positions)
        shape = (len(positions), *self.size, self.dataset.channels)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.pinned)
        return _Job(located, pixels, pixels.numpy(), self._labels_of(located))

    def _labels_of(self, located: Located) -> np.ndarray:
        if self.num_classes == 0:
            return np.zeros(len(located.sample), np.int64)
        if self.labels == "random":
            return (located.random_label_bits % np.uint64(self.num_classes)).astype(np.int64)
        return self.dataset.labels[located.sample]

    def _submitted(
        self, pool: ThreadPoolExecutor, positions: np.ndarray
    ) -> tuple["_Job", list[Future[None]]]:
        job = self._job(positions)
        step = min(max(-(-len(positions) // self.workers), SMALLEST_PART), LARGEST_PART)
        starts = range(0, len(positions), step)
        return job, [pool.submit(self._fill, job, start, start + step) for start in starts]

    def _fill(self, job: "_Job", start: int, stop: int) -> None:
        """Reads images start … stop of a job into their place, cropped and flipped on the way."""
        height, width = self.size
        found, part = job.located, slice(start, stop)
        tops = np.floor(found.crop_y[part] * (self.dataset.resolution[0] - height + 1)).astype(int).tolist()
        lefts = np.floor(found.crop_x[part] * (self.dataset.resolution[1] - width + 1)).astype(int).tolist()
        flips = (found.flip[part] & self.flip).tolist()
        samples = found.sample[part].tolist()
        for out, sample, top, left, flip in zip(job.images[part], samples, tops, lefts, flips, strict=True):
            image = self.dataset.image(sample)[top : top + height, left : left + width]
            if not flip:
                out[:] = image
                continue
            for channel in range(
                image.shape[2]
            ):  # whole rows at a time: numpy reverses pixels of 3 bytes slowly
                out[:, :, channel] = image[:, ::-1, channel]


@dataclass(frozen=True)
class _Job:
    """A batch in the making: what belongs into it, and where it is written."""

    located: Located
    pixels: torch.Tensor
    images: np.ndarray  # the same memory
    labels: np.ndarray

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pixels, torch.from_numpy(self.labels)


def to_device(images: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """uint8 (N, h, w, c) => float32 (N, c, h, w) in [−1, 1] with channels-last strides: x / 127.5 − 1."""
    moved = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return moved.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def reading_threads() -> int:
    """How many threads read by default: the processors, shared with the other ranks here; at most 16."""
    return max(1, min(16, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
