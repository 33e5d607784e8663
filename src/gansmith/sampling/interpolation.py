"""Paths between latents and between classes, and the strips of images along them.

Between normal latents the path is spherical (White, arXiv 1609.04468): a straight line's middle has a norm
1/√2 of what the network was trained on. Between classes the embedding is mixed linearly, as BigGAN's figures
do, by giving the generator mixing weights instead of a class.
"""

from collections.abc import Sequence

import numpy as np
import torch

from gansmith.errors import UserError
from gansmith.models import keyed
from gansmith.models.biggan import Generator
from gansmith.sampling import latents, sampler

MODES = ("z", "class", "both")
PATHS = ("spherical", "linear")


def between(a: torch.Tensor, b: torch.Tensor, steps: int, path: str = "spherical") -> torch.Tensor:
    """Points from latent a to latent b, both included: (dim,), (dim,) → (steps, dim) float32.

    spherical: constant angular speed, the norm going from |a| to |b|. linear: a straight line.
    """
    assert steps >= 2, "a path has two ends"
    t = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    start, end = a.double(), b.double()
    if path == "linear":
        points = (1 - t) * start + t * end
    else:
        norms = start.norm(), end.norm()
        cosine = (start @ end / (norms[0] * norms[1])).clamp(-1, 1)
        angle = torch.arccos(cosine)
        if not angle.isfinite() or angle.sin() < 1e-6:  # (anti)parallel or zero: there is no one great circle
            return between(a, b, steps, "linear")
        direction = (
            torch.sin((1 - t) * angle) * start / norms[0] + torch.sin(t * angle) * end / norms[1]
        ) / (torch.sin(angle))
        points = direction * ((1 - t) * norms[0] + t * norms[1])
    points[0], points[-1] = start, end
    return points.float()


def mixing_weights(a: int, b: int, steps: int, num_classes: int) -> torch.Tensor:
    """Weights of a linear path between the embeddings of two classes: (steps, num_classes) float32."""
    ends = torch.nn.functional.one_hot(torch.tensor([a, b]), num_classes).double()
    return between(ends[0], ends[1], steps, "linear")


def default_path(latent: str) -> str:
    """Spherical where the latent is a sphere in practice (normal); linear in boxes and corners."""
    return "spherical" if latent == "normal" else "linear"


def num_rows(mode: str, seeds: Sequence[int], labels: Sequence[int]) -> int:
    """How many paths `strip` draws: from each seed, class, or pair of both, to the next one."""
    ends = {"z": len(seeds), "class": len(labels), "both": min(len(seeds), len(labels))}
    return ends[mode] - 1


@torch.no_grad()
def strip(
    G: Generator,
    *,
    mode: str,
    seeds: Sequence[int],
    labels: Sequence[int],
    steps: int = 9,
    latent: str = "normal",
    path: str | None = None,
    truncation: float | None = None,
    truncation_kind: str = "resample",
    micro_batch: int = 8,
    autocast_dtype: torch.dtype | None = None,
) -> np.ndarray:
    """Images along paths, one path per row: uint8 (rows · steps, H, W, C); tile them with `steps` columns.

    mode `z`: row r goes from seeds[r] to seeds[r+1] within labels[r mod len]; `class`: from labels[r] to
    labels[r+1] with seeds[r mod len]; `both`: both at once. labels may be empty for a network without classes
    (mode z only). path: None takes `default_path(latent)`. Raises UserError when there are too few seeds or
    classes.
    """
    num_classes = G.kwargs["num_classes"]
    if mode not in MODES:
        raise UserError(f"--mode {mode!r} is unknown; choose {', '.join(MODES)}.")
    if num_classes == 0 and mode != "z":
        raise UserError(f"--mode {mode} needs classes, and this network has none; use --mode z.")
    if (rows := num_rows(mode, seeds, labels)) < 1:
        what = {"z": "two --seeds", "class": "two --classes", "both": "two --seeds and two --classes"}[mode]
        raise UserError(f"--mode {mode} goes from one to the next: give at least {what}.")
    ends = latents.from_seeds(
        seeds, dim=G.kwargs["dim_z"], kind=latent, truncation=truncation, how=truncation_kind
    )
    z_rows, y_rows = [], []
    for row in range(rows):
        if mode == "class":
            z_rows.append(ends[row % len(seeds)].expand(steps, -1))
        else:
            z_rows.append(between(ends[row], ends[row + 1], steps, path or default_path(latent)))
        if num_classes:
            first = labels[row % len(labels)]
            last = first if mode == "z" else labels[row + 1]
            y_rows.append(mixing_weights(first, last, steps, num_classes))
    z, y = torch.cat(z_rows), torch.cat(y_rows) if y_rows else None
    keys = None
    if G.kwargs.get("noise"):  # or it would flicker: every point of a path has a latent of its own
        keys = keyed.of_rows(ends[:1]).expand(len(z))
    batches = sampler.generate(G, z, y, micro_batch, autocast_dtype, keys)
    return torch.cat([batch.cpu() for batch in batches]).numpy()
