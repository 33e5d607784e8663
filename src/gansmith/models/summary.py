"""What a network is made of and what a forward costs, from shapes alone: nothing is allocated or computed."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gansmith.models import spectral

# name, type, parameters, output shape of one image
Row = tuple[str, str, int, tuple[int, ...]]


def summary(net: Any) -> list[Row]:
    """One row per block or layer of a network of ours, in the order of the forward pass; parameters add up to
    the network's.
    """
    twin = _on_meta(net)
    shapes: dict[str, tuple[int, ...]] = {}

    parts = dict(_parts(twin))
    names = {module: name for name, module in parts.items()}

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        shapes[names[module]] = tuple(output.shape[1:])

    hooks = [module.register_forward_hook(note) for module in parts.values()]
    with torch.no_grad():
        twin(*_inputs(twin))
    for hook in hooks:
        hook.remove()
    return [(name, type(parts[name]).__name__, _count(parts[name]), shape) for name, shape in shapes.items()]


def count_macs(net: Any) -> int:
    """Multiply-accumulates of one image's forward pass: convolutions, linear layers and attention."""
    twin = _on_meta(net)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(*_inputs(twin))
    return counter.get_total_flops() // 2


def _on_meta(net: Any) -> Any:
    with torch.device("meta"):
        twin = type(net)(**net.kwargs)
    spectral.refresh(twin, iterations=0)
    return twin.eval()


def _inputs(net: Any) -> tuple[Tensor, Tensor | None]:
    settings = net.kwargs
    shape = (settings["channels"], settings["resolution"], settings["resolution"])
    first = (settings["dim_z"],) if "dim_z" in settings else shape
    y = torch.zeros(1, dtype=torch.int64, device="meta") if net.num_classes else None
    return torch.zeros(1, *first, device="meta"), y


def _parts(net: nn.Module) -> list[tuple[str, nn.Module]]:
    """The direct children, with the list of blocks opened up."""
    opened: list[tuple[str, nn.Module]] = []
    for name, child in net.named_children():
        if isinstance(child, nn.ModuleList):
            for i, group in child.named_children():
                opened += [(f"{name}.{i}.{j}", part) for j, part in group.named_children()]
        else:
            opened.append((name, child))
    return opened


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
