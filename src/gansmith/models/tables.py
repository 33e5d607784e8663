"""Widths of the published residual networks in multiples of ch, by resolution, and what else differs there.

SNGAN (Miyato et al. 2018) and SAGAN (Zhang et al. 2019) are what BigGAN grew from: the same blocks without
skip-z and shared class embedding, SNGAN also without attention. Numbers only: this module knows no layer.
"""

from collections.abc import Sequence

BIGGAN = ("biggan", "biggan-deep")
FAMILIES = (*BIGGAN, "sngan", "sagan")

# Channel multipliers (× ch) from the 4×4 map to the image: one more than there are blocks. 1024 px extends
# the table.
GENERATOR_CHANNELS = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
    1024: (16, 16, 8, 8, 4, 2, 1, 1, 1),
}
# From the image to the 4×4 map. BigGAN: the output of each block, the first reads the image. Deep: a stem
# reads the image into the first entry, and each stage goes from one entry to the next.
DISCRIMINATOR_CHANNELS = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
    1024: (1, 1, 1, 2, 4, 8, 8, 16, 16),
}
LAST_MAP = {32: 8}  # D stops halving at 4×4, at 32 px already at 8×8

# Miyato's code at ch 64: 256 channels in G and 128 in D for CIFAR-10, 1024 to 64 at 64 and 128 px.
SNGAN_GENERATOR_CHANNELS = {32: (4, 4, 4, 4), 64: (16, 8, 4, 2, 1), 128: GENERATOR_CHANNELS[128]}
SNGAN_DISCRIMINATOR_CHANNELS = {
    32: (2, 2, 2, 2),
    64: (1, 2, 4, 8, 16),
    128: DISCRIMINATOR_CHANNELS[128],
}
SNGAN_LAST_MAP = {32: 8, 64: 2}  # at 64 px all five blocks halve

# Where `fade="insert"` finds the stage that BigGAN's tables have more than those of half the resolution
# (BigGAN-deep's D counts its stages without the first block of BigGAN's).
INSERTED_STAGE = {256: 2, 512: 6, 1024: 7}
INSERTED_BLOCK = {256: 4, 512: 1, 1024: 1}


def generator_channels(family: str, resolution: int, own: Sequence[int] | None = None) -> tuple[int, ...]:
    """G's multipliers: the published ones, or one's own. Raises ValueError where there are none."""
    published = GENERATOR_CHANNELS if family in BIGGAN else SNGAN_GENERATOR_CHANNELS
    return _chosen(family, resolution, published, own)


def discriminator_channels(family: str, resolution: int, own: Sequence[int] | None = None) -> tuple[int, ...]:
    """D's multipliers, likewise."""
    published = DISCRIMINATOR_CHANNELS if family in BIGGAN else SNGAN_DISCRIMINATOR_CHANNELS
    return _chosen(family, resolution, published, own)


def last_map(family: str, resolution: int) -> int:
    """Side of D's last map in the published network."""
    return (LAST_MAP if family in BIGGAN else SNGAN_LAST_MAP).get(resolution, 4)


def _chosen(
    family: str, resolution: int, published: dict[int, tuple[int, ...]], own: Sequence[int] | None
) -> tuple[int, ...]:
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} is unknown; choose one of {', '.join(FAMILIES)}")
    if resolution not in published:
        sizes = ", ".join(map(str, published))
        raise ValueError(f"resolution {resolution} is not built for {family}; choose one of {sizes}")
    table = published[resolution]
    if own is None:
        return table
    if len(own) != len(table) or min(own) < 1:
        raise ValueError(f"a table of this resolution has {len(table)} entries above 0, not {list(own)}")
    return tuple(own)
