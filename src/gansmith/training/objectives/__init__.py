"""Losses and regularisers as small pure functions.

An *objective* maps one micro-batch of a phase to a loss. The hinge loss of BigGAN is one; a loss with what
the configuration adds to it is another (docs/regularisers.md); a user's own is any function of the same
signature, named `module:function` (docs/objectives.md).
"""

import torch

from gansmith.config import Config
from gansmith.training.objectives import replay
from gansmith.training.objectives.base import MicroBatch, Objective
from gansmith.training.objectives.biggan import hinge
from gansmith.training.objectives.composed import Composed, asked
from gansmith.training.objectives.importing import import_function
from gansmith.training.objectives.weights import add_orthogonal_gradient, add_weight_gradients
from gansmith.training.objectives.weights import check as check_weights

__all__ = [
    "MicroBatch",
    "Objective",
    "add_orthogonal_gradient",
    "add_weight_gradients",
    "build",
    "check",
    "check_weights",
    "find",
    "hinge",
    "import_function",
]


MANY = 1 << 40  # images per epoch, where it is not known how many


def check(config: Config, device: torch.device) -> None:
    """Raises UserError for what `build` cannot make on this device, whatever the data; takes no memory."""
    replay.check(config, device)
    build(config, torch.device("meta"))


def build(config: Config, device: torch.device, epoch: int = MANY) -> Objective:
    """The objective that a configuration asks for, its memory on the device; a user's own as it is. epoch:
    images per epoch. Raises UserError.
    """
    own = ":" in config.loss.objective
    return find(config.loss.objective) if own or not asked(config) else Composed(config, device, epoch)


def find(name: str) -> Objective:
    """The objective of that name: `hinge`, or a user's `module:function`. Raises UserError if there is
    none.
    """
    return hinge if name == "hinge" else import_function(name, "loss.objective")
