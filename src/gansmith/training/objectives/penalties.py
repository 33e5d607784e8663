"""Penalties on D: on its slope at images, on how its logits drift, on what augmentation does to them.

Pure functions of D, images and logits, values per image or means over images, without their weights. They
know no phase and no schedule.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gansmith.models.layers import explicit_attention, full_precision


def squared_slopes(D: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """‖∇ₓ D(x, y)‖² of every image, (N,), exact: its gradient is a double backward.

    With γ/2 before its mean over reals it is R1, over fakes R2 (Mescheder et al. 2018, equation 9).
    """
    return _slopes(D, x, y).square().sum(1)


def estimated_squared_slopes(
    D: nn.Module, x: Tensor, y: Tensor | None, direction: Tensor, epsilon: float
) -> Tensor:
    """((D(x + εn) − D(x))/ε)² of every image, (N,): for n ~ N(0, I) its mean tends to ‖∇ₓ D‖² with ε → 0.

    direction: n, like x. Needs no double backward. The difference of two logits is taken in float32, whatever
    autocast says: bfloat16 has too few digits for it.
    """
    labels = None if y is None else torch.cat([y, y])
    with full_precision(x):
        there, here = D(torch.cat([x + epsilon * direction, x]), labels).chunk(2)
        return ((there - here) / epsilon).square()


def gradient_penalty(D: nn.Module, real: Tensor, fake: Tensor, y: Tensor | None, share: Tensor) -> Tensor:
    """(‖∇ₓ D(x̂, y)‖ − 1)² of every image, (N,), at x̂ = u·real + (1 − u)·fake (Gulrajani et al. 2017,
    equation 3).

    share: u (N,), uniform in [0, 1]. y: the classes of the reals.
    """
    u = share.view(-1, 1, 1, 1)
    between = u * real + (1 - u) * fake
    return (torch.linalg.vector_norm(_slopes(D, between, y), dim=1) - 1).square()


def _slopes(D: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """∇ₓ D(x, y), (N, C·R·R), with a graph. Float32, and past torch.compile, which differentiates once."""
    x = x.detach().requires_grad_(True)
    with full_precision(x), explicit_attention():
        (slopes,) = torch.autograd.grad(D.forward(x, y).sum(), x, create_graph=True)
    return slopes.flatten(1)


def lecam(on_real: Tensor, on_fake: Tensor, usual_real: Tensor, usual_fake: Tensor) -> Tensor:
    """E[relu(D(x) − a_fake)²] + E[relu(a_real − D(G(z)))²], with the moving averages a of D's logits (Tseng
    et al. 2021; the authors' code).
    """
    above_fakes = F.relu(on_real - usual_fake).square().mean()
    below_reals = F.relu(usual_real - on_fake).square().mean()
    return above_fakes + below_reals


def consistency(logits: Tensor, of_transformed: Tensor) -> Tensor:
    """E[(D(x) − D(T(x)))²] for a random transformation T (Zhao et al. 2020, bCR); both sides learn."""
    return (logits - of_transformed).square().mean()
