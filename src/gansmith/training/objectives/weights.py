"""Regularisers of weights: their exact gradients, added once per step after the spectral pull-back.

They know no images. What they return is what they penalise, for the log.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gansmith.config import Config
from gansmith.models import spectral
from gansmith.models.layers import Conv, Linear


def add_weight_gradients(net: nn.Module, letter: str, config: Config) -> dict[str, Tensor]:
    """What `penalty.*` asks of the weights of G or D (`letter`: g, d) alone; returns scalars for the log."""
    penalty, scalars = config.penalty, {}
    if letter == "d" and penalty.l2_d is not None:
        scalars["l2_d"] = add_l2_gradient(net, penalty.l2_d)
    strength = penalty.sigma_d if letter == "d" else penalty.sigma_g
    if strength is not None:
        scalars[f"sigma_penalty_{letter}"] = add_sigma_gradient(net, strength, penalty.sigma_target)
    return scalars


@torch.no_grad()
def add_orthogonal_gradient(net: nn.Module, strength: float) -> None:
    """Adds the gradient of β‖(W Wᵀ) ⊙ (1 − I)‖² (BigGAN, section 3.1) to every conv and linear weight's
    gradient.

    W is (out, …) flattened to (out, in). The exact gradient is 4β (W Wᵀ − diag(W Wᵀ)) W; where out > in the
    product is taken the other way round, W (Wᵀ W), so that no out × out matrix is formed. Embeddings and
    frozen layers are exempt.
    """
    for weight in _layer_weights(net):
        W = weight.flatten(1)
        norms = W.square().sum(1, keepdim=True)
        product = (W @ W.T) @ W if W.shape[0] <= W.shape[1] else W @ (W.T @ W)
        assert weight.grad is not None
        weight.grad.add_((product - norms * W).view_as(weight), alpha=4 * strength)


@torch.no_grad()
def add_l2_gradient(net: nn.Module, strength: float) -> Tensor:
    """Adds λW, the gradient of λ/2 ΣW², for every convolution and linear weight; returns ΣW².

    Biases, gains, embeddings and frozen layers are exempt. Unlike decoupled decay it goes through Adam.
    """
    weights = list(_layer_weights(net))
    for weight in weights:
        assert weight.grad is not None
        weight.grad.add_(weight, alpha=strength)
    return torch.stack([weight.square().sum() for weight in weights]).sum()


@torch.no_grad()
def add_sigma_gradient(net: nn.Module, strength: float, target: float) -> Tensor:
    """Adds 2β(σ0 − s)·u vᵀ, the gradient of β Σ (σ0 − s)² over all spectrally normalised layers (BigGAN,
    section 4.1); returns Σ (σ0 − s)².

    σ0 = uᵀWv of the weights as they are, with the u and v of the last refresh; target: s. Frozen layers are
    exempt.
    """
    gaps = []
    for _, layer in spectral.spectral_layers(net):
        if not layer.weight.requires_grad:
            continue
        assert layer.weight.grad is not None
        gap = layer.sigma - target
        left = (2 * strength * gap * layer.u).view(-1, *[1] * (layer.weight.dim() - 1))
        layer.weight.grad.addcmul_(left, layer.v.view(1, *layer.weight.shape[1:]))
        gaps.append(gap)
    return torch.stack(gaps).square().sum()


def _layer_weights(net: nn.Module) -> Iterator[Tensor]:
    """Of every convolution and linear layer that learns."""
    for module in net.modules():
        if isinstance(module, Conv | Linear | nn.Conv2d | nn.Linear) and module.weight.requires_grad:
            yield module.weight
