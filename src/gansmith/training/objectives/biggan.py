"""The plain step of BigGAN: hinge loss and nothing else. What a run does when nothing more is asked for."""

import torch
import torch.nn.functional as F
from torch import nn

from gansmith.training.objectives.base import MicroBatch


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
