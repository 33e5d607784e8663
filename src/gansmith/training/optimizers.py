"""How weights follow their gradients: Adam as PyTorch has it, RMSprop and SGD of our own.

All of them leave out a step whose `found_inf`, a number on the weights' device, is not 0: no weight and no
moment changes, and nothing waits to hear of it. PyTorch's RMSprop cannot, and its fused SGD forgets to make
its momentum when the first step is such a one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gansmith.config.schema import OptimConfig


@dataclass(frozen=True)
class Kind:
    """What trains one of the two networks, as `optim.*` says it."""

    name: str
    lr: float
    betas: tuple[float, float]
    alpha: float
    momentum: float
    eps: float

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of what is kept for every weight, each as large as the weight."""
        if self.name == "adam":
            return ("exp_avg", "exp_avg_sq")
        of_both = ("momentum",) if self.momentum else ()
        return of_both if self.name == "sgd" else ("square_avg", *of_both)

    @property
    def saved(self) -> tuple[str, ...]:
        """Names of all that a checkpoint keeps for every weight."""
        return (*self.moments, "step") if self.name == "adam" else self.moments


def kind(optim: OptimConfig, letter: str) -> Kind:
    """That of G ("g") or D ("d"); where D's setting is None, G's counts."""
    if letter == "g":
        betas = (optim.beta1, optim.beta2)
        return Kind(optim.kind_g, optim.lr_g, betas, optim.alpha, optim.momentum_g, optim.eps)
    return Kind(
        optim.kind_d or optim.kind_g,
        optim.lr_d,
        (
            optim.beta1 if optim.beta1_d is None else optim.beta1_d,
            optim.beta2 if optim.beta2_d is None else optim.beta2_d,
        ),
        optim.alpha,
        optim.momentum_g if optim.momentum_d is None else optim.momentum_d,
        optim.eps,
    )


def make(parameters: Iterable[Tensor], kind: Kind) -> torch.optim.Optimizer:
    """An optimizer at its beginning; `found_inf` is to be set before each step."""
    if kind.name == "adam":
        return torch.optim.Adam(parameters, lr=kind.lr, betas=kind.betas, eps=kind.eps, fused=True)
    return Descent(parameters, kind)


class Descent(torch.optim.Optimizer):
    """SGD, w ← w − lr·d with d = g, or RMSprop (Tieleman & Hinton 2012), d = g/(√v + eps) with
    v ← α·v + (1 − α)·g². momentum μ above 0: w ← w − lr·b with b ← μ·b + d. v and b begin at 0.
    """

    found_inf: Tensor

    def __init__(self, parameters: Iterable[Tensor], kind: Kind) -> None:
        super().__init__(parameters, {"lr": kind.lr})
        self.kind = kind

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            for p in weights:
                if not self.state[p]:
                    self.state[p] = {name: torch.zeros_like(p) for name in self.kind.moments}
            self._descend(weights, group["lr"])

    def _descend(self, weights: list[Tensor], lr: float) -> None:
        if not weights:
            return
        kind, bad = self.kind, self.found_inf > 0
        # A step that is left out is one of gradients 0, decays 1 and length 0.
        along = [torch.where(bad, 0.0, p.grad) for p in weights if p.grad is not None]
        if kind.name == "rmsprop":
            squares = [self.state[p]["square_avg"] for p in weights]
            torch._foreach_mul_(squares, torch.where(bad, 1.0, kind.alpha))
            torch._foreach_addcmul_(squares, along, along, 1 - kind.alpha)
            divisors = torch._foreach_sqrt(squares)
            torch._foreach_add_(divisors, kind.eps)
            torch._foreach_div_(along, divisors)
        if kind.momentum:
            momenta = [self.state[p]["momentum"] for p in weights]
            torch._foreach_mul_(momenta, torch.where(bad, 1.0, kind.momentum))
            torch._foreach_add_(momenta, along)
            along = list(torch._foreach_mul(momenta, torch.where(bad, 0.0, 1.0)))
        torch._foreach_add_(weights, along, alpha=-lr)
