"""What a run says: lines for people, rows for programs, both from the same numbers.

`log.txt` and `metrics.jsonl` are appended to, one JSON object per status or event. A full disk must not
stop training: what cannot be written is said once on the terminal and then left.
"""

import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch

from gansmith.errors import UserError
from gansmith.training.distributed import World

# (column, key of the row, format) of the status line; a key that is missing is left out.
COLUMNS = (
    ("images", "images_seen", "{:,}"),
    ("epoch", "epoch", "{:.2f}"),
    ("step", "step", "{:,}"),
    ("time", "seconds", "clock"),
    ("ETA", "eta_seconds", "clock"),
    ("img/s", "images_per_second", "{:.1f}"),
    ("L_pretrain", "loss_pretrain", "{:.3f}"),
    ("L_D", "loss_d", "{:.3f}"),
    ("L_G", "loss_g", "{:+.3f}"),
    ("D(x)", "d_real", "{:+.2f}"),
    ("D(G)", "d_fake", "{:+.2f}"),
    ("|g_D|", "gradient_norm_d", "{:.2f}"),
    ("|g_G|", "gradient_norm_g", "{:.2f}"),
    ("σ0_G", "sigma0_g", "{:.1f}"),
    ("σ0_D", "sigma0_d", "{:.1f}"),
    ("div", "diversity", "{:.2f}"),
    ("dup", "duplicates", "{:.0%}"),
    ("B_D", "noise_scale_d", "{:,.0f}"),
    ("B_G", "noise_scale_g", "{:,.0f}"),
    ("skipped", "skipped", "{:d}"),
    ("GiB", "peak_gib", "{:.1f}"),
)


class RunLog:
    """Writes to the terminal and, on rank 0 and with a folder, to the run's files."""

    def __init__(self, out: Path | None, world: World, tensorboard: bool = False) -> None:
        self.out = out if world.is_main else None
        self.speaks = world.is_main
        self._broken: set[str] = set()
        self._board = _tensorboard(self.out / "tensorboard") if tensorboard and self.out else None

    def say(self, text: str = "") -> None:
        """A line for people."""
        if self.speaks:
            _print(text, sys.stdout)
            self._append("log.txt", text)

    def warn(self, text: str) -> None:
        """A line that matters, on stderr, and an event."""
        if self.speaks:
            _print(f"warning: {text}", sys.stderr)
            self._append("log.txt", f"warning: {text}")
            self.event("warning", text=text)

    def status(self, row: dict[str, Any]) -> None:
        """One row of numbers: the printed line is made from the logged object."""
        if not self.speaks:
            return
        shown = [f"{name} {show(row[key], how)}" for name, key, how in COLUMNS if row.get(key) is not None]
        self.say("  ".join(shown))
        self.event("status", **row)
        if self._board is not None:
            for key, value in row.items():
                for name, number in value.items() if isinstance(value, dict) else [("", value)]:
                    if number is not None:
                        self._board.add_scalar(f"{key}/{name}" if name else key, number, row["images_seen"])
            self._board.flush()

    def event(self, kind: str, **fields: Any) -> bool:
        """One object for metrics.jsonl; numbers that are not finite become null, as JSON has none. Returns
        whether it was written.
        """
        finite = {key: None if _is_broken(value) else value for key, value in fields.items()}
        return self._append("metrics.jsonl", json.dumps({"type": kind, "time": time.time()} | finite))

    def _append(self, name: str, line: str) -> bool:
        if self.out is None or name in self._broken:
            return False
        try:
            with (self.out / name).open("ab+") as file:
                # A kill may have cut the last line; the next one must not continue it.
                if file.tell() and (file.seek(-1, 2), file.read(1))[1] != b"\n":
                    line = "\n" + line
                file.write(line.encode() + b"\n")
        except OSError as error:
            self._broken.add(name)
            _print(f"warning: {self.out / name} can no longer be written ({error})", sys.stderr)
            return False
        return True


class Averages:
    """Means of detached scalars between two status lines, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.counts: dict[str, torch.Tensor | int] = {}

    def add(self, values: dict[str, torch.Tensor], where: torch.Tensor | None = None) -> None:
        """where: a bool on the device; False leaves these values out."""
        for key, value in values.items():
            value = value.float()
            if where is not None:
                value = torch.where(where, value, 0.0)
            self.sums[key] = self.sums[key] + value if key in self.sums else value
            self.counts[key] = self.counts.get(key, 0) + (1 if where is None else where.long())

    def take(self, world: World) -> dict[str, float]:
        """The means over all ranks since the last call, NaN where all was left out. All ranks must call it
        together."""
        if not self.sums:
            return {}
        keys = sorted(self.sums)
        means = torch.stack([self.sums[key] / self.counts[key] for key in keys]).to(world.device)
        world.sum(means)
        self.sums, self.counts = {}, {}
        return {key: value / world.size for key, value in zip(keys, means.tolist())}


def _print(text: str, stream: TextIO) -> None:
    # A full disk behind the terminal, or no terminal any more, is no reason to stop training.
    with contextlib.suppress(OSError, ValueError):
        print(text, file=stream, flush=True)


def _is_broken(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def show(value: Any, how: str) -> str:
    return clock(value) if how == "clock" else how.format(value)


def clock(seconds: float) -> str:
    """93784 → 1d 02:03; 3723 → 1:02:03; 75 → 1:15"""
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("log.tensorboard needs the extra: pip install gansmith[tensorboard]") from None
    return SummaryWriter(str(folder))
