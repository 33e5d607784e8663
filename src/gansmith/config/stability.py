"""The settings of what trains and what keeps training alive: losses, penalties, the growing batch, the guard.

All of it is off by default, but for the loss, watching and the guard.
"""

from typing import Any, Literal

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

    schedule: Literal["fixed", "auto"] | dict[str, int] = free(
        "fixed", "fixed; 0:256,5M:512,… by images seen; auto: as the gradient noise asks, never back"
    )
    maximum: int | None = free(None, "auto: largest batch; None: 16 times train.batch", ge=1)
    apart: bool = free(False, "auto: D and G grow each by its own noise; False: together, by the larger")
    share: float = free(1.0, "auto: the batch aimed at, as a share of the noise scale", gt=0)
    hysteresis: float = free(0.25, "auto: grow only when this share more is wanted", ge=0)
    dwell: float = free(0.05, "auto: least time between two growths, as a share of the duration", gt=0, le=1)
    lr_power: float = free(0.0, "learning rates × (batch / train.batch) to this power", ge=0, le=1)
    noise_every: int | None = free(
        None, "steps between measurements of the gradient noise; None: 32 with auto, else never", ge=2
    )
    noise_half_life: float = free(
        0.02, "share of the duration in which a measurement's weight in the mean halves", gt=0, le=1
    )

    @field_validator("schedule", mode="before")
    @classmethod
    def _table(cls, value: Any) -> Any:
        if isinstance(value, str) and ":" in value:
            value = dict(entry.split(":", 1) for entry in value.split(","))
        if not isinstance(value, dict):
            return value
        table = {str(at).strip(): size for at, size in value.items()}
        for at in table:
            images(at, 1_000_000)
        return table


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
