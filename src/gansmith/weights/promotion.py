"""Resolution surgery: a network of R pixels becomes one of 2R that starts from all it knows.

Two ways. *Append* puts a stage behind G's last and before D's first, and blends it in: at alpha 0, G draws
the older image with every pixel 2×2 times, and D judges the 2×2 means of what it is shown. *Insert* follows
the published tables, where the new stage sits in the middle and starts as plain resampling; what comes after
it meets maps of twice the size, so images are near the older ones enlarged, no more.

Knows networks and their tensors; neither files nor runs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gansmith.errors import UserError
from gansmith.models import layers, spectral
from gansmith.models.biggan import Discriminator, Generator, chunk_size
from gansmith.models.normalization import AffineBatchNorm, BatchNorm
from gansmith.models.spectral import SpectralLayer
from gansmith.models.tables import (
    BIGGAN,
    DISCRIMINATOR_CHANNELS,
    GENERATOR_CHANNELS,
    INSERTED_BLOCK,
    INSERTED_STAGE,
    LAST_MAP,
)

HOW = ("append", "insert")
LARGEST = max(GENERATOR_CHANNELS)

# Name of a tensor → its name in the promoted network; None: it is not in it.
Rename = Callable[[str], str | None]


def check(kwargs: Mapping[str, Any], resolution: int, how: str) -> None:
    """Raises UserError unless a network with these arguments can be promoted to `resolution`."""
    here = kwargs["resolution"]
    if how not in HOW:
        raise UserError(f"--how {how!r} is unknown; choose {' or '.join(HOW)}.")
    if (family := kwargs.get("family", "biggan")) not in BIGGAN:
        raise UserError(
            f"--resolution {resolution}: only {' and '.join(BIGGAN)} networks can be promoted, and this one "
            f"is a {family}; train it at {resolution} px from the beginning."
        )
    if here >= LARGEST:
        raise UserError(f"--resolution {resolution}: the network has {here} px, and more is not built.")
    if resolution != 2 * here:
        first = "; to go further, promote, train, and promote again" if resolution > 2 * here else ""
        raise UserError(
            f"--resolution {resolution}: the network has {here} px, and a promotion doubles them; give "
            f"--resolution {2 * here}{first}."
        )
    if kwargs.get("fade") is not None and kwargs["alpha"] < 1:
        raise UserError(
            f"--resolution {resolution}: the network is still taking in its last promotion (alpha "
            f"{kwargs['alpha']:.3g}); train it on until alpha is 1, then promote it again."
        )
    if how == "insert" and (resolution not in INSERTED_STAGE or kwargs.get("table") is not None):
        places = ", ".join(f"{r // 2} → {r}" for r in INSERTED_STAGE)
        own = " from published networks, and this one has a table of its own" if kwargs.get("table") else ""
        raise UserError(
            f"--how insert follows the published tables, which allow {places} px{own}; use --how append."
        )
    if how == "insert" and kwargs.get("upsampling", "nearest") != "nearest":
        raise UserError(
            "--how insert: this network puts zeros between pixels, and a stage that does so is no plain "
            "resampling; use --how append."
        )


def promote_generator(G: Generator, *, how: str = "append", alpha: float = 0.0, seed: int = 0) -> Generator:
    """G of twice the resolution, in eval mode with Ŵ ready; the given one stays as it is.

    The new stage halves the last width (never below ch). With skip-z, BigGAN's z grows by one chunk: at its
    end for `append`, so that a seed keeps its first entries; where the published layout has it for `insert`.
    BatchNorm layers of the new stage have no standing statistics yet: estimate them. seed: of the new
    weights. Raises UserError as `check` does.
    """
    kwargs, rename = generator_growth(G.kwargs, how)
    with torch.device("meta"):  # no time for an initialisation that is overwritten
        grown = Generator(**kwargs | {"alpha": alpha})
    return _grow(G, grown, rename, seed)


def promote_discriminator(
    D: Discriminator, *, how: str = "append", alpha: float = 0.0, seed: int = 0
) -> Discriminator:
    """D of twice the resolution, in eval mode with Ŵ ready; the given one stays as it is.

    `append`: the new first width is half the older one (never below ch). BigGAN's older first block, which
    reads images, fades out whole; the one in its place starts with its second convolution. Raises UserError
    as `check` does.
    """
    kwargs, rename = discriminator_growth(D.kwargs, how)
    with torch.device("meta"):
        grown = Discriminator(**kwargs | {"alpha": alpha})
    grown = _grow(D, grown, rename, seed)
    if how == "append" and not D.deep and D.kwargs["wide"]:
        heir, older = grown.blocks[1][0].conv2, D.blocks[0][0].conv2  # type: ignore[index]
        heir.load_state_dict(older.state_dict())
        spectral.converge(heir)
    return grown


def generator_growth(old: Mapping[str, Any], how: str) -> tuple[dict[str, Any], Rename]:
    """Arguments of the promoted G, and where the older one's tensors go. Raises UserError as `check` does."""
    resolution = 2 * old["resolution"]
    check(old, resolution, how)
    deep = old["family"] == "biggan-deep"
    table = list(old["table"] or GENERATOR_CHANNELS[old["resolution"]])
    stages = len(table) - 1
    place = INSERTED_STAGE[resolution] if how == "insert" else stages
    per_stage = old["depth"] if deep else 1
    kwargs = {**old, "resolution": resolution, "fade": how}
    if how == "append":
        kwargs["table"] = [*table, halved(table[-1])]
    if old["skip_z"] and not deep:
        kwargs["dim_z"] = old["dim_z"] + chunk_size(old["dim_z"], stages + 1)
    sizes = [8 << stage for stage in range(stages)]
    # Attention stays with its block; a setting that no block of this size had must not meet the new one.
    kwargs["attention"] = [
        2 * size if stage >= place else size for stage, size in enumerate(sizes) if size in old["attention"]
    ]
    if old["attention_blocks"] is not None:
        kwargs["attention_blocks"] = _shifted(old["attention_blocks"], place * per_stage, per_stage)

    def rename(key: str) -> str | None:
        if key.startswith("old_output."):
            return None
        if how == "append":
            return key.replace("output_layer.", "old_output.", 1)
        return _shifted_key(key, place * per_stage, per_stage)

    return kwargs, rename


def discriminator_growth(old: Mapping[str, Any], how: str) -> tuple[dict[str, Any], Rename]:
    """Arguments of the promoted D, and where the older one's tensors go. Raises UserError as `check` does."""
    before = old["resolution"]
    check(old, 2 * before, how)
    deep = old["family"] == "biggan-deep"
    table = list(old["table"] or DISCRIMINATOR_CHANNELS[before])
    smallest = old["last_map"] or LAST_MAP.get(before, 4)
    kwargs = {**old, "resolution": 2 * before, "fade": how}
    place = 0 if how == "append" else INSERTED_BLOCK[2 * before] - (1 if deep else 0)
    if how == "append":
        kwargs["table"] = [halved(table[0]), *table]
    kwargs["last_map"] = smallest if smallest != LAST_MAP.get(2 * before, 4) else None
    blocks = len(table) - (1 if deep else 0)
    sizes = [max(before >> (i + 1), smallest) for i in range(blocks)]
    kwargs["attention"] = sorted(
        {2 * size if i < place else size for i, size in enumerate(sizes) if size in old["attention"]}
    )
    if old["attention_blocks"] is not None:
        kwargs["attention_blocks"] = _shifted(old["attention_blocks"], place, 1)

    def rename(key: str) -> str | None:
        if key.startswith("old_input."):
            return None
        first = "input_conv." if deep else "blocks.0.0."
        if how == "append" and key.startswith(first):
            return key.replace(first, "old_input.", 1)
        return _shifted_key(key, place, 1)

    return kwargs, rename


def halved(width: int) -> int:
    """Width of an appended stage, in multiples of ch."""
    return max(width // 2, 1)


def _shifted(blocks: Sequence[int], first: int, by: int) -> list[int]:
    return [block + by if block >= first else block for block in blocks]


def _shifted_key(key: str, first: int, by: int) -> str:
    head, _, rest = key.partition(".")
    if head != "blocks":
        return key
    block, _, name = rest.partition(".")
    return f"blocks.{_shifted([int(block)], first, by)[0]}.{name}"


@torch.no_grad()
def _grow(old: Any, grown: Any, rename: Rename, seed: int) -> Any:
    """Fills a network that is on the meta device: old tensors by their new names, the rest drawn."""
    state = {new: value for key, value in old.state_dict().items() if (new := rename(key)) is not None}
    fresh = {key.rpartition(".")[0] for key in grown.state_dict().keys() - state.keys()}
    left_over = state.keys() - grown.state_dict().keys()
    assert not left_over, f"no place for {sorted(left_over)[:3]}"
    grown.to_empty(device="cpu").load_state_dict(state, strict=False)
    spectral.refresh(grown, iterations=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in grown.named_modules():
            if name in fresh:
                _draw(module, old.kwargs["init"])
    for block in grown.gated:
        if getattr(block, "conv_sc", None) is not None:
            nn.init.dirac_(block.conv_sc.weight)  # with its branch closed, the block only resamples
    for name in fresh:
        spectral.converge(grown.get_submodule(name))
    return grown.eval().requires_grad_(False)


def _draw(module: nn.Module, init: str) -> None:
    """A layer as its constructor leaves it."""
    if isinstance(module, SpectralLayer):
        layers.initialize(module, init)
        if module.bias is not None:
            module.bias.zero_()
        if module.sn_eps is not None:
            for vector in (module.u, module.v):
                vector.normal_().div_(vector.norm())
    if isinstance(module, BatchNorm):
        module.stored_mean.zero_()
        module.stored_var.fill_(1)
    if isinstance(module, AffineBatchNorm):
        module.gain.fill_(1)
        module.bias.zero_()
