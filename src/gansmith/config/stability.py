"""The settings of what trains and what keeps training alive: losses, penalties, the growing batch, the guard.

All of it is off by default, but for the loss and the guard.
"""

from gansmith.config.fields import Section, identity


class LossConfig(Section):
    objective: str = identity("hinge", "hinge, or your own: module:function (docs/objectives.md)")
    ortho_g: float = identity(0.0, "orthogonal regularisation of G (BigGAN 3.1: 1e-4)", ge=0)
    ortho_d: float = identity(0.0, "orthogonal regularisation of D", ge=0)


class PenaltyConfig(Section):
    """Terms added to a loss (docs/regularisers.md)."""


class AugmentConfig(Section):
    """Differentiable augmentation of what D sees (docs/regularisers.md)."""


class HeadConfig(Section):
    """Auxiliary losses on D's features."""


class StabiliseConfig(Section):
    """What acts on the whole batch's loss, or on weights after a step."""


class BatchConfig(Section):
    """How the batch grows (docs/batch.md). `train.batch` is what it starts with."""


class PretrainConfig(Section):
    """G on a perceptual loss, D on a frozen G, before both."""


class WatchConfig(Section):
    """Signals beyond losses (docs/watching.md)."""


class GuardConfig(Section):
    """What happens when training collapses (docs/stability.md)."""
