"""The leading singular triples of every weight, followed while it is trained, at the price of a few passes.

Block subspace iteration with Rayleigh-Ritz (Halko, Martinsson and Tropp 2011, algorithm 4.4): a few right
vectors per layer are kept from one question to the next, and as weights move little in between, an iteration
or two bring them up to date. Nothing here is part of a network: a block starts from a fixed draw of its own,
and touches neither random state nor weights.

The device only multiplies, reading every weight twice per iteration; the factorisations of a few columns are
done on the host, all layers in one transfer. This module knows no layer and no network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

COUNT = 3  # triples followed
# Vectors beyond them: σᵢ² converges by a factor of (σ_{COUNT+EXTRA}/σᵢ)⁴ per iteration.
EXTRA = 5


@dataclass(frozen=True)
class Triples:
    """σᵢ, uᵢ, vᵢ with Wvᵢ ≈ σᵢuᵢ, largest first. u: (k, rows), sigma: (k,), v: (k, columns), where k is at
    most the smaller side of W (a layer with one output has σ0 only). Where σᵢ is 0, so is one of its vectors.
    """

    u: Tensor
    sigma: Tensor
    v: Tensor


def weights(net: nn.Module) -> list[tuple[str, Tensor]]:
    """Every convolution, linear and embedding weight of a network, by the name of its layer, in order.

    They are the masters, whether spectrally normalised or not, and share their memory.
    """
    return [
        (name.removesuffix(".weight"), parameter.detach())
        for name, parameter in net.named_parameters()
        if parameter.dim() >= 2
    ]


class Spectra:
    """Follows the leading singular triples of weights (rows, …), taken as matrices of rows × everything else.

    weights: (name, tensor); read at every `advance`, so they must stay where they are. From the cold start
    the values are right to 2 % of σ0 (the top of a dense cluster), mostly to 0.1 % and, where the largest
    stand apart, to 0.001 %; with every further iteration they rise towards the true ones.

    blocks: the right vectors that are kept, a tensor per layer, changed in place. warm: whether they have
    been brought up from the cold; to be set where the blocks of an earlier run are put back.
    """

    WARM = 24  # iterations from the cold start

    def __init__(self, weights: Sequence[tuple[str, Tensor]]) -> None:
        self.names = [name for name, _ in weights]
        flat = [weight.flatten(1) for _, weight in weights]
        self._turned = [W.shape[0] > W.shape[1] for W in flat]  # the short side is factorised
        self._matrices = [W.t() if turned else W for W, turned in zip(flat, self._turned)]
        self.blocks = [_start(A, COUNT + EXTRA) for A in self._matrices]
        self.warm = False
        self._bases: list[Tensor] = []
        self._values: list[Tensor] = []

    @torch.no_grad()
    def advance(self, iterations: int = 1) -> None:
        """Brings all triples up to date with the weights; the first call does at least `WARM` iterations.

        A weight that is not finite has values that are not, and leaves its block as it was.
        """
        for _ in range(iterations if self.warm else max(iterations, self.WARM)):
            self._iterate()
        self.warm = True

    def _iterate(self) -> None:
        images = [A @ block.t() for A, block in zip(self._matrices, self.blocks)]
        bases = _back([torch.linalg.qr(image)[0] for image in _on_host(images)], images)
        shadows = [base.t() @ A for base, A in zip(bases, self._matrices)]
        grams = [shadow @ shadow.t() for shadow in shadows]
        turns = _back([_eigenvectors(gram) for gram in _on_host(grams)], grams)
        self._bases = [base @ turn for base, turn in zip(bases, turns)]
        rows = [turn.t() @ shadow for turn, shadow in zip(turns, shadows)]
        # Norms, not roots of eigenvalues: those lose half of the digits of a small value.
        self._values = [torch.linalg.vector_norm(row, dim=1) for row in rows]
        for i, (row, values) in enumerate(zip(rows, self._values)):
            block = torch.where(values > 0, row.t() / values, 0.0).t()
            self.blocks[i].copy_(torch.where(values.isfinite().all(), block, self.blocks[i]))

    def values(self) -> Tensor:
        """σ0, σ1, … of every layer, (layers, COUNT), on the weights' device; 0 beyond a layer's rank."""
        return torch.stack([nn.functional.pad(v[:COUNT], (0, max(COUNT - len(v), 0))) for v in self._values])

    def triples(self) -> dict[str, Triples]:
        """The triples of every layer by name."""
        found = {}
        for name, turned, base, values, block in zip(
            self.names, self._turned, self._bases, self._values, self.blocks
        ):
            left, right = base.t()[:COUNT], block[:COUNT]
            u, v = (right, left) if turned else (left, right)
            found[name] = Triples(u, values[:COUNT], v)
        return found

    @torch.no_grad()
    def residuals(self) -> Tensor:
        """How far the triples are from singular, (layers,): the largest ‖Av − σu‖ of a layer over its σ0.

        Another pass over all weights. Each σ lies that close, relative to σ0, to a singular value.
        """
        worst = []
        for A, base, values, block in zip(self._matrices, self._bases, self._values, self.blocks):
            gap = A @ block[:COUNT].t() - (base * values)[:, :COUNT]
            largest = torch.linalg.vector_norm(gap, dim=0).max()
            worst.append(torch.where(values[0] > 0, largest / values[0], 0.0))
        return torch.stack(worst)


def _start(A: Tensor, size: int) -> Tensor:
    """(size or fewer, columns of A): a fixed draw, whatever the global generators have come to."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(min(size, *A.shape), A.shape[1], generator=generator, dtype=A.dtype, device="cpu")
    return drawn.to(A.device)


def _eigenvectors(gram: Tensor) -> Tensor:
    """Of a symmetric matrix, as columns, largest eigenvalue first."""
    return torch.linalg.eigh(gram.double().nan_to_num(0, 0, 0))[1].flip(1).to(gram.dtype)


def _on_host(tensors: list[Tensor]) -> list[Tensor]:
    """Copies on the CPU, in one transfer."""
    flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors)]


def _back(tensors: list[Tensor], like: list[Tensor]) -> list[Tensor]:
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(like[0].device)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors)]
