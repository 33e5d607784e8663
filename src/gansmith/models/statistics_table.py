"""Standing statistics by truncation: the tables that BigGAN-deep was published with.

Each row holds BatchNorm's means and variances for latents scaled by one truncation. Knows no file format.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StatisticsTable:
    """rows: buffer name (`….stored_mean`, `….stored_var`) → float32 (n, C); row i is for a latent scaled by
    i/(n − 1). hugging_face: interpolate as the program pytorch_pretrained_biggan does, with its two quirks.
    """

    rows: Mapping[str, Tensor]
    hugging_face: bool = False

    def __post_init__(self) -> None:
        counts = {len(values) for values in self.rows.values()}
        if len(counts) != 1 or min(counts) < 2:
            raise ValueError(f"statistics tables need one number of rows, 2 or more, not {sorted(counts)}")

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(next(iter(self.rows.values())))

    def weights(self, truncation: float) -> tuple[int, float]:
        """(i, f): the statistics are (1 − f) · row i + f · row i+1. Raises ValueError outside [0, 1].

        Hugging Face's program gives row i the weight that belongs to row i+1, and knows a row to be hit
        exactly only if floating point does: 0.58 takes row 28, and 0.14 row 8, instead of 29 and 7.
        """
        if not 0 <= truncation <= 1:
            raise ValueError(f"truncation {truncation:g} is outside of the table's range of 0 to 1")
        # 0.4 that went through float32 is meant to be 0.4.
        fraction, whole = math.modf(round(truncation, 6) / (1.0 / (self.size - 1)))
        row = int(whole)
        if self.hugging_face:
            return row, 1 - fraction if fraction else 0.0
        nearest = round(row + fraction)
        if abs(row + fraction - nearest) < 1e-6:
            return nearest, 0.0
        return row, fraction

    def at(self, truncation: float) -> dict[str, Tensor]:
        """Buffer name → statistics (C,) for a truncation in [0, 1]. Raises ValueError outside."""
        row, share = self.weights(truncation)
        if share == 0.0:
            return {name: values[row] for name, values in self.rows.items()}
        return {
            name: values[row] * (1 - share) + values[row + 1] * share for name, values in self.rows.items()
        }

    @torch.no_grad()
    def put(self, net: nn.Module, truncation: float) -> None:
        """Makes a truncation's statistics those of the net. Raises ValueError outside [0, 1]."""
        buffers = dict(net.named_buffers())
        for name, values in self.at(truncation).items():
            buffers[name].copy_(values)
