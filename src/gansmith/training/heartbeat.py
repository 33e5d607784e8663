"""Processes that notice when another one is gone, whatever the back end is waiting for.

A killed process breaks gloo's connections at once; NCCL, a machine without power or a stopped process leave
the others waiting in a collective. So every process beats through torchrun's store, watches its neighbour,
and reads whether somebody has already found a loss. Knows nothing of what is computed.
"""

import contextlib
import os
import sys
import threading
import time

import torch.distributed as dist

from gansmith import errors

BEAT = 5.0  # seconds between beats
LIMIT = 40.0  # without one for so long a process is gone
GRACE = 5.0  # for a main thread that is about to end by itself

_REASON = "ended"


class Heartbeat:
    """Beats in a thread of its own from `start` to `stop`. Where a process is lost, says so and exits.

    store: a connection that nobody else uses, as its calls wait for one another.
    """

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(LIMIT)

    def leave(self, reason: str) -> None:
        """Tells the others why this process ends; only the first reason counts. Call it after `stop`."""
        with contextlib.suppress(RuntimeError):  # where the store is gone as well, that says it
            self.store.compare_set(_REASON, "", f"process {self.rank} ended ({reason})")

    def reason(self, patience: float) -> str | None:
        """Why the first process ended, if it could say so within `patience` seconds. Call it after `stop`."""
        deadline = time.monotonic() + patience
        try:
            while not self.store.check([_REASON]):
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.05)
            return self.store.get(_REASON).decode()
        except RuntimeError:
            return None

    def _beat(self) -> None:
        neighbour, count, last, changed = (self.rank + 1) % self.size, 0, "", time.monotonic()
        while True:
            try:
                self.store.set(f"alive/{self.rank}", str(count))
                if self.store.check([_REASON]):
                    return self._end(self.store.get(_REASON).decode())
                if self.store.check([f"alive/{neighbour}"]):
                    beat = self.store.get(f"alive/{neighbour}").decode()
                    if beat != last:
                        last, changed = beat, time.monotonic()
                if time.monotonic() - changed > LIMIT:
                    silent = f"process {neighbour} has given no sign of life for {LIMIT:.0f} seconds"
                    self.store.compare_set(_REASON, "", silent)
                    return self._end(silent)
            except RuntimeError:
                return self._end("the store of torchrun is gone, and the first node with it")
            if self._over.wait(BEAT):
                return None
            count += 1

    def _end(self, reason: str) -> None:
        """Ends this process, unless its main thread does so first: it may be waiting where nothing wakes
        it."""
        if not self._over.wait(GRACE):
            print(f"error: {goodbye(self.rank, self.size, reason)}", file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(errors.EXIT_LOST)


def goodbye(rank: int, size: int, reason: str) -> str:
    """The one line a process ends with when another one is lost."""
    left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    left -= int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    then = (
        f"torchrun starts all of them again (restarts left: {left})"
        if left > 0
        else "type the same command again; with --max-restarts 3 torchrun does so by itself"
    )
    return f"process {rank} of {size} stops: {reason}. The run goes on from its last checkpoint: {then}."
