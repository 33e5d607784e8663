"""Regularisers of weights: their exact gradients, added once per step after the spectral pull-back.

They know no images. What they return is what they penalise, for the log.
"""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, nn

from gansmith.config import Config
from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.layers import Conv, Linear


def check(config: Config, letter: str, net: nn.Module, frozen: Collection[Tensor] = ()) -> None:
    """Raises UserError where a regulariser finds no weight of G or D (`letter`) to act on. frozen: tensors
    that do not learn.
    """
    still = {id(tensor) for tensor in frozen}
    layers = any(id(weight) not in still for _, weight in layer_weights(net))
    normalised = any(id(layer.weight) not in still for _, layer in spectral.spectral_layers(net))
    own = "convolution or linear layer with a weight that learns (torch's parametrizations compute theirs)"
    asked = [
        (f"loss.ortho_{letter}", getattr(config.loss, f"ortho_{letter}") or None, layers, own),
        ("penalty.l2_d", config.penalty.l2_d if letter == "d" else None, layers, own),
        (
            f"penalty.sigma_{letter}",
            getattr(config.penalty, f"sigma_{letter}"),
            normalised,
            "layer with gansmith's spectral norm that learns",
        ),
    ]
    for setting, strength, found, what in asked:
        if strength is not None and not found:
            raise UserError(
                f"{setting}: {letter.upper()} has no {what}, so that this does nothing; leave it out."
            )


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
    for weight in _learning(net):
        W = weight.flatten(1)
        norms = W.square().sum(1, keepdim=True)
        product = (W @ W.T) @ W if W.shape[0] <= W.shape[1] else W @ (W.T @ W)
        assert weight.grad is not None
        weight.grad.add_((product - norms * W).view_as(weight), alpha=4 * strength)


@torch.no_grad()
def add_l2_gradient(net: nn.Module, strength: float) -> Tensor:
    """Adds λW, the gradient of λ/2 ΣW², for every convolution and linear weight; returns ΣW².

    Biases, gains, embeddings and frozen layers are exempt, and weights that are computed. Unlike decoupled
    decay it goes through Adam.
    """
    weights = list(_learning(net))
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


def layer_weights(net: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(layer, weight) of every convolution and linear layer whose weight is a parameter itself, not computed
    from others at every use.
    """
    for name, module in net.named_modules():
        if isinstance(module, Conv | Linear | nn.Conv2d | nn.Linear):
            own = dict(module.named_parameters(recurse=False))
            if "weight" in own:
                yield name, own["weight"]


def _learning(net: nn.Module) -> Iterator[Tensor]:
    return (weight for _, weight in layer_weights(net) if weight.requires_grad)
