"""Arithmetic of a run: the precision chosen for its device, process-wide switches, fp16's loss scale."""

import ctypes
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from gansmith import hardware
from gansmith.errors import UserError


@dataclass(frozen=True)
class Precision:
    """dtype of forward and backward; why it was chosen. Weights, moments, losses and heads are float32
    always.
    """

    dtype: torch.dtype
    reason: str
    device_type: str

    @property
    def name(self) -> str:
        return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[self.dtype]

    def autocast(self) -> AbstractContextManager[Any]:
        """A fresh context for one micro-batch: its cache of cast weights must not outlive a spectral
        refresh.
        """
        return hardware.autocast(self.device_type, self.dtype)


def choose(asked: str, device: torch.device) -> Precision:
    """Resolves `auto | bf16 | fp16 | fp32` for a device. Raises UserError for fp16 on a CPU."""
    if asked == "auto":
        native, why = hardware.native_bf16(device)
        if native:
            return Precision(torch.bfloat16, why, device.type)
        if device.type == "cuda":
            return Precision(torch.float16, f"{why}: fp16 with loss scaling", device.type)
        return Precision(torch.float32, why, device.type)
    if asked == "fp16" and device.type == "cpu":
        raise UserError("train.precision fp16 is for GPUs; on a CPU choose bf16 or fp32.")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[asked]
    return Precision(dtype, "as asked", device.type)


def set_up(*, deterministic: bool, tf32: bool, threads: int | None = None) -> None:
    """Process-wide switches. Call once, before networks are built."""
    hardware.set_tf32(tf32)
    hardware.set_deterministic(deterministic)
    if threads is not None:
        torch.set_num_threads(threads)
    keep_large_blocks()


def keep_large_blocks() -> None:
    """Tells glibc to keep freed memory: activations are as large as the next step's, page faults are not
    free.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, -1)


class LossScale:
    """Dynamic loss scaling for fp16 (doubles after `patience` good steps, halves on a bad one); 1 elsewhere.

    Everything lies on the device and changes there: a step never waits to hear whether it was a good one.
    Whole state, saved in checkpoints: scale, good_steps and the number of skipped steps.
    """

    def __init__(self, enabled: bool, device: torch.device | str = "cpu", patience: int = 2000) -> None:
        self.enabled, self.patience = enabled, patience
        self.scale = torch.tensor(65536.0 if enabled else 1.0, dtype=torch.float32, device=device)
        self.good_steps, self.skipped, self.skipped_in_a_row = torch.zeros(
            3, dtype=torch.int64, device=device
        ).unbind()

    def share(self, count: int) -> torch.Tensor | float:
        """What a micro-batch's mean loss is multiplied by before its backward: scale / count."""
        return self.scale / count if self.enabled else 1.0 / count

    def update(self, finite: torch.Tensor) -> None:
        """Takes note of a step. finite: bool, on the device."""
        bad = ~finite
        self.skipped.add_(bad)
        self.skipped_in_a_row.add_(1).mul_(bad)
        self.good_steps.add_(1).mul_(finite)
        if self.enabled:
            enough = self.good_steps >= self.patience
            self.scale.mul_(torch.where(bad, 0.5, torch.where(enough, 2.0, 1.0))).clamp_min_(1.0)
            self.good_steps.mul_(~enough)

    def state(self) -> dict[str, float]:
        """Plain numbers; waits for the device."""
        return {
            "enabled": self.enabled,
            "scale": float(self.scale),
            "good_steps": int(self.good_steps),
            "skipped": int(self.skipped),
            "skipped_in_a_row": int(self.skipped_in_a_row),
        }

    def restore(self, state: dict[str, float]) -> None:
        """Takes over counters; the scale only where it is in use (the precision may have changed)."""
        self.skipped.fill_(int(state["skipped"]))
        self.skipped_in_a_row.fill_(int(state["skipped_in_a_row"]))
        self.good_steps.fill_(int(state["good_steps"]))
        if self.enabled and state["enabled"]:
            self.scale.fill_(float(state["scale"]))
