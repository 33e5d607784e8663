"""Feature networks: uint8 images → features (and logits), each under its own name.

`find` turns what a user writes (`inception`, `effnet-lite0`, `classifier:FILE`, …) into a network. This room
knows images and numbers; it must not know data sets, generators or scores.
"""

from gansmith.evaluation.features.base import FeatureNetwork, Features
from gansmith.evaluation.features.finding import NAMES, default, find

__all__ = ["NAMES", "FeatureNetwork", "Features", "default", "find"]
