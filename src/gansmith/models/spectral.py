"""Spectral norm as a step-level reparametrisation (Miyato et al. 2018, once per optimizer step).

A spectral layer owns a master weight W and computes with Ŵ = W/σ, where σ = uᵀWv. `refresh` makes every Ŵ of
a network as a leaf tensor; micro-batches accumulate dL/dŴ into it; `pull_back` turns the sums into dL/dW,
exactly, once. A forward pass touches neither u nor v. The order of a training step is therefore

    refresh → forward, backward (any number of times) → pull_back → optimizer step → refresh

and nothing may refresh a network between its forward and its pull_back. Ŵ keeps its storage from one refresh
to the next, so views of flat gradient buckets and compiled graphs stay valid. This module knows no layer and
no network.
"""

import math

import torch
from torch import Tensor, nn


class SpectralLayer(nn.Module):
    """A layer with one weight (rows, …) that may be spectrally normalised.

    sn_eps: smallest norm that a power iteration divides by; None switches spectral norm off for this layer.
    Buffers (saved): u (rows,) and v (everything else,). Not saved: `weight_hat`, the leaf Ŵ, and `sigma`.
    """

    u: Tensor
    v: Tensor
    sigma: Tensor

    def __init__(self, shape: tuple[int, ...], *, bias: bool, sn_eps: float | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.sn_eps = sn_eps
        self.channels_last = False
        self.weight_hat: Tensor | None = None
        self.stale = False
        if sn_eps is not None:
            for name, size in (("u", shape[0]), ("v", math.prod(shape[1:]))):
                self.register_buffer(name, torch.randn(size) / math.sqrt(size))  # of length 1 or nearly
            self.register_buffer("sigma", torch.ones(()), persistent=False)

    @property
    def effective_weight(self) -> Tensor:
        """What the forward multiplies with: Ŵ, or W where there is no spectral norm."""
        if self.sn_eps is None:
            return self.weight
        assert self.weight_hat is not None, "no Ŵ yet: call spectral.refresh(net) before the first forward"
        assert not self.stale, (
            "weights were loaded after Ŵ was made: call spectral.refresh(net, iterations=0)"
        )
        return self.weight_hat

    def drop(self) -> None:
        """Forgets Ŵ and its gradient; the next refresh allocates it anew."""
        self.weight_hat = None

    def _apply(self, fn, recurse=True):
        self.drop()  # moved or cast: a leaf cannot follow in place
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self.stale = True
        super()._load_from_state_dict(*args, **kwargs)

    def _allocate(self) -> None:
        if self.weight_hat is None:
            layout = (
                torch.channels_last
                if self.channels_last and self.weight.dim() == 4
                else torch.contiguous_format
            )
            leaf = torch.empty_like(self.weight, memory_format=layout, requires_grad=False)
            self.weight_hat = leaf.requires_grad_(self.weight.requires_grad)


def spectral_layers(net: nn.Module) -> list[tuple[str, SpectralLayer]]:
    """Every spectrally normalised layer with its name, in registration order."""
    return [(n, m) for n, m in net.named_modules() if isinstance(m, SpectralLayer) and m.sn_eps is not None]


@torch.no_grad()
def refresh(net: nn.Module, iterations: int = 1) -> None:
    """Updates u, v, σ and Ŵ of every spectral layer, in place and without waiting for the device.

    iterations: power iterations v = norm(Wᵀu), u = norm(Wv). 0 takes the stored u and v as they are: that is
    what loading does, and it gives the saved network's Ŵ bit for bit. Runs in the weights' own precision,
    whatever autocast says. A weight that is all zero keeps its u and v and has Ŵ = 0.
    """
    for _, layer in spectral_layers(net):
        _refresh_layer(layer, iterations)


def _refresh_layer(layer: SpectralLayer, iterations: int) -> None:
    layer._allocate()
    layer.stale = False
    if layer.weight.is_meta:
        return
    W = layer.weight.view(layer.weight.shape[0], -1)
    Wv = None
    for _ in range(iterations):
        layer.v.copy_(_normalized(W.t().mv(layer.u), layer.v, layer.sn_eps))
        Wv = W.mv(layer.v)
        layer.u.copy_(_normalized(Wv, layer.u, layer.sn_eps))
    layer.sigma.copy_(torch.dot(layer.u, W.mv(layer.v) if Wv is None else Wv))
    torch.div(layer.weight, _divisor(layer), out=layer.weight_hat)


def _normalized(x: Tensor, before: Tensor, eps: float | None) -> Tensor:
    # F.normalize, but a zero vector gives the vector before: zeros would never come alive again.
    norm = torch.linalg.vector_norm(x)
    return torch.where(norm > 0, x / norm.clamp_min(eps), before)


def _divisor(layer: SpectralLayer) -> Tensor:
    """σ, or 1 where σ is exactly 0 (an all-zero weight stays zero and its gradient passes unchanged)."""
    return torch.where(layer.sigma == 0, torch.ones_like(layer.sigma), layer.sigma)


@torch.no_grad()
def converge(
    net: nn.Module, min_iterations: int = 15, tolerance: float = 1e-3, max_iterations: int = 200
) -> float:
    """Power-iterates every layer from a cold start until (u, σ, v) is a singular triple; then Ŵ is ready.

    The residual is ‖Wᵀu − σv‖/σ, with Wv = σu holding by construction; σ itself is then right to about its
    square. Returns the worst residual of the network (0 for a network without spectral norm).
    """
    worst = 0.0
    for _, layer in spectral_layers(net):
        _refresh_layer(layer, min_iterations)
        done = min_iterations
        while (residual := _residual(layer)) > tolerance and done < max_iterations:
            _refresh_layer(layer, 5)
            done += 5
        worst = max(worst, residual)
    return worst


def _residual(layer: SpectralLayer) -> float:
    W = layer.weight.view(layer.weight.shape[0], -1)
    gap = torch.linalg.vector_norm(W.t().mv(layer.u) - layer.sigma * layer.v)
    return float(gap / _divisor(layer))


@torch.no_grad()
def pull_back(net: nn.Module) -> None:
    """weight.grad = dL/dW from the accumulated weight_hat.grad = dL/dŴ, with u and v held constant:

        dL/dW = (dL/dŴ − ⟨dL/dŴ, Ŵ⟩ · u vᵀ) / σ

    In place where weight.grad is weight_hat.grad's own storage, overwriting weight.grad otherwise. Call it
    exactly once per accumulated step, before any regulariser adds to weight.grad. Layers without gradient are
    left alone.
    """
    for _, layer in spectral_layers(net):
        if layer.weight_hat is None or layer.weight_hat.grad is None:
            continue
        grad, W = layer.weight_hat.grad, layer.weight
        if W.grad is None:
            W.grad = torch.empty_like(W)
        sigma = _divisor(layer)
        # ⟨g, Ŵ⟩ through W = σŴ, which is contiguous like the buckets that gradients usually lie in.
        flat = grad.is_contiguous() and W.is_contiguous()
        along = torch.dot(grad.flatten(), W.flatten()) if flat else torch.sum(grad * W)
        rows = (along / sigma * layer.u).view(-1, *[1] * (W.dim() - 1))
        torch.addcmul(grad, rows, layer.v.view(1, *W.shape[1:]), value=-1, out=W.grad)
        W.grad.div_(sigma)


def effective_parameters(net: nn.Module) -> list[tuple[str, nn.Parameter, Tensor]]:
    """(name, parameter, leaf) of every parameter, in the order of net.named_parameters().

    The leaf is what receives gradients: Ŵ for spectral weights, elsewhere the parameter itself. Needs a
    refresh first.
    """
    leaves = {id(layer.weight): layer.effective_weight for _, layer in spectral_layers(net)}
    return [(name, p, leaves.get(id(p), p)) for name, p in net.named_parameters()]


def set_trainable(net: nn.Module, trainable: bool) -> None:
    """Switches gradients of all parameters and their leaves on or off; gradients to the input are not
    affected.
    """
    for p in net.parameters():
        p.requires_grad_(trainable)
    for _, layer in spectral_layers(net):
        if layer.weight_hat is not None:
            layer.weight_hat.requires_grad_(trainable)


def singular_values(net: nn.Module) -> dict[str, float]:
    """σ0 of every spectral layer by name, as of the last refresh (one transfer from the device)."""
    layers = spectral_layers(net)
    values = torch.stack([layer.sigma.detach() for _, layer in layers]).tolist() if layers else []
    return {name: value for (name, _), value in zip(layers, values)}
