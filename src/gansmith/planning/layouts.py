"""Ways to spread a run over GPUs: which micro-batches fit, how fast each is, what it costs.

Arithmetic over what other modules counted; every assumption is a constant here or a flag.
"""

from dataclasses import dataclass
from functools import cache

import torch

from gansmith.config import Config
from gansmith.errors import UserError
from gansmith.planning import gpus, memory
from gansmith.planning.gpus import Gpu, Utilisation
from gansmith.planning.work import Work
from gansmith.training import batching

# Of a GPU's memory: the rest is for workspaces of kernels and the allocator's rounding.
USABLE = 0.9
GPUS_PER_NODE = 8
# A CPU that issues operations one by one starts about this many a second; small networks wait for it.
CALLS_PER_SECOND = 120_000
# Larger micro-batches bring no speed that is worth their memory.
LARGEST_MICRO_BATCH = 256
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Prices:
    """Money per GPU hour, per GB and month of storage, per GB of data moved in. network: GB/s between nodes,
    per node and way.
    """

    gpu_hour: float | None = None
    storage: float = 0.0
    transfer: float = 0.0
    network: float = 25.0


@dataclass(frozen=True)
class Range:
    """The likely value between the pessimistic and the optimistic one."""

    likely: float
    low: float
    high: float


@dataclass(frozen=True)
class Layout:
    """One way. memory_gib: predicted peak of a process. efficiency: share of the time that is computing, if
    no exchange overlaps it. problem: why it cannot be, or None; then the other numbers are there.
    """

    gpus: int
    micro_batch: int | None
    passes: int | None
    memory_gib: float | None
    efficiency: float | None
    images_per_second: Range | None
    days: Range | None
    gpu_hours: Range | None
    cost: Range | None
    problem: str | None = None


class Footprint:
    """Predicted memory of any micro-batch from two that were counted: activations grow in proportion."""

    def __init__(self, config: Config, num_classes: int, group: int, arithmetic: str) -> None:
        self.config, self.num_classes, self.group = config, num_classes, group
        self.dtype = DTYPES[arithmetic]
        self._at = cache(self._measure)

    def __call__(self, micro_batch: int) -> memory.Memory:
        """Bytes of one process with this micro-batch in both phases."""
        one, two = self._at(self.group), self._at(2 * self.group)
        share = (micro_batch - self.group) / self.group
        return memory.Memory(
            one.fixed,
            int(one.d + share * (two.d - one.d)),
            int(one.g + share * (two.g - one.g)),
            one.calls_d,
            one.calls_g,
        )

    def _measure(self, micro_batch: int) -> memory.Memory:
        return memory.measure(
            self.config, self.num_classes, min(self.group, micro_batch), micro_batch, micro_batch, self.dtype
        )


def counts(asked: int) -> list[int]:
    """Numbers of GPUs to compare: the one asked for, halves of it down to one, and its double."""
    found = {asked, 2 * asked}
    while asked > 1:
        asked //= 2
        found.add(asked)
    return sorted(found)


def spread(
    config: Config, bn_group: int, number: int, gpu: Gpu, work: Work, footprint: Footprint, duration: int,
    prices: Prices, rate: Utilisation, arithmetic: str,
) -> Layout:  # fmt: skip
    """The layout with the largest micro-batch that fits `number` GPUs, or why there is none."""
    try:
        largest = batching.resolve(config, bn_group, number)
    except UserError as error:
        return _impossible(number, str(error))
    room = USABLE * gpu.memory_gib
    options = _micro_batches(config, bn_group, number, largest.micro_batch)
    fitting = [m for m in options if footprint(m).peak / 2**30 <= room]
    if not fitting:
        needs = footprint(min(options)).peak / 2**30
        return _impossible(
            number,
            f"the smallest micro-batch, {min(options)}, needs {needs:.1f} GiB of {gpu.memory_gib:g} "
            f"({room:.1f} to be used); a smaller bn.group or more processes need less",
        )
    micro = max(fitting)
    peak = gpus.peak(gpu, arithmetic)
    exchange = exchange_seconds(config, work, number, gpu, prices.network)

    passes = -(-config.train.batch // (micro * number))
    calls = passes * (config.optim.d_steps * footprint(micro).calls_d + footprint(micro).calls_g)

    def seconds(share: float) -> float:
        return max(work.step / (number * peak * share), calls / CALLS_PER_SECOND) + exchange

    rates = [
        config.optim.d_steps * config.train.batch / seconds(s) for s in (rate.likely, rate.low, rate.high)
    ]
    days = [duration / each / 86400 for each in rates]
    hours = Range(*(24 * number * each for each in days))
    return Layout(
        gpus=number,
        micro_batch=micro,
        passes=passes,
        memory_gib=footprint(micro).peak / 2**30,
        efficiency=1 - exchange / seconds(rate.likely),
        images_per_second=Range(*rates),
        days=Range(*days),
        gpu_hours=hours,
        cost=None if prices.gpu_hour is None else scaled(hours, prices.gpu_hour),
    )


def exchange_seconds(config: Config, work: Work, number: int, gpu: Gpu, network: float) -> float:
    """Seconds of a step in which gradients go round a ring of all GPUs, nothing overlapped."""
    if number == 1:
        return 0.0
    size = 4 * (config.optim.d_steps * work.parameters_d + work.parameters_g)
    # Between nodes all GPUs of a node share its network; within one, its links.
    link = gpu.link if number <= GPUS_PER_NODE else min(gpu.link, network)
    return 2 * (number - 1) / number * size / (link * 1e9)


def scaled(values: Range, factor: float) -> Range:
    return Range(values.likely * factor, values.low * factor, values.high * factor)


def _micro_batches(config: Config, group: int, number: int, smallest: int) -> list[int]:
    """Micro-batches that cut the batch into whole groups on every process."""
    share = config.train.batch // number
    found = {smallest}
    for candidate in range(group, min(share, LARGEST_MICRO_BATCH) + 1, group):
        trial = config.model_copy(
            update={
                "train": config.train.model_copy(update={"micro_batch": candidate, "micro_batch_g": None})
            }
        )
        try:
            batching.resolve(trial, group, number)
        except UserError:
            continue
        found.add(candidate)
    return sorted(found)


def _impossible(number: int, problem: str) -> Layout:
    return Layout(number, None, None, None, None, None, None, None, None, problem)
