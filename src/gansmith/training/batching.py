"""How a batch is cut: BatchNorm groups, micro-batches, processes. Pure arithmetic, and messages that name
the fix.
"""

from dataclasses import dataclass
from typing import Literal

from gansmith.config import Config
from gansmith.errors import UserError
from gansmith.models.families import BATCH_NORM_IN_D
from gansmith.models.normalization import check_layout

LARGEST_GROUP = 64


@dataclass(frozen=True)
class Sizes:
    """Images: batch and batch_g in all; micro_batch and micro_batch_g per forward and process."""

    batch: int
    batch_g: int
    micro_batch: int
    micro_batch_g: int


def bn_group(config: Config) -> int:
    """`bn.group`, or the largest common divisor of both batches up to 64, of half of them where gradient
    noise is measured.
    """
    if config.bn.group != "auto":
        return config.bn.group
    batch, batch_g = config.train.batch, config.train.batch_g or config.train.batch
    # Gradient noise is measured between groups: there must be two.
    measured = config.batch.schedule == "auto" or config.batch.noise_every is not None
    most = min(LARGEST_GROUP, batch, batch_g) // (2 if measured else 1)
    return max(n for n in range(1, max(most, 1) + 1) if batch % n == 0 and batch_g % n == 0)


def resolve(config: Config, group: int, world: int) -> Sizes:
    """Both batches with their micro-batches. Raises UserError for a batch that cannot be cut as asked."""
    train = config.train
    batch_g = train.batch_g or train.batch
    asked_g = train.micro_batch if train.micro_batch_g is None else train.micro_batch_g
    sizes = Sizes(
        train.batch,
        batch_g,
        _micro_batch("train.batch", train.batch, "train.micro_batch", train.micro_batch, group, world),
        _micro_batch("train.batch_g", batch_g, "train.micro_batch_g", asked_g, group, world),
    )
    smallest = min(sizes.micro_batch, sizes.micro_batch_g)
    if config.model.family in BATCH_NORM_IN_D and smallest % group:
        # D sees reals and fakes in one forward, where a part of a group would be taken for another's.
        raise UserError(
            f"bn.group {group}: {config.model.family} has BatchNorm in D, and its groups cannot be shared by "
            f"processes; with micro-batches of {smallest}, give --set bn.group={smallest}, or a larger batch."
        )
    return sizes


def _micro_batch(
    batch_name: str, batch: int, name: str, asked: Literal["auto"] | int, group: int, world: int
) -> int:
    choices = possible(batch, group, world)
    if not choices:
        unit = group if group % world == 0 or world % group == 0 else group * world
        below, above = batch // unit * unit, (batch // unit + 1) * unit
        nearest = f"{below} or {above}" if below else f"{above}"
        raise UserError(
            f"{batch_name} {batch} cannot be cut into BatchNorm groups of {group} (bn.group) "
            f"over {world} process{'es' if world > 1 else ''}; nearest: {nearest}."
        )
    if asked == "auto":
        return max((m for m in choices if m <= group), default=choices[0])
    if asked not in choices:
        near = sorted(choices, key=lambda m: abs(m - asked))[:4]
        raise UserError(
            f"{name} {asked} does not fit: {batch_name} {batch} must be cut into equal micro-batches of "
            f"whole BatchNorm groups of {group} (bn.group) over {world} process{'es' if world > 1 else ''}; "
            f"possible: {', '.join(map(str, sorted(near)))}, or auto."
        )
    return asked


def possible(batch: int, group: int, world: int) -> list[int]:
    """Every micro-batch that cuts the batch into equal parts which hold the groups, ascending."""
    return [m for m in range(1, batch // world + 1) if _fits(batch, m, group, world)]


def _fits(batch: int, micro_batch: int, group: int, world: int) -> bool:
    if batch % (micro_batch * world):
        return False
    try:
        check_layout(group, micro_batch, world)
    except ValueError:
        return False
    return True
