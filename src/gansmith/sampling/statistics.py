"""Standing statistics: BatchNorm's means and variances for sampling one image at a time.

Training normalises by the statistics of a group of images. Sampling needs fixed ones, estimated for these
weights and this truncation: a truncated latent has other activations than a full one (BigGAN, appendix B).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from gansmith.models import normalization
from gansmith.models.biggan import Generator
from gansmith.sampling import latents

Key = tuple[float, str]
IMAGES = 1024  # pooled where nobody says how many: a channel's mean is then known to 3 % of its deviation


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
) -> dict[str, Any]:
    """Writes G's standing statistics for a truncation and returns their description (`info["statistics"]`).

    G is forwarded in train mode over whole groups of `group` latents drawn from `seed`, every class equally
    often; the moments of all groups are pooled. images: None takes 1,024; rounded up to whole groups.
    Deterministic, and apart from the buffers G is left as it was found (mode and group included). No random
    state is touched. precision_context: entered around every forward (autocast); the moments are accumulated
    in float64 regardless.
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
        with normalization.accumulate_statistics(G):
            for first in range(0, num_groups * group, group):
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
