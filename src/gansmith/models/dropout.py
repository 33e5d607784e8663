"""Dropout whose masks are named by keys of images, not drawn from a global generator.

The same image of the same phase has the same mask, however a batch is cut; images that a forward holds beside
each other under one key (a real, the fake of its place, both again, transformed) share it, so that what D
says of them can be compared. Knows no network.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gansmith.models import keyed


class KeyedDropout(nn.Module):
    """Drops entries of h (N, F) with probability p and multiplies the others by 1/(1 − p) (Srivastava et al.
    2014). Outside of `masked` it does nothing.

    A forward of N = k·n images takes the n keys k times; the next one takes other numbers of the same keys.
    """

    calls: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.keys: Tensor | None = None
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        if self.keys is None:
            return h
        keys = self.keys.repeat(len(h) // len(self.keys))
        kept = keyed.uniform(keys, h.shape[1], self.calls) >= self.p
        self.calls.add_(1)
        return h * kept / (1 - self.p)


@contextmanager
def masked(net: nn.Module, keys: Tensor | None) -> Iterator[None]:
    """Inside, dropout of `net` is at work. keys: int64 (n,), of the images of a micro-batch in their order;
    None: it is not.
    """
    layers = [module for module in net.modules() if isinstance(module, KeyedDropout)]
    for layer in layers:
        layer.keys = keys
        layer.calls.zero_()
    try:
        yield
    finally:
        for layer in layers:
            layer.keys = None
