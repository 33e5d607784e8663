"""Made-up logs with the features of real ones: what a healthy large run looks like, and what goes wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np

DURATION = 20_000_000
Change = Callable[[float, dict[str, Any]], None]


def rows(
    change: Change | None = None, *, every: int = 50_000, until: float = 1.0, seed: int = 0
) -> list[dict[str, Any]]:
    """Status rows of a run of 20M images: D's loss falls from 0.9 to 0.06 with noise of its own size, now and
    then a spike that heals, σ0 grows slowly, images are as varied as ever. change: (share of the run, row)
    alters a row.
    """
    random = np.random.default_rng(seed)
    made = []
    for images in range(every, int(DURATION * until) + 1, every):
        at = images / DURATION
        loss = (0.9 * (1 - at) + 0.06) * random.lognormal(0, 0.35)
        if any(place <= at < place + 0.003 for place in (0.21, 0.4, 0.63)):
            loss *= 12
        row: dict[str, Any] = {
            "type": "status",
            "images_seen": images,
            "step": images // 4096,
            "loss_d": loss,
            "loss_g": 1.0 + at + random.normal(0, 0.2),
            "d_real": 1 + at + random.normal(0, 0.1),
            "d_fake": -1 - at + random.normal(0, 0.1),
            "gradient_norm_d": 30 * random.lognormal(0, 0.3),
            "gradient_norm_g": 5 * random.lognormal(0, 0.3),
            "sigma0": {"G.linear": 1 + 12 * at**0.7, "G.blocks.0.0.conv1": 1 + 2 * at},
            "sigma0_d": 3 + 2 * at,
            "skipped": None,
            "diversity": 0.9 + random.normal(0, 0.03),
            "effective_rank": 0.8 + random.normal(0, 0.03),
            "diversity_class_min": 0.6 + random.normal(0, 0.03),
            "duplicates": 0.0,
        }
        if change:
            change(at, row)
        made.append(row)
    return made


def grows(at: float, row: dict[str, Any]) -> None:
    """As in the published run: σ0 of G's first layer goes from 13 to 40 within 1.5 % of it, then D's loss and
    the images follow."""
    if at > 0.6:
        row["sigma0"]["G.linear"] *= min(1 + (at - 0.6) / 0.0075, 3)
    if at > 0.61:
        row["loss_d"] = 1.5
        row["diversity"] *= 0.3


def vanishes(at: float, row: dict[str, Any]) -> None:
    if at > 0.5:
        row["loss_d"], row["gradient_norm_g"] = 0.001, 0.05


def breaks(at: float, row: dict[str, Any]) -> None:
    if at > 0.5:
        row |= dict.fromkeys(("loss_d", "gradient_norm_d", "d_real"))


def alike(at: float, row: dict[str, Any]) -> None:
    """Mode collapse that no loss tells of."""
    if at > 0.5:
        row |= {"diversity": 0.3, "effective_rank": 0.2, "diversity_class_min": 0.01, "duplicates": 0.7}
