"""The memory that training needs, from shapes alone: every tensor of a step is made, counted and freed, and
none has any bytes.

One micro-batch of each phase runs on fake tensors, forward, backward and spectral norm; what lives at the
same time is added up. Workspaces of a device's kernels and its allocator's rounding are no tensors and come
on top.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gansmith import hardware
from gansmith.config import Config
from gansmith.models import families, layers, normalization, spectral
from gansmith.training import objectives, optimizers, state
from gansmith.training.draws import Draws
from gansmith.training.gradients import FlatGradients


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. fixed: weights, Ŵ, gradients, moments and the average. d, g: the most
    that a micro-batch of each phase adds. calls_d, calls_g: operations it issues, update included.
    """

    fixed: int
    d: int
    g: int
    calls_d: int
    calls_g: int

    @property
    def peak(self) -> int:
        return self.fixed + max(self.d, self.g)


class Counter(TorchDispatchMode):
    """Adds up the storages that live at the same time, and counts the operations that make any."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.calls = 0
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: weakref.ref) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self.calls += 1
        self.now += size
        self.peak = max(self.peak, self.now)


def measure(
    config: Config, num_classes: int, bn_group: int, micro_batch: int, micro_batch_g: int, dtype: torch.dtype
) -> Memory:
    """What one process needs for its networks and these micro-batches. Raises UserError where the settings do
    not fit together, ValueError for a D or an objective of the user's own, which cannot be counted so.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), Counter() as counter:
        G, D = state.networks(config, num_classes)
        if not families.is_ours(D) or ":" in config.loss.objective:
            raise ValueError("memory of an own discriminator or objective cannot be counted from shapes")
        average = state.networks(config, num_classes)[0]
        gradients = []
        for net in (G, D, average):
            if config.train.channels_last:
                layers.set_channels_last(net)
            spectral.refresh(net)
        for net in (G, D):
            net.train()
            gradients.append(FlatGradients(net))
        for net in (G, D):
            normalization.set_batch_norm_group(net, bn_group)
        moments = sum(
            len(optimizers.kind(config.optim, letter).moments) * p.numel() * p.element_size()
            for letter, net in (("g", G), ("d", D))
            for p in net.parameters()
        )
        fixed = counter.now
        peak_d, calls_d = _phase(counter, "d", G, D, micro_batch, num_classes, dtype, config)
        peak_g, calls_g = _phase(counter, "g", G, D, micro_batch_g, num_classes, dtype, config)
    return Memory(fixed + moments, peak_d - fixed, peak_g - fixed, calls_d, calls_g)


def _phase(
    counter: Counter,
    letter: str,
    G: nn.Module,
    D: nn.Module,
    count: int,
    classes: int,
    dtype: torch.dtype,
    config: Config,
) -> tuple[int, int]:
    """The most bytes alive during one micro-batch of a phase and the update after it, and the operations."""
    player, other = (D, G) if letter == "d" else (G, D)
    spectral.set_trainable(player, True)
    spectral.set_trainable(other, False)
    settings: Any = G.kwargs
    shape = (count, settings["channels"], settings["resolution"], settings["resolution"])
    y = torch.zeros(count, dtype=torch.int64) if classes else None
    counter.peak, before = counter.now, counter.calls
    host = torch.device("cpu")
    objective = objectives.build(config, host)
    with_reals = letter == "d" or getattr(objective, "needs_reals_in_g", False)
    real = torch.zeros(shape) if with_reals else None
    draws = Draws(0, letter, np.arange(count), host)
    micro = objectives.MicroBatch(torch.zeros(count, settings["dim_z"]), y, real, y, draws)
    with hardware.autocast("cpu", dtype):
        loss, _ = objective(letter, G, D, micro)
    loss.backward()
    del loss
    spectral.pull_back(player)
    if strength := getattr(config.loss, f"ortho_{letter}"):
        objectives.add_orthogonal_gradient(player, strength)
    spectral.refresh(player)
    return counter.peak, counter.calls - before
