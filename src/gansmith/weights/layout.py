"""What the shapes of a network's tensors say about it: the keyword arguments of our Generator and
Discriminator.

Tensors are named as in the published PyTorch code, which are our names too. What shapes cannot say (epsilons,
initialisation) is left out. Knows no file.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gansmith.models.tables import DISCRIMINATOR_CHANNELS, GENERATOR_CHANNELS, LAST_MAP

State = Mapping[str, Tensor]


def is_generator(state: State) -> bool:
    return "output_layer.2.weight" in state and "linear.weight" in state


def is_discriminator(state: State) -> bool:
    return "blocks.0.0.conv1.weight" in state and not is_generator(state) and "linear.weight" in state


def generator(state: State) -> dict[str, Any]:
    """Keyword arguments of the Generator that these tensors are of. Raises ValueError for other networks."""
    deep = "blocks.0.0.conv4.weight" in state
    count = _count(state, r"blocks\.(\d+)\.0\.conv1\.weight")
    if not is_generator(state) or not count:
        raise ValueError("its tensors are not those of a BigGAN or BigGAN-deep generator")
    last = "conv4" if deep else "conv2"
    widths = [_shape(state, f"blocks.{i}.0.conv1.weight")[1] for i in range(count)]
    widths.append(_shape(state, f"blocks.{count - 1}.0.{last}.weight")[0])
    resolution, depth, ch, table = _generator_table(widths, deep)
    attended = [i for i in range(count) if f"blocks.{i}.1.gamma" in state]
    rgb = _shape(state, "output_layer.2.weight")[0]
    shared = state.get("shared.weight")
    gain = state.get("blocks.0.0.bn1.gain.weight")
    first = _shape(state, "linear.weight")[1]
    spectral = any(name.endswith((".u0", ".u")) for name in state)
    found: dict[str, Any] = {
        "family": "biggan-deep" if deep else "biggan",
        "resolution": resolution,
        "num_classes": 0,
        "channels": 3 if rgb >= 3 else 1,
        "ch": ch,
        "dim_z": first,
        "shared_dim": 0,
        "skip_z": False,
        "depth": depth if deep else 2,
        "spectral": spectral,
    } | _attention_of_g(attended, depth)
    if table is not None:
        found["table"] = table
    if rgb not in (1, 3):
        found["rgb_rows"] = rgb
    if shared is not None and gain is not None:
        found |= {"num_classes": shared.shape[0], "shared_dim": shared.shape[1]}
        found["skip_z"] = gain.shape[1] > shared.shape[1]
        if found["skip_z"]:
            chunks = len(widths)  # one for the first layer, one per block
            found["dim_z"] = first - shared.shape[1] if deep else first * chunks
    elif gain is not None and gain.dim() == 2:
        if "blocks.0.0.bn1.gain.u0" in state or gain.shape[1] != widths[0]:  # unconditional with skip-z
            found |= {"skip_z": True, "dim_z": first if deep else first * len(widths), "shared_dim": 128}
        else:
            found["num_classes"] = gain.shape[0]
    return found


def discriminator(state: State) -> dict[str, Any]:
    """Keyword arguments of the Discriminator that these tensors are of. Raises ValueError for other
    networks.
    """
    deep = "input_conv.weight" in state
    stages = _count(state, r"blocks\.(\d+)\.0\.conv1\.weight")
    if not is_discriminator(state) or not stages:
        raise ValueError("its tensors are not those of a BigGAN or BigGAN-deep discriminator")
    depth = _count(state, r"blocks\.0\.(\d+)\.conv1\.weight") if deep else 1
    last = "conv4" if deep else "conv2"
    widths = [_shape(state, f"blocks.{i}.0.{last}.weight")[0] for i in range(stages)]
    if deep:
        widths.insert(0, _shape(state, "input_conv.weight")[0])
    stem = _shape(state, "input_conv.weight" if deep else "blocks.0.0.conv1.weight")
    resolution, ch, table = _discriminator_table(widths, deep)
    attended = [i for i in range(stages) if f"blocks.{i}.{depth}.gamma" in state]
    embed = state.get("embed.weight")
    hidden = [_shape(state, f"blocks.{i}.0.conv1.weight")[0] for i in range(stages)]
    found: dict[str, Any] = {
        "family": "biggan-deep" if deep else "biggan",
        "resolution": resolution,
        "num_classes": 0 if embed is None else embed.shape[0],
        "channels": stem[1],
        "ch": ch,
        "wide": deep or hidden == widths,
        "depth": depth if deep else 2,
        "spectral": any(name.endswith((".u0", ".u")) for name in state),
    }
    smallest = LAST_MAP.get(resolution, 4)
    sizes = [max(resolution >> (i + 1), smallest) for i in range(stages)]
    found["attention"] = sorted({sizes[i] for i in attended})
    if [i for i in range(stages) if sizes[i] in found["attention"]] != attended:
        found |= {"attention": [], "attention_blocks": attended}
    if table is not None:
        found["table"] = table
    return found


def _attention_of_g(attended: list[int], depth: int) -> dict[str, Any]:
    if all((i + 1) % depth == 0 for i in attended):
        return {"attention": [8 << (i // depth) for i in attended]}
    return {"attention": [], "attention_blocks": attended}


def _generator_table(widths: list[int], deep: bool) -> tuple[int, int, int, list[int] | None]:
    """(resolution, depth, ch, own table or None) for the inputs of the blocks and the last output."""
    for resolution, table in GENERATOR_CHANNELS.items():
        stages = len(table) - 1
        depth, rest = divmod(len(widths) - 1, stages)
        if rest or depth < 1 or (not deep and depth != 1):
            continue
        pattern = [table[i // depth] for i in range(len(widths) - 1)] + [table[-1]]
        if (ch := _multiplier(widths, pattern)) is not None:
            return resolution, depth, ch, None
    depth = 2 if deep else 1
    per_stage = [*widths[:-1:depth], widths[-1]]
    unit = math.gcd(*per_stage)
    resolution = 4 << (len(per_stage) - 1)
    if (len(widths) - 1) % depth or resolution not in GENERATOR_CHANNELS:
        raise ValueError(f"{len(widths) - 1} blocks of widths {widths} make no network that is built here")
    return resolution, depth, unit, [width // unit for width in per_stage]


def _discriminator_table(widths: list[int], deep: bool) -> tuple[int, int, list[int] | None]:
    same_length = {r: t for r, t in DISCRIMINATOR_CHANNELS.items() if len(t) == len(widths)}
    for resolution, table in same_length.items():
        if (ch := _multiplier(widths, table)) is not None:
            return resolution, ch, None
    if not same_length:
        raise ValueError(f"{len(widths)} widths {widths} make no discriminator that is built here")
    unit = math.gcd(*widths)
    return next(iter(same_length)), unit, [width // unit for width in widths]


def _multiplier(widths: Sequence[int], pattern: Sequence[int]) -> int | None:
    if len(widths) != len(pattern) or widths[0] % pattern[0]:
        return None
    ch = widths[0] // pattern[0]
    return ch if [m * ch for m in pattern] == list(widths) else None


def _shape(state: State, name: str) -> tuple[int, ...]:
    if name not in state:
        raise ValueError(f"{name} is missing")
    return tuple(state[name].shape)


def _count(state: State, pattern: str) -> int:
    return len({match[1] for name in state if (match := re.fullmatch(pattern, name))})
