"""Networks for other classes: class embeddings replaced by mixtures of old ones, everything else as it was.

A new class is a row of weights over the old ones: one of them, or the mean of all. The same rows serve every
table of class vectors, G's shared one, those of each BatchNorm layer, and D's, and the outputs of D's class
head. This room knows neither data nor runs.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.layers import Embedding


@dataclass(frozen=True)
class Origin:
    """Where one new class comes from: old is the id of a class of the source, None for the mean of all.

    how: `same name`, `map`, `same number`, `nearest` or `mean`.
    """

    name: str
    old: int | None
    how: str


def match(new: Sequence[str], old: Sequence[str], chosen: Mapping[str, str], where: str) -> list[Origin]:
    """Every new class with its origin, by `chosen` (new → old) first, then by equal names, else the mean.

    old: names of the source's classes, by id; a class may also be named by its id. where: names the source in
    messages. Raises UserError for names that neither side has, with the nearest ones.
    """
    ids = {name: i for i, name in enumerate(old)}
    problems = []
    for name, target in chosen.items():
        if name not in new:
            problems.append(f"{name}={target}: the data has no class {name!r}{_near(name, new)}")
        if _find(target, ids, len(old)) is None:
            problems.append(f"{name}={target}: {where} has no class {target!r}{_near(target, old)}")
    if problems:
        raise UserError("--map: classes that are not there:\n" + "\n".join(f"  - {p}" for p in problems))
    origins = []
    for name in new:
        if name in chosen:
            origins.append(Origin(name, _find(chosen[name], ids, len(old)), "map"))
        elif name in ids:
            origins.append(Origin(name, ids[name], "same name"))
        else:
            origins.append(Origin(name, None, "mean"))
    return origins


def _find(name: str, ids: Mapping[str, int], count: int) -> int | None:
    if name in ids:
        return ids[name]
    return int(name) if name.isdecimal() and int(name) < count else None


def _near(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f" (did you mean {', '.join(near)}?)"
    return f" (it has {', '.join(names[:5])}{', …' if len(names) > 5 else ''})"


def rows(origins: Sequence[Origin], num_old: int) -> Tensor:
    """The mixing weights (new, old) float32 of `with_classes`."""
    mix = torch.full((len(origins), num_old), 1 / num_old)
    for row, origin in zip(mix, origins):
        if origin.old is not None:
            row.zero_()[origin.old] = 1.0
    return mix


@torch.no_grad()
def with_classes(net: Any, mix: Tensor, seed: int = 0) -> Any:
    """A copy of a Generator or Discriminator whose class vectors are mix @ the old ones; in eval mode.

    mix: (new, old) float32, e.g. of `rows`. A class head of D says what it said of the old ones, mixed alike.
    Layers that hold no class vectors keep weights, u and v bit for
    bit; D's embedding gets singular vectors of its own, converged from a start drawn with `seed`. The source
    stays as it is. Raises ValueError for a net without classes or with another number of old ones.
    """
    if not net.num_classes:
        raise ValueError("the network has no classes; nothing can be made of them")
    if mix.shape[1] != net.num_classes:
        raise ValueError(f"mixtures of {mix.shape[1]} classes, but the network has {net.num_classes}")
    tables = {
        name for name, module in net.named_modules() if isinstance(module, Embedding) or name == "heads.class"
    }
    kwargs = net.kwargs | {"num_classes": len(mix)}
    if "class" in (kwargs.get("heads") or {}):
        kwargs["heads"] = kwargs["heads"] | {"class": len(mix)}
    copy = _empty(type(net), kwargs)
    state = {}
    for key, value in net.state_dict().items():
        name, _, part = key.rpartition(".")
        if name in tables:
            if part in ("weight", "bias"):
                state[key] = mix.to(value) @ value
            elif part == "u":  # one entry per class
                state[key] = _direction(len(mix), seed).to(value)
            else:
                state[key] = value.clone()
        else:
            state[key] = value.clone()
    copy.load_state_dict(state)
    spectral.refresh(copy, iterations=0)
    for name in tables:
        spectral.converge(copy.get_submodule(name))
    return copy.eval().requires_grad_(False)


def _empty(kind: type[nn.Module], kwargs: dict[str, Any]) -> Any:
    with torch.device("meta"):  # no time for an initialisation that is overwritten
        net = kind(**kwargs)
    return net.to_empty(device="cpu")


def _direction(size: int, seed: int) -> Tensor:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def describe(origins: Sequence[Origin], old: Sequence[str], shown: int = 12) -> list[str]:
    """Lines for people: `husky ← n02110185 (map)`, the first few of each kind."""
    lines = []
    for how in ("map", "same name", "same number", "nearest", "mean"):
        group = [o for o in origins if o.how == how]
        if not group:
            continue
        if how == "mean":
            names = ", ".join(o.name for o in group[:shown])
            text = f"{names}{', …' if len(group) > shown else ''} ← the mean of all {len(old)}"
        else:
            pairs = [f"{o.name} ← {old[o.old]}" for o in group[:shown] if o.old is not None]
            text = ", ".join(pairs) + (", …" if len(group) > shown else "")
        lines.append(f"{len(group)} class{'es' if len(group) != 1 else ''} by {how}: {text}")
    return lines
