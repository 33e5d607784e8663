"""Writes a generator of ours as the TF-Hub modules hold it: variables, and a deep module's graph."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorflow_files import node, saved_model, write_bundle

from gansmith.models import spectral
from gansmith.models.biggan import Generator

TINY = {"num_classes": 7, "ch": 4, "shared_dim": 16, "bn_eps": 1e-4, "output_bn_eps": 1e-4, "sn_eps": 1e-4}
ROWS = 51


def network(**settings: Any) -> Generator:
    """A generator with nothing left at its initial value, and u, v as one power step leaves them."""
    G = Generator(**{**TINY, **settings})
    with torch.no_grad():
        for name, value in [*G.named_parameters(), *G.named_buffers()]:
            if not name.endswith((".u", ".v", ".sigma")):
                value.add_(torch.randn(value.shape) * 0.1)
            if name.endswith("stored_var"):
                value.abs_().add_(0.5)
    return G


def images_of(G: Generator, count: int = 2) -> torch.Tensor:
    z = torch.randn(count, G.kwargs["dim_z"], generator=torch.Generator().manual_seed(5))
    y = torch.arange(count) % G.kwargs["num_classes"]
    with torch.no_grad():
        return G.eval()(z, y)


def as_kernel(weight: torch.Tensor) -> np.ndarray:
    """Ours → TensorFlow's (kh, kw, in, out) or (in, out)."""
    return weight.detach().numpy().transpose((2, 3, 1, 0) if weight.dim() == 4 else (1, 0))


def z_first(matrix: np.ndarray, shared: int) -> np.ndarray:
    return np.concatenate([matrix[shared:], matrix[:shared]])


def hub_variables(G: Generator, average: str = "ema_b999900") -> dict[str, np.ndarray]:
    """G's state under the names and in the layouts of the modules. Every averaged variable gets a raw twin
    that is something else.
    """
    k, state = G.kwargs, G.state_dict()
    deep, shared = k["family"] == "biggan-deep", k["shared_dim"]
    found: dict[str, np.ndarray] = {"linear/w": state["shared.weight"].numpy()}

    def layer(name: str, ours: str, change: Any = lambda kernel: kernel) -> None:
        found[f"{name}/w"] = change(as_kernel(state[f"{ours}.weight"]))
        found[f"{name}/u0"] = state[f"{ours}.u"].numpy()[None]
        if f"{ours}.bias" in state and state[f"{ours}.bias"].dim() == 1:
            found[f"{name}/b"] = state[f"{ours}.bias"].numpy()

    first = "Generator/GenZ/G_linear" if deep else "Generator/G_Z/G_linear"
    layer(first, "linear", lambda kernel: z_first(kernel, shared) if deep else kernel)
    for name in (f"{first}/w", f"{first}/u0", f"{first}/b"):
        values = found[name]
        found[name] = (
            values.reshape(-1, values.shape[-1] // 16, 4, 4).transpose(0, 2, 3, 1).reshape(values.shape)
        )
    for i, group in enumerate(G.blocks):
        block = f"Generator/GBlock_{i}" if i else "Generator/GBlock"
        convs = ("conv1", "conv2", "conv3", "conv4") if deep else ("conv1", "conv2", "conv_sc")
        for j, conv in enumerate(convs):
            layer(f"{block}/{'conv_sc' if conv == 'conv_sc' else f'conv{j}'}", f"blocks.{i}.0.{conv}")
        for j in range(4 if deep else 2):
            suffix, ours = f"_{j}" if j else "", f"blocks.{i}.0.bn{j + 1}"
            norm = f"{block}/{'BatchNorm' if deep else 'HyperBN'}{suffix}"
            for theirs, part in zip(("scale", "offset") if deep else ("gamma", "beta"), ("gain", "bias")):
                layer(f"{norm}/{theirs}", f"{ours}.{part}", lambda kernel: z_first(kernel, shared))
            if not deep:
                statistics = f"{block}/CrossReplicaBN{suffix}"
                found[f"{statistics}/accumulated_mean"] = state[f"{ours}.stored_mean"].numpy()
                found[f"{statistics}/accumulated_var"] = state[f"{ours}.stored_var"].numpy()
                found[f"{statistics}/accumulation_counter"] = np.array(200, np.float32)
        if len(group) > 1:
            for part in ("theta", "phi", "g", "o"):
                layer(f"Generator/attention/{part if part != 'o' else 'o_conv'}", f"blocks.{i}.1.{part}")
            found["Generator/attention/gamma"] = state[f"blocks.{i}.1.gamma"].numpy()[None]
    norm = "Generator/BatchNorm" if deep else "Generator/ScaledCrossReplicaBN"
    for theirs, part in zip(("scale", "offset") if deep else ("gamma", "beta"), ("gain", "bias")):
        found[f"{norm}/{theirs}"] = state[f"output_layer.0.{part}"].numpy().reshape(1, 1, 1, -1)
    if not deep:
        for theirs, part in (("mean", "stored_mean"), ("var", "stored_var")):
            found[f"{norm}bn/accumulated_{theirs}"] = state[f"output_layer.0.{part}"].numpy()
    layer("Generator/conv_to_rgb" if deep else "Generator/conv_2d", "output_layer.2")
    if average:
        for name in list(found):
            if not name.endswith("u0") and "accumul" not in name:
                found[f"{name}/{average}"] = found[name]
                found[name] = found[name] + 1
    return found


def stepped(G: Generator) -> Generator:
    """As the program computes: one power step from the stored u."""
    spectral.refresh(G, iterations=1)
    return G


def module_of(G: Generator, folder: Path, scope: str = "", **how: Any) -> Path:
    variables = {scope + name: value for name, value in hub_variables(G, **how).items()}
    write_bundle(folder / "variables" / "variables", variables)
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    return folder


def tables_of(G: Generator) -> dict[str, np.ndarray]:
    """51 rows for each BatchNorm buffer; the last one is G's own."""
    random = np.random.default_rng(3)
    return {
        name: (buffer.numpy() * (1 + 0.5 * random.random((ROWS, 1)) * (np.arange(ROWS)[:, None] < ROWS - 1)))
        for name, buffer in G.named_buffers()
        if name.endswith(("stored_mean", "stored_var"))
    }


def graph_of(
    G: Generator, average: str, *, scrambled: bool, listed: bool = False, packed: bool = False
) -> bytes:
    """A deep module's graph as far as BatchNorm goes: look-up by truncation, normalisation, convolution.

    scrambled: table constants have names that tell nothing, and lie in the file in another order.
    """
    nodes = [
        node("truncation", "Placeholder"),
        node("z", "Placeholder"),
        node("row", "Cast", ("truncation",)),
    ]
    tables, stack = tables_of(G), 0
    x = "z"

    def add(name: str, op: str, *inputs: str) -> str:
        nodes.append(node(name, op, inputs))
        return name

    blocks = [f"Generator/GBlock_{i}" if i else "Generator/GBlock" for i in range(len(G.blocks))]
    norms = [(f"blocks.{i}.0.bn{k + 1}", block, k) for i, block in enumerate(blocks) for k in range(4)]
    norms.append(("output_layer.0", "Generator", -1))
    for ours, block, k in norms:
        at = "Generator/out" if k < 0 else f"{block}/bn{k}"
        found = {}
        for part in ("mean", "var"):
            stack += {"mean": 1, "var": 2}[part]
            name = f"noise_{len(nodes) * 7919 % 1_000_003}" if scrambled else f"stack_{stack}"
            table = tables[f"{ours}.stored_{part}"]
            if packed:
                rows = [f"{name}/part{i}" for i in range(ROWS)]
                nodes += [node(row, "Const", (), table[i], listed=listed) for i, row in enumerate(rows)]
                add(name, "Pack", *rows)
            else:
                nodes.append(node(name, "Const", (), table, listed=listed))
            found[part] = add(f"{at}/{part}", "GatherV2", name, "row")
        stack += 2
        inverse = add(f"{at}/rsqrt", "Rsqrt", add(f"{at}/eps", "AddV2", found["var"], "small"))
        if k >= 0:
            suffix = f"_{k}" if k else ""
            kernel = add(f"{block}/BatchNorm{suffix}/scale/w/{average}", "VarHandleOp")
            read = add(f"{at}/read", "ReadVariableOp", kernel)
            inverse = add(f"{at}/gain", "Mul", inverse, add(f"{at}/scale", "MatMul", "z", read))
        shift = add(f"{at}/shift", "Mul", found["mean"], f"{inverse}:0")
        y = add(f"{at}/sub", "Sub", add(f"{at}/scaled", "Mul", x, inverse), shift)
        name = "Generator/conv_to_rgb" if k < 0 else f"{block}/conv{k}"
        kernel = add(f"{name}/w/{average}", "VarHandleOp")
        weights = add(f"{name}/normal", "RealDiv", add(f"{name}/read", "ReadVariableOp", kernel), "^control")
        out = add(f"{name}/Conv2D", "Conv2D", add(f"{at}/relu", "Relu", y), weights)
        x = add(f"{name}/residual", "AddV2", out, x) if k == 3 else out
    return saved_model(nodes[::-1] if scrambled else nodes)
