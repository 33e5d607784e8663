"""Blocks that keep nothing for the backward but their input, and compute the rest again there (Chen et al.
2016).

Costs about one more forward of these blocks and gives the memory of their activations. Gradients are those of
the plain way, bit for bit: BatchNorm takes its statistics from the same images again, over ranks too, in the
same order on each. Knows no network.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gansmith.models.baselines import DoublingBlock, HalvingBlock
from gansmith.models.layers import (
    Attention,
    DeepDiscriminatorBlock,
    DeepGeneratorBlock,
    DiscriminatorBlock,
    GeneratorBlock,
    explicit_attention,
)

BLOCKS = (
    Attention,
    GeneratorBlock,
    DeepGeneratorBlock,
    DoublingBlock,
    DiscriminatorBlock,
    DeepDiscriminatorBlock,
    HalvingBlock,
)


def recompute_from(net: nn.Module, resolution: int) -> int:
    """Makes every block of `net` that reads or writes maps of `resolution` pixels or more recompute itself.

    Returns the number of blocks it watches. Only forwards in train mode that are to be differentiated
    are affected.
    """
    blocks = [module for module in net.modules() if isinstance(module, BLOCKS)]
    for block in blocks:
        block.forward = partial(_recomputed, block, type(block).forward, resolution)  # type: ignore[method-assign]
    return len(blocks)


def _recomputed(block: Any, forward: Callable[..., Tensor], resolution: int, x: Tensor, *more: Any) -> Tensor:
    side = x.shape[-1] * (2 if isinstance(block, GeneratorBlock) or getattr(block, "up", False) else 1)
    if side < resolution or not (block.training and torch.is_grad_enabled()):
        return forward(block, x, *more)
    if Attention.explicit:  # the backward, which calls this again, comes when that has ended
        forward = explicit_attention()(forward)
    return checkpoint(forward, block, x, *more, use_reentrant=False, preserve_rng_state=False)
