"""Regularisers of weights: their exact gradients, added once per step after the spectral pull-back."""

import torch
from torch import nn

from gansmith.models.layers import Conv, Linear


@torch.no_grad()
def add_orthogonal_gradient(net: nn.Module, strength: float) -> None:
    """Adds the gradient of β‖(W Wᵀ) ⊙ (1 − I)‖² (BigGAN, section 3.1) to every conv and linear weight's
    gradient.

    W is (out, …) flattened to (out, in). The exact gradient is 4β (W Wᵀ − diag(W Wᵀ)) W; where out > in the
    product is taken the other way round, W (Wᵀ W), so that no out × out matrix is formed. Embeddings and
    frozen layers are exempt.
    """
    for module in net.modules():
        if not isinstance(module, Conv | Linear | nn.Conv2d | nn.Linear) or not module.weight.requires_grad:
            continue
        W = module.weight.flatten(1)
        norms = W.square().sum(1, keepdim=True)
        product = (W @ W.T) @ W if W.shape[0] <= W.shape[1] else W @ (W.T @ W)
        assert module.weight.grad is not None
        module.weight.grad.add_((product - norms * W).view_as(module.weight), alpha=4 * strength)
