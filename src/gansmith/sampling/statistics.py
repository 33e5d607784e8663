"""Standing statistics: BatchNorm's means and variances for sampling one image at a time.

Training normalises by the statistics of a group of images. Sampling needs fixed ones, estimated for these
weights and this truncation: a truncated latent has other activations than a full one (BigGAN, appendix B).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch

from gansmith.models import normalization
from gansmith.models.biggan import Generator
from gansmith.sampling import latents

Key = tuple[float, str]
IMAGES = 1024  # pooled where nobody says how many: a channel's mean is then known to 3 % of its deviation


class Ranks(Protocol):
    """Processes 0 … size − 1 that work together; `sum` adds a tensor over all of them, in place."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def sum(self, tensor: torch.Tensor) -> None: ...


def largest_group(resolution: int) -> int:
    """Most images to forward at once without a graph: 64 up to 128 px, then fewer, so that memory stays
    small.
    """
    return max(8, min(64, 8192 // resolution))


def default_group(info: dict[str, Any], resolution: int) -> int:
    """The group a snapshot was trained with (or its statistics estimated with), as far as memory allows."""
    trained = (info.get("statistics") or {}).get("group")
    trained = trained or ((info.get("config") or {}).get("bn") or {}).get("group")
    limit = largest_group(resolution)
    return min(trained, limit) if isinstance(trained, int) else limit


@torch.no_grad()
def estimate(
    G: Generator,
    latent_kind: str,
    num_classes: int,
    *,
    truncation: float | None = None,
    kind: str = "resample",
    images: int | None = None,
    group: int,
    seed: int = 0,
    device: torch.device | str | None = None,
    precision_context: Callable[[], AbstractContextManager] = nullcontext,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Writes G's standing statistics for a truncation and returns their description (`info["statistics"]`).

    G is forwarded in train mode over whole groups of `group` latents drawn from `seed`, every class equally
    often; the moments of all groups are pooled. images: None takes 1,024; rounded up to whole groups.
    Deterministic, and apart from the buffers G is left as it was found (mode and group included). No random
    state is touched. precision_context: entered around every forward (autocast); the moments are accumulated
    in float64 regardless. ranks: processes that call this together, with the same G, and share the groups;
    the result has the bits of one process.
    """
    num_groups = -(-(images or IMAGES) // group)
    device = device or next(G.parameters()).device
    labels = balanced_labels(num_groups * group, num_classes, seed) if num_classes else None
    norms = [module for module in G.modules() if isinstance(module, normalization.BatchNorm)]
    groups = [norm.group for norm in norms]
    # Every forward is one whole group on this process: no communication, even where training shares groups.
    for norm in norms:
        norm.group = None
    try:
        with normalization.accumulate_statistics(G), _shared(norms, num_groups, ranks) as mine:
            for first in (index * group for index in mine):
                seeds = range(first, first + group)
                z = latents.from_seeds(
                    seeds,
                    dim=G.kwargs["dim_z"],
                    kind=latent_kind,
                    truncation=truncation,
                    how=kind,
                    purpose=f"statistics/{seed}",
                ).to(device)
                y = None if labels is None else labels[first : first + group].to(device)
                with precision_context():
                    G(z, y)
    finally:
        for norm, before in zip(norms, groups):
            norm.group = before
    threshold, rule = key(truncation, kind)
    return {"truncation": threshold, "kind": rule, "images": num_groups * group, "group": group}


@contextmanager
def _shared(norms: list[normalization.BatchNorm], num: int, ranks: Ranks | None) -> Iterator[range]:
    """The groups, of `num`, that this process forwards inside; then all are pooled on all, in their order."""
    if ranks is None or ranks.size == 1:
        yield range(num)
        return
    parts: list[_Parts] = []
    for norm in norms:
        norm.accumulated = _Parts()
        parts.append(norm.accumulated)
    yield (mine := range(ranks.rank, num, ranks.size))
    for norm, part in zip(norms, parts):
        # Every process writes its groups, and x + 0 is x. On the host: some devices lack float64.
        rows = torch.zeros(num, 2, len(norm.stored_mean), dtype=torch.float64)
        count = torch.zeros(1, dtype=torch.int64)
        for index, (values, mean, var) in zip(mine, part.all):
            rows[index] = torch.stack([mean, var]).cpu()
            if index == 0:
                count[0] = values
        ranks.sum(rows)
        ranks.sum(count)
        norm.accumulated = normalization.Moments()
        for mean, var in rows.to(norm.stored_mean.device):
            norm.accumulated.include(int(count), mean, var)


class _Parts(normalization.Moments):
    """Keeps the moments of every forward apart."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def include(self, count: int, mean: torch.Tensor, var: torch.Tensor) -> None:
        self.all.append((count, mean, var))


def key(truncation: float | None, kind: str) -> Key:
    """What statistics depend on: (threshold, rule); (1.0, "none") without truncation."""
    return (1.0, "none") if truncation is None else (float(truncation), kind)


def buffers(G: Generator) -> list[torch.Tensor]:
    """The standing statistics themselves, in a fixed order, for keeping a copy or putting one back."""
    norms = [module for module in G.modules() if isinstance(module, normalization.BatchNorm)]
    return [buffer for norm in norms for buffer in (norm.stored_mean, norm.stored_var)]


def balanced_labels(num: int, num_classes: int, seed: int) -> torch.Tensor:
    """Every class equally often, in shuffled rounds over all classes: int64 (num,)."""
    random = np.random.Generator(np.random.Philox(key=seed))
    rounds = [random.permutation(num_classes) for _ in range(-(-num // num_classes))]
    return torch.from_numpy(np.concatenate(rounds)[:num])
