"""Reads the published TF-Hub modules: biggan-128/256/512 and biggan-deep-128/256/512, G only.

A module is a folder with `saved_model.pb` and `variables/`, or the archive of one; the `variables` alone do.
Settings are inferred from names and shapes. BigGAN's standing statistics are variables; those of the deep
modules are constants in the module's graph, one row per truncation (`tf_graph` finds them), and are estimated
anew where the graph is not at hand.
"""

import itertools
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from torch import Tensor

from gansmith.errors import UserError
from gansmith.models.biggan import Generator
from gansmith.models.statistics_table import StatisticsTable
from gansmith.weights import tensor_bundle, tf_graph, tf_variables
from gansmith.weights.imported import Imported, new_info
from gansmith.weights.tf_variables import Filling, Layout, Variables

FORMAT = "TF-Hub"
EPS = 1e-4  # of every BatchNorm, the output's included, and of spectral norm
GRAPH = "saved_model.pb"
UNUSED = [
    (r"accumulation_counter$", "counts the batches behind the statistics, which are means already"),
    (r"u[1-9]\d*$", "a further singular vector, only logged by the program"),
    (r"global_step$", "the training step; noted"),
    (r"accumulated_|moving_", "statistics of no layer of this network"),
    (r"/(Adam|Momentum)", "an optimizer's state; a module is for sampling"),
]


def is_module(path: Path) -> bool:
    """Whether a path holds variables with the names of these modules (a folder, an archive, a checkpoint)."""
    try:
        with _opened(path) as (prefix, _):
            return prefix is not None and _scope(tensor_bundle.open_bundle(prefix).entries) is not None
    except UserError:
        return False


def read(path: str | Path, *, averaged: bool = True, config: Mapping[str, Any] | None = None) -> Imported:
    """The generator of a module, its archive, or a bare checkpoint of its variables.

    averaged: False reads the raw weights where both are there. config: what names and shapes do not tell, of
    BN_eps and SN_eps (1e-4) and G_attn, a resolution. Raises UserError for anything that is not such
    a module, is damaged or not whole.
    """
    path = Path(path)
    with _opened(path) as (prefix, graph):
        if prefix is None:
            raise UserError(
                f"{path} holds no TensorFlow checkpoint; give a module's folder or archive, or its "
                "variables/variables.index."
            )
        bundle = tensor_bundle.open_bundle(prefix)
        scope = _scope(bundle.entries)
        if scope is None:
            shown = ", ".join(sorted(bundle.entries)[:3]) or "nothing"
            raise UserError(
                f"{path}: these are not the variables of a BigGAN module (Generator/GBlock/conv0/w …); it "
                f"holds {shown} …"
            )
        return _read(path, Variables(bundle, scope, averaged), graph, _own(config or {}))


def _scope(names: Iterable[str]) -> str | None:
    """What stands before the variables' names: "" or "module/"."""
    for name in names:
        if found := re.match(r"(.*?)Generator/GBlock/conv0/w", name):
            return found[1]
    return None


# Finding the files
# -------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Path | None, Path | None]]:
    """(prefix of the variables, the graph's file), each None where there is none; an archive is unpacked to a
    temporary folder for as long.
    """
    if is_archive(path):
        with tempfile.TemporaryDirectory(prefix="gansmith-") as folder:
            _unpack(path, Path(folder))
            yield tensor_bundle.find(Path(folder)), _graph(Path(folder))
        return
    if not path.exists() and not path.with_name(f"{path.name}.index").exists():
        raise UserError(f"{path} does not exist.")
    prefix = tensor_bundle.find(path)
    folders = [path] if path.is_dir() else []
    folders += [prefix.parent, prefix.parent.parent] if prefix is not None else []
    yield prefix, next((graph for folder in folders if (graph := _graph(folder))), None)


def _graph(folder: Path) -> Path | None:
    return folder / GRAPH if (folder / GRAPH).is_file() else None


def is_archive(path: Path) -> bool:
    """Whether a path is a tar file, compressed or not, whatever its suffix: downloads often have none."""
    try:
        return path.is_file() and tarfile.is_tarfile(path)
    except (OSError, EOFError):
        return False


def _unpack(path: Path, folder: Path) -> None:
    """The module's own files out of its archive, under names that we choose: nothing can leave the folder."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if not member.isfile() or not re.fullmatch(rf"variables\.(index|data-.*)|{GRAPH}", name):
                    continue
                target = folder / GRAPH if name == GRAPH else folder / "variables" / name
                if target.exists():
                    raise UserError(
                        f"{path} holds more than one module ({member.name}); unpack it and name one."
                    )
                target.parent.mkdir(exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                with target.open("wb") as file:
                    while piece := content.read(1 << 20):
                        file.write(piece)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); download it again.") from None


# Reading
# -------------------------------------------------------------------------------------------------------


def _own(config: Mapping[str, Any]) -> dict[str, float]:
    """The user's settings as numbers."""
    if unknown := config.keys() - {"BN_eps", "SN_eps", "G_attn"}:
        raise UserError(
            f"--config: {sorted(unknown)[0]} is told by a module's variables; BN_eps, SN_eps and G_attn may "
            "be given."
        )
    try:
        return {key: float(value) for key, value in config.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"--config: {error}; numbers are expected.") from None


def _read(path: Path, variables: Variables, graph: Path | None, own: dict[str, float]) -> Imported:
    deep = "Generator/GBlock/BatchNorm/scale/w" in variables
    kwargs, notes = _settings(path, variables, deep, own)
    filling = Filling()
    _fill_ends(variables, kwargs, filling)
    for i in range(_num_blocks(variables)):
        (_fill_deep_block if deep else _fill_block)(variables, kwargs, filling, i)
    info: dict[str, Any] = {}
    unfilled: list[tuple[str, str]] = []
    rows = None
    if deep:
        rows, why = _statistics(graph, variables)
        notes.append(why)
        for norm, conv in _norms(variables).items():  # what a table does not set is what no statistics are
            filling.put(f"{norm}.stored_mean", np.zeros(variables.shape(conv)[2]))
            filling.put(f"{norm}.stored_var", np.ones(variables.shape(conv)[2]))
        if rows is None:
            info["statistics"] = None
            unfilled.append(("G: stored_mean, stored_var of every BatchNorm", "not in the file; estimated"))
    G, unknown = tf_variables.rebuild(Generator, kwargs, filling, path)
    if rows is not None:
        G.statistics_table = StatisticsTable(rows)
        G.statistics_table.put(G, 1.0)
    unfilled += [(f"G.{layer}.u", "not in the file; converged here") for layer in unknown]
    step = int(variables.take("global_step")) if "global_step" in variables else None
    return Imported(
        family=kwargs["family"],
        source_format=FORMAT,
        source=path,
        G=G,
        info=new_info(FORMAT, path, **info),
        unused=variables.unused(UNUSED),
        unfilled=unfilled,
        step=step,
        notes=notes,
    )


def _block(i: int) -> str:
    return f"Generator/GBlock_{i}" if i else "Generator/GBlock"


def _num_blocks(variables: Variables) -> int:
    return next(i for i in itertools.count() if f"{_block(i)}/conv0/w" not in variables)


def _norms(variables: Variables) -> dict[str, str]:
    """Our name of each BatchNorm layer of a deep generator → the kernel of the convolution it leads to."""
    blocks = range(_num_blocks(variables))
    inner = {f"blocks.{i}.0.bn{k + 1}": f"{_block(i)}/conv{k}/w" for i in blocks for k in range(4)}
    return inner | {"output_layer.0": "Generator/conv_to_rgb/w"}


def _settings(
    path: Path, variables: Variables, deep: bool, own: dict[str, float]
) -> tuple[dict[str, Any], list[str]]:
    """Keyword arguments of our Generator, and what should be said about them."""
    last = "conv3" if deep else "conv1"
    blocks = range(_num_blocks(variables))
    widths = [variables.shape("Generator/GBlock/conv0/w")[2]]
    widths += [variables.shape(f"{_block(i)}/{last}/w")[3] for i in blocks]
    sizes = tf_variables.generator_sizes(widths, deep, path)
    chunk = condition = variables.shape(f"{_first(deep)}/w")[0]
    embedding = variables.shape("linear/w")
    if deep:
        shared = embedding[1] if embedding[1] < condition else embedding[0]
        dim_z = condition - shared
    else:
        condition = variables.shape("Generator/GBlock/HyperBN/gamma/w")[0]
        shared = condition - chunk
        dim_z = chunk * (len(blocks) + 1)
    if shared not in embedding or dim_z < 1:
        raise UserError(
            f"{path}: linear/w {embedding} does not fit the {condition} inputs of the BatchNorm layers; the "
            "module is of another kind."
        )
    outputs = variables.shape(f"{_image(deep)}/w")[3]
    kwargs = {
        **sizes,
        "num_classes": embedding[0] if embedding[1] == shared else embedding[1],
        "channels": outputs if outputs in (1, 3) else 3,
        "dim_z": dim_z,
        "shared_dim": shared,
        "bn_eps": own.get("BN_eps", EPS),
        "output_bn_eps": own.get("BN_eps", EPS),
        "sn_eps": own.get("SN_eps", EPS),
    }
    if outputs != kwargs["channels"]:
        kwargs["rgb_rows"] = outputs
    kwargs["attention"], notes = [], []
    if "Generator/attention/theta/w" in variables:
        width = variables.shape("Generator/attention/theta/w")[2]
        asked = int(own["G_attn"]) if "G_attn" in own else None
        place, note = tf_variables.attention_place(path, width, widths, sizes, asked)
        kwargs["attention"] = [place]
        notes = [f'{note} Another one: --config FILE with {{"G_attn": …}}.'] if note else []
    return kwargs, notes


def _first(deep: bool) -> str:
    return "Generator/GenZ/G_linear" if deep else "Generator/G_Z/G_linear"


def _image(deep: bool) -> str:
    return "Generator/conv_to_rgb" if deep else "Generator/conv_2d"


def _put_layer(
    variables: Variables, filling: Filling, layer: str, name: str, layout: Layout, bias: Layout | None = None
) -> None:
    """One spectral layer: kernel w, stored vector u0, bias b."""
    kernel = variables.take(f"{name}/w")
    filling.put(f"{layer}.weight", kernel, layout)
    if f"{name}/u0" in variables:
        filling.put_vector(layer, variables.take(f"{name}/u0"), kernel.shape, layout)
    if bias is not None:
        filling.put(f"{layer}.bias", variables.take(f"{name}/b"), bias)


def _fill_ends(variables: Variables, kwargs: dict[str, Any], filling: Filling) -> None:
    """Everything but the blocks."""
    deep = kwargs["family"] == "biggan-deep"
    embedding = variables.take("linear/w")
    right = embedding.shape == (kwargs["num_classes"], kwargs["shared_dim"])
    filling.put("shared.weight", embedding if right else embedding.T, tf_variables.as_it_is)
    first: Layout = tf_variables.first_linear
    if deep:
        first = tf_variables.z_first(kwargs["dim_z"], first)
    _put_layer(variables, filling, "linear", _first(deep), first, tf_variables.first_bias)
    for part in ("theta", "phi", "g", "o"):
        if kwargs["attention"]:
            place = _attention_block(kwargs)
            name = f"Generator/attention/{'o_conv' if part == 'o' else part}"
            _put_layer(variables, filling, f"{place}.{part}", name, tf_variables.conv)
    if kwargs["attention"]:
        filling.put(f"{place}.gamma", variables.take("Generator/attention/gamma"), tf_variables.scalar)
    norm = "Generator/BatchNorm" if deep else "Generator/ScaledCrossReplicaBN"
    gain, bias = ("scale", "offset") if deep else ("gamma", "beta")
    filling.put("output_layer.0.gain", variables.take(f"{norm}/{gain}"))
    filling.put("output_layer.0.bias", variables.take(f"{norm}/{bias}"))
    if not deep:
        _put_statistics(variables, filling, "output_layer.0", f"{norm}bn")
    _put_layer(variables, filling, "output_layer.2", _image(deep), tf_variables.conv, tf_variables.vector)


def _attention_block(kwargs: dict[str, Any]) -> str:
    stage = kwargs["attention"][0].bit_length() - 3  # 8 px: 1
    return f"blocks.{stage * kwargs['depth'] - 1}.1"


def _put_statistics(variables: Variables, filling: Filling, layer: str, name: str) -> None:
    filling.put(f"{layer}.stored_mean", variables.take(f"{name}/accumulated_mean"))
    filling.put(f"{layer}.stored_var", variables.take(f"{name}/accumulated_var"))


def _fill_block(variables: Variables, kwargs: dict[str, Any], filling: Filling, i: int) -> None:
    chunk = kwargs["dim_z"] // (_num_blocks(variables) + 1)
    for ours, theirs in (("conv1", "conv0"), ("conv2", "conv1"), ("conv_sc", "conv_sc")):
        name = f"{_block(i)}/{theirs}"
        _put_layer(variables, filling, f"blocks.{i}.0.{ours}", name, tf_variables.conv, tf_variables.vector)
    for k, suffix in enumerate(("", "_1")):
        layer = f"blocks.{i}.0.bn{k + 1}"
        for ours, theirs in (("gain", "gamma"), ("bias", "beta")):
            name = f"{_block(i)}/HyperBN{suffix}/{theirs}"
            _put_layer(variables, filling, f"{layer}.{ours}", name, tf_variables.z_first(chunk))
        _put_statistics(variables, filling, layer, f"{_block(i)}/CrossReplicaBN{suffix}")


def _fill_deep_block(variables: Variables, kwargs: dict[str, Any], filling: Filling, i: int) -> None:
    for k in range(4):
        name, layer = f"{_block(i)}/conv{k}", f"blocks.{i}.0.conv{k + 1}"
        _put_layer(variables, filling, layer, name, tf_variables.conv, tf_variables.vector)
        norm = f"{_block(i)}/BatchNorm_{k}" if k else f"{_block(i)}/BatchNorm"
        for ours, theirs in (("gain", "scale"), ("bias", "offset")):
            layout = tf_variables.z_first(kwargs["dim_z"])
            _put_layer(variables, filling, f"blocks.{i}.0.bn{k + 1}.{ours}", f"{norm}/{theirs}", layout)


def _statistics(graph: Path | None, variables: Variables) -> tuple[dict[str, Tensor] | None, str]:
    """The deep module's tables by the names of our buffers, and what should be said about them."""
    estimated = "standing statistics are estimated anew, at any truncation that is asked for"
    if graph is None:
        return None, f"There is no {GRAPH} beside the variables, so {estimated}."
    norms = _norms(variables)
    kernels = {variables.scope + kernel: variables.shape(kernel)[2] for kernel in norms.values()}
    try:
        found = tf_graph.statistics(graph.read_bytes(), kernels)
    except ValueError as error:
        return None, f"{GRAPH} shows no statistics for every BatchNorm layer ({error}), so {estimated}."
    rows = {}
    for norm, (means, variances) in zip(norms, found):
        rows[f"{norm}.stored_mean"] = tf_variables.as_tensor(means)
        rows[f"{norm}.stored_var"] = tf_variables.as_tensor(variances)
    count = len(found[0][0])
    return rows, f"Standing statistics for {count} truncations from 0 to 1 were read from the module's graph."
