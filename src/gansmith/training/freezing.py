"""Freeze-D (Mo et al. 2020): lower blocks of D keep the weights they came with.

Frozen parameters get no gradient, no optimizer state and no regulariser; everything above them, and gradients
to the image, are as ever.
"""

from collections.abc import Set
from typing import Any

from torch import Tensor, nn

from gansmith.errors import UserError
from gansmith.models import spectral


def names(D: Any, freeze: int | tuple[str, ...]) -> set[str]:
    """Parameters of D that init.freeze_d names: blocks counted from the image, or layers by their names.

    Raises UserError for more blocks than there are, for unknown layers, and where nothing would be left.
    """
    parameters = [name for name, _ in D.named_parameters()]
    if isinstance(freeze, int):
        blocks = len(D.blocks) if isinstance(getattr(D, "blocks", None), nn.ModuleList) else 0
        if freeze > blocks:
            raise UserError(
                f"init.freeze_d {freeze}: D has {blocks} blocks; give 0 to {blocks}, or names of layers."
            )
        wanted = [f"blocks.{i}" for i in range(freeze)] + (["input_conv"] if freeze else [])
    else:
        wanted = list(freeze)
        unknown = [w for w in wanted if not any(_within(name, w) for name in parameters)]
        if unknown:
            tops = dict.fromkeys(
                ".".join(name.split(".")[: 2 if name.startswith("blocks.") else 1]) for name in parameters
            )
            raise UserError(f"init.freeze_d: D has no layer {unknown[0]!r}; it has {', '.join(tops)}.")
    frozen = {name for name in parameters if any(_within(name, w) for w in wanted)}
    if len(frozen) == len(parameters):
        raise UserError("init.freeze_d freezes all of D, which then learns nothing; leave some of it out.")
    return frozen


def _within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def tensors(D: nn.Module, frozen: Set[str]) -> tuple[Tensor, ...]:
    """What must not ask for gradients: the frozen parameters and their Ŵ. Needs a refreshed D."""
    found: dict[int, Tensor] = {}
    for name, parameter, leaf in spectral.effective_parameters(D):
        if name in frozen:
            found |= {id(parameter): parameter, id(leaf): leaf}
    return tuple(found.values())
