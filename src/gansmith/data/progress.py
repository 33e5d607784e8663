"""How long work shows itself: a bar with rate and remaining time on a terminal, plain lines in a log."""

import sys
import threading
import time

from tqdm import tqdm

LINE_SECONDS = 15.0


class Progress:
    """Counts images from any thread. On a terminal a bar; elsewhere a line on stderr every 15 seconds."""

    def __init__(self, label: str, total: int, *, shown: bool = True, done: int = 0) -> None:
        self.label, self.total, self.count = label, total, done
        self._lock = threading.Lock()
        self._first, self._start = done, time.monotonic()
        self._last_line = self._start
        self._shown = shown
        self._bar = None
        if shown and sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc=label, unit="img", dynamic_ncols=True, leave=False
            )

    def advance(self, images: int) -> None:
        """More images are done."""
        with self._lock:
            self.count += images
            if self._bar is not None:
                self._bar.update(images)
            elif self._shown and time.monotonic() - self._last_line >= LINE_SECONDS:
                self._last_line = time.monotonic()
                print(self._line(), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()

    def _line(self) -> str:
        rate = (self.count - self._first) / max(time.monotonic() - self._start, 1e-9)
        left = (self.total - self.count) / max(rate, 1e-9)
        return f"{self.label}: {self.count:,} of {self.total:,} images, {rate:,.0f}/s, {duration(left)} left"


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(num_bytes: float) -> str:
    """Bytes for people: 51.4 MB, 1.23 GB."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
