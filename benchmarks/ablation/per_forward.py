"""Spectral norm as the published code does it, for comparison: a power iteration in every forward pass of D.

`--set model.discriminator=ablation.per_forward:Discriminator`. gansmith's D from the same draws and the same
converged vectors; in training every forward takes one step from the vectors of the forward before it, and
gradients go through σ with the vectors held constant. An accumulated step thus sees as many σ as it has
micro-batches, and G's phases move D's vectors too. G keeps spectral norm per step: its samples need weights
that do not depend on how often it was called.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from gansmith.models import biggan, spectral
from gansmith.models.spectral import SpectralLayer


class Discriminator(nn.Module):
    """Takes the keyword arguments of gansmith's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.net = biggan.Discriminator(**kwargs)
        self.eps = kwargs["sn_eps"]
        layers = spectral.spectral_layers(self.net)
        if not next(self.net.parameters()).is_meta:
            spectral.converge(self.net)
        for _, layer in layers:
            layer.sn_eps = None  # the trainer leaves u, v and the weight alone; all three are saved
            layer.drop()
        self.layers = [name for name, _ in layers]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        weights = {f"{name}.weight": self._normalised(self.net.get_submodule(name)) for name in self.layers}
        return functional_call(self.net, weights, (x, y))

    def _normalised(self, layer: SpectralLayer) -> Tensor:
        W = layer.weight.flatten(1)
        if self.training:
            with torch.no_grad():
                layer.v.copy_(F.normalize(W.t().mv(layer.u), dim=0, eps=self.eps))
                layer.u.copy_(F.normalize(W.mv(layer.v), dim=0, eps=self.eps))
        # Copies: the next forward moves u and v before this one's backward has run.
        return layer.weight / torch.dot(layer.u.clone(), W.mv(layer.v.clone()))
