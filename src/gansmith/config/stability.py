"""The settings of what trains and what keeps training alive: losses, penalties, the growing batch, the guard.

All of it is off by default, but for the loss, watching and the guard.
"""

import math
import re
from typing import Any, Literal

from pydantic import field_validator

from gansmith.config.fields import Section, free, identity, images

# What training/objectives/ has; their formulas are there and in docs/regularisers.md.
LOSSES = (
    "hinge", "non_saturating", "wasserstein", "least_squares", "least_squares_01", "relativistic",
)  # fmt: skip
# Losses of D whose logits say real or fake by their sign; an objective of one's own says itself.
SIGNED = ("hinge", "non_saturating", "least_squares")
Transform = Literal["flip", "color", "translation", "cutout"]
Family = Literal["blit", "geometry", "color"]


def _words(value: Any) -> Any:
    """`a,b` as a list of names."""
    return tuple(word.strip() for word in value.split(",")) if isinstance(value, str) else value


Level = float | str | None


def level(value: float | str) -> tuple[float, bool]:
    """0.2 → (0.2, False); `0.5x` → (0.5, True), a multiple. Raises ValueError for other text."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*x\s*", str(value))
    if match:
        return float(match[1]), True
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("write a number such as 0.2, or a multiple such as 0.5x")
    return number, False


class LossConfig(Section):
    objective: str = identity(
        "hinge", f"{', '.join(LOSSES)}, or your own: module:function (docs/objectives.md)"
    )
    ortho_g: float = identity(0.0, "orthogonal regularisation of G (BigGAN 3.1: 1e-4)", ge=0)
    ortho_d: float = identity(0.0, "orthogonal regularisation of D", ge=0)


class PenaltyConfig(Section):
    """Terms added to D's loss or gradient (docs/regularisers.md). None is off; 0 measures and logs."""

    r1: float | None = identity(None, "γ of γ/2·E‖∇D(x)‖² on reals", ge=0)
    r1_every: int = identity(1, "D steps between R1s, each times as strong", ge=1)
    r2: float | None = identity(None, "γ of γ/2·E‖∇D(G(z))‖² on fakes", ge=0)
    r2_every: int = identity(1, "D steps between R2s, each times as strong", ge=1)
    method: Literal["exact", "finite"] = identity(
        "exact", "R1 and R2 by a double backward, or by ((D(x + εn) − D(x))/ε)², n ~ N(0, I)"
    )
    epsilon: float = identity(0.01, "ε of finite differences", gt=0)
    gradient_penalty: float | None = identity(
        None, "λ of λ·E[(‖∇D(x̂)‖ − 1)²] between reals and fakes (WGAN-GP: 10)", ge=0
    )
    lecam: float | None = identity(None, "λ of LeCam regularisation (0.3 for CIFAR)", ge=0)
    lecam_decay: float = identity(0.99, "decay of LeCam's averages of D's logits, per D step", gt=0, lt=1)
    consistency_real: float | None = identity(None, "λ of λ·E[(D(x) − D(T(x)))²] (bCR: 10)", ge=0)
    consistency_fake: float | None = identity(None, "λ of the same on fakes (bCR: 10)", ge=0)
    consistency_transforms: tuple[Transform, ...] = identity(("flip", "translation"), "what T does")
    l2_d: float | None = identity(None, "λ of λ/2·ΣW² over D's convolutions and linear layers", ge=0)
    sigma_d: float | None = identity(None, "β of β·Σ(σ0 − sigma_target)² over D's layers", ge=0)
    sigma_g: float | None = identity(None, "β of the same over G's layers (BigGAN 4.1)", ge=0)
    sigma_target: float = identity(1.0, "what σ0 is drawn to", gt=0)

    _list = field_validator("consistency_transforms", mode="before")(_words)


class AugmentConfig(Section):
    """Differentiable augmentation of what D sees (docs/regularisers.md)."""

    diffaugment: tuple[Transform, ...] = identity(
        (), "DiffAugment, always on: of color, translation, cutout, flip"
    )
    ada_target: float | None = identity(None, "ADA: E[sign D(x)] that p is adapted to (0.6)", gt=-1, lt=1)
    ada_every: int = identity(4, "D steps between changes of p", ge=1)
    ada_images: str | int = identity("500k", "images in which p can go from 0 to 1")
    ada_start_p: float = identity(0.0, "p at the beginning", ge=0, le=1)
    ada_transforms: tuple[Family, ...] = identity(
        ("blit", "geometry", "color"), "kinds of transformations, each of several"
    )

    _lists = field_validator("diffaugment", "ada_transforms", mode="before")(_words)

    @field_validator("ada_images")
    @classmethod
    def _amount(cls, value: str | int) -> str | int:
        if str(value).strip().endswith("ep") or images(value, 1) < 1:
            raise ValueError("write a number of images such as 500k")
        return value


class HeadConfig(Section):
    """Further losses on D's features, each with a layer of its own (docs/stabilisers.md). None is off."""

    classify_d: float | None = identity(None, "λ of D's classification of reals and fakes (AC-GAN: 1)", ge=0)
    classify_g: float | None = identity(None, "λ of the same of its fakes for G (AC-GAN: 1)", ge=0)
    projection: bool = identity(True, "False: D's logits do not look at the class (AC-GAN)")
    rotate_d: float | None = identity(None, "λ of telling by what turned reals were turned (SSGAN: 1)", ge=0)
    rotate_g: float | None = identity(None, "λ of the same of its turned fakes for G (SSGAN: 0.2)", ge=0)
    contrast_d: float | None = identity(None, "λ of recognising a real augmented otherwise (SimCLR)", ge=0)
    contrast_temperature: float = identity(0.1, "temperature of its similarities", gt=0)
    contrast_transforms: tuple[Transform, ...] = identity(
        ("flip", "color", "translation"), "how the two views of a real are augmented"
    )

    _list = field_validator("contrast_transforms", mode="before")(_words)


class StabiliseConfig(Section):
    """What acts on the whole batch's loss, or on weights after a step (docs/stabilisers.md).

    A level is a number, or `0.5x`: so many times the running mean of the loss.
    """

    flood_d: Level = identity(
        None, "b of L_D ← |L_D − b| + b, e.g. 0.20; 0.5x: relative; None: off, 0 is not"
    )
    flood_g: Level = identity(None, "the same of G, e.g. 0.05")
    stop_d: Level = identity(None, "leave D out of steps in which L_D is at most this, e.g. 0.20")
    stop_g: Level = identity(None, "leave G out of steps in which L_D is at least this, e.g. 1.50")
    baseline: str | int = identity("100k", "half-life in images of the running mean of a relative level")
    gate_d: float | None = identity(None, "leave D out while its accuracy on the batch is above this")
    gate_g: float | None = identity(None, "leave G out while D's accuracy on the batch is below this")
    critic_plateau: float | None = identity(
        None, "a step's D phases end once L_D falls by less than this; optim.d_steps are the most", ge=0
    )
    top_k: float | None = identity(
        None, "G learns from the best of its fakes: the smallest share kept (top-k GAN: 0.5)", gt=0, lt=1
    )
    top_k_decay: float = identity(0.99, "factor of the share, from 1 on, …", gt=0, lt=1)
    top_k_every: str | int = identity("1ep", "… per so many images")
    replay: float | None = identity(None, "share of D's fakes that are older ones, kept", gt=0, lt=1)
    replay_images: int = identity(1024, "fakes that are kept", ge=1)
    replay_span: str | int = identity("100k", "images in which all of them are replaced")
    clip_weights: float | None = identity(None, "D's weights stay in [−c, c] (WGAN: 0.01)", gt=0)
    clamp_d: Level = identity(None, "largest σ0 of D's weights; 0.95x: so many times their σ1 (BigGAN 4.1)")
    clamp_g: Level = identity(None, "the same of G")

    @field_validator("clamp_d", "clamp_g")
    @classmethod
    def _positive(cls, value: float | str | None) -> float | str | None:
        if value is not None and level(value)[0] <= 0:
            raise ValueError("a singular value is clamped to more than 0")
        return value

    @field_validator("flood_d", "flood_g", "stop_d", "stop_g", "clamp_d", "clamp_g")
    @classmethod
    def _level(cls, value: float | str | None) -> float | str | None:
        if value is None:
            return None
        number, relative = level(value)
        return value if relative else number

    @field_validator("baseline", "top_k_every", "replay_span")
    @classmethod
    def _amount(cls, value: str | int) -> str | int:
        if images(value, 1_000_000) < 1:
            raise ValueError("must be at least one image")
        return value


class BatchConfig(Section):
    """How the batch grows (docs/batch.md). `train.batch` is what it starts with."""

    schedule: Literal["fixed", "auto"] | dict[str, int] = free(
        "fixed", "fixed; 0:256,5M:512,… by images seen; auto: as the gradient noise asks, never back"
    )
    maximum: int | None = free(
        None, "auto: largest batch; None: 16 times train.batch, at most an epoch", ge=1
    )
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
        if value in ("fixed", "auto"):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"write fixed, auto or a table such as 0:256,5M:512, not {value!r}")
        table = {str(at).strip(): size for at, size in value.items()}
        for at in table:
            images(at, 1_000_000)
        return table


class PretrainConfig(Section):
    """G on a perceptual loss, D on a G that stands still, before both (docs/stabilisers.md)."""

    generator: str | int = identity(0, "images that G is first trained on alone, with a perceptual loss")
    discriminator: str | int = identity(
        0, "images that D is then trained on alone; plateau: until its loss stops falling, as init.release"
    )
    features: str = identity("auto", "feature network of the loss: effnet-lite0, pixels, classifier:FILE, …")
    weights: str | None = identity(None, "file of its weights")
    pixels: float = identity(1.0, "weight of the mean difference of pixels beside the features", ge=0)

    @field_validator("generator")
    @classmethod
    def _amount(cls, value: str | int) -> str | int:
        images(value, 1)
        return value

    @field_validator("discriminator")
    @classmethod
    def _criterion(cls, value: str | int) -> str | int:
        if value != "plateau":
            images(value, 1)
        return value


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

    policy: Literal["rollback", "stop", "warn", "off"] = free(
        "rollback",
        "on collapse: go back and try otherwise, end the run, say so and train on; off: do not look",
    )
    retries: int = free(3, "how often the run may go back", ge=0)
    back: float = free(
        0.1,
        "how far before the first suspicion, as a share of the images seen then; further each time",
        ge=0,
        lt=1,
    )
    penalty_r1: float | None = free(
        None, "penalty.r1 that a run has after going back, if it has a weaker one or none", ge=0
    )
    lr_factor: float = free(0.5, "learning rates are multiplied by this at each going back", gt=0, le=1)

    @field_validator("policy", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false
