"""Which networks `model.family` names. Everything that builds networks from settings or from a file's
arguments asks here.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from gansmith.models import baselines, biggan, tables

GENERATORS: dict[str, type[nn.Module]] = {
    **dict.fromkeys(tables.FAMILIES, biggan.Generator),
    "dcgan": baselines.DCGANGenerator,
    "wgan-gp": baselines.WGANGPGenerator,
}
DISCRIMINATORS: dict[str, type[nn.Module]] = {
    **dict.fromkeys(tables.FAMILIES, biggan.Discriminator),
    "dcgan": baselines.DCGANDiscriminator,
    "wgan-gp": baselines.WGANGPCritic,
}
BATCH_NORM_IN_D = ("dcgan",)  # D judges a BatchNorm group together, which must then lie on one process


def make_generator(**kwargs: Any) -> Any:
    """The generator of these arguments, of which `family` chooses the class (without one: BigGAN).

    Raises ValueError for a family that there is not and settings that do not go together, TypeError for
    arguments that its class does not have.
    """
    return _kind(GENERATORS, kwargs)(**kwargs)


def make_discriminator(**kwargs: Any) -> Any:
    """The discriminator, likewise."""
    return _kind(DISCRIMINATORS, kwargs)(**kwargs)


def known(kinds: Mapping[str, type[nn.Module]], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of these settings that the family has: a DCGAN has no attention. kinds: GENERATORS or
    DISCRIMINATORS. Raises ValueError for a family that there is not.
    """
    parameters = inspect.signature(_kind(kinds, settings)).parameters
    return {name: value for name, value in settings.items() if name in parameters}


def is_ours(D: nn.Module) -> bool:
    """Whether a D is one of these, and not of the user's own making."""
    return type(D) in DISCRIMINATORS.values()


def _kind(kinds: Mapping[str, type[nn.Module]], settings: Mapping[str, Any]) -> type[nn.Module]:
    family = settings.get("family", "biggan")
    if family not in kinds:
        raise ValueError(f"family {family!r} is unknown; choose one of {', '.join(kinds)}")
    return kinds[family]
