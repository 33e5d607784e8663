"""Stabilisers that act on a whole batch: on its loss, between backward and step, and on weights after a step.

L is the mean over the whole batch, micro-batches and ranks, of what a phase minimises (adversarial loss,
penalties, heads; regularisers of weights come later and are not part of it). Its gradient lies summed up when
L is known, so what is a function of L acts by a factor on that gradient; and a step that is left out is left
out by the optimizer, on the device, like one that is not finite: neither weights nor moments move. The host
reads nothing, but where singular values are clamped (clamping.py).

It must not know how a loss is made, nor how a step is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gansmith.config import Config, images
from gansmith.config.stability import level
from gansmith.errors import UserError
from gansmith.training.clamping import Clamp
from gansmith.training.distributed import World
from gansmith.training.runlog import Averages
from gansmith.training.state import Player


def flooded(loss: Tensor, flood: Tensor | float) -> Tensor:
    """|L − b| + b (Ishida et al. 2020, equation 2)."""
    return (loss - flood).abs() + flood


def flood_sign(loss: Tensor, flood: Tensor | float) -> Tensor:
    """What the gradient of L is multiplied by to become that of the flooded L: −1 below b, else 1."""
    return torch.where(loss < flood, -1.0, 1.0)


def track(mean: Tensor, loss: Tensor, keep: float) -> Tensor:
    """Takes L into a running mean, in place, and returns it: Σ kᵗ L / Σ kᵗ over the losses so far.

    mean: (2,), that sum and that weight, both scaled by 1 − k. A loss that is not finite is not taken in.
    """
    new = torch.stack([loss, torch.ones_like(loss)]).to(mean.dtype)
    mean.copy_(torch.where(loss.isfinite(), keep * mean + (1 - keep) * new, mean))
    return mean[0] / mean[1]


@torch.no_grad()
def clip(net: nn.Module, limit: float) -> Tensor:
    """Puts every trained parameter into [−c, c] (Arjovsky et al. 2017, algorithm 1). Returns whether any was
    outside, a bool on the device.
    """
    weights: list[Tensor] = [parameter for parameter in net.parameters() if parameter.requires_grad]
    largest = torch.stack(torch._foreach_norm(weights, torch.inf)).max()
    torch._foreach_clamp_min_(weights, -limit)
    torch._foreach_clamp_max_(weights, limit)
    return largest > limit


def settled(losses: Sequence[float], tolerance: float) -> bool:
    """Whether the last loss of a step's D phases has fallen by less than the tolerance from the one before
    it. One that is not finite has not.
    """
    fall = losses[-2] - losses[-1] if len(losses) > 1 else math.inf
    return math.isfinite(fall) and fall < tolerance


@dataclass(frozen=True)
class Weighed:
    """What becomes of a phase: factor of its gradient (None: 1); whether the step is taken (a bool, None:
    yes); both on the device. noted: what was active, for the log.
    """

    factor: Tensor | None
    take: Tensor | None
    noted: dict[str, Tensor]


class Stabiliser:
    """All that `stabilise.*` asks for on whole batches. Made by `build`.

    memory: saved with the run. In a step D's phases come before G's, so what G is to know of D is never older
    than a step and needs no saving.
    """

    def __init__(self, config: Config, players: Mapping[str, Player], world: World, epoch: int) -> None:
        device = world.device
        self.settings = config.stabilise
        self.half_life = max(1, images(config.stabilise.baseline, epoch))
        self.levels = {
            name: level(value)
            for name in ("flood_d", "flood_g", "stop_d", "stop_g")
            if (value := getattr(config.stabilise, name)) is not None
        }
        self.memory = {
            f"stabilise.mean_{letter}": torch.zeros(2, device=device)
            for letter in ("d", "g")
            if any(relative for name, (_, relative) in self.levels.items() if _watched(name) == letter)
        }
        self.clamps = {
            letter: Clamp(players[letter], *level(value), world, f"stabilise.clamp_{letter}")
            for letter in ("d", "g")
            if (value := getattr(config.stabilise, f"clamp_{letter}")) is not None
        }
        for clamp in self.clamps.values():
            self.memory |= clamp.memory
        self.loss_d = self.accuracy = torch.full((), torch.nan, device=device)
        self.mean_d: Tensor | None = None

    def restored(self) -> None:
        """To be told, before the first step, when memory is what it was in a checkpoint, if there is one."""
        for clamp in self.clamps.values():
            clamp.restored()

    def weigh(self, letter: str, means: Mapping[str, Tensor], batch: int) -> Weighed:
        """What the whole batch's means say about this phase of `batch` images.

        means: `loss`, L; for a gate in D phases also `d_accuracy`. All ranks get the same.
        """
        loss = means["loss"]
        mean = None
        if (kept := self.memory.get(f"stabilise.mean_{letter}")) is not None:
            mean = track(kept, loss, 0.5 ** (batch / self.half_life))
        noted, factor = {}, None
        if (flood := self._level(f"flood_{letter}", mean)) is not None:
            factor = flood_sign(loss, flood)
            noted[f"flood_{letter}_active"] = factor < 0
            loss = flooded(loss, flood)
        if letter == "d":
            self.loss_d, self.mean_d = loss, mean
            left_out = self._left_out_d(means)
        else:
            left_out = self._left_out_g()
        noted |= left_out
        take = ~torch.stack(list(left_out.values())).any(0) if left_out else None
        return Weighed(factor, take, noted)

    def act(
        self, letter: str, gradient: Tensor, means: Mapping[str, Tensor], batch: int, averages: Averages
    ) -> Tensor | None:
        """`weigh`, with the factor brought to the gradient. Returns whether the step is taken (None: yes)."""
        weighed = self.weigh(letter, means, batch)
        if weighed.factor is not None:
            gradient.mul_(weighed.factor)
        averages.add(weighed.noted)
        return weighed.take

    def _level(self, name: str, mean: Tensor | None) -> Tensor | float | None:
        if name not in self.levels:
            return None
        value, relative = self.levels[name]
        if not relative:
            return value
        assert mean is not None
        return value * mean

    def _left_out_d(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Why D's step is left out: bools. What is no number leaves it out."""
        reasons = {}
        if (stop := self._level("stop_d", self.mean_d)) is not None:
            reasons["stop_d_active"] = ~(self.loss_d > stop)
        if self.settings.gate_d is not None or self.settings.gate_g is not None:
            self.accuracy = _accuracy(means)
        if self.settings.gate_d is not None:
            reasons["gate_d_active"] = ~(self.accuracy <= self.settings.gate_d)
        return reasons

    def _left_out_g(self) -> dict[str, Tensor]:
        reasons = {}
        if (stop := self._level("stop_g", self.mean_d)) is not None:
            reasons["stop_g_active"] = ~(self.loss_d < stop)
        if self.settings.gate_g is not None:
            reasons["gate_g_active"] = ~(self.accuracy >= self.settings.gate_g)
        return reasons

    def after_step(self, letter: str, net: nn.Module, averages: Averages) -> None:
        """Acts on the weights a step has left, before their spectral norm is made anew."""
        noted = {}
        if letter == "d" and (limit := self.settings.clip_weights) is not None:
            noted["clip_d_active"] = clip(net, limit)
        if letter in self.clamps:
            noted[f"clamp_{letter}_active"] = self.clamps[letter].apply()
        averages.add(noted)


def build(config: Config, players: Mapping[str, Player], world: World, epoch: int) -> Stabiliser | None:
    """The stabiliser of a configuration; None where it asks for none. players: by letter. epoch: images per
    epoch.
    """
    stabilise = config.stabilise
    asked = (
        stabilise.flood_d, stabilise.flood_g, stabilise.stop_d, stabilise.stop_g, stabilise.gate_d,
        stabilise.gate_g, stabilise.clip_weights, stabilise.clamp_d, stabilise.clamp_g,
    )  # fmt: skip
    return Stabiliser(config, players, world, epoch) if any(value is not None for value in asked) else None


def _watched(name: str) -> str:
    """Whose loss a level is compared with: both stops look at D's."""
    return "g" if name == "flood_g" else "d"


def _accuracy(means: Mapping[str, Tensor]) -> Tensor:
    if "d_accuracy" not in means:
        raise UserError(
            "stabilise.gate_d, stabilise.gate_g: loss.objective does not say how often D is right; have it "
            'return "d_accuracy" among its scalars (docs/objectives.md).'
        )
    return means["d_accuracy"]
