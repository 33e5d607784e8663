"""Asking a run to stop: SIGTERM, SIGINT, or the time limit of --stop-after."""

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gansmith.errors import UserError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class StopRequest:
    """Whether this process was asked to stop. A second signal of the same kind takes its usual effect."""

    def __init__(self, seconds: float | None = None) -> None:
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.signal: signal.Signals | None = None

    def asked(self) -> bool:
        return self.signal is not None or (self.deadline is not None and time.monotonic() >= self.deadline)

    def why(self) -> str:
        return f"by {self.signal.name}" if self.signal else "by the time limit"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes over SIGTERM and SIGINT for as long as it lasts (in a thread: only the time limit counts)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            signal.signal(number, previous[self.signal])

        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in previous:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends what happens inside at once, as Ctrl-C does: with KeyboardInterrupt. For work that has
    nothing to save. Changes nothing in a thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def seconds(text: str, flag: str = "--stop-after") -> float:
    """`90`, `45m`, `2h`, `1d12h` → seconds. Raises UserError, naming the flag."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        raise UserError(f"{flag} {text!r} is no duration; write 90 (seconds), 45m, 2h or 1d12h.")
    return sum(float(number) * _SECONDS[unit or "s"] for number, unit in parts)
