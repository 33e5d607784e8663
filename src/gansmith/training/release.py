"""A new D beside a trained G: G stands still until D has learned to judge it, then its learning rate rises.

Without this G follows the answers of a D that knows nothing yet, and what it had learned is gone within a few
hundred steps. The criterion is a plateau of D's loss, or a number of images. This module knows no network.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from gansmith.config import Config, images, is_some
from gansmith.training.distributed import World


@dataclass(frozen=True)
class Rule:
    """When G is let go (init.release…), in images. at: after so many, None: at the plateau."""

    at: int | None
    window: int
    tolerance: float
    limit: int
    ramp: int

    def __str__(self) -> str:
        ramp = f"; then its learning rate rises over {self.ramp:,} images" if self.ramp else ""
        if self.at is not None:
            return f"until {self.at:,} images{ramp}"
        return (
            f"until D's mean loss falls by less than {self.tolerance:g} from one {self.window:,} images to "
            f"the next, at most until {self.limit:,}{ramp}"
        )


def rule(config: Config, epoch: int) -> Rule:
    """The rule of a configuration. epoch: images per epoch."""
    init, pretrain = config.init, config.pretrain
    if pretrains_d(config):
        begins, amount = images(pretrain.generator, epoch), pretrain.discriminator
        return Rule(
            at=None if amount == "plateau" else begins + images(amount, epoch),
            window=max(1, images(init.release_window, epoch)),
            tolerance=init.release_tolerance,
            limit=begins + images(init.release_limit, epoch),
            ramp=0,
        )
    return Rule(
        at=None if init.release in ("auto", "plateau") else images(init.release, epoch),
        window=max(1, images(init.release_window, epoch)),
        tolerance=init.release_tolerance,
        limit=images(init.release_limit, epoch),
        ramp=images(init.release_ramp, epoch),
    )


def pretrains_d(config: Config) -> bool:
    """Whether D is trained alone because `pretrain.discriminator` says so."""
    return is_some(config.pretrain.discriminator)


def holds_at_start(config: Config, new_d: bool) -> bool:
    """Whether a run with this configuration starts with G standing still."""
    if config.init.release == "auto":
        return new_d
    return is_some(config.init.release)


@dataclass
class Release:
    """Whether G stands still, and what has been seen of D's loss: part of every checkpoint.

    total and count are the loss times images, and the images, of the present window; before is the mean of
    the last full one.
    """

    holds: bool = False
    released_at: int | None = None
    total: float = 0.0
    count: int = 0
    before: float | None = None

    def observe(
        self, rule: Rule, world: World, loss: torch.Tensor, batch: int, images_seen: int
    ) -> dict[str, Any] | None:
        """Takes note of a D phase of `batch` images: its mean loss on this rank, `images_seen` after it.

        Returns what there is to say when this phase releases G, else None. All ranks call it together.
        """
        if not self.holds:
            return None
        mean = loss.detach().float().clone()
        world.sum(mean)
        self.total += mean.item() / world.size * batch
        self.count += batch
        reason = self._reason(rule, images_seen)
        if reason is None:
            return None
        self.holds, self.released_at = False, images_seen
        return {"images_seen": images_seen, "reason": reason, "ramp": rule.ramp}

    def _reason(self, rule: Rule, images_seen: int) -> str | None:
        if rule.at is not None:
            return f"{rule.at:,} images" if images_seen >= rule.at else None
        if images_seen >= rule.limit:
            return f"the limit of {rule.limit:,} images, without a plateau"
        if self.count < rule.window:
            return None
        mean, before = self.total / self.count, self.before
        self.total, self.count, self.before = 0.0, 0, mean
        # A loss that is not finite is no plateau: comparisons with it are false.
        if before is not None and math.isfinite(mean) and before - mean < rule.tolerance:
            return f"a plateau of D's loss: {before:.3f}, then {mean:.3f}"
        return None

    def factor(self, rule: Rule, images_seen: int) -> float:
        """What G's learning rate is multiplied by."""
        if self.holds:
            return 0.0
        if self.released_at is None or not rule.ramp:
            return 1.0
        return min(1.0, (images_seen - self.released_at + 1) / rule.ramp)
