"""What a run says before it starts: configuration, data, networks, cost; and the data problems it refuses
to train on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gansmith import config as configuration
from gansmith.config import Config, images
from gansmith.data import holding
from gansmith.data.ensure import expect_dataset
from gansmith.data.shards import ClassInfo, Dataset
from gansmith.errors import UserError
from gansmith.models import families
from gansmith.models.summary import count_macs, summary
from gansmith.training import growth
from gansmith.training import state as states
from gansmith.training.batching import Sizes
from gansmith.training.distributed import World
from gansmith.training.precision import Precision
from gansmith.training.runlog import RunLog


@dataclass(frozen=True)
class DataSummary:
    """What is known of the data before a pixel is read."""

    num_images: int
    classes: list[ClassInfo]
    where: str

    @property
    def num_classes(self) -> int:
        return len(self.classes)


def uses_labels(config: Config) -> bool:
    """Whether the data's own classes matter: not without classes, nor where labels are random."""
    return config.model.conditional and config.data.labels == "dataset"


def num_classes(config: Config, data: DataSummary) -> int:
    """Classes of the networks; 0 without."""
    if not config.model.conditional:
        return 0
    return config.data.random_classes if config.data.labels == "random" else data.num_classes


def drawn_classes(config: Config, dataset: Dataset) -> torch.Tensor:
    """Class ids that fakes are made of, int64: a class without images is one that D never sees as real."""
    if not uses_labels(config):
        return torch.arange(config.data.random_classes if config.model.conditional else 0)
    return torch.tensor([info.id for info in dataset.classes if info.count])


def prepare_options(config: Config) -> dict[str, Any]:
    """How unprepared data is prepared for this run (data.open_dataset's arguments)."""
    data, model = config.data, config.model
    return {
        "resolution": model.resolution,
        # A random crop needs something to cut away: an eighth of the side.
        "margin": model.resolution // 8 if data.random_crop else 0,
        "crop": data.crop,
        "resize": data.resize,
        "channels": model.channels,
        "unconditional": not uses_labels(config),
        "in_memory": data.in_memory,
    }


def summarise(dataset: Dataset) -> DataSummary:
    where = f"{dataset.path} ({dataset.storage}, {dataset.content_hash[:12]})"
    return DataSummary(len(dataset), list(dataset.classes), where)


def peek(config: Config) -> DataSummary:
    """The same without preparing or writing anything, for a dry run."""
    assert config.data.path is not None
    options = prepare_options(config)
    del options["in_memory"]
    found = expect_dataset(config.data.path, **options)
    if isinstance(found, Dataset):
        return summarise(holding.split(found, config.data.hold_out)[0])
    where = f"{found.source} ({found.kind}, still to be prepared at {found.resolution[0]} px)"
    classes = holding.left(found.classes, config.data.hold_out, found.source)
    return DataSummary(sum(info.count for info in classes), classes, where)


def check_data(config: Config, data: DataSummary) -> None:
    """Raises UserError for data that cannot train this configuration."""
    used = [info for info in data.classes if info.count]
    # One class is enough for a network that had classes: it goes on with that one (docs/finetuning.md).
    if uses_labels(config) and len(used) < 2 and config.init.source is None:
        raise UserError(
            f"--data has one class only ({used[0].name if used else 'no images'}): there is nothing to be "
            "conditional on. Add --unconditional, or give a folder with a sub-folder per class."
        )


@dataclass(frozen=True)
class Plan:
    """What is decided before the data is opened."""

    config: Config
    origins: Mapping[str, str]
    precision: Precision
    sizes: Sizes
    bn_group: int
    world: World


def everything(log: RunLog, plan: Plan, summary: DataSummary) -> None:
    """Refuses data that cannot train this configuration, else says what is going to happen."""
    check_data(plan.config, summary)
    settings(log, plan, summary.num_images)
    data(log, summary)
    networks(log, plan.config, num_classes(plan.config, summary), plan.sizes)


def settings(log: RunLog, plan: Plan, epoch: int) -> None:
    """What differs from the preset, and every automatic choice with its reason. epoch: images per epoch."""
    config, origins, precision, sizes, world = (
        plan.config,
        plan.origins,
        plan.precision,
        plan.sizes,
        plan.world,
    )
    preset = configuration.load(config.preset)[0] if config.preset else Config()
    log.say(f"preset {config.preset}" if config.preset else "no preset: the defaults are BigGAN's at 128 px")
    for path, old, new in configuration.diff(preset, config):
        log.say(f"  {path}: {old} → {new}  ({origins.get(path, 'default')})")
    processes = f"{world.size} process{'es' if world.size > 1 else ''} on {world.device}"
    log.say(f"{processes}, {precision.name} ({precision.reason})")
    asked_g = config.train.micro_batch_g or config.train.micro_batch
    d_step = f"batch {sizes.batch}{_cut(config.train.micro_batch, sizes.micro_batch)}"
    g_step = f"batch {sizes.batch_g}{_cut(asked_g, sizes.micro_batch_g)}"
    log.say(f"{config.optim.d_steps} × D: {d_step};  G: {g_step};  BatchNorm groups of {plan.bn_group}")
    rule, duration = growth.rule(config, epoch), images(config.train.duration, epoch)
    log.say(f"duration {duration:,} images = {growth.counted(rule, duration, config.optim.d_steps)}")
    for line in growth.plan(rule) + growth.notes(rule, epoch, duration, config.optim.d_steps):
        log.say(line)


def _cut(asked: int | str, micro_batch: int) -> str:
    # What `auto` comes to is found with the networks, and said then.
    return " in micro-batches to be found" if asked == "auto" else f" in micro-batches of {micro_batch}"


def data(log: RunLog, summary: DataSummary) -> None:
    counts = [info.count for info in summary.classes]
    sizes = sorted({min(counts), max(counts)}) if counts else []
    spread = f", {' to '.join(f'{size:,}' for size in sizes)} images each" if counts else ""
    log.say(f"data {summary.where}: {summary.num_images:,} images, {summary.num_classes} classes{spread}")


def networks(log: RunLog, config: Config, num_classes: int, sizes: Sizes) -> None:
    """The layers of both networks and the cost of a step, without allocating a weight."""
    with torch.device("meta"):
        G, D = states.networks(config, num_classes)
    _table(log, "G", G, summary(G))
    # A D of the user's own may take other inputs than ours; then its shapes and cost are not known.
    _table(log, "D", D, summary(D) if families.is_ours(D) else [])
    if not families.is_ours(D):
        return
    g_macs, d_macs = count_macs(G), count_macs(D)
    # D phase: G forward once; D forward, backward to weights and inputs on reals and fakes. G phase: G
    # forward and both backwards; D forward and backward to its input only.
    d_phase = g_macs + 2 * 3 * d_macs
    g_phase = 3 * g_macs + 2 * d_macs
    flops = 2 * (config.optim.d_steps * sizes.batch * d_phase + sizes.batch_g * g_phase)
    log.say(
        f"forward per image: G {g_macs / 1e9:.2f}, D {d_macs / 1e9:.2f} GMAC;  "
        f"a step of {config.optim.d_steps} D and 1 G phase: {flops / 1e12:.2f} TFLOP"
    )


def _table(
    log: RunLog, title: str, net: nn.Module, rows: list[tuple[str, str, int, tuple[int, ...]]]
) -> None:
    log.say(f"{title}: {type(net).__name__}, {sum(p.numel() for p in net.parameters()):,} parameters")
    for name, kind, parameters, shape in rows:
        log.say(f"  {name:<16} {kind:<26} {parameters:>12,}  {'×'.join(map(str, shape))}")
