"""Reads Hugging Face's pytorch_pretrained_biggan: BigGAN-deep generators with statistics by truncation.

The program evaluates with σ = uᵀWv from stored u and v, which is what we do with ours: both are taken over.
It puts z before the class, and lays the first map out as (4, 4, C); rows and columns are permuted, u and v
with them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Generator
from gansmith.models.statistics_table import StatisticsTable
from gansmith.models.tables import GENERATOR_CHANNELS
from gansmith.weights import pickles
from gansmith.weights.imported import Imported, check_finite, listed, new_info

FORMAT = "Hugging Face pytorch_pretrained_biggan"
CONVOLUTIONS = {
    "snconv1x1_theta": "theta",
    "snconv1x1_phi": "phi",
    "snconv1x1_g": "g",
    "snconv1x1_o_conv": "o",
}
EPS = 1e-4  # of the published config.json, where there is none


def weights_in(folder: Path) -> list[Path]:
    """Weight files of this format in a folder, by their names."""
    return sorted(folder.glob("*pytorch_model.bin"))


def looks_like(state: Mapping[str, Any]) -> bool:
    return any(str(name).endswith("generator.gen_z.weight_orig") for name in state)


def read(
    path: str | Path, *, config: Mapping[str, Any] | None = None, hugging_face: bool = False
) -> Imported:
    """The generator in a folder or a pytorch_model.bin; config.json lies beside it, or what it says is taken
    from the tensors. config: over it. hugging_face: interpolate statistics as the program does, quirks
    included. Raises UserError for anything that does not fit.
    """
    path = Path(path)
    file = _file(path)
    saved = pickles.read_tensors(file)
    if not isinstance(saved, dict) or not looks_like(saved):
        raise UserError(f"{file} holds no generator of pytorch_pretrained_biggan (generator.gen_z…).")
    state = {
        str(name).removeprefix("module."): value for name, value in saved.items() if isinstance(value, Tensor)
    }
    beside = _config_beside(file)
    settings, notes = _settings(state, (beside or {}) | dict(config or {}), file)
    if beside is None and config is None:
        notes.append(
            f"no config.json beside {file.name}: the layers are inferred from the tensors, eps {EPS:g}."
        )
    G = _build(settings, file)
    taken = _Taker(state, file)
    _take_all(G, taken, settings, hugging_face)
    unused = taken.finish() + [
        (str(name), "no tensor") for name, value in saved.items() if not isinstance(value, Tensor)
    ]
    spectral.refresh(G, iterations=0)
    G.eval()
    assert G.statistics_table is not None
    G.statistics_table.put(G, 1.0)
    info = new_info(
        FORMAT, path, statistics={"truncation": 1.0, "kind": "scale", "images": None, "group": None}
    )
    info["imported"]["files"] = [file.name]
    if hugging_face:
        notes.append("statistics are interpolated as the published program does, with its two quirks.")
    return Imported("biggan-deep", FORMAT, path, G=G, info=info, unused=unused, notes=notes)


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    found = weights_in(path)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise UserError(f"{path}: one pytorch_model.bin is expected, it has {names}; give the file.")
    return found[0]


def _config_beside(file: Path) -> dict[str, Any] | None:
    candidate = file.with_name(file.name.replace("pytorch_model.bin", "config.json"))
    if candidate == file or not candidate.is_file():
        return None
    try:
        config = json.loads(candidate.read_text(encoding="utf-8"))
        return dict(config)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{candidate} cannot be read as a JSON object ({error}).") from None


def _settings(
    state: Mapping[str, Tensor], config: Mapping[str, Any], file: Path
) -> tuple[dict[str, Any], list[str]]:
    """{"kwargs": Generator's, "positions": of the blocks in the file, "attended": of attention, "blocks":
    after which of ours that is}, and notes.
    """
    try:
        positions = sorted(
            {int(m[1]) for name in state if (m := re.match(r"generator\.layers\.(\d+)\.conv_0\.", name))}
        )
        attended = [int(m[1]) for name in state if (m := re.match(r"generator\.layers\.(\d+)\.gamma$", name))]
        shapes = [
            (state[f"generator.layers.{p}.conv_0.weight_orig"].shape[1],
             state[f"generator.layers.{p}.conv_3.weight_orig"].shape[0])
            for p in positions
        ]  # fmt: skip
        ch = int(config.get("channel_width", state["generator.bn.weight"].shape[0]))
        shared, classes = state["embeddings.weight"].shape
        dim_z = int(config.get("z_dim", state["generator.gen_z.weight_orig"].shape[1] - shared))
        rgb_rows = state["generator.conv_to_rgb.weight_orig"].shape[0]
        eps = float(config.get("eps", EPS))
        layers = [(bool(up), int(i), int(o)) for up, i, o in config["layers"]] if "layers" in config else None
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{file}: its configuration or tensors are incomplete ({error}).") from None
    if layers is None:
        layers = [(i % 2 == 1, a // ch, b // ch) for i, (a, b) in enumerate(shapes)]
    if [(i * ch, o * ch) for _, i, o in layers] != shapes:
        raise UserError(
            f"{file}: its {len(shapes)} blocks have channels {shapes[:4]}…, its configuration describes "
            f"{[(i * ch, o * ch) for _, i, o in layers][:4]}…; they belong to different networks."
        )
    notes = []
    asked = config.get("attention_layer_position")
    if isinstance(asked, int) and 0 <= asked < len(layers) and not attended:
        raise UserError(f"{file}: config.json has attention at layer {asked}, the file has none.")
    if asked is not None and attended and asked != attended[0]:
        notes.append(f"attention stands at layer {attended[0]}, not at {asked} as config.json says.")
    resolution, depth, table = _stages(layers, file)
    if config.get("output_dim", resolution) != resolution:
        raise UserError(
            f"{file}: its layers make images of {resolution} px, config.json says {config['output_dim']}."
        )
    if positions and attended and min(attended) < positions[0]:
        raise UserError(f"{file}: attention stands before its first block, which is not built here.")
    blocks = [positions.index(max(p for p in positions if p < place)) for place in attended]
    kwargs = {
        "family": "biggan-deep",
        "resolution": resolution,
        "num_classes": classes,
        "ch": ch,
        "dim_z": dim_z,
        "shared_dim": shared,
        "depth": depth,
        "bn_eps": eps,
        "output_bn_eps": eps,
        "sn_eps": eps,
        "rgb_rows": rgb_rows,
        "table": table,
    }
    if all((block + 1) % depth == 0 for block in blocks):
        kwargs["attention"] = [8 << (block // depth) for block in blocks]
    else:
        kwargs |= {"attention": [], "attention_blocks": blocks}
    return {"kwargs": kwargs, "positions": positions, "attended": attended, "blocks": blocks}, notes


def _stages(layers: list[tuple[bool, int, int]], file: Path) -> tuple[int, int, list[int] | None]:
    """(resolution, blocks per stage, own channel table or None) of the listed blocks."""
    ups = [i for i, (up, _, _) in enumerate(layers) if up]
    depth = ups[0] + 1 if ups else 0
    regular = (
        depth > 0
        and [i for i in range(len(layers)) if (i + 1) % depth == 0] == ups
        and len(layers) % depth == 0
        and all(a == b for up, a, b in layers if not up)
        and all(layers[i][2] == layers[i + 1][1] for i in range(len(layers) - 1))
    )
    resolution = 4 << len(ups)
    if not regular or resolution not in GENERATOR_CHANNELS:
        raise UserError(
            f"{file}: its layers {layers} are not stages of equal depth that each end by doubling the "
            f"resolution, up to one of {', '.join(map(str, GENERATOR_CHANNELS))} px; not built here."
        )
    table = [layers[i][1] for i in range(0, len(layers), depth)] + [layers[-1][2]]
    return resolution, depth, None if tuple(table) == GENERATOR_CHANNELS[resolution] else table


def _build(settings: dict[str, Any], file: Path) -> Generator:
    try:
        with torch.device("meta"):
            G = Generator(**settings["kwargs"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: its network cannot be built here: {error}.") from None
    return G.to_empty(device="cpu")


class _Taker:
    """Hands out the file's tensors by name, each once, and keeps account of what is wrong or left."""

    def __init__(self, state: Mapping[str, Tensor], file: Path) -> None:
        self.left, self.file = dict(state), file
        self.problems: list[str] = []
        check_finite(file, self.left)

    def put(self, target: Tensor, name: str, change: Any = None) -> None:
        """target ← change(the tensor of that name)"""
        if (value := self.left.pop(name, None)) is None:
            self.problems.append(f"{name} is missing")
            return
        try:
            value = (change(value) if change else value).reshape(target.shape)
        except RuntimeError:
            self.problems.append(f"{name} is {tuple(value.shape)}, expected {tuple(target.shape)}")
            return
        with torch.no_grad():
            target.copy_(value)

    def finish(self) -> list[tuple[str, str]]:
        """What nobody took, with reasons. Raises UserError for anything missing, misshapen or unexplained."""
        counters = [name for name in self.left if name.endswith("num_batches_tracked")]
        self.problems += [f"{name} has no place in it" for name in sorted(self.left) if name not in counters]
        if self.problems:
            raise UserError(
                f"{self.file}: does not fit the generator that its configuration describes: "
                f"{listed(self.problems)}."
            )
        return [(name, "a counter without effect") for name in counters]


def _take_all(G: Generator, taken: _Taker, settings: dict[str, Any], hugging_face: bool) -> None:
    dim_z = G.kwargs["dim_z"]
    rows: dict[str, Tensor] = {}

    def class_first(w: Tensor) -> Tensor:
        """Columns, or the entries of v, from [z | class] to [class | z]."""
        return torch.cat([w[..., dim_z:], w[..., :dim_z]], -1)

    def channel_first(w: Tensor) -> Tensor:
        """Rows from (4, 4, C) to (C, 4, 4)."""
        return w.unflatten(0, (4, 4, -1)).movedim(2, 0).flatten(0, 2)

    def layer(ours: Any, theirs: str, rows: Any = None, columns: Any = None) -> None:
        def both(w: Tensor) -> Tensor:
            w = rows(w) if rows else w
            return columns(w) if columns else w

        taken.put(ours.weight, f"{theirs}.weight_orig", both)
        if ours.bias is not None:
            taken.put(ours.bias, f"{theirs}.bias", rows)
        taken.put(ours.u, f"{theirs}.weight_u", rows)
        if f"{theirs}.weight_v" in taken.left:
            taken.put(ours.v, f"{theirs}.weight_v", columns)
        else:  # files of torch before 1.1: v = norm(Wᵀu), as its evaluation computed it
            v = ours.weight.detach().flatten(1).t() @ ours.u
            ours.v.copy_(v / v.norm().clamp_min(ours.sn_eps))

    def statistics(prefix: str, theirs: str) -> None:
        for ours, name in (("stored_mean", "running_means"), ("stored_var", "running_vars")):
            value = taken.left.pop(f"{theirs}.{name}", None)
            channels = G.get_submodule(prefix).get_buffer(ours).shape[0]
            if value is None or value.dim() != 2 or value.shape[1] != channels:
                found = "missing" if value is None else f"{tuple(value.shape)}, expected (n, {channels})"
                taken.problems.append(f"{theirs}.{name} is {found}")
            else:
                rows[f"{prefix}.{ours}"] = value.float().contiguous()

    assert G.shared is not None
    taken.put(G.shared.weight, "embeddings.weight", torch.t)
    layer(G.linear, "generator.gen_z", channel_first, class_first)
    for i, place in enumerate(settings["positions"]):
        theirs, ours = f"generator.layers.{place}", G.get_submodule(f"blocks.{i}.0")
        for k in range(4):
            layer(ours.get_submodule(f"conv{k + 1}"), f"{theirs}.conv_{k}")
            bn = ours.get_submodule(f"bn{k + 1}")
            layer(bn.get_submodule("gain"), f"{theirs}.bn_{k}.scale", None, class_first)
            layer(bn.get_submodule("bias"), f"{theirs}.bn_{k}.offset", None, class_first)
            statistics(f"blocks.{i}.0.bn{k + 1}", f"{theirs}.bn_{k}")
    for place, block in zip(settings["attended"], settings["blocks"]):
        theirs, attention = f"generator.layers.{place}", G.get_submodule(f"blocks.{block}.1")
        for name, own in CONVOLUTIONS.items():
            layer(attention.get_submodule(own), f"{theirs}.{name}")
        taken.put(attention.get_parameter("gamma"), f"{theirs}.gamma")
    taken.put(G.output_layer[0].gain, "generator.bn.weight")  # type: ignore[arg-type]
    taken.put(G.output_layer[0].bias, "generator.bn.bias")  # type: ignore[arg-type]
    statistics("output_layer.0", "generator.bn")
    layer(G.output_layer[2], "generator.conv_to_rgb")
    if not taken.problems:
        try:
            G.statistics_table = StatisticsTable(rows, hugging_face)
        except ValueError as error:
            taken.problems.append(str(error))
