"""How the networks of a run are executed: recomputing, rewritten convolutions, torch.compile.

None of it changes what is computed, beyond rounding.
"""

from typing import TYPE_CHECKING

import torch

from gansmith.config import Config
from gansmith.models import layers
from gansmith.models.recompute import recompute_from

if TYPE_CHECKING:
    from gansmith.training.runlog import RunLog
    from gansmith.training.state import State

BACKEND = "inductor"


def apply(config: Config, state: "State", device: torch.device, log: "RunLog") -> None:
    """Sets up both networks as `train.checkpoint_from`, `train.conv_rewrites` and `train.compile` say."""
    train, networks = config.train, (state.G.net, state.D.net)
    for net in networks:
        if train.conv_rewrites != "auto":
            layers.set_conv_rewrites(net, train.conv_rewrites)
        if train.checkpoint_from is not None:
            recompute_from(net, train.checkpoint_from)
    if train.checkpoint_from is not None:
        log.say(f"blocks from {train.checkpoint_from} px on are computed again in the backward")
    if wanted(config, device):
        for net in networks:
            net.compile(backend=BACKEND, dynamic=False)
        log.say("both networks are compiled: the first step takes a minute or more")


def wanted(config: Config, device: torch.device) -> bool:
    """Whether to compile. A network that is fading in is not by itself: its constants change every step."""
    if config.train.compile == "auto":
        return device.type == "cuda" and config.model.fade is None
    return config.train.compile
