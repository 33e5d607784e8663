"""From TensorFlow's variables to our networks: averaged twins, layouts, and an account of what was used.

TensorFlow keeps kernels as (height, width, in, out) and matrices as (in, out); its programs put z before the
class embedding, where ours has y first, and reshape the first layer's output to (4, 4, C). Knows no
particular program's names.
"""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.tables import GENERATOR_CHANNELS
from gansmith.weights.imported import check_finite, listed
from gansmith.weights.tensor_bundle import TensorBundle

AVERAGED = re.compile(r"/(ema_[^/]+|ExponentialMovingAverage)$")
ATTENTION = {128: 64, 256: 128, 512: 64}  # px: where the published generators have it
Layout = Callable[[np.ndarray], np.ndarray]


def conv(kernel: np.ndarray) -> np.ndarray:
    """(height, width, in, out) → (out, in, height, width)."""
    return kernel.transpose(3, 2, 0, 1)


def linear(kernel: np.ndarray) -> np.ndarray:
    """(in, out) → (out, in)."""
    return kernel.T


def first_linear(kernel: np.ndarray) -> np.ndarray:
    """(in, 4·4·C) → (C·4·4, in)."""
    rows = kernel.T
    return rows.reshape(4, 4, -1, rows.shape[1]).transpose(2, 0, 1, 3).reshape(rows.shape)


def first_bias(bias: np.ndarray) -> np.ndarray:
    """(4·4·C,) → (C·4·4,)."""
    return first_linear(bias[None])[:, 0]


def z_first(dim_z: int, layout: Layout = linear) -> Layout:
    """A layout for kernels whose inputs are [z | y]: ours are [y | z]."""

    def swapped(kernel: np.ndarray) -> np.ndarray:
        rows = layout(kernel)
        return np.concatenate([rows[:, dim_z:], rows[:, :dim_z]], 1)

    return swapped


def vector(values: np.ndarray) -> np.ndarray:
    """(1, 1, 1, C) or (C,) → (C,)."""
    return values.reshape(-1)


def as_it_is(values: np.ndarray) -> np.ndarray:
    """Ours has the same layout."""
    return values


def scalar(value: np.ndarray) -> np.ndarray:
    """(1,) or () → ()."""
    return value.reshape(())


@dataclass
class Variables:
    """A checkpoint's variables by the names their program gave them, without what stands before those.

    averaged: whether `name/ema_…` or `name/ExponentialMovingAverage` is read for `name` where it is there.
    """

    bundle: TensorBundle
    scope: str = ""
    averaged: bool = True
    used: set[str] = field(default_factory=set)
    twins: dict[str, str] = field(default_factory=dict)  # name → its averaged twin

    def __post_init__(self) -> None:
        for name in sorted(self.bundle.entries):
            if name.startswith(self.scope) and AVERAGED.search(name):
                # Several averages of one variable sort by their decay; the slowest is the last.
                self.twins[AVERAGED.sub("", name)[len(self.scope) :]] = name

    @property
    def names(self) -> list[str]:
        """Every variable's name within the scope; an averaged twin goes by the name of its variable."""
        inside = (name[len(self.scope) :] for name in self.bundle.entries if name.startswith(self.scope))
        return sorted({AVERAGED.sub("", name) for name in inside})

    def __contains__(self, name: str) -> bool:
        return self.scope + name in self.bundle.entries or name in self.twins

    def source(self, name: str) -> str:
        """The full name of the variable that is read for `name`. Raises KeyError where there is none."""
        if self.scope + name not in self.bundle.entries or (self.averaged and name in self.twins):
            return self.twins[name]
        return self.scope + name

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises UserError for a variable that the checkpoint lacks."""
        try:
            return self.bundle.entries[self.source(name)].shape
        except KeyError:
            raise UserError(
                f"{self.bundle.prefix}: variable {self.scope + name} is missing; the checkpoint is not "
                "whole, or of another program."
            ) from None

    def take(self, name: str) -> np.ndarray:
        """The values, float32, counted as used. Raises UserError for a variable that the checkpoint lacks."""
        self.shape(name)
        self.used.add(self.source(name))
        return self.bundle.read(self.source(name)).astype(np.float32, copy=False)

    def unused(self, reasons: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """(variable, reason) of all that were not taken, also outside of the scope; the reason is that of the
        first pattern found in the name.
        """
        rest = []
        chosen = {self.scope + name: twin for name, twin in self.twins.items()}
        for name in sorted(set(self.bundle.entries) - self.used):
            base = AVERAGED.sub("", name)
            if name in chosen and chosen[name] in self.used:
                reason = f"the averaged {chosen[name]} is used instead"
            elif base != name and (base in self.used or chosen.get(base) in self.used):
                reason = f"another version of {base} is used"
            else:
                reason = next((why for pattern, why in reasons if re.search(pattern, name)), "not recognised")
            rest.append((name, reason))
        return rest


@dataclass
class Filling:
    """What goes into a network's state: our key → values; power-iteration vectors per layer.

    u: layer → (out,) stored left vector; v: layer → (in…,) where the program stores that side instead.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    u: dict[str, Tensor] = field(default_factory=dict)
    v: dict[str, Tensor] = field(default_factory=dict)

    def put(self, key: str, array: np.ndarray, layout: Layout = vector) -> None:
        """Sets one entry of the state. Raises UserError for an array without the layout's dimensions."""
        try:
            self.values[key] = as_tensor(layout(array))
        except (ValueError, IndexError):
            raise UserError(
                f"the variable for {key} has shape {array.shape}, which no such layer has; the checkpoint is "
                "of another program."
            ) from None

    def put_vector(self, layer: str, stored: np.ndarray, shape: tuple[int, ...], layout: Layout) -> None:
        """The stored singular vector of a layer whose kernel has this shape: either side, told by its size
        (where both sides are as long, by its own shape: (1, out) or (in, 1)).
        """
        outputs, inputs = shape[-1], math.prod(shape[:-1])
        if stored.size == inputs and (inputs != outputs or stored.shape == (inputs, 1)):
            every_output = np.broadcast_to(stored.reshape(*shape[:-1], 1), shape)
            self.v[layer] = as_tensor(layout(every_output)[0]).flatten()
        elif stored.size == outputs:
            self.u[layer] = as_tensor(layout(stored.reshape(*[1] * (len(shape) - 1), outputs))).flatten()
        else:
            self.u[layer] = as_tensor(stored).flatten()  # `rebuild` says that it does not fit


def as_tensor(array: np.ndarray) -> Tensor:
    """Float32, contiguous, its own memory."""
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def rebuild(kind: type, kwargs: dict[str, Any], filling: Filling, source: Path) -> tuple[Any, list[str]]:
    """The network with these settings and values in eval mode, Ŵ ready, and its spectral layers for which the
    file has no stored vector (theirs is converged here).

    One power step is taken from each stored vector, as these programs do in every forward, and kept. Raises
    UserError for values that do not fit, are missing, or hold NaN.
    """
    try:
        with torch.device("meta"):
            net = kind(**kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: its {kind.__name__} cannot be built here: {error}.") from None
    layers = dict(spectral.spectral_layers(net))
    expected = net.state_dict()
    wanted = {key for key in expected if not _is_vector(key, layers)}
    problems = [f"{key} is missing" for key in sorted(wanted - filling.values.keys())]
    problems += [f"{key} has no place" for key in sorted(filling.values.keys() - wanted)]
    for key in sorted(wanted & filling.values.keys()):
        if filling.values[key].shape != expected[key].shape:
            problems.append(
                f"{key} is {tuple(filling.values[key].shape)}, expected {tuple(expected[key].shape)}"
            )
    for side, vectors in (("u", filling.u), ("v", filling.v)):
        for name, values in vectors.items():
            if name not in layers or values.shape != expected[f"{name}.{side}"].shape:
                problems.append(f"{name}.{side} is {tuple(values.shape)}, which does not fit")
    if problems:
        raise UserError(f"{source}: does not fit the {kind.__name__} it seems to be: {listed(problems)}.")
    check_finite(source, filling.values)
    net.to_empty(device="cpu")
    net.load_state_dict(filling.values, strict=False)
    unknown = [name for name in layers if name not in filling.u and name not in filling.v]
    with torch.no_grad():
        for name, layer in layers.items():
            _start(layer, filling.u.get(name), filling.v.get(name))
    net.eval().requires_grad_(False)
    spectral.refresh(net, iterations=0)
    return net, unknown


def _is_vector(key: str, layers: dict[str, Any]) -> bool:
    layer, _, part = key.rpartition(".")
    return layer in layers and part in ("u", "v")


def _start(layer: spectral.SpectralLayer, u: Tensor | None, v: Tensor | None) -> None:
    """Sets u and v by one power step from the stored one, or by convergence where none is stored."""
    W = layer.weight.flatten(1)
    if u is not None:
        layer.u.copy_(u)
        layer.v.fill_(0)
        spectral.refresh(layer, iterations=1)
    elif v is not None:
        layer.u.copy_(nn.functional.normalize(W @ v, dim=0, eps=layer.sn_eps or 0))
        layer.v.copy_(nn.functional.normalize(W.T @ layer.u, dim=0, eps=layer.sn_eps or 0))
    else:
        torch.nn.init.normal_(layer.u, generator=torch.Generator().manual_seed(0))
        layer.v.fill_(0)
        spectral.converge(layer)


def generator_sizes(widths: list[int], deep: bool, source: Path) -> dict[str, Any]:
    """family, resolution, ch, depth and, where the published table is another one, `table`, from the channels
    of the 4×4 map and after each block.

    Raises UserError where no network of ours has such blocks.
    """
    family = "biggan-deep" if deep else "biggan"
    num_blocks = len(widths) - 1
    for resolution, multipliers in GENERATOR_CHANNELS.items():
        stages = len(multipliers) - 1
        depth = num_blocks // stages
        if depth * stages != num_blocks or (depth != 1 and not deep) or widths[0] % multipliers[0]:
            continue
        ch = widths[0] // multipliers[0]
        if widths == _widths([m * ch for m in multipliers], depth):
            return {"family": family, "resolution": resolution, "ch": ch, "depth": depth}
    depth = 2 if deep else 1  # as every program has it
    own, resolution = widths[::depth], 4 << (num_blocks // depth)
    if num_blocks % depth == 0 and resolution in GENERATOR_CHANNELS and widths == _widths(own, depth):
        ch = math.gcd(*own)
        table = [width // ch for width in own]
        return {"family": family, "resolution": resolution, "ch": ch, "depth": depth, "table": table}
    raise UserError(
        f"{source}: {num_blocks} blocks with {', '.join(map(str, widths))} channels make no {family} "
        "generator that is built here."
    )


def _widths(stages: list[int], depth: int) -> list[int]:
    """The channels before and after each block, given those before and after each stage."""
    inner = [
        width for before, after in itertools.pairwise(stages) for width in [before] * (depth - 1) + [after]
    ]
    return [stages[0], *inner]


def attention_place(
    source: Path, width: int, widths: list[int], sizes: dict[str, Any], asked: int | None = None
) -> tuple[int, str]:
    """The resolution after whose block a generator's attention stands, told by its channels, and a note where
    other places have as many; the one that is asked for goes first, then the published one. widths, sizes: as
    in `generator_sizes`. Raises UserError where the channels are those of no stage, or not of the asked one.
    """
    stages = widths[:: sizes["depth"]]
    possible = [4 << i for i in range(1, len(stages)) if stages[i] == width]
    if not possible:
        raise UserError(f"{source}: attention takes {width} channels, but no stage ends with as many.")
    if asked is not None and asked not in possible:
        fitting = ", ".join(map(str, possible))
        raise UserError(
            f"{source}: attention at {asked} px would not have its {width} channels; {fitting} px would."
        )
    if asked is not None:
        return asked, ""
    published = ATTENTION.get(sizes["resolution"], 64)
    place = published if published in possible else possible[-1]
    if len(possible) == 1:
        return place, ""
    others = ", ".join(str(size) for size in possible if size != place)
    return place, f"Attention is taken to stand at {place} px; by its width it could also be at {others} px."
