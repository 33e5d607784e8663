"""Whether fakes are copies of training images: nearer to them than new real images are.

The measure is always a comparison with real images that were not trained on, because in a dense data set
honest samples are close to training images too.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gansmith.evaluation.arrays import checked, checked_pair, refuse_few
from gansmith.evaluation.neighbours import Neighbours, nearest, nearest_others

CLOSE = 0.01  # the quantile of the reals' distances below which a fake is suspicious


@dataclass(frozen=True)
class Memorisation:
    """How near the fakes are to the training images, beside reals that are as new to the generator."""

    closer: float  # P(a fake is nearer to its nearest training image than a new real): 0.5 honest, 1 copies
    z: float  # the same as Meehan et al.'s Z_U with its sign turned: above 3 fakes are nearer beyond chance
    suspicious: float  # share of fakes nearer than the nearest 1 % of new reals: 0.01 honest, 1 copies
    authenticity: float  # share of fakes that no training image claims (Alaa et al. 2022): 0 for copies
    real_authenticity: float  # the same share among the new reals
    compared_with: str  # "held-out reals" or "training images, each left out in turn"
    num_train: int
    num_compared: int
    median_ratio: float  # median distance of fakes over that of the new reals: 1 honest, 0 copies
    neighbours: Neighbours  # of each fake the nearest training images, for the picture


def memorisation(
    train: np.ndarray,
    fake: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    k: int = 5,
    device: torch.device | str = "cpu",
    train_neighbours: Neighbours | None = None,
) -> Memorisation:
    """Compares distances to the nearest training image between fakes and new reals.

    The two-sample statistic of Meehan et al. 2020 (C_T with a single cell): `closer` is the Mann–Whitney
    U over all pairs (fake, new real), ties counting half. Authenticity (Alaa et al. 2022): a fake is
    authentic when its nearest training image has another training image that is nearer to it than the fake;
    from a third to most of honest fakes are, more in high dimensions, so the share of the new reals is given
    beside it. Dull fakes near the middle of the data are near everything: look at the pictures before calling
    a `closer` of 0.6 memorised, and at `suspicious`, which a few copies among honest fakes raise.
    train, fake, held_out: float32 (n, dim) features or pixels. Without held-out reals every training image
    is compared with the other ones, which is the same distribution if the training images are a fair
    sample; near-duplicates among them then make the test lenient. `neighbours` holds the k nearest (fewer in
    a smaller set). train_neighbours: `nearest_others` of the training images, if known. Raises UserError for
    fewer than 2 training images, no fakes, and non-finite features.
    """
    train, fake = checked_pair(train, fake, 1, names=("the training images", "the fakes"))
    refuse_few(len(train), "the training images", 2)
    names = ("the training images", "the fakes")
    found = nearest(fake, train, min(k, len(train)), device=device, names=names)
    own = train_neighbours or nearest_others(train, 1, device=device, name=names[0])
    first, claim = own.indices[:, 0], own.distances[:, 0]
    if held_out is None:
        new, compared_with = claim, "training images, each left out in turn"
        # Left out, an image is claimed by its nearest one if that has no nearer one: if they are mutual.
        authentic = first[first] != np.arange(len(train))
    else:
        names = ("the training images", "the held-out reals")
        train, held_out = checked_pair(train, held_out, 1, names=names)
        others = nearest(held_out, train, 1, device=device, names=names)
        new, compared_with = others.distances[:, 0], "held-out reals"
        authentic = new > claim[others.indices[:, 0]]
    distances = found.distances[:, 0]
    closer, z = _mann_whitney(distances, new)
    median = float(np.median(new))
    return Memorisation(
        closer=closer,
        z=z,
        suspicious=float((distances <= np.quantile(new, CLOSE)).mean()),
        authenticity=float((distances > claim[found.indices[:, 0]]).mean()),
        real_authenticity=float(authentic.mean()),
        compared_with=compared_with,
        num_train=len(train),
        num_compared=len(new),
        median_ratio=float(np.median(distances)) / median if median else float("nan"),
        neighbours=found,
    )


def _mann_whitney(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """P(low < high), ties counting half, and its z-score under equal distributions (ties corrected)."""
    m, n = len(low), len(high)
    ordered = np.sort(high)
    above = n - np.searchsorted(ordered, low, side="right")
    equal = n - above - np.searchsorted(ordered, low, side="left")
    share = float((above + 0.5 * equal).sum() / (m * n))
    ties = np.unique(np.concatenate([low, high]), return_counts=True)[1].astype(np.float64)
    total = m + n
    spread = (total + 1 - (ties**3 - ties).sum() / (total * (total - 1))) / (12 * m * n)
    return share, float((share - 0.5) / np.sqrt(spread)) if spread > 0 else 0.0


@dataclass(frozen=True)
class DiscriminatorGap:
    """Whether D has learnt its training images by heart: what it says of them and of new reals."""

    train_accuracy: float  # share of training reals that D takes for real (logit > 0)
    held_out_accuracy: float
    gap: float  # train − held-out accuracy: 0 for a D that generalises
    auc: float  # P(D rates a training real above a held-out one): 0.5 cannot tell them apart
    z: float  # of auc under no difference


def discriminator_gap(train_logits: np.ndarray, held_out_logits: np.ndarray) -> DiscriminatorGap:
    """D's accuracy on training against held-out reals (Brock et al. 2019, section 4.2), by logits (n,), (m,).

    Raises UserError for no logits on a side and for non-finite ones.
    """
    train = checked(np.asarray(train_logits).reshape(-1, 1), "D's training reals", 1)[:, 0]
    held_out = checked(np.asarray(held_out_logits).reshape(-1, 1), "D's held-out reals", 1)[:, 0]
    accuracies = float((train > 0).mean()), float((held_out > 0).mean())
    auc, z = _mann_whitney(held_out, train)
    return DiscriminatorGap(*accuracies, gap=accuracies[0] - accuracies[1], auc=auc, z=z)
