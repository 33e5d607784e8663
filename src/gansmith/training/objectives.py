"""Losses and regularisers as small pure functions.

An *objective* maps one micro-batch of a phase to a loss. The hinge loss of BigGAN is one; a user's own is any
function of the same signature, named `module:function` in the configuration (docs/objectives.md).
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from gansmith.errors import UserError
from gansmith.models.layers import Conv, Linear


@dataclass(frozen=True)
class MicroBatch:
    """What a phase sees at once: z (N, dim_z), y (N,); in D phases also real (N, C, R, R) in [-1, 1],
    real_y (N,).
    """

    z: torch.Tensor
    y: torch.Tensor | None
    real: torch.Tensor | None
    real_y: torch.Tensor | None


# (phase "d" | "g", G, D, micro-batch) → mean loss over the micro-batch, and detached scalars worth logging.
Objective = Callable[[str, nn.Module, nn.Module, MicroBatch], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def hinge(
    phase: str, G: nn.Module, D: nn.Module, micro: MicroBatch
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hinge loss (BigGAN, section 3): L_D = E[relu(1 − D(x))] + E[relu(1 + D(G(z)))],  L_G = −E[D(G(z))]."""
    if phase == "g":
        loss = -D(G(micro.z, micro.y), micro.y).mean()
        return loss, {"loss_g": loss.detach()}
    assert micro.real is not None
    # Fakes of a D phase carry no graph: D's gradient does not reach G.
    with torch.no_grad():
        fake = G(micro.z, micro.y)
    labels = None if micro.y is None or micro.real_y is None else torch.cat([micro.real_y, micro.y])
    on_real, on_fake = D(torch.cat([micro.real, fake]), labels).split([len(micro.real), len(fake)])
    loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    return loss, {
        "loss_d": loss.detach(),
        "d_real": on_real.detach().mean(),
        "d_fake": on_fake.detach().mean(),
    }


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


def find(name: str) -> Objective:
    """The objective of that name: `hinge`, or a user's `module:function`. Raises UserError if there is
    none.
    """
    return hinge if name == "hinge" else import_function(name, "loss.objective")


def import_function(name: str, setting: str) -> Callable[..., Any]:
    """Imports a user's `module:function`, looking in the current folder too. Raises UserError."""
    module_name, _, function_name = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise UserError(
            f"{setting} {name!r}: module {module_name} cannot be imported ({type(error).__name__}: {error})."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{setting} {name!r}: {module_name} has no such function; it has {', '.join(names)}.")
    return function
