"""The work of a preparation, cut into parts: a few hundred images decoded, resized, encoded into one file.

A part appears under its name complete or not at all, so a killed preparation goes on with the parts that
are missing. Workers are plain child processes that are told a part on stdin and answer on stdout: nothing
is shared but the disk, and a worker whose parent dies meets the end of its pipe.

This room knows one part at a time. It must not know of classes, limits or duplicates.
"""

import contextlib
import hashlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gansmith.data import codecs, images
from gansmith.data.cache import written_whole
from gansmith.data.sources import Source
from gansmith.errors import UserError

PART_IMAGES = 512
TICK_IMAGES = 32  # a worker reports this often
FEW_PARTS = 4  # are done here before other processes have even started
TOO_SMALL = "too small"


@dataclass(frozen=True)
class Job:
    """What every worker needs: where images come from, what becomes of them, where parts go."""

    source: Source
    folder: Path
    processing: dict[str, Any]  # keyword arguments of images.process
    storage: str
    digests: bool  # whether pixels are hashed, to find duplicates


@dataclass(frozen=True)
class Stored:
    """An image in a part: where its payload lies, the hash of its pixels, the shorter side of its
    original.
    """

    offset: int
    size: int
    digest: str
    short_side: int


Outcome = Stored | str  # or the reason it was rejected, TOO_SMALL among them


def make_part(job: Job, name: str, indices: np.ndarray, tick: Callable[[int], None]) -> None:
    """Processes images of the source into the part file of that name."""
    rows: list[Any] = []
    with written_whole(job.folder / name) as file:
        for done, index in enumerate(indices.tolist(), 1):
            try:
                pixels, short_side = images.process(job.source.read(index), **job.processing)
            except images.Rejected as reason:
                rows.append(str(reason))
            except images.TooSmall:
                rows.append(TOO_SMALL)
            else:
                payload, _ = codecs.encode(pixels, job.storage)
                digest = hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest() if job.digests else ""
                rows.append([file.tell(), len(payload), digest, short_side])
                file.write(payload)
            if done % TICK_IMAGES == 0 or done == len(indices):
                tick((done - 1) % TICK_IMAGES + 1)
        table = json.dumps(rows, separators=(",", ":")).encode()
        file.write(table + struct.pack("<Q", len(table)))


def read_part(path: Path, images_expected: int) -> list[Outcome] | None:
    """What became of each image of a part; None if there is no such part, or it belongs to other images."""
    try:
        with open(path, "rb") as file:
            file.seek(-8, os.SEEK_END)
            (size,) = struct.unpack("<Q", file.read(8))
            file.seek(-8 - size, os.SEEK_END)
            rows = json.loads(file.read(size))
    except (OSError, ValueError, struct.error):
        return None
    if len(rows) != images_expected:
        return None
    return [row if isinstance(row, str) else Stored(*row) for row in rows]


def make_parts(
    job: Job,
    parts: Sequence[tuple[str, np.ndarray]],
    *,
    workers: int,
    tick: Callable[[int], None],
    finished: Callable[[str, np.ndarray], None],
) -> None:
    """Makes parts (name, indices) in several processes, or in this one. `finished` is called after each,
    never by two threads at once, and may raise to stop everything; so may a KeyboardInterrupt. Raises
    UserError if a worker dies."""
    if workers == 1 or len(parts) <= FEW_PARTS:
        for name, indices in parts:
            make_part(job, name, indices, tick)
            finished(name, indices)
        return
    pending, lock = iter(parts), threading.Lock()
    processes: list[subprocess.Popen[bytes]] = []

    def serve(process: subprocess.Popen[bytes]) -> None:
        while True:
            with lock:
                part = next(pending, None)
            if part is None:
                return
            for answer in _ask(process, part):
                tick(answer)
            with lock:  # `finished` counts: one part at a time
                finished(*part)

    count = min(workers, len(parts))
    try:
        with ThreadPoolExecutor(count) as threads:
            try:
                processes += [_start_worker(job) for _ in range(count)]
                futures: list[Future[None]] = [threads.submit(serve, process) for process in processes]
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    if future.done():
                        future.result()
            finally:
                with lock:
                    pending = iter(())
                for process in processes:
                    process.kill()  # idle ones at the end, all of them after an error
    finally:
        for process in processes:
            with contextlib.suppress(BrokenPipeError), process:  # closes its pipes and waits
                pass


def _start_worker(job: Job) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-m", "gansmith.data.parts"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # `_ask` reports why the worker ended
        pickle.dump(job, process.stdin)
        process.stdin.flush()
    return process


def _ask(process: subprocess.Popen[bytes], part: tuple[str, np.ndarray]) -> Iterator[int]:
    """Has a worker make a part; yields how many images it has done, again and again."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        pickle.dump(part, process.stdin)
        process.stdin.flush()
    for line in process.stdout:
        answer = json.loads(line)
        if answer == "done":
            return
        if isinstance(answer, str):
            raise UserError(answer)
        yield answer
    code = process.wait()
    raise UserError(
        f"a preparing process ended with code {code} "
        f"({'killed, perhaps out of memory' if code == -9 else 'see above'}) "
        f"in part {part[0]}; what is done is kept: type the same command again, with fewer --workers if "
        "memory is short."
    )


def _worker() -> None:
    """The child process: a job, then parts, on stdin; numbers, then "done", on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers

    def answer(value: int | str) -> None:
        answers.write(json.dumps(value).encode() + b"\n")
        answers.flush()

    with contextlib.suppress(EOFError, BrokenPipeError):
        job = pickle.load(requests)
        while True:
            name, indices = pickle.load(requests)
            try:
                make_part(job, name, indices, answer)
            except UserError as error:
                answer(str(error))
            else:
                answer("done")
    os._exit(0)  # no flushing into a pipe nobody reads


if __name__ == "__main__":
    _worker()
