"""Which class of a trained network looks most like a class of other images.

Both are compared in the features of the network's own D, or, where it has none, as thumbnails of 8×8 pixels:
the mean of a class's images against the mean of those that G draws of each old class, by cosine, after
centring on and scaling by the spread of all that G draws.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gansmith.data.feed import to_device
from gansmith.data.shards import Dataset
from gansmith.models.biggan import Discriminator, Generator
from gansmith.sampling import latents
from gansmith.weights.surgery import Origin

REALS = 64  # images per new class
DRAWN = 8192  # images of all old classes together: 4 to 32 of each
BATCH = 64


@torch.no_grad()
def choose(
    G: Generator,
    D: Discriminator | None,
    info: dict[str, Any],
    dataset: Dataset,
    origins: Sequence[Origin],
) -> list[Origin]:
    """The origins, those without one replaced by the old class that looks nearest.

    dataset: what origins are the classes of, at G's size; a class without images keeps none.
    """
    drawn, spread = _drawn_classes(G, D, info.get("latent", "normal"))
    chosen = []
    for label, origin in enumerate(origins):
        members = np.flatnonzero(dataset.labels == label)
        if origin.old is None and len(members):
            spaced = members[np.linspace(0, len(members) - 1, min(REALS, len(members))).astype(int)]
            images = _cut(to_device(torch.from_numpy(dataset.read(spaced)), "cpu"), G.kwargs["resolution"])
            mean = torch.cat([_features(part, D) for part in images.split(BATCH)]).mean(0)
            likeness = F.cosine_similarity((mean - spread[0]) / spread[1], drawn, dim=1)
            origin = replace(origin, old=int(likeness.argmax()), how="nearest")
        chosen.append(origin)
    return chosen


def _drawn_classes(G: Generator, D: Discriminator | None, latent: str) -> tuple[Tensor, Any]:
    """Mean features (classes, dim) of what G draws of each class, centred and scaled; and by what."""
    classes = G.num_classes
    each = max(4, min(32, DRAWN // classes))
    y = torch.arange(classes).repeat(each)  # every batch holds many classes, as in training
    z = latents.from_seeds(range(len(y)), dim=G.kwargs["dim_z"], kind=latent)
    G.train()  # statistics of the batch: a checkpoint's G has no others, and nothing is written
    features = torch.cat([_features(G(*part), D) for part in zip(z.split(BATCH), y.split(BATCH))])
    G.eval()
    centre, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    return ((features - centre) / scale).unflatten(0, (each, classes)).mean(0), (centre, scale)


def _cut(images: Tensor, side: int) -> Tensor:
    """The middle: data kept for random crops is larger than the network."""
    top, left = ((size - side) // 2 for size in images.shape[2:])
    return images[:, :, top : top + side, left : left + side]


def _features(images: Tensor, D: Discriminator | None) -> Tensor:
    """(N, C, R, R) in [-1, 1] → (N, dim)."""
    if D is not None:
        return D.features(images)
    return F.adaptive_avg_pool2d(images, 8).flatten(1)
