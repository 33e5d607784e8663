"""Top-k training (Sinha et al. 2020): G learns from those of its fakes that D finds most real.

The best are chosen within each BatchNorm group, not within the batch: micro-batches and processes then mean
the same, and no forward is done twice.
"""

import math

from torch import Tensor, nn

from gansmith.models.normalization import whole_groups


def share(least: float, decay: float, periods: float) -> float:
    """max(ν, γᵗ), the share that is kept after t periods; the paper's period is an epoch."""
    return max(least, decay**periods)


def kept(scores: Tensor, count: int) -> Tensor:
    """Which of each row (N, g) are its `count` largest, bool (N, g); of equal ones the first."""
    this, that = scores[:, :, None], scores[:, None, :]
    earlier = scores.new_ones(scores.shape[1], scores.shape[1]).tril(-1).bool()
    better = (that > this) | ((that == this) & earlier)
    return better.sum(2) < count


def mean_of_best(losses: Tensor, scores: Tensor, part: float, net: nn.Module) -> tuple[Tensor, float]:
    """The mean loss (N,) over the ⌈part·g⌉ of each BatchNorm group of g images whose scores (N,) are largest,
    and the share that was. net: the generator, whose groups they are.

    Means over micro-batches and ranks are the mean over the batch, also where ranks share a group.
    """
    groups, here = whole_groups(scores.detach(), net)
    size = groups.shape[1]
    count = math.ceil(part * size - 1e-9)  # 0.7 · 10 is a little more than 7
    chosen = kept(groups, count)[:, here].flatten()
    return (losses * chosen).sum() * (size / count) / len(losses), count / size
