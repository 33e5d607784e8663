"""Reads networks saved by BigGAN-PyTorch: `G.pth`, `G_ema.pth`, `D.pth` and the keyword arguments they were
built with.

The author evaluates with one power step from the stored u, without saving it. That step is taken once here
and its (u, v) stored, so that Ŵ = W/(uᵀWv) is the author's from then on and nothing iterates on load.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator

FAMILIES = {"BigGAN": "biggan", "BigGANdeep": "biggan-deep"}


def generator_kwargs(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of our Generator from BigGAN-PyTorch's. Raises UserError for an unknown model."""
    return {
        **_common(config, "G"),
        "dim_z": config["dim_z"],
        "shared_dim": config["shared_dim"] if config["G_shared"] else 0,
        "skip_z": bool(config["hier"]),
        "bn_eps": config["BN_eps"],
    }


def discriminator_kwargs(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of our Discriminator from BigGAN-PyTorch's. Raises UserError for what cannot be
    rebuilt.
    """
    kwargs = {**_common(config, "D"), "wide": bool(config.get("D_wide", True))}
    if kwargs["family"] == "biggan-deep":
        kwargs["wide"] = True  # the author's deep blocks ignore it
    if kwargs["resolution"] == 32:
        # The author's table calls every map of the 32 px network 16×16: attention goes after all blocks or
        # none.
        blocks = 3 if kwargs["family"] == "biggan-deep" else 4
        kwargs["attention_blocks"] = list(range(blocks)) if 16 in kwargs["attention"] else []
    return kwargs


def _common(config: Mapping[str, Any], net: str) -> dict[str, Any]:
    model = config.get("model", "BigGAN")
    if model not in FAMILIES:
        raise UserError(f"config.json: model {model!r} is unknown; BigGAN-PyTorch has {', '.join(FAMILIES)}.")
    attention = [int(a) for a in str(config[f"{net}_attn"]).split("_") if a not in ("", "0")]
    return {
        "family": FAMILIES[model],
        "resolution": config["resolution"],
        "num_classes": config["n_classes"],
        "ch": config[f"{net}_ch"],
        "attention": attention,
        "depth": max(int(config.get(f"{net}_depth", 2)), 1),
        "init": str(config.get(f"{net}_init", "ortho")).lower(),
        "sn_eps": config["SN_eps"],
    }


def read_generator(path: str | Path, config: Mapping[str, Any]) -> tuple[Generator, list[str]]:
    """The generator in `path` (G.pth or G_ema.pth) in eval mode with Ŵ ready, and the tensors that were not
    used.
    """
    G = Generator(**generator_kwargs(config))
    return G, _fill(G, path)


def read_discriminator(path: str | Path, config: Mapping[str, Any]) -> tuple[Discriminator, list[str]]:
    """The discriminator in `path` (D.pth) in eval mode with Ŵ ready, and the tensors that were not used."""
    D = Discriminator(**discriminator_kwargs(config))
    return D, _fill(D, path)


def _fill(net: nn.Module, path: str | Path) -> list[str]:
    """Copies every tensor of the file into the net by name; returns the names that are not used.

    A published file leaves only its `sv0`, the author's log of σ.
    """
    saved: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    ours = net.state_dict()
    layers = dict(spectral.spectral_layers(net))
    wanted = {f"{name}.u0" if part == "u" and name in layers else key: key for key in ours
              for name, _, part in [key.rpartition(".")] if not (part == "v" and name in layers)}  # fmt: skip
    problems = [f"{theirs} is missing" for theirs in wanted if theirs not in saved]
    for theirs, key in wanted.items():
        if theirs in saved:
            value = saved[theirs].reshape(-1) if theirs.endswith(".u0") else saved[theirs]
            if value.shape != ours[key].shape:
                problems.append(f"{theirs} is {tuple(value.shape)}, expected {tuple(ours[key].shape)}")
            else:
                ours[key].copy_(value)
    if problems:
        shown = "; ".join(problems[:5])
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{path}: does not fit the network that its config.json describes: {shown}{more}.")
    spectral.refresh(net, iterations=1)  # the author's evaluation step
    net.eval()
    return [key for key in saved if key not in wanted]
