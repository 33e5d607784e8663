"""The moving average of G's weights, by half-life in images.

Only parameters are averaged. Singular vectors are taken from G and converged, statistics re-estimated,
whenever the
average is used: both are functions of the weights, not state.
"""

import torch
from torch import nn

from gansmith.models import spectral


def decay(batch: int, images_seen: int, *, half_life: float, ramp: float | None, start: int) -> float:
    """The average's share kept in a step that showed `batch` images, `images_seen` after it.

    Before `start` it is 0 (the average is a copy of G). With a ramp the half-life is at most `ramp` of the
    images seen, so that early weights are forgotten while they are bad.
    """
    if images_seen <= start:
        return 0.0
    if ramp is not None:
        half_life = min(half_life, ramp * (images_seen - start))
    return 0.5 ** (batch / max(half_life, 1e-8))


@torch.no_grad()
def update(G_ema: nn.Module, G: nn.Module, keep: float) -> None:
    """average ← keep · average + (1 − keep) · G"""
    averaged = [parameter.data for parameter in G_ema.parameters()]
    current = [parameter.data for parameter in G.parameters()]
    if keep == 0.0:
        torch._foreach_copy_(averaged, current)
    else:
        torch._foreach_lerp_(averaged, current, 1.0 - keep)


@torch.no_grad()
def make_usable(G_ema: nn.Module, G: nn.Module) -> None:
    """Gives the average its own converged spectral norm, started from G's singular vectors."""
    vectors = {name: buffer for name, buffer in G.named_buffers() if name.endswith((".u", ".v"))}
    for name, buffer in G_ema.named_buffers():
        if name in vectors:
            buffer.copy_(vectors[name])
    spectral.converge(G_ema)
