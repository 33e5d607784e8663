"""The gradients of one network as one flat buffer: zeroed, summed over ranks, checked and measured in one
kernel.

Spectral-norm layers accumulate dL/dŴ; `finish` turns the sums into weight gradients (training notes,
section 2).
"""

import warnings

import torch
from torch import nn

from gansmith.models import spectral
from gansmith.training.distributed import World
from gansmith.training.precision import LossScale
from gansmith.training.profiling import Mark, unmarked

# Ŵ may be channels_last while the buffer, like the master weights, is contiguous. Autograd then adds with a
# strided read and warns that it does; the alternative is a second buffer of the size of the network.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")


class FlatGradients:
    """Makes every gradient of `net` a view of one flat float32 buffer.

    Views are given to the tensor that autograd reaches (Ŵ, or a plain parameter) and to the parameter the
    optimizer steps, so nothing is copied between accumulation, reduction, pull-back and step.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.mark: Mark = unmarked  # told where time goes, when a step is profiled
        entries = spectral.effective_parameters(net)
        total = sum(leaf.numel() for _, _, leaf in entries)
        self.flat = torch.zeros(total, device=entries[0][2].device, dtype=entries[0][2].dtype)
        offset = 0
        for _, parameter, leaf in entries:
            view = self.flat[offset : offset + leaf.numel()].view(leaf.shape)
            leaf.grad = parameter.grad = view
            offset += leaf.numel()

    def zero(self) -> None:
        self.flat.zero_()

    def finish(self, world: World, scale: LossScale) -> None:
        """Sums over ranks, undoes the loss scale, and pulls dL/dŴ back to dL/dW."""
        self.mark("reduction")
        world.sum(self.flat)
        if scale.enabled:
            self.flat.div_(scale.scale)
        self.mark("spectral norm")
        spectral.pull_back(self.net)

    def norm(self) -> torch.Tensor:
        """Global norm, on the device; not finite exactly when some gradient on some rank was not (the sum
        carries it)."""
        return torch.linalg.vector_norm(self.flat)
