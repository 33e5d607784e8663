"""How fast this machine trains a configuration: real micro-batches on real tensors of noise, timed.

Only for `--measure`; planning without it computes nothing. Leaves nothing behind.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gansmith import hardware
from gansmith.config import Config
from gansmith.models import layers, normalization, spectral
from gansmith.planning.work import Work
from gansmith.training import objectives, precision, state
from gansmith.training.batching import Sizes
from gansmith.training.draws import Draws
from gansmith.training.gradients import FlatGradients

REPEATS, PATIENCE = 3, 15.0  # of each phase: so often, or until so many seconds have passed
# A CPU gets micro-batches of about this many FLOP, so that an answer takes seconds to a minute.
CPU_FLOP = 5e11


@dataclass(frozen=True)
class Measured:
    """images_per_second: images seen of a whole step, put together from its parts. micro_batch: images per
    forward that were timed. peak_gib: of the device's memory; None on a CPU.
    """

    device: str
    arithmetic: str
    micro_batch: int
    images_per_second: float
    flop_per_second: float
    peak_gib: float | None


def measure(
    config: Config, num_classes: int, sizes: Sizes, bn_group: int, work: Work, device: str | None
) -> Measured:
    """Times a micro-batch and an update of each phase. Raises UserError for a device that is not here."""
    place = hardware.choose_device(device)
    chosen = precision.choose(config.train.precision, place)
    precision.set_up(deterministic=False, tf32=config.train.tf32, threads=config.train.threads)
    micro, group = sizes.micro_batch, bn_group
    if place.type == "cpu":
        micro = max(1, min(micro, int(CPU_FLOP / max(work.phase_d, work.phase_g))))
        group = micro
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        G, D = state.networks(config, num_classes)
    players = {}
    for letter, net in (("g", G), ("d", D)):
        net.to(place).train()
        if config.train.channels_last:
            layers.set_channels_last(net)
        spectral.refresh(net)
        adam = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)
        players[letter] = (net, FlatGradients(net), adam)
    normalization.set_batch_norm_group(G, min(group, micro))
    objective = objectives.build(config, place)

    def run(letter: str, turn: int) -> tuple[float, float]:
        """Seconds of a micro-batch, and of the update after a phase."""
        net, gradients, adam = players[letter]
        spectral.set_trainable(net, True)
        spectral.set_trainable(D if letter == "g" else G, False)
        gradients.zero()
        inputs = _noise(config, num_classes, micro, place, turn)
        start = _now(place)
        with chosen.autocast():
            loss, _ = objective(letter, G, D, inputs)
        loss.backward()
        middle = _now(place)
        spectral.pull_back(net)
        gradients.norm()
        adam.step()
        spectral.refresh(net, config.spectral.iterations)
        return middle - start, _now(place) - middle

    def median(letter: str, turn: int) -> tuple[float, float]:
        run(letter, turn)  # chooses kernels, fills caches
        times = [run(letter, turn)]
        while len(times) < REPEATS and sum(map(sum, times)) < PATIENCE:
            times.append(run(letter, turn))
        first, second = (sorted(column)[len(times) // 2] for column in zip(*times))
        return first, second

    seconds = {letter: median(letter, 1) for letter in "dg"}
    if (every := _lazy(config)) > 1:  # now and then a D phase has more to do
        often, now_and_then = seconds["d"][0], median("d", 0)[0]
        seconds["d"] = often + (now_and_then - often) / every, seconds["d"][1]
    steps_d = config.optim.d_steps
    whole = steps_d * (sizes.batch / micro * seconds["d"][0] + seconds["d"][1])
    whole += sizes.batch_g / micro * seconds["g"][0] + seconds["g"][1]
    return Measured(
        device=_name(place),
        arithmetic=chosen.name,
        micro_batch=micro,
        images_per_second=steps_d * sizes.batch / whole,
        flop_per_second=work.step / whole,
        peak_gib=None if place.type == "cpu" else hardware.peak_memory_gib(place),
    )


def _lazy(config: Config) -> int:
    """How many D steps lie between those with lazy penalties; 1 where every step is alike."""
    penalty = config.penalty
    every = [(penalty.r1, penalty.r1_every), (penalty.r2, penalty.r2_every)]
    return max((steps for term, steps in every if term is not None), default=1)


def _noise(
    config: Config, num_classes: int, count: int, device: torch.device, turn: int
) -> objectives.MicroBatch:
    model: Any = config.model
    z = torch.randn(count, model.dim_z, device=device)
    y = torch.randint(num_classes, (count,), device=device) if num_classes else None
    shape = (count, model.channels, model.resolution, model.resolution)
    real = torch.rand(shape, device=device) * 2 - 1
    if config.train.channels_last:
        real = real.contiguous(memory_format=torch.channels_last)
    draws = Draws(0, "d", np.arange(count), device)
    return objectives.MicroBatch(z, y, real, y, draws, turn)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _name(device: torch.device) -> str:
    from gansmith import environment

    if device.type == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    found = environment.collect()["devices"]
    return str(found[device.index or 0].get("name", device)) if found else str(device)
