"""BigGAN-PyTorch's keyword arguments: to those of our networks, to our recipe, and from tensors where nobody
wrote them down.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gansmith.errors import UserError
from gansmith.weights import layout

FAMILIES = {"BigGAN": "biggan", "BigGANdeep": "biggan-deep"}
# What shapes do not show, with the values of the author's launch scripts.
ASSUMED = {"BN_eps": 1e-5, "SN_eps": 1e-6, "G_init": "ortho", "D_init": "ortho"}


def from_json(file: Path) -> dict[str, Any]:
    """A config.json. Raises UserError for what is no JSON object."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON ({error}).") from None
    if not isinstance(config, dict):
        raise UserError(f'{file} is no JSON object of keyword arguments, such as {{"G_ch": 96, …}}.')
    return config


def complete(
    config: Mapping[str, Any], G: Mapping[str, Tensor] | None, D: Mapping[str, Tensor] | None, source: Path
) -> tuple[dict[str, Any], list[str]]:
    """The config with what it does not say, and notes on where that is from. Raises UserError for tensors
    that belong to other networks, and for a G and a D of different kinds.
    """
    try:
        of_g = layout.generator(G) if G is not None else None
        of_d = layout.discriminator(D) if D is not None else None
    except ValueError as error:
        raise UserError(f"{source}: {error}.") from None
    if of_g and of_d:
        for key, text in (
            ("family", "family"),
            ("resolution", "resolution"),
            ("num_classes", "number of classes"),
        ):
            if of_g[key] != of_d[key]:
                raise UserError(
                    f"{source} holds two models: the {text} of its G is {of_g[key]}, of its D {of_d[key]}; "
                    "put the files of one model in a folder of their own."
                )
    found = _from_shapes(of_g, of_d)
    given = {key: value for key, value in config.items() if value is not None}
    if given.get("model") == "model":  # the name of the module that held the classes, in older files
        del given["model"]
    inferred = {key: value for key, value in found.items() if key not in given}
    assumed = {key: value for key, value in ASSUMED.items() if key not in given}
    notes = []
    if inferred and "model" in inferred:
        shown = ", ".join(f"{key} {value}" for key, value in inferred.items())
        notes.append(f"inferred from the tensors: {shown}.")
    if "BN_eps" in assumed or "SN_eps" in assumed:
        notes.append(
            "assumed, since nothing says: "
            + ", ".join(f"{key} {value}" for key, value in assumed.items() if key.endswith("eps"))
            + " (another one: --config FILE)."
        )
    return found | ASSUMED | given, notes


def _from_shapes(of_g: dict[str, Any] | None, of_d: dict[str, Any] | None) -> dict[str, Any]:
    known = of_g or of_d
    assert known is not None
    names = {ours: theirs for theirs, ours in FAMILIES.items()}
    found: dict[str, Any] = {
        "model": names[known["family"]],
        "resolution": known["resolution"],
        "n_classes": known["num_classes"],
    }
    if of_g:
        found |= {
            "G_ch": of_g["ch"],
            "dim_z": of_g["dim_z"],
            "G_shared": of_g["shared_dim"] > 0,
            "shared_dim": of_g["shared_dim"],
            "hier": of_g["skip_z"],
            "G_attn": _joined(of_g["attention"]),
            "G_depth": of_g["depth"],
            "G_param": "SN" if of_g["spectral"] else "none",
        }
    if of_d:
        attention = of_d["attention"]
        if of_d["resolution"] == 32 and (attention or of_d.get("attention_blocks")):
            attention = [16]  # as the author's table calls every map of it
        found |= {
            "D_ch": of_d["ch"],
            "D_attn": _joined(attention),
            "D_wide": of_d["wide"],
            "D_depth": of_d["depth"],
            "D_param": "SN" if of_d["spectral"] else "none",
        }
    return found


def _joined(attention: list[int]) -> str:
    return "_".join(map(str, attention)) or "0"


def generator_kwargs(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of our Generator. Raises UserError for an unknown model or what it cannot be."""
    common = _common(config, "G")
    with _readable("G"):
        dim_z, shared = int(config["dim_z"]), bool(config["G_shared"])
        kwargs = {
            **common,
            "dim_z": dim_z,
            # 0, the author's default, stands for the length of z as it was given
            "shared_dim": (int(config.get("shared_dim") or 0) or dim_z) if shared else 0,
            "skip_z": bool(config["hier"]),
            "bn_eps": float(config["BN_eps"]),
        }
    if kwargs["skip_z"] and common["family"] == "biggan" and common["resolution"] > 0:
        slots = int(math.log2(common["resolution"])) - 1
        kwargs["dim_z"] = dim_z // slots * slots  # the author cuts off what does not divide
    return kwargs


def discriminator_kwargs(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of our Discriminator. Raises UserError for what cannot be rebuilt."""
    kwargs = {**_common(config, "D"), "wide": bool(config.get("D_wide", True))}
    if kwargs["family"] == "biggan-deep":
        kwargs["wide"] = True  # the author's deep blocks ignore it
    if kwargs["resolution"] == 32:
        # The author's table calls every map of the 32 px network 16×16: attention goes after all blocks or
        # none.
        blocks = 3 if kwargs["family"] == "biggan-deep" else 4
        if 16 in kwargs["attention"]:
            kwargs["attention_blocks"] = list(range(blocks))
        else:
            kwargs["attention"] = []
    return kwargs


def _common(config: Mapping[str, Any], net: str) -> dict[str, Any]:
    model = str(config.get("model", "BigGAN"))
    if model not in FAMILIES:
        raise UserError(f"config.json: model {model!r} is unknown; BigGAN-PyTorch has {', '.join(FAMILIES)}.")
    if (norm := config.get("norm_style", "bn")) != "bn":
        raise UserError(
            f"norm_style {norm!r} has no counterpart here; only batch normalisation (bn) is read."
        )
    activation = str(config.get(f"{net}_nl", "relu"))
    if activation not in ("relu", "inplace_relu", "ir"):
        raise UserError(f"{net}_nl {activation!r} has no counterpart here; only ReLU networks are read.")
    with _readable(net):
        named = [int(a) for a in str(config[f"{net}_attn"]).split("_") if a not in ("", "0")]
        largest = int(config["resolution"]) // (2 if net == "D" else 1)
        attention = sorted(at for at in named if (4 if net == "D" else 8) <= at <= largest)
        return {
            "family": FAMILIES[model],
            "resolution": int(config["resolution"]),
            "num_classes": int(config["n_classes"]),
            "ch": int(config[f"{net}_ch"]),
            "attention": attention,
            "depth": max(int(config.get(f"{net}_depth", 2)), 1),
            "init": str(config.get(f"{net}_init", "ortho")).lower(),
            "sn_eps": float(config["SN_eps"]),
            "spectral": config.get(f"{net}_param", "SN") == "SN",
        }


@contextlib.contextmanager
def _readable(net: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"the configuration lacks {error.args[0]}; add it with --config FILE (JSON)."
        ) from None
    except (TypeError, ValueError) as error:
        raise UserError(f"the configuration of {net} is not readable: {error}.") from None


def recipe(config: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """How the author trained, by our configuration paths: what the config says, and nothing else."""
    found: dict[str, Any] = {}

    def take(ours: str, theirs: str, kind: type = float) -> None:
        if isinstance(config.get(theirs), int | float):
            found[ours] = kind(config[theirs])

    take("optim.lr_g", "G_lr")
    take("optim.lr_d", "D_lr")
    take("optim.beta1", "G_B1")
    take("optim.beta2", "G_B2")
    take("optim.eps", "adam_eps")
    take("optim.d_steps", "num_D_steps", int)
    take("loss.ortho_g", "G_ortho")
    take("loss.ortho_d", "D_ortho")
    take("train.seed", "seed", int)
    if isinstance(config.get("augment"), bool):
        found["data.flip"] = config["augment"]
    if isinstance(batch := config.get("batch_size"), int):
        found["train.batch"] = batch * int(config.get("num_D_accumulations", 1))
        of_g = max(int(config.get("G_batch_size", 0)), batch) * int(config.get("num_G_accumulations", 1))
        if of_g != found["train.batch"]:
            found["train.batch_g"] = of_g
    decay, d_steps = config.get("ema_decay"), found.get("optim.d_steps")
    if (
        config.get("ema")
        and isinstance(decay, float)
        and 0 < decay < 1
        and "train.batch" in found
        and d_steps
    ):
        step = found["train.batch"] * d_steps  # images
        found["ema.half_life"] = round(math.log(0.5) / math.log(decay) * step)
        found["ema.ramp"] = None
        found["ema.start"] = int(config.get("ema_start", 0)) * step
    return found
