"""Reads checkpoints of compare_gan and of Tensorfork, which grew from it: BigGAN and BigGAN-deep, G and D.

Experimental: written from the public sources' variable names and formulas, and checked against networks of
our own in that form, never against a published checkpoint. What these programs do otherwise than BigGAN: the
conditional gain has no `1 +`, pixels are set apart by zeros, D sees images in [0, 1] (not with `plain_tanh`)
and rectifies them first, and its blocks have no shortcut where they keep their width. Names and
shapes do not tell everything; the `operative_config-….gin` beside a checkpoint is read where it is there.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from gansmith.errors import UserError
from gansmith.models.biggan import Discriminator, Generator
from gansmith.models.tables import DISCRIMINATOR_CHANNELS
from gansmith.weights import tensor_bundle, tf_variables
from gansmith.weights.gin_config import Gin
from gansmith.weights.imported import Imported, new_info
from gansmith.weights.tf_variables import Filling, Layout, Variables

FORMAT = "compare_gan"
BN_EPS, SN_EPS = 1e-5, 1e-12
UNUSED = [
    (r"/[dg]_\w*(_\d+)?$|/Adam(_\d+)?$|beta[12]_power", "Adam's state; the optimizers start anew"),
    (r"accu_counter$|update_accus$", "bookkeeping of the statistics"),
    (r"accu/|moving_(mean|variance)$", "statistics that are not used; see the notes"),
    (r"global_step$", "the training step; noted"),
    (r"^label_counts", "how often each label was seen"),
]
REFUSED = [
    (r"generator/B1/(bn1|conv1/bn)/gamma", "BatchNorm without condition in its blocks"),
    (r"evonorm", "EvoNorm in place of BatchNorm"),
    (r"/sbn/", "self-modulated BatchNorm"),
    (r"/ln[12]/", "layer normalisation"),
    (r"generator/embed_z/", "an embedding of z"),
    (r"condition/(gamma|beta)/bias", "a bias in the conditional gain"),
    (r"(?<!fc_)noise", "noise inputs"),
    (r"^G_mapping|G_main", "a mapping network"),
]


def is_checkpoint(path: Path) -> bool:
    """Whether a path stands for a checkpoint with these programs' variable names."""
    try:
        prefix = tensor_bundle.find(path)
        return prefix is not None and _is_ours(tensor_bundle.open_bundle(prefix).entries)
    except UserError:
        return False


def _is_ours(names: Iterable[str]) -> bool:
    kernels = r"generator/B1/(up_conv1|conv1/1x1_conv)/kernel"
    return any(re.fullmatch(kernels, tf_variables.AVERAGED.sub("", name)) for name in names)


def read(path: str | Path, *, averaged: bool = True) -> Imported:
    """The networks of a checkpoint: a prefix, its .index, or the training folder.

    averaged: False makes the raw weights G; else they are G_raw where both are there. Raises UserError for
    what is no such checkpoint, is damaged, or holds layers that are not built here.
    """
    path = Path(path)
    prefix = tensor_bundle.find(path)
    if prefix is None:
        raise UserError(f"{path} holds no TensorFlow checkpoint; name its .index file.")
    bundle = tensor_bundle.open_bundle(prefix)
    if not _is_ours(bundle.entries):
        raise UserError(
            f"{path}: these are not the variables of compare_gan (generator/B1/up_conv1/kernel …)."
        )
    for pattern, what in REFUSED:
        if name := next((name for name in sorted(bundle.entries) if re.search(pattern, name)), None):
            raise UserError(f"{path}: its network has {what} ({name}), which is not built here.")
    gin = Gin.beside(prefix)
    raw = Variables(bundle, averaged=False)
    chosen = Variables(bundle, used=raw.used) if averaged else raw
    if gin.true("standardize_batch.use_evonorm"):
        raise UserError(f"{path}: its network has EvoNorm in place of BatchNorm, which is not built here.")
    return _Reader(path, gin, chosen, raw).read()


@dataclass
class _Reader:
    path: Path
    gin: Gin
    chosen: Variables
    raw: Variables
    notes: list[str] = field(default_factory=list)
    unfilled: list[tuple[str, str]] = field(default_factory=list)

    def read(self) -> Imported:
        self.notes.append(
            "Reading compare_gan's checkpoints is experimental: look at images before relying on it."
        )
        if self.gin.file is None:
            self.notes.append(
                f"There is no operative_config-….gin beside the checkpoint, so BatchNorm's eps is taken as "
                f"{BN_EPS:g}, images inside of D as [0, 1], and spectral norm as on."
            )
        kwargs = self._generator_kwargs()
        G = self._generator(self.chosen, kwargs, "G")
        twins = self.chosen is not self.raw and bool(self.chosen.twins)
        G_raw = self._generator(self.raw, kwargs, "G_raw") if twins else None
        D, reason = self._discriminator(kwargs)
        reasons = [(r"^discriminator/", reason), *UNUSED] if D is None else UNUSED
        step = int(self.raw.take("global_step")) if "global_step" in self.raw else None
        statistics: dict[str, Any] = {} if self._statistics(self.chosen) else {"statistics": None}
        return Imported(
            family=kwargs["family"],
            source_format=FORMAT,
            source=self.path,
            G=G,
            G_raw=G_raw,
            D=D,
            info=new_info(FORMAT, self.path, ema=twins, **statistics),
            unused=self.raw.unused(UNUSED[:1] + reasons),
            unfilled=self.unfilled,
            step=step,
            notes=self.notes,
        )

    # Generator

    def _generator_kwargs(self) -> dict[str, Any]:
        v = self.chosen
        deep = "generator/B1/conv1/1x1_conv/kernel" in v
        first, last = ("conv1/1x1_conv", "conv4/1x1_conv") if deep else ("up_conv1", "same_conv2")
        widths = [v.shape(f"generator/B1/{first}/kernel")[2]]
        widths += [v.shape(f"generator/B{i}/{last}/kernel")[3] for i in _blocks(v, "generator", first)]
        sizes = tf_variables.generator_sizes(widths, deep, self.path)
        classes, shared = v.shape("generator/embed_y/kernel")
        chunk = v.shape("generator/fc_noise/kernel")[0]
        condition = v.shape(f"generator/B1/{'conv1/bn' if deep else 'bn1'}/condition/gamma/kernel")[0]
        skip_z = deep or condition != shared
        dim_z = chunk - shared if deep else chunk * len(widths) if skip_z else chunk
        if condition != (chunk if deep else shared + chunk if skip_z else shared) or dim_z < 1:
            raise UserError(
                f"{self.path}: BatchNorm layers take {condition} inputs, which are not the class embedding's "
                f"{shared} with a part of z; such a network is not built here."
            )
        eps = self.gin.number("standardize_batch.epsilon", 1e-3 if self.gin.file else BN_EPS)
        outputs = v.shape("generator/final_conv/kernel")[3]
        kwargs = {
            **sizes,
            "num_classes": classes,
            "channels": outputs if outputs in (1, 3) else 3,
            "dim_z": dim_z,
            "shared_dim": shared,
            "skip_z": skip_z,
            "attention": [],
            "bn_eps": eps,
            "output_bn_eps": eps,
            "sn_eps": self.gin.number("spectral_norm.epsilon", SN_EPS),
            "spectral": self._spectral("generator", "G"),
            "gain_offset": self.gin.number("conditional_batch_norm.scale_start", 0.0),
            "upsampling": "zeros",
        }
        if outputs != kwargs["channels"]:
            kwargs["rgb_rows"] = outputs
        if "generator/non_local_block/sigma" in v:
            self._place_attention(kwargs, widths, sizes)
        return kwargs

    def _place_attention(self, kwargs: dict[str, Any], widths: list[int], sizes: dict[str, Any]) -> None:
        named = self.gin.get("Generator.blocks_with_attention", "")
        if block := re.fullmatch(r"B(\d+)", named):
            kwargs["attention_blocks"] = [int(block[1]) - 1]
            kwargs["attention"] = [4 << int(block[1]) // sizes["depth"]]
        elif named.isdecimal():
            kwargs["attention"] = [int(named)]
        else:
            width = self.chosen.shape("generator/non_local_block/conv2d_theta/kernel")[2]
            place, note = tf_variables.attention_place(self.path, width, widths, sizes)
            kwargs["attention"] = [place]
            self.notes += [note] if note else []

    def _spectral(self, scope: str, setting: str) -> bool:
        stored = any(name.startswith(scope) and name.endswith("/u_var") for name in self.raw.bundle.entries)
        return self.gin.get(f"{setting}.spectral_norm", str(stored or self.gin.file is None)) == "True"

    def _generator(self, v: Variables, kwargs: dict[str, Any], called: str) -> Generator:
        filling = Filling()
        deep = kwargs["family"] == "biggan-deep"
        embedding = v.take("generator/embed_y/kernel")
        if "generator/embed_y/bias" in v:  # every class gets it, so it is part of every class's vector
            embedding = embedding + v.take("generator/embed_y/bias")
        filling.put("shared.weight", embedding, tf_variables.as_it_is)
        first: Layout = tf_variables.first_linear
        if deep:
            first = tf_variables.z_first(kwargs["dim_z"], first)
        _put_layer(v, filling, "linear", "generator/fc_noise", first, tf_variables.first_bias)
        blocks = _blocks(v, "generator", "conv1/1x1_conv" if deep else "up_conv1")
        part_of_z = 0 if not kwargs["skip_z"] else kwargs["dim_z"] // (1 if deep else len(blocks) + 1)
        for i in blocks:
            parts = _DEEP_PARTS if deep else _GENERATOR_PARTS
            for ours, theirs in parts.items():
                _put_conv(v, filling, f"blocks.{i - 1}.0.{ours}", f"generator/B{i}/{theirs}")
            for k in range(1, 5 if deep else 3):
                norm = f"generator/B{i}/conv{k}/bn" if deep else f"generator/B{i}/bn{k}"
                for ours, theirs in (("gain", "gamma"), ("bias", "beta")):
                    layer, layout = f"blocks.{i - 1}.0.bn{k}", tf_variables.z_first(part_of_z)
                    _put_layer(v, filling, f"{layer}.{ours}", f"{norm}/condition/{theirs}", layout)
                self._put_statistics(v, filling, layer, norm)
        if kwargs["attention"]:
            places = kwargs.get("attention_blocks") or [
                (kwargs["attention"][0].bit_length() - 3) * (kwargs["depth"] if deep else 1) - 1
            ]
            _put_attention(v, filling, f"blocks.{places[0]}.1", "generator")
        filling.put("output_layer.0.gain", v.take("generator/final_norm/gamma"))
        filling.put("output_layer.0.bias", v.take("generator/final_norm/beta"))
        self._put_statistics(v, filling, "output_layer.0", "generator/final_norm")
        _put_conv(v, filling, "output_layer.2", "generator/final_conv")
        G, unknown = tf_variables.rebuild(Generator, kwargs, filling, self.path)
        self.unfilled += [(f"{called}.{layer}.u", "not in the file; converged here") for layer in unknown]
        if not self._statistics(v):
            self.unfilled.append(
                (f"{called}: stored_mean, stored_var of every BatchNorm", "not in the file; estimated")
            )
        return G

    def _statistics(self, v: Variables) -> str:
        """Which statistics a checkpoint holds: `accu` (pooled for sampling), `moving`, or none."""
        counter = "generator/final_norm/accu/accu_counter"
        if counter in v:
            return "accu" if float(v.take(counter)) >= 0.5 else ""  # training leaves 1e-12
        return "moving" if "generator/final_norm/moving_mean" in v else ""

    def _put_statistics(self, v: Variables, filling: Filling, layer: str, norm: str) -> None:
        kind = self._statistics(v)
        if kind == "accu":
            pooled = v.take(f"{norm}/accu/accu_counter")
            mean, var = (
                v.take(f"{norm}/accu/accu_mean") / pooled,
                v.take(f"{norm}/accu/accu_variance") / pooled,
            )
        elif kind == "moving":
            mean, var = v.take(f"{norm}/moving_mean"), v.take(f"{norm}/moving_variance")
        else:
            channels = filling.values[
                f"{layer}.gain" if layer == "output_layer.0" else f"{layer}.gain.weight"
            ]
            mean, var = np.zeros(len(channels)), np.ones(len(channels))
        filling.put(f"{layer}.stored_mean", mean)
        filling.put(f"{layer}.stored_var", var)

    # Discriminator

    def _discriminator(self, generator: dict[str, Any]) -> tuple[Discriminator | None, str]:
        """D, or None and why."""
        if not any(name.startswith("discriminator/") for name in self.raw.names):
            return None, ""
        used = set(self.raw.used)
        try:
            kwargs = self._discriminator_kwargs(generator)
            D, unknown = tf_variables.rebuild(
                Discriminator, kwargs, self._fill_discriminator(kwargs), self.path
            )
        except UserError as error:
            self.raw.used.clear()
            self.raw.used.update(used)
            self.notes.append(f"D is left out: {error}")
            return None, "D is left out; see the notes"
        self.unfilled += [(f"D.{layer}.u", "not in the file; converged here") for layer in unknown]
        return D, ""

    def _discriminator_kwargs(self, generator: dict[str, Any]) -> dict[str, Any]:
        v, resolution, deep = self.raw, generator["resolution"], generator["family"] == "biggan-deep"
        start = "conv1/1x1_conv" if deep else "same_conv1"
        blocks = _blocks(v, "discriminator", start)
        last = "conv4/1x1_conv" if deep else "{}_conv2"
        scales = ["down" if f"discriminator/B{i}/down_conv2/kernel" in v else "same" for i in blocks]
        ends = [
            v.shape(f"discriminator/B{i}/{last.format(scale)}/kernel")[3] for i, scale in zip(blocks, scales)
        ]
        if deep:
            if len(ends) % 2:
                raise UserError(f"its {len(ends)} blocks are no pairs, which is not built here.")
            ends = [v.shape("discriminator/initial_conv/kernel")[3], *ends[1::2]]
        published = DISCRIMINATOR_CHANNELS[resolution]
        ch = ends[0] // published[0]
        kwargs: dict[str, Any] = {
            "family": generator["family"],
            "resolution": resolution,
            "num_classes": generator["num_classes"],
            "channels": generator["channels"],
            "ch": ch,
            "attention": [],
            "sn_eps": generator["sn_eps"],
            "spectral": self._spectral("discriminator", "D"),
            "unit_range": not self.gin.true("plain_tanh"),
        }
        if ends != [m * ch for m in published]:
            kwargs["ch"] = math.gcd(*ends)
            kwargs["table"] = [width // kwargs["ch"] for width in ends]
        halvings = len(ends) - 1 if deep else scales.count("down")
        kwargs["last_map"] = resolution >> halvings
        if not deep:
            kwargs |= {"bare_blocks": True, "leading_relu": True}
        if "discriminator/non_local_block/sigma" in v:
            width = v.shape("discriminator/non_local_block/conv2d_theta/kernel")[2]
            stages = ends[1:] if deep else ends
            kwargs |= self._discriminator_attention(width, stages, resolution, deep)
        return kwargs

    def _discriminator_attention(
        self, width: int, stages: list[int], resolution: int, deep: bool
    ) -> dict[str, Any]:
        sizes = [resolution >> (i + 1) for i in range(len(stages))]
        named = self.gin.get("Discriminator.blocks_with_attention", "")
        if block := re.fullmatch(r"B(\d+)", named):
            possible = [(int(block[1]) - 1) // (2 if deep else 1)]
        elif named.isdecimal() and int(named) in sizes:
            possible = [sizes.index(int(named))]
        else:
            possible = [i for i, stage in enumerate(stages) if stage == width]
        if not possible or possible[0] >= len(stages):
            raise UserError(f"its attention takes {width} channels, but no block ends with as many.")
        place = next((i for i in possible if sizes[i] == 64), possible[0])
        if len(possible) > 1:
            others = ", ".join(str(i + 1) for i in possible if i != place)
            self.notes.append(
                f"D's attention is taken to stand after stage {place + 1}; it could be {others}."
            )
        return {"attention": [sizes[place]], "attention_blocks": [place]}

    def _fill_discriminator(self, kwargs: dict[str, Any]) -> Filling:
        v, filling, deep = self.raw, Filling(), kwargs["family"] == "biggan-deep"
        if deep:
            _put_conv(v, filling, "input_conv", "discriminator/initial_conv")
        for i in _blocks(v, "discriminator", "conv1/1x1_conv" if deep else "same_conv1"):
            layer = f"blocks.{(i - 1) // 2}.{(i - 1) % 2}" if deep else f"blocks.{i - 1}.0"
            block = f"discriminator/B{i}"
            parts = (
                dict(_DEEP_PARTS) | {"conv_sc": "shortcut/add_channels"} if deep else {"conv1": "same_conv1"}
            )
            for scale in ("down", "same"):
                if not deep and f"{block}/{scale}_conv2/kernel" in v:
                    parts |= {"conv2": f"{scale}_conv2", "conv_sc": f"{scale}_conv_shortcut"}
            for ours, theirs in parts.items():
                if ours != "conv_sc" or f"{block}/{theirs}/kernel" in v:
                    _put_conv(v, filling, f"{layer}.{ours}", f"{block}/{theirs}")
        if kwargs["attention"]:
            group = 2 if deep else 1
            _put_attention(v, filling, f"blocks.{kwargs['attention_blocks'][0]}.{group}", "discriminator")
        _put_layer(v, filling, "linear", "discriminator/final_fc", tf_variables.linear, tf_variables.vector)
        kernel = v.take("discriminator/embedding_fc/kernel")
        filling.put("embed.weight", kernel, tf_variables.as_it_is)
        if (stored := "discriminator/embedding_fc/kernel/u_var") in v:
            # Our rows are its rows: seen as a matrix of classes outputs, it is transposed.
            filling.put_vector("embed", v.take(stored).T, kernel.T.shape, tf_variables.linear)
        return filling


_GENERATOR_PARTS = {"conv1": "up_conv1", "conv2": "same_conv2", "conv_sc": "up_conv_shortcut"}
_DEEP_PARTS = {f"conv{k}": f"conv{k}/{'1x1' if k in (1, 4) else '3x3'}_conv" for k in range(1, 5)}


def _blocks(v: Variables, scope: str, first: str) -> list[int]:
    """The numbers of the blocks, from 1."""
    return list(takewhile(lambda i: f"{scope}/B{i}/{first}/kernel" in v, count(1)))


def _put_layer(
    v: Variables, filling: Filling, layer: str, name: str, layout: Layout, bias: Layout | None = None
) -> None:
    kernel = v.take(f"{name}/kernel")
    filling.put(f"{layer}.weight", kernel, layout)
    if f"{name}/kernel/u_var" in v:
        filling.put_vector(layer, v.take(f"{name}/kernel/u_var"), kernel.shape, layout)
    if bias is not None:
        filling.put(f"{layer}.bias", v.take(f"{name}/bias"), bias)


def _put_conv(v: Variables, filling: Filling, layer: str, name: str) -> None:
    _put_layer(v, filling, layer, name, tf_variables.conv, tf_variables.vector)


def _put_attention(v: Variables, filling: Filling, layer: str, scope: str) -> None:
    filling.put(f"{layer}.gamma", v.take(f"{scope}/non_local_block/sigma"), tf_variables.scalar)
    for ours, theirs in (("theta", "theta"), ("phi", "phi"), ("g", "g"), ("o", "attn_g")):
        _put_layer(
            v, filling, f"{layer}.{ours}", f"{scope}/non_local_block/conv2d_{theirs}", tf_variables.conv
        )
