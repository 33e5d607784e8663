"""Noise that a generator adds to its maps with strengths it learns (StyleGAN: Karras et al. 2019, section 2).

The noise of an image is named by a key, and the key by its latent: one seed stays one image at any batch
size, and what training draws lies at the positions that its latents lie at. Knows no network.
"""

import torch
from torch import Tensor, nn

from gansmith.models import keyed


class Noise(nn.Module):
    """x (N, C, H, W) + strength (C,) · n, with n ~ N(0, 1) of shape (N, 1, H, W). Strengths start at 0.

    place: which of a network's noise layers it is; each has numbers of its own.
    """

    def __init__(self, channels: int, place: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(channels))
        self.place = place

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        """keys: int64 (N,)."""
        height, width = x.shape[2:]
        noise = keyed.normal(keys, height * width, self.place).view(-1, 1, height, width)
        return torch.addcmul(x, noise.to(x.dtype), self.strength.to(x.dtype).view(1, -1, 1, 1))
