"""What every reader of a foreign format returns: the networks as ours, what trained them, and an account of
every tensor.

A reader loses nothing silently: what it did not use is in `unused`, what it could not fill is in `unfilled`,
each with the reason. This room holds results; it reads no file.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gansmith.errors import UserError
from gansmith.models.biggan import Discriminator, Generator


@dataclass
class AdamState:
    """An Adam optimizer of one network, by the names of our parameters.

    moments: parameter name → {"step" (), "exp_avg", "exp_avg_sq"}, all float32, the last two shaped like the
    parameter; a parameter that never had a gradient is absent. Learning rate and decays are None where the
    file does not say.
    """

    moments: dict[str, dict[str, Tensor]]
    lr: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None


@dataclass
class Imported:
    """Networks read from a file or folder of any format.

    G: the generator people draw from (averaged weights where there are any); G_raw: the one that was being
    trained, if it is there beside an averaged one. All are in eval mode on the CPU, float32, with u, v and Ŵ
    ready (`spectral.refresh(net, iterations=0)` gives the same Ŵ again). family: `biggan` or `biggan-deep`.
    source_format: in words, e.g. "BigGAN-PyTorch". info: what `snapshot.save` wants of its caller (see
    `new_info`). unused, unfilled: (tensor, reason). step counts G's updates; images_seen reals shown to D;
    both None where unknown. recipe: settings of the source by our configuration paths, e.g.
    {"train.batch": 256}. notes: what the user should be told, one sentence each.
    """

    family: str
    source_format: str
    source: Path
    G: Generator | None = None
    G_raw: Generator | None = None
    D: Discriminator | None = None
    optimizers: dict[str, AdamState] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    unused: list[tuple[str, str]] = field(default_factory=list)
    unfilled: list[tuple[str, str]] = field(default_factory=list)
    step: int | None = None
    images_seen: int | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def new_info(source_format: str, source: Path, **known: Any) -> dict[str, Any]:
    """A snapshot's description for an imported network: normal latent, classes without names, statistics as
    they come with the file, and where it is from (`imported`). known: replaces or adds entries.
    """
    return {
        "latent": "normal",
        "classes": [],
        "images_seen": 0,
        "lineage": 0,
        "ema": True,
        "statistics": STORED_STATISTICS,
        "config": {},
        "imported": {"format": source_format, "source": source.resolve().name},
    } | known


VARIANCES = re.compile(r"\.(stored_var|running_vars)$")
# Statistics that came with the weights, of a full latent; nobody says from how many images.
STORED_STATISTICS = {"truncation": 1.0, "kind": "none", "images": None, "group": None}


def listed(problems: list[str], shown: int = 5) -> str:
    """The first few of many problems as half a sentence: "a; b; and 7 more"."""
    more = f"; and {len(problems) - shown} more" if len(problems) > shown else ""
    return "; ".join(problems[:shown]) + more


def check_finite(source: Path, tensors: dict[str, Tensor]) -> None:
    """Raises UserError, naming the first tensors, where weights hold NaN or infinity, or variances are below
    0.
    """
    bad = [
        name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()
    ]
    if bad:
        raise UserError(
            f"{source}: {listed(bad, 3)} hold{'s' if len(bad) == 1 else ''} NaN or infinity: the network had "
            "diverged or the file is damaged; use an earlier or intact one."
        )
    negative = [name for name, value in tensors.items() if VARIANCES.search(name) and (value < 0).any()]
    if negative:
        raise UserError(
            f"{source}: {listed(negative, 3)} below 0, which no variance is: the file was altered."
        )
