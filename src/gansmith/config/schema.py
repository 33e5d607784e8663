"""The settings of a run: names, kinds, allowed values.

This room knows what the settings are called, not what they do. What contradicts what: contradictions.py.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, field_validator, model_validator
from pydantic.fields import FieldInfo

from gansmith.config.fields import Section, free, identity, images
from gansmith.config.stability import (
    AugmentConfig,
    BatchConfig,
    GuardConfig,
    HeadConfig,
    LossConfig,
    PenaltyConfig,
    PretrainConfig,
    StabiliseConfig,
    WatchConfig,
)


class DataConfig(Section):
    path: str | None = free(None, "the images: folder, zip, HDF5, tars, …, builtin:digits (docs/data.md)")
    crop: Literal["center", "top", "pad", "none"] = identity("center", "how unprepared images become square")
    resize: Literal["lanczos", "box"] = identity("lanczos", "antialiased filter for unprepared images")
    random_crop: bool = identity(False, "cut a random square from larger stored images (augmentation)")
    flip: bool = identity(True, "mirror half of the images, drawn per position")
    labels: Literal["dataset", "random"] = identity(
        "dataset", "random: a fresh uniform class at every draw (Tensorfork's pseudo-unconditional training)"
    )
    random_classes: int = identity(1000, "number of classes of random labels", ge=2)
    balanced: bool = identity(False, "draw every class equally often, whatever its size")
    hold_out: float = identity(
        0, "images that are not trained on: a number, or a share such as 0.05 (docs/watching.md)", ge=0
    )
    in_memory: Literal["auto"] | bool = free("auto", "keep the set in memory; auto: if it fits in half of it")
    workers: Literal["auto"] | int = free("auto", "reading threads per process")

    @field_validator("hold_out")
    @classmethod
    def _share_or_number(cls, value: float) -> float:
        if value > 1 and not value.is_integer():
            raise ValueError("write a share below 1, such as 0.05, or a whole number of images")
        return value


class ModelConfig(Section):
    family: Literal["biggan", "biggan-deep", "dcgan", "sngan", "sagan", "wgan-gp"] = identity(
        "biggan", "architecture (docs/baselines.md tells the older ones)"
    )
    resolution: int = identity(128, "image side in pixels: 32, 64, 128, 256, 512 or 1024")
    channels: Literal[1, 3] = identity(3, "1 greyscale, 3 RGB")
    conditional: bool = identity(True, "False trains without classes")
    ch: int = identity(96, "channel multiplier of G (and D): the one dial of size", ge=1)
    ch_d: int | None = identity(None, "channel multiplier of D; None = ch", ge=1)
    latent: Literal["normal", "uniform", "bernoulli", "censored_normal"] = identity(
        "normal", "distribution of z (BigGAN, appendix E)"
    )
    dim_z: int = identity(120, "length of z; with skip_z a multiple of the number of its slots", ge=1)
    shared_dim: int = identity(128, "length of the shared class embedding; 0: one per BatchNorm", ge=0)
    skip_z: bool = identity(True, "feed a chunk of z (deep: all of z) to every block")
    attention_g: tuple[int, ...] = identity((64,), "resolutions of G followed by self-attention")
    attention_d: tuple[int, ...] = identity((64,), "resolutions of D followed by self-attention")
    wide_d: bool = identity(True, "D's hidden width: True = a block's output, False = its input")
    depth: int = identity(2, "blocks per resolution, BigGAN-deep only", ge=1)
    init: Literal["ortho", "n02", "xavier"] = identity("ortho", "initial weights")
    bn_eps: float = identity(1e-5, "epsilon of conditional BatchNorm", gt=0)
    sn_eps: float = identity(1e-6, "epsilon of spectral norm", gt=0)
    spectral_g: bool = identity(True, "spectral norm in G")
    spectral_d: bool = identity(True, "spectral norm in D")
    noise_g: bool = identity(False, "noise inputs in every block of G, with learned strengths (StyleGAN)")
    dropout_d: float = identity(0.0, "share of D's features that training drops", ge=0, lt=1)
    discriminator: str | None = identity(None, "own D, as module:function taking D's keyword arguments")
    table_g: tuple[int, ...] | None = identity(
        None, "channel multipliers of G from 4×4 to the image; None: the published ones"
    )
    table_d: tuple[int, ...] | None = identity(
        None, "channel multipliers of D from the image to its last map"
    )
    last_map_d: int | None = identity(None, "side of D's last map; None: 4, in 32 px networks 8", ge=1)
    fade: Literal["append", "insert"] | None = identity(
        None, "how `gansmith convert --resolution` made this network: what it added is faded in"
    )
    fade_start: int = identity(0, "images seen when it was made", ge=0)
    fade_images: int = identity(0, "images over which what was added is faded in", ge=0)


class OptimConfig(Section):
    kind_g: Literal["adam", "rmsprop", "sgd"] = identity("adam", "optimizer of G")
    kind_d: Literal["adam", "rmsprop", "sgd"] | None = identity(None, "optimizer of D; None = kind_g")
    lr_g: float = identity(5e-5, "learning rate of G", gt=0)
    lr_d: float = identity(2e-4, "learning rate of D", gt=0)
    beta1: float = identity(0.0, "Adam first-moment decay", ge=0, lt=1)
    beta2: float = identity(0.999, "Adam second-moment decay", ge=0, lt=1)
    beta1_d: float | None = identity(None, "that of D; None = beta1", ge=0, lt=1)
    beta2_d: float | None = identity(None, "that of D; None = beta2", ge=0, lt=1)
    eps: float = identity(1e-6, "Adam and RMSprop epsilon", gt=0)
    alpha: float = identity(0.99, "RMSprop second-moment decay", gt=0, lt=1)
    momentum_g: float = identity(0.0, "momentum of G's SGD or RMSprop", ge=0, lt=1)
    momentum_d: float | None = identity(None, "that of D's; None = momentum_g", ge=0, lt=1)
    d_steps: int = identity(2, "D phases per G phase", ge=1)
    schedule: Literal["constant", "linear", "cosine", "steps"] = identity(
        "constant", "learning rates over images: linear and cosine fall to 0 at schedule_end"
    )
    schedule_end: str | int | None = identity(
        None, "where linear and cosine reach 0; None: the duration, whatever it is"
    )
    schedule_steps: dict[str, float] = identity({}, "steps: images → factor from there, e.g. {10M: 0.5}")
    warmup: str | int = identity(0, "images over which learning rates rise from 0")

    @field_validator("warmup")
    @classmethod
    def _amount(cls, value: str | int) -> str | int:
        images(value, 1)
        return value

    @field_validator("schedule_end")
    @classmethod
    def _end(cls, value: str | int | None) -> str | int | None:
        if value is not None and images(value, 1_000_000) < 1:
            raise ValueError("must be at least one image")
        return value

    @field_validator("schedule_steps", mode="before")
    @classmethod
    def _step_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = {str(key): factor for key, factor in value.items()}
            for key in value:
                images(key, 1)
        return value

    @model_validator(mode="after")
    def _steps_given(self) -> "OptimConfig":
        if self.schedule == "steps" and not self.schedule_steps:
            raise ValueError("schedule: steps needs schedule_steps, e.g. {10M: 0.5, 15M: 0.25}")
        return self


class TrainConfig(Section):
    duration: str | int = free("20M", "real images shown to D in all: 20M, 128k, 50ep")
    batch: int = free(256, "images per D phase, all processes and micro-batches together", ge=1)
    batch_g: int | None = free(None, "fakes per G phase; None = batch", ge=1)
    micro_batch: Literal["auto"] | int = free("auto", "images per forward and process (docs/memory.md)")
    micro_batch_g: Literal["auto"] | int | None = free(None, "the same for G phases; None = micro_batch")
    seed: int = identity(0, "of initial weights, data order and noise", ge=0)
    precision: Literal["auto", "bf16", "fp16", "fp32"] = free("auto", "arithmetic of forward and backward")
    tf32: bool = free(False, "TF32 matrix products where the arithmetic is fp32 (CUDA)")
    threads: int | None = free(None, "threads per process on a CPU; None = one per core", ge=1)
    channels_last: bool = free(True, "NHWC memory layout")
    deterministic: bool = free(True, "runs repeat bit for bit; False lets CUDA choose faster kernels")
    compile: Literal["auto"] | bool = free("auto", "torch.compile of both networks; auto: on CUDA only")
    checkpoint_from: int | None = free(
        None, "recompute blocks from this resolution on in the backward: less memory, more time", ge=4
    )
    conv_rewrites: Literal["auto"] | bool = free(
        "auto", "resampling convolutions with 4/9 of the multiplications; auto: on a CPU"
    )
    max_skipped: int = free(20, "steps with non-finite gradients in a row before the run gives up", ge=1)

    @field_validator("duration")
    @classmethod
    def _amount(cls, value: str | int) -> str | int:
        images(value, 1)
        return value


class BatchNormConfig(Section):
    group: Literal["auto"] | int = identity(
        "auto", "images that share BatchNorm statistics, whatever micro-batch and ranks; auto = up to 64"
    )


class SpectralConfig(Section):
    iterations: int = identity(1, "power iterations per optimizer step", ge=1)


class EmaConfig(Section):
    half_life: str | int = identity("10M", "images in which a weight's share in the average halves")
    ramp: float | None = identity(0.05, "half-life at most this share of images seen; None: no ramp", gt=0)
    start: str | int = identity(0, "images before which the average is a copy of G")

    @field_validator("half_life", "start")
    @classmethod
    def _amount(cls, value: str | int) -> str | int:
        images(value, 1)
        return value


class InitConfig(Section):
    """Starting from given weights (docs/finetuning.md)."""

    source: str | None = identity(None, "where the weights come from; the run goes on without it")
    sha256: str | None = identity(None, "of these weights; filled in when they are read, refused if others")
    map: dict[str, str] = identity({}, "new class → class of the source, by name or number")
    new_classes: Literal["mean", "nearest"] = identity(
        "mean", "how other classes start: as the mean of the source's, or as the one that looks nearest"
    )
    freeze_d: int | tuple[str, ...] = identity(
        0, "blocks of D that stay as they are, counted from the image, or layers by name"
    )
    release: str | int = identity(
        "auto", "when G may learn: plateau of D's loss, or after so many images; auto: plateau if D is new"
    )
    release_window: str | int = identity("50k", "images that D's loss is averaged over to see the plateau")
    release_tolerance: float = identity(0.02, "a plateau: the mean falls by less from window to window", gt=0)
    release_limit: str | int = identity("1M", "images after which G is released without a plateau")
    release_ramp: str | int = identity("50k", "images over which G's learning rate then rises from 0")
    generator: dict[str, Any] = identity({}, "filled in: what the source's G has and model.* cannot say")
    discriminator: dict[str, Any] = identity({}, "filled in: the same of its D")

    @field_validator("map", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:  # YAML reads the class 7 as a number
        return {str(new): str(old) for new, old in value.items()} if isinstance(value, dict) else value

    @field_validator("freeze_d")
    @classmethod
    def _blocks(cls, value: int | tuple[str, ...]) -> int | tuple[str, ...]:
        if isinstance(value, int) and value < 0:
            raise ValueError("must be 0 or more blocks")
        return value

    @field_validator("release")
    @classmethod
    def _criterion(cls, value: str | int) -> str | int:
        if value not in ("auto", "plateau"):
            try:
                images(value, 1)
            except ValueError:
                raise ValueError("write auto, plateau, or an amount of images such as 100k") from None
        return value

    @field_validator("release_window", "release_limit", "release_ramp")
    @classmethod
    def _amount(cls, value: str | int) -> str | int:
        images(value, 1)
        return value


class LogConfig(Section):
    status_every: str | int = free("5k", "images between status lines")
    snapshot_every: str | int = free("200k", "images between snapshots with their sample grids")
    checkpoint_every: str | int = free("1M", "images between checkpoints")
    grid_columns: int = free(8, "images per class in sample grids", ge=1, le=64)
    grid_classes: int = free(10, "classes (rows) in sample grids", ge=1, le=100)
    statistics_images: int = free(4096, "images for the standing statistics of a snapshot", ge=16)
    snapshot_d: bool = free(False, "keep D in snapshots too")
    keep_snapshots: int = free(20, "snapshots kept: log-spaced in images, the newest always", ge=1)
    keep_checkpoints: int = free(2, "newest checkpoints kept", ge=1)
    keep_spaced: int = free(
        4, "older checkpoints kept, log-spaced in images from the start and from now back", ge=0
    )
    keep_gigabytes: float | None = free(None, "bound on all checkpoints together, the newest excepted", gt=0)
    tensorboard: bool = free(False, "write TensorBoard events too (extra: tensorboard)")

    @field_validator("status_every", "snapshot_every", "checkpoint_every")
    @classmethod
    def _amount(cls, value: str | int) -> str | int:
        if images(value, 1_000_000) < 1:
            raise ValueError("must be at least one image")
        return value


class EvalConfig(Section):
    """Scoring snapshots while training (docs/evaluation.md)."""

    every: str | int | None = free(None, "images between evaluations, each of a fresh snapshot; None: never")
    metrics: tuple[str, ...] = free(("frechet",), "scores to compute")
    features: str = free("auto", "feature network: inception, effnet-lite0, classifier:FILE, …")
    weights: str | None = free(None, "file of the feature network's weights")
    num: str | int = free("10k", "images to score")
    data: str | None = free(None, "the reals; None: those that are trained on")
    best_by: str | None = free(None, "score that RUN/best is chosen by; None: the first one")

    @field_validator("metrics", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value

    @field_validator("every", "num")
    @classmethod
    def _amount(cls, value: str | int | None) -> str | int | None:
        if value is not None and images(value, 1_000_000) < 1:
            raise ValueError("must be at least one image")
        return value

    @field_validator("num")
    @classmethod
    def _no_epochs(cls, value: str | int) -> str | int:
        if str(value).strip().endswith("ep"):
            raise ValueError("write a number of images such as 10k")
        return value


class Config(Section):
    """Everything that decides what a run does. `gansmith train --set section.field=value` sets any of it."""

    preset: str | None = free(None, "the recipe this started from")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    penalty: PenaltyConfig = PenaltyConfig()
    augment: AugmentConfig = AugmentConfig()
    head: HeadConfig = HeadConfig()
    stabilise: StabiliseConfig = StabiliseConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    batch: BatchConfig = BatchConfig()
    bn: BatchNormConfig = BatchNormConfig()
    spectral: SpectralConfig = SpectralConfig()
    ema: EmaConfig = EmaConfig()
    init: InitConfig = InitConfig()
    pretrain: PretrainConfig = PretrainConfig()
    watch: WatchConfig = WatchConfig()
    guard: GuardConfig = GuardConfig()
    log: LogConfig = LogConfig()
    eval: EvalConfig = EvalConfig()


def fields() -> dict[str, str]:
    """Every settable path with its kind, e.g. {"optim.lr_g": "identity", …}."""
    return {path: kind for path, kind, _ in _walk(Config, "")}


def describe() -> Iterator[tuple[str, str, Any, str]]:
    """Yields (path, kind, default, description) of every field, for docs and --help."""
    for path, kind, field in _walk(Config, ""):
        yield path, kind, field.default, field.description or ""


def _walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, FieldInfo]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, f"{prefix}{name}.")
        else:
            assert isinstance(field.json_schema_extra, dict)
            yield f"{prefix}{name}", str(field.json_schema_extra["kind"]), field
