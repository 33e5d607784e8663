"""Random numbers as a function of integers: the same key and place give the same number, in any batch.

What a network draws by itself (noise in G, masks in D) must depend neither on the images that share its
forward nor on the global generators, or a batch cut otherwise would be another batch, and one seed no longer
one image. Hashing is integer arithmetic, the same on every device. This module knows no network.
"""

import math

import torch
from torch import Tensor


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


# The finaliser of SplitMix64 (Steele et al. 2014), and its increment; products wrap.
_STEP = _signed(0x9E3779B97F4A7C15)
_FACTORS = ((30, _signed(0xBF58476D1CE4E5B9)), (27, _signed(0x94D049BB133111EB)))


def scramble(x: Tensor) -> Tensor:
    """int64 → int64 whose bits all depend on all bits of x, one to one."""
    x = x + _STEP
    for shift, factor in _FACTORS:
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """x >> by without its sign, by > 0: int64 is all there is."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def of_rows(x: Tensor) -> Tensor:
    """A key for each row of x (N, d), from all of its float32 values, to a millionth: int64 (N,)."""
    whole = (x.float() * 2.0**20).long()
    entries = scramble(whole + scramble(torch.arange(x.shape[1], device=x.device)))
    # Sums of halves fit 53 bits: onnxruntime adds integers as doubles.
    low, high = (entries & 0xFFFFFFFF).sum(1), _shifted(entries, 32).sum(1)
    return scramble(low + scramble(high))


def uniform(keys: Tensor, count: int, place: int | Tensor = 0) -> Tensor:
    """float32 (N, count) in [0, 1) for keys int64 (N,). place: names independent draws of the same keys."""
    return _part(_bits(keys, count, place), 40)


def normal(keys: Tensor, count: int, place: int | Tensor = 0) -> Tensor:
    """float32 (N, count) of N(0, 1), within ±5.9 (Box and Muller 1958); arguments as of `uniform`."""
    bits = _bits(keys, count, place)
    radius = (-2 * (_part(bits, 40) + 2.0**-25).log()).sqrt()
    return radius * (2 * math.pi * _part(bits, 16)).cos()


def _bits(keys: Tensor, count: int, place: int | Tensor) -> Tensor:
    # Places lie so far apart that no layer's numbers reach into the next one's.
    at = torch.arange(count, device=keys.device) + place * (1 << 40)
    return scramble(scramble(keys)[:, None] + scramble(at))


def _part(bits: Tensor, shift: int) -> Tensor:
    """24 of the bits as a float32 in [0, 1)."""
    return (_shifted(bits, shift) & 0xFFFFFF).float() * 2.0**-24
