"""What a run will cost, before it starts: computing, memory, time, money, disk.

Counts from shapes, looks up GPUs, and measures this machine on request. May ask the rooms that train; changes
and writes nothing.
"""

from dataclasses import asdict, dataclass
from typing import Any

from gansmith.config import Config, images
from gansmith.errors import UserError
from gansmith.planning import gpus, layouts, memory, speed
from gansmith.planning import work as works
from gansmith.planning.gpus import Gpu, Utilisation
from gansmith.planning.layouts import Layout, Prices, Range
from gansmith.planning.speed import Measured
from gansmith.planning.work import Disk, Work
from gansmith.training import batching, growth


@dataclass(frozen=True)
class Plan:
    """Everything that is known of a run in advance. steps_counted: steps in words. layouts: of several
    numbers of GPUs, the one asked for among them. here: this machine measured, or None. storage, transfer:
    money for disk and data, which the layouts' costs do not include.
    """

    preset: str | None
    duration: int
    steps: int
    steps_counted: str
    batch: int
    bn_group: int
    num_images: int
    num_classes: int
    data_assumed: bool
    arithmetic: str
    gpu: Gpu
    gpus: int
    work: Work
    memory: dict[int, float]
    utilisation: Utilisation
    layouts: list[Layout]
    cheapest: int | None
    disk: Disk
    storage: float
    transfer: float
    here: Measured | None
    here_days: float | None

    @property
    def asked(self) -> Layout:
        return next(layout for layout in self.layouts if layout.gpus == self.gpus)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values; sizes in bytes unless a name says otherwise."""
        return asdict(self) | {"disk_total": self.disk.total}


def plan(
    config: Config,
    gpu_spec: str,
    prices: Prices,
    *,
    num_images: int | None = None,
    num_classes: int | None = None,
    measure: bool = False,
    device: str | None = None,
    within: float | None = None,
) -> Plan:
    """Plans a run of `config` on `gpu_spec` (`8xH100`).

    num_images, num_classes: of the data; None assumes the recipe's. measure: time this machine too. If its
    accelerator is the GPU asked for, its rate replaces the table's. within: days that the cheapest layout may
    take. Raises UserError for what cannot be planned, naming what can.
    """
    number, gpu = gpus.parse(gpu_spec)
    found_images, classes, assumed = works.data_set(config, num_images, num_classes)
    duration, rule = images(config.train.duration, found_images), growth.rule(config, found_images)
    group = batching.bn_group(config)
    one = batching.resolve(config, group, 1)
    if ":" in config.loss.objective:
        raise UserError(
            f"loss.objective {config.loss.objective}: only gansmith's own losses can be counted from shapes; "
            "plan with hinge for a first idea, or measure a short run."
        )
    arithmetic = gpus.precision(gpu, config.train.precision)
    work = works.count(config, classes, one)
    here = speed.measure(config, classes, one, group, work, device) if measure else None
    rate = gpus.utilisation(gpu, arithmetic)
    if here is not None and _is(gpu, here.device):
        share = here.flop_per_second / gpus.peak(gpu, arithmetic)
        rate = Utilisation(share, share, share, f"measured here on one {here.device}", True)
    footprint = layouts.Footprint(config, classes, group, arithmetic)
    ways = [
        layouts.spread(config, group, n, gpu, work, footprint, duration, prices, rate, arithmetic)
        for n in layouts.counts(number)
    ]
    possible = [way for way in ways if way.problem is None and way.days and way.gpu_hours]
    quick = [way for way in possible if within is None or (way.days and _shown(way.days.likely) <= within)]
    best = min(quick, key=lambda way: way.gpu_hours.likely if way.gpu_hours else 0.0, default=None)
    disk = works.disk(config, work, found_images, duration)
    asked = next(way for way in ways if way.gpus == number)
    months = asked.days.likely / 30.4 if asked.days else 0.0
    return Plan(
        preset=config.preset,
        duration=duration,
        steps=growth.num_steps(rule, duration, config.optim.d_steps),
        steps_counted=growth.counted(rule, duration, config.optim.d_steps),
        batch=one.batch,
        bn_group=group,
        num_images=found_images,
        num_classes=classes,
        data_assumed=assumed,
        arithmetic=arithmetic,
        gpu=gpu,
        gpus=number,
        work=work,
        memory={m: footprint(m).peak / 2**30 for m in (group, 2 * group, 4 * group) if m <= one.batch},
        utilisation=rate,
        layouts=ways,
        cheapest=best.gpus if best else None,
        disk=disk,
        storage=disk.total / 1e9 * prices.storage * max(months, 0.0),
        transfer=disk.data / 1e9 * prices.transfer,
        here=here,
        here_days=duration / here.images_per_second / 86400 if here else None,
    )


def _shown(days: float) -> float:
    """As the table shows it: a row that says 14 days is one within 14 days."""
    return float(f"{days:.3g}")


def _is(gpu: Gpu, device: str) -> bool:
    return gpu.name.split("-")[0].lower() in device.lower().replace(" ", "")


__all__ = ["Disk", "Layout", "Plan", "Prices", "Range", "memory", "plan"]
