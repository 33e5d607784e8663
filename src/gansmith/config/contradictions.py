"""What settings contradict each other, with the reason: found before anything is opened or written.

Problems of one field are the business of its type (schema.py, stability.py).
"""

import math
from collections.abc import Iterator

from gansmith.config import losses, stabilisers
from gansmith.config.fields import images
from gansmith.config.schema import Config, ModelConfig

# What the GANs before BigGAN were built for, in pixels.
OLDER = {"dcgan": (32, 64, 128), "sngan": (32, 64, 128), "sagan": (32, 64, 128), "wgan-gp": (32, 64)}
WITHOUT_ATTENTION = ("dcgan", "sngan", "wgan-gp")


def contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """Problems between fields; those of one field are the business of its type."""
    model = config.model
    if model.resolution not in (32, 64, 128, 256, 512, 1024):
        yield "model.resolution", f"{model.resolution} is not built; choose 32, 64, 128, 256, 512 or 1024"
        return
    if model.skip_z and model.family == "biggan":
        slots = int(math.log2(model.resolution)) - 1  # one for the first layer, one per block
        if model.dim_z % slots:
            below, above = model.dim_z // slots * slots, (model.dim_z // slots + 1) * slots
            nearest = f"{below} or {above}" if below else f"{above}"
            yield (
                "model.dim_z",
                f"{model.dim_z} cannot be cut into {slots} equal chunks (skip_z); nearest: {nearest}",
            )
    yield from _of_older_families(config)
    for name, at in (("attention_g", model.attention_g), ("attention_d", model.attention_d)):
        for resolution in at if model.family not in WITHOUT_ATTENTION else ():
            if resolution not in (8, 16, 32, 64, 128, 256, 512) or resolution >= model.resolution:
                yield (
                    f"model.{name}",
                    f"{resolution} is no inner resolution of a {model.resolution} px network",
                )
    if model.ch % 2 or (model.ch_d or 2) % 2:
        yield "model.ch", "must be even: attention and BigGAN-deep use fractions of it"
    stages = int(math.log2(model.resolution)) - 2
    for name, table in (("table_g", model.table_g), ("table_d", model.table_d)):
        wanted = stages + 1
        if table is not None and (len(table) != wanted or min(table) < 1):
            yield f"model.{name}", f"has {wanted} entries above 0 at {model.resolution} px, not {list(table)}"
    if model.fade is not None and model.discriminator is not None:
        yield "model.fade", "a promoted network has gansmith's own D: leave model.discriminator out"
    optim = config.optim
    kinds = {"momentum_g": optim.kind_g, "momentum_d": optim.kind_d or optim.kind_g}
    for name, kind in kinds.items():
        if getattr(optim, name) and kind == "adam":
            yield f"optim.{name}", "Adam has optim.beta1 for it; momentum is that of sgd and rmsprop"
    if not model.conditional and config.data.labels == "random":
        yield "data.labels", "random labels need model.conditional: true"
    if config.data.balanced and config.data.labels == "random":
        yield "data.balanced", "balanced classes and random labels exclude each other"
    yield from losses.contradictions(config)
    if model.discriminator is not None and ":" not in model.discriminator:
        yield "model.discriminator", f"{model.discriminator!r} must be module:function"
    if config.init.source is None:
        for name in ("map", "freeze_d", "generator", "discriminator"):
            if getattr(config.init, name):
                yield f"init.{name}", "is for runs that start from given weights: it needs --init-from"
    yield from _batch(config)
    for path, value in (
        ("bn.group", config.bn.group),
        ("train.micro_batch", config.train.micro_batch),
        ("train.micro_batch_g", config.train.micro_batch_g),
        ("data.workers", config.data.workers),
    ):
        if isinstance(value, int) and value < 1:
            yield path, f"must be at least 1 or auto, not {value}"
    yield from stabilisers.contradictions(config)


def _of_older_families(config: Config) -> Iterator[tuple[str, str]]:
    """What a DCGAN or its kind cannot be. Settings that mean nothing to it keep their defaults unharmed."""
    model = config.model
    if model.family not in OLDER:
        return
    if model.resolution not in (sizes := OLDER[model.family]):
        yield "model.resolution", f"{model.family} is built for {', '.join(map(str, sizes))} px"
    if model.fade is not None:
        yield "model.fade", f"only BigGANs are promoted, not {model.family}"
    if model.noise_g and model.family in ("dcgan", "wgan-gp"):
        yield "model.noise_g", f"noise inputs are built into BigGAN's kind of generator, not {model.family}"
    if model.family not in WITHOUT_ATTENTION:
        return
    for name, at in (("attention_g", model.attention_g), ("attention_d", model.attention_d)):
        if at not in ((), ModelConfig().attention_g):
            hint = "; family sagan is sngan with it" if model.family == "sngan" else ""
            yield f"model.{name}", f"{model.family} has no self-attention{hint}"
    if model.family != "sngan":
        for name in ("table_g", "table_d", "last_map_d"):
            if getattr(model, name) is not None:
                yield f"model.{name}", f"{model.family} has one table only, scaled by model.ch"


def _batch(config: Config) -> Iterator[tuple[str, str]]:
    batch, start = config.batch, config.train.batch
    if isinstance(batch.schedule, dict):
        # What an epoch is is not known here; entries in epochs are held against each other only.
        table = sorted((images(at, 1 << 40), size) for at, size in batch.schedule.items())
        sizes = [size for _, size in table]
        if not table or table[0] != (0, start):
            yield (
                "batch.schedule",
                f"begins with 0:{start}, the batch of train.batch; not {_pair(table)}",
            )
        elif sizes != sorted(sizes):
            yield "batch.schedule", f"shrinks: {' → '.join(map(str, sizes))}; a batch only grows"
        elif uneven := [size for size in sizes if size % start]:
            below, above = uneven[0] // start * start, (uneven[0] // start + 1) * start
            yield (
                "batch.schedule",
                f"{uneven[0]} is no multiple of train.batch {start}, which growth adds whole micro-batches "
                f"to; nearest: {below} or {above}",
            )
    if batch.maximum is not None and batch.schedule != "auto":
        yield "batch.maximum", "is for batch.schedule: auto"
    if batch.maximum is not None and (batch.maximum < start or batch.maximum % start):
        yield "batch.maximum", f"{batch.maximum} is no multiple of train.batch {start}"
    if batch.schedule == "auto" or batch.noise_every is not None:
        group = config.bn.group
        size, name = min((start, "batch"), (config.train.batch_g or start, "batch_g"))
        if group != "auto" and size < 2 * group:
            yield (
                "bn.group",
                f"{group}: gradient noise is measured between BatchNorm groups, and train.{name} {size} "
                f"holds fewer than two; set bn.group={max(size // 2, 1)} or less, or "
                f"train.{name}={2 * group}",
            )


def _pair(table: list[tuple[int, int]]) -> str:
    return f"{table[0][0]}:{table[0][1]}" if table else "empty"
