"""Clamping the largest singular value of weights after a step (BigGAN, section 4.1).

    W ← W − max(0, σ0 − σ_clamp) · u0 v0ᵀ,    σ_clamp fixed, or r·σ1

The triples are those of `models/singular.py`, one iteration per step; their blocks are saved with the run.
Rank 0 finds them for all: the host's factorisations need not be the same on every node.
"""

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.models.singular import Spectra
from gansmith.training.distributed import World
from gansmith.training.objectives.weights import layer_weights
from gansmith.training.state import Player


class Clamp:
    """Clamps every trained convolution and linear weight of a network, spectrally normalised or not.

    limit: σ_clamp; relative: a multiple of σ1 instead, which leaves out layers with one singular value.
    memory: name → tensor, saved with the run. Raises UserError where no layer is left.
    """

    def __init__(self, player: Player, limit: float, relative: bool, world: World, name: str) -> None:
        self.limit, self.relative, self.world = limit, relative, world
        frozen = {id(tensor) for tensor in player.frozen}
        self.weights = {
            layer: weight.detach()
            for layer, weight in layer_weights(player.net)
            if id(weight) not in frozen and (not relative or min(weight.flatten(1).shape) > 1)
        }
        if not self.weights:
            raise UserError(
                f"{name}: the network has no convolution or linear layer with a weight that learns (torch's "
                "parametrizations compute theirs); leave it out."
            )
        self.spectra = Spectra(list(self.weights.items()))
        self.warm = torch.zeros((), device=world.device)
        blocks = zip(self.weights, self.spectra.blocks)
        self.memory = {f"{name}.{layer}": block for layer, block in blocks} | {f"{name}.warm": self.warm}
        # σ0, σ1, u0, v0 of every layer, one after the other, so that they travel together.
        sizes = [2 + sum(W.flatten(1).shape) for W in self.weights.values()]
        self.found = torch.zeros(sum(sizes), device=world.device)
        self.parts = self.found.split(sizes)

    def restored(self) -> None:
        """Tells that memory may have been put in place; reads whether it was. Once, before the first step."""
        self.spectra.warm = bool(self.warm)

    @torch.no_grad()
    def apply(self) -> Tensor:
        """Clamps all weights. Returns whether any σ0 was above its limit, a bool on the device."""
        if self.world.is_main:
            self.spectra.advance()
            self.warm.fill_(1)
            triples = self.spectra.triples()
            rows = (
                (t.sigma[:2], t.sigma.new_zeros(2 - len(t.sigma[:2])), t.u[0], t.v[0])
                for t in triples.values()
            )
            torch.cat([part for row in rows for part in row], out=self.found)
        self.world.copy_from_main([self.found])
        excesses = []
        for W, part in zip(self.weights.values(), self.parts):
            sigma, u, v = part.split([2, *W.flatten(1).shape])
            excess = (sigma[0] - (self.limit * sigma[1] if self.relative else self.limit)).clamp_min(0)
            W.view(len(W), -1).addr_(excess * u, v, alpha=-1)
            excesses.append(excess)
        return torch.stack(excesses).max() > 0
