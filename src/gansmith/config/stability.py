"""The settings of what trains and what keeps training alive: losses, penalties, the growing batch, the guard.

All of it is off by default, but for the loss, watching and the guard.
"""

from typing import Literal

from pydantic import field_validator

from gansmith.config.fields import Section, free, identity, images


class LossConfig(Section):
    objective: str = identity("hinge", "hinge, or your own: module:function (docs/objectives.md)")
    ortho_g: float = identity(0.0, "orthogonal regularisation of G (BigGAN 3.1: 1e-4)", ge=0)
    ortho_d: float = identity(0.0, "orthogonal regularisation of D", ge=0)


class PenaltyConfig(Section):
    """Terms added to a loss (docs/regularisers.md)."""


class AugmentConfig(Section):
    """Differentiable augmentation of what D sees (docs/regularisers.md)."""


class HeadConfig(Section):
    """Auxiliary losses on D's features."""


class StabiliseConfig(Section):
    """What acts on the whole batch's loss, or on weights after a step."""


class BatchConfig(Section):
    """How the batch grows (docs/batch.md). `train.batch` is what it starts with."""


class PretrainConfig(Section):
    """G on a perceptual loss, D on a frozen G, before both."""


class WatchConfig(Section):
    """Signals beyond losses (docs/watching.md)."""

    every: Literal["auto"] | str | int | None = free(
        "auto",
        "images between looks at what G makes and at singular values; auto: under 1 % of time; None: never",
    )
    images: int = free(64, "fixed latents that are looked at, and as many real images", ge=8)
    data: str | None = free(
        None, "images that are not trained on; None: data.hold_out, else eval.data, else none"
    )

    @field_validator("every")
    @classmethod
    def _amount(cls, value: str | int | None) -> str | int | None:
        if value not in ("auto", None) and images(value, 1_000_000) < 1:
            raise ValueError("must be auto, None or at least one image")
        return value


class GuardConfig(Section):
    """What happens when training collapses (docs/stability.md)."""
