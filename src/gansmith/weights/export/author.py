"""Networks back to BigGAN-PyTorch: `G_ema.pth`, `G.pth`, `D.pth`, `state_dict.pth` and `config.json`.

Its programs take one power step from the stored u0 in evaluation too. u0 is chosen so that this step ends at
our (u, v) and σ: any vector with Wᵀu0 ∝ v does, and the shortest one is computed.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gansmith import files
from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.models.spectral import SpectralLayer
from gansmith.weights import author_config

MODELS = {ours: theirs for theirs, ours in author_config.FAMILIES.items()}
MODELS |= dict.fromkeys(("sngan", "sagan"), "BigGAN")  # which it is there, without skip-z
OUTPUT_BN_EPS = 1e-5  # fixed there
SIGMA_TOLERANCE = 1e-5  # relative; of the order of float32's own sums


def write(folder: Path, G: Generator, D: Discriminator | None, info: dict[str, Any]) -> float:
    """Writes the weights folder, atomically. Returns the largest relative error of any σ as they compute it.

    Raises UserError for networks that BigGAN-PyTorch cannot build.
    """
    described = config(G, D)
    errors = [0.0]
    states = {"G_ema": _state(G, errors)} | ({"D": _state(D, errors)} if D is not None else {})
    if max(errors) > SIGMA_TOLERANCE:
        raise UserError(
            f"{folder}: a singular value would be off by {max(errors):.1e} of itself there, which changes "
            "images; train on for a step or export to another format."
        )
    step = info.get("step") or 0
    progress = {"itr": step, "epoch": 0, "save_num": 0, "save_best_num": 0, "best_IS": 0, "best_FID": 999999}
    with files.replacing_folder(folder) as temporary:
        for name, state in states.items():
            torch.save(state, temporary / f"{name}.pth")
        torch.save(states["G_ema"], temporary / "G.pth")  # what is loaded without --use_ema
        torch.save({**progress, "config": described}, temporary / "state_dict.pth")
        (temporary / "config.json").write_text(json.dumps(described, indent=1))
    return max(errors)


def config(G: Generator, D: Discriminator | None) -> dict[str, Any]:
    """BigGAN-PyTorch's keyword arguments for these networks. Raises UserError where it has none."""
    g, d = G.kwargs, (D.kwargs if D is not None else {})
    if g["family"] not in MODELS:
        raise UserError(
            f"--format biggan-pytorch: that program has no {g['family']}; use another format, such as onnx."
        )
    if G.num_classes == 0 or g["channels"] != 3:
        what = "has no classes" if G.num_classes == 0 else "draws grey images"
        raise UserError(
            f"--format biggan-pytorch: this network {what}; that program draws RGB images of classes."
        )
    shown = (
        d.get("attention") if d.get("attention_blocks") is None else ([16] if d["attention_blocks"] else [])
    )
    described = {
        "model": MODELS[g["family"]],
        "resolution": g["resolution"],
        "G_ch": g["ch"],
        "D_ch": d.get("ch", g["ch"]),
        "n_classes": g["num_classes"],
        "dim_z": g["dim_z"],
        "G_shared": g["shared_dim"] > 0,
        "shared_dim": g["shared_dim"],
        "hier": g["skip_z"],
        "G_attn": _joined(g["attention"]),
        "D_attn": _joined(g["attention"] if shown is None else shown),
        "G_depth": g["depth"],
        "D_depth": d.get("depth", g["depth"]),
        "G_init": g["init"],
        "D_init": d.get("init", g["init"]),
        "G_param": "SN" if g["spectral"] else "none",
        "D_param": "SN" if d.get("spectral", True) else "none",
        "SN_eps": g["sn_eps"],
        "BN_eps": g["bn_eps"],
        "D_wide": d.get("wide", True),
        "norm_style": "bn",
        "num_G_SVs": 1,
        "num_D_SVs": 1,
        "num_G_SV_itrs": 1,
        "num_D_SV_itrs": 1,
    }
    _check(G, author_config.generator_kwargs(described), "G")
    if D is not None:
        _check(D, author_config.discriminator_kwargs(described), "D")
    return described


def _joined(attention: list[int]) -> str:
    return "_".join(map(str, attention)) or "0"


def _check(net: Any, theirs: dict[str, Any], letter: str) -> None:
    """Raises UserError unless a network of their arguments computes what ours does."""
    with torch.device("meta"):
        twin = type(net)(**theirs)
    here = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    there = {key: tuple(value.shape) for key, value in twin.state_dict().items()}
    same = ("bn_eps", "sn_eps", "skip_z", "spectral")
    differing = [name for name in same if net.kwargs.get(name) != twin.kwargs.get(name)]
    if net.kwargs["fade"] is not None and net.alpha < 1:
        differing.append(f"fade (alpha {net.alpha:.3g})")
    if net.kwargs["table"] is not None:
        differing.append("table of channels")
    if differing or here != there:
        odd = sorted(here.keys() ^ there.keys()) or sorted(k for k in here if here[k] != there[k])
        what = ", ".join(differing) or f"tensors such as {odd[0]}"
        raise UserError(
            f"--format biggan-pytorch: its {letter} cannot be like this one ({what}); it builds the "
            "published tables only. Use another format."
        )


@torch.no_grad()
def _state(net: Generator | Discriminator, errors: list[float]) -> dict[str, Tensor]:
    """The tensors by the author's names; the relative error of each σ goes to `errors`."""
    layers = dict(spectral.spectral_layers(net))
    state: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        name, _, part = key.rpartition(".")
        value = value.detach().cpu().float().contiguous().clone()
        if name in layers and part == "u":
            u0, error = start_vector(layers[name])
            errors.append(error)
            state[f"{name}.u0"] = u0.view(1, -1)
            state[f"{name}.sv0"] = layers[name].sigma.detach().cpu().view(1).clone()
        elif not (name in layers and part == "v"):
            state[key] = value
    if isinstance(net, Generator):
        state["output_layer.0.stored_var"] += net.kwargs["output_bn_eps"] - OUTPUT_BN_EPS
    return state


def start_vector(layer: SpectralLayer) -> tuple[Tensor, float]:
    """u0 (rows,) from which their power step gives our σ, and how far off it is, relatively."""
    W = layer.weight.detach().cpu().flatten(1)
    u, v, sigma = (t.detach().cpu() for t in (layer.u, layer.v, layer.sigma))
    candidates = [u, solved(W, v)]
    errors = [abs(float(_their_sigma(W, c, layer.sn_eps or 1e-12) / sigma) - 1) for c in candidates]
    best = errors.index(min(errors))
    return candidates[best].clone(), errors[best]


def solved(W: Tensor, v: Tensor) -> Tensor:
    """The shortest u with Wᵀu = v, in float64 by the smaller Gram matrix; of length 1, float32."""
    W, v = W.double(), v.double()
    wide = W.shape[0] <= W.shape[1]
    gram = W @ W.t() if wide else W.t() @ W
    inverse = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True)
    u = inverse @ (W @ v) if wide else W @ (inverse @ v)
    return F.normalize(u, dim=0).float()


def _their_sigma(W: Tensor, u: Tensor, eps: float) -> Tensor:
    v = F.normalize(u.unsqueeze(0) @ W, eps=eps)
    u = F.normalize(v @ W.t(), eps=eps)
    return (v @ W.t() @ u.t()).squeeze()
