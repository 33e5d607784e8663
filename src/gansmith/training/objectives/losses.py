"""Adversarial losses by name: what D and G minimise, as functions of D's logits alone.

Each with its formula and source. They know no network, no phase and no penalty.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """of_d: (logits on reals (N,), on fakes (M,)) → D's mean loss. of_g: (on fakes (N,), on reals (N,) or
    None) → G's loss of every image (N,).

    paired: a real is compared with a fake of its own class, in G phases too.
    """

    of_d: Callable[[Tensor, Tensor], Tensor]
    of_g: Callable[[Tensor, Any], Tensor]
    paired: bool = False


def _hinge_d(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()


def _logistic_d(on_real: Tensor, on_fake: Tensor) -> Tensor:
    return F.softplus(-on_real).mean() + F.softplus(on_fake).mean()


def _least_squares(of_real: float, of_fake: float) -> Loss:
    """D is to say `of_real` and `of_fake`, G wants to hear `of_real`; without the paper's factor of 1/2."""
    return Loss(
        lambda on_real, on_fake: (on_real - of_real).square().mean() + (on_fake - of_fake).square().mean(),
        lambda on_fake, _: (on_fake - of_real).square(),
    )


LOSSES: dict[str, Loss] = {
    # BigGAN, section 3 (Lim and Ye 2017): E[relu(1 − D(x))] + E[relu(1 + D(G))];  −D(G)
    "hinge": Loss(_hinge_d, lambda on_fake, _: -on_fake),
    # Goodfellow et al. 2014, section 3: E[softplus(−D(x))] + E[softplus(D(G))];  softplus(−D(G))
    "non_saturating": Loss(_logistic_d, lambda on_fake, _: F.softplus(-on_fake)),
    # Arjovsky et al. 2017, equation 2: E[D(G)] − E[D(x)];  −D(G)
    "wasserstein": Loss(
        lambda on_real, on_fake: on_fake.mean() - on_real.mean(), lambda on_fake, _: -on_fake
    ),
    # Mao et al. 2017: E[(D(x) − 1)²] + E[(D(G) + 1)²];  (D(G) − 1)²
    "least_squares": _least_squares(1, -1),
    # Mao et al. 2017, equation 9: E[(D(x) − 1)²] + E[D(G)²];  (D(G) − 1)²
    "least_squares_01": _least_squares(1, 0),
    # Jolicoeur-Martineau 2018, Huang et al. 2024 (RpGAN): E[softplus(D(G) − D(x))];  softplus(D(x) − D(G))
    "relativistic": Loss(
        lambda on_real, on_fake: F.softplus(on_fake - on_real).mean(),
        lambda on_fake, on_real: F.softplus(-(on_fake - on_real)),
        paired=True,
    ),
}
