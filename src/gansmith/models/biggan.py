"""BigGAN and BigGAN-deep (Brock et al. 2018): generator and discriminator from 32 to 1024 px; and SNGAN and
SAGAN, the residual networks that BigGAN added to.

State-dict names and registration order are those of the published PyTorch code, so weights map by name and
optimizer states by position; the spectral buffers are ours (`u`, `v` of every layer).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gansmith.models import keyed, layers, tables
from gansmith.models.head import ProjectionDiscriminator, check_labels
from gansmith.models.layers import Attention, Conv, Embedding, Linear, widen
from gansmith.models.noise import Noise
from gansmith.models.normalization import AffineBatchNorm
from gansmith.models.statistics_table import StatisticsTable

FADES = ("append", "insert")


class Generator(nn.Module):
    """z (N, dim_z) and y -> images (N, channels, R, R) float32 in [-1, 1].

    family: one of `tables.FAMILIES`; sngan and sagan have a class embedding per BatchNorm layer, no skip-z,
    sngan no attention either, whatever is asked for. num_classes: 0 is unconditional. shared_dim: size of the
    class embedding that all BatchNorm layers share; 0 gives each layer its own. skip_z: BigGAN feeds a chunk
    of z to each block, deep all of z. attention: resolutions after whose block attention stands;
    attention_blocks numbers the blocks instead. depth: blocks per stage (deep only). spectral: False leaves
    spectral norm out. rgb_rows: outputs of the last convolution, of which the first `channels` are the image
    (published deep weights have ch of them, and the spectral norm is that of all); None is `channels`. table:
    channel multipliers in place of the published ones. noise: every block's map gets noise (noise.py). Raises
    ValueError for what cannot be.

    Of imported networks only: gain_offset stands for the 1 of a conditional gain 1 + W·condition; upsampling
    `zeros` sets pixels apart by zeros instead of repeating them.

    fade: what a promotion to this resolution added comes in with `alpha`, from 0 to 1 (`set_alpha`).
    `append`: the last stage is new, and what the older output layer draws, enlarged, is mixed in by 1 − alpha
    (Karras et al. 2018, section 2). `insert`: a stage in the middle is new, and its residual branch counts
    alpha-fold; at 0 it only enlarges.

    statistics_table: standing statistics by truncation, where the weights were published with them.
    """

    statistics_table: StatisticsTable | None = None
    alpha: float
    gated: list[Any]  # blocks whose residual branch is coming in

    def __init__(
        self,
        *,
        family: str = "biggan",
        resolution: int,
        num_classes: int,
        channels: int = 3,
        ch: int = 96,
        dim_z: int = 120,
        shared_dim: int = 128,
        skip_z: bool = True,
        attention: Sequence[int] = (64,),
        depth: int = 2,
        init: str = "ortho",
        bn_eps: float = 1e-5,
        output_bn_eps: float = 1e-5,
        sn_eps: float = 1e-6,
        spectral: bool = True,
        attention_blocks: Sequence[int] | None = None,
        rgb_rows: int | None = None,
        table: Sequence[int] | None = None,
        fade: str | None = None,
        alpha: float = 1.0,
        gain_offset: float = 1,
        upsampling: str = "nearest",
        noise: bool = False,
    ) -> None:
        super().__init__()
        if family not in tables.BIGGAN:
            skip_z, shared_dim = False, 0
        attention = () if family == "sngan" else attention
        self.kwargs = layers.settings(locals())
        multipliers = tables.generator_channels(family, resolution, table)
        _check(channels, ch, depth)
        deep = family == "biggan-deep"
        if rgb_rows is not None and rgb_rows < channels:
            raise ValueError(f"rgb_rows {rgb_rows} cannot hold an image of {channels} channels")
        stages = len(multipliers) - 1
        _check_attention(attention)
        shared = shared_dim if num_classes else 0
        if num_classes and skip_z and not shared_dim:
            raise ValueError(
                "shared_dim 0 (one class embedding per BatchNorm layer) does not go with skip_z; "
                "set shared_dim 128 or skip_z false"
            )
        self.chunks = [dim_z]
        if skip_z and not deep:
            self.chunks = [chunk_size(dim_z, stages + 1)] * (stages + 1)
        self.deep, self.skip_z, self.num_classes, self.channels_last = deep, skip_z, num_classes, False

        eps = sn_eps if spectral else None
        condition = shared + (0 if not skip_z else dim_z if deep else self.chunks[0])
        norm = layers.batch_norm_maker(num_classes, bool(shared), condition, eps, bn_eps, gain_offset)
        zeros = layers.with_zeros(upsampling)
        self.shared = Embedding(num_classes, shared) if shared else None
        first = condition if deep and skip_z else self.chunks[0]
        self.linear = Linear(first, multipliers[0] * ch * 16, eps)
        self.blocks = nn.ModuleList()
        for stage in range(stages):
            inputs, outputs = multipliers[stage] * ch, multipliers[stage + 1] * ch
            for i in range(depth if deep else 1):
                last = not deep or i == depth - 1
                out = outputs if last else inputs
                block: nn.Module = (
                    layers.DeepGeneratorBlock(inputs, out, eps, norm, up=last, zeros=zeros)
                    if deep
                    else layers.GeneratorBlock(inputs, out, eps, norm, zeros=zeros)
                )
                self.blocks.append(nn.ModuleList([block]))
                here = len(self.blocks) - 1
                by_resolution = last and 8 << stage in attention
                if by_resolution if attention_blocks is None else here in attention_blocks:
                    self.blocks[-1].append(Attention(out, eps))  # type: ignore[operator]
                if noise:
                    self.blocks[-1].append(Noise(out, here))  # type: ignore[operator]

        def output_layer(width: int) -> nn.Sequential:
            return nn.Sequential(
                AffineBatchNorm(width, output_bn_eps),
                nn.Identity(),  # the relu of the published numbering; ours is inside BatchNorm
                Conv(width, rgb_rows or channels, 3, eps, used=channels),
            )

        self.output_layer = output_layer(multipliers[-1] * ch)
        self._fade(fade, depth if deep else 1, output_layer, multipliers[-2] * ch)
        layers.initialize(self, init)
        self.set_alpha(alpha)

    def _fade(self, fade: str | None, per_stage: int, output_layer: Any, width_before: int) -> None:
        _check_fade(fade)
        first_gated = len(self.blocks)
        if fade == "insert":
            first_gated = per_stage * _inserted(
                tables.INSERTED_STAGE, self.kwargs["resolution"], self.kwargs["table"]
            )
        self.gated = [group[0] for group in self.blocks[first_gated : first_gated + per_stage]]  # type: ignore[index]
        self.first_new = len(self.blocks) - per_stage
        self.old_output = output_layer(width_before) if fade == "append" else None

    def set_alpha(self, alpha: float) -> None:
        """How far the new stage has come in: 0 not at all, 1 wholly. Means nothing without `fade`."""
        _set_alpha(self, alpha)

    def forward(self, z: Tensor, y: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
        """z float32 (N, dim_z); y int64 (N,), or float (N, num_classes) weights that mix classes, or None.

        keys: int64 (N,), what names each image's noise; None: its z.
        """
        first, conditions = self._conditions(z, y)
        if self.kwargs["noise"] and keys is None:
            keys = keyed.of_rows(z)
        h = self.linear(first).unflatten(1, (-1, 4, 4))
        if self.channels_last:
            h = h.contiguous(memory_format=torch.channels_last)
        old = None
        for i, (group, condition) in enumerate(zip(self.blocks, conditions)):
            if self.old_output is not None and i == self.first_new and self.alpha < 1:
                old = widen(self.old_output(h))
            for layer in group:  # type: ignore[attr-defined]
                if isinstance(layer, Attention):
                    h = layer(h)
                else:
                    h = layer(h, keys if isinstance(layer, Noise) else condition)
        image = widen(self.output_layer(h))
        if old is not None:
            image = layers.mix(layers.up(old), image, self.alpha)
        return torch.tanh(image)

    def _conditions(self, z: Tensor, y: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        """What the first linear layer gets, and what each block gets."""
        blocks = len(self.blocks)
        check_labels(y, self.num_classes)
        embedded = self.shared(y) if self.shared is not None and y is not None else None
        if not self.skip_z:
            return z, [y if embedded is None else embedded] * blocks
        known = [] if embedded is None else [embedded]
        if self.deep:
            condition = torch.cat([*known, z], 1)  # y first
            return condition, [condition] * blocks
        first, *chunks = z.split(self.chunks, 1)
        return first, [torch.cat([*known, chunk], 1) for chunk in chunks]


class Discriminator(ProjectionDiscriminator):
    """Images (N, channels, R, R) in [-1, 1] and y int64 (N,) -> logits (N,) float32, by projection.

    num_classes: 0 is unconditional. wide: hidden layers as wide as the block's output, else as its input
    (BigGAN only). attention: resolutions after whose block attention stands; attention_blocks names the
    blocks instead, which only imported 32 px networks need. table: channel multipliers in place of the
    published ones; last_map: size of the last map, where it is not the published one's.

    Of imported networks only: bare_blocks have no shortcut where they keep their width; leading_relu
    rectifies the first block's input too; unit_range sees images in [0, 1].

    fade, alpha: as in `Generator`. `append`: the first stage is new, and what the older first layers make of
    the image, reduced to half its size by 2×2 means, is mixed in by 1 − alpha. `insert`: at alpha 0 the new
    stage only takes 2×2 means.

    heads, projection, dropout: as in `ProjectionDiscriminator.end`.
    """

    alpha: float
    gated: list[Any]

    def __init__(
        self,
        *,
        family: str = "biggan",
        resolution: int,
        num_classes: int,
        channels: int = 3,
        ch: int = 96,
        attention: Sequence[int] = (64,),
        attention_blocks: Sequence[int] | None = None,
        wide: bool = True,
        depth: int = 2,
        init: str = "ortho",
        sn_eps: float = 1e-6,
        spectral: bool = True,
        table: Sequence[int] | None = None,
        last_map: int | None = None,
        fade: str | None = None,
        alpha: float = 1.0,
        bare_blocks: bool = False,
        leading_relu: bool = False,
        unit_range: bool = False,
        heads: Mapping[str, int] | None = None,
        projection: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        attention = () if family == "sngan" else attention
        self.kwargs = layers.settings(locals())
        widths = [m * ch for m in tables.discriminator_channels(family, resolution, table)]
        _check(channels, ch, depth)
        _check_attention(attention)
        deep = family == "biggan-deep"
        eps = sn_eps if spectral else None
        stem = [widths[0]] if deep else [channels]
        ends = widths[1:] if deep else widths
        smallest = last_map or tables.last_map(family, resolution)
        sizes = [max(resolution >> (i + 1), smallest) for i in range(len(ends))]
        if attention_blocks is None:
            attention_blocks = [i for i, size in enumerate(sizes) if size in attention]

        self.deep, self.num_classes, self.unit_range = deep, num_classes, unit_range
        if deep:
            self.input_conv = Conv(channels, widths[0], 3, eps)
        self.blocks = nn.ModuleList()
        before = resolution
        for i, (inputs, outputs, size) in enumerate(zip([*stem, *ends], ends, sizes)):
            down = size < before
            if deep:
                group: list[nn.Module] = [
                    layers.DeepDiscriminatorBlock(
                        outputs if j else inputs, outputs, eps, down=down and j == 0
                    )
                    for j in range(depth)
                ]
            else:
                first = i == 0 and not leading_relu
                bare = bare_blocks and inputs == outputs
                group = [
                    layers.DiscriminatorBlock(
                        inputs, outputs, eps, down=down, first=first, wide=wide, bare=bare
                    )
                ]
            if i in attention_blocks:
                group.append(Attention(outputs, eps))
            self.blocks.append(nn.ModuleList(group))
            before = size
        self.end(widths[-1], eps, heads, projection, dropout)
        _check_fade(fade)
        self.old_input: nn.Module | None = None
        self.joins = 0 if deep else 1  # after this group's blocks, what the older first layers made comes in
        if fade == "append" and deep:
            self.old_input = Conv(channels, widths[1], 3, eps)
        elif fade == "append":
            self.old_input = layers.DiscriminatorBlock(
                channels, widths[1], eps, down=True, first=not leading_relu, wide=wide
            )
        self.gated = []
        if fade == "insert":
            place = _inserted(tables.INSERTED_BLOCK, resolution, table) - (1 if deep else 0)
            self.gated = [b for b in self.blocks[place] if not isinstance(b, Attention)]  # type: ignore[attr-defined]
        layers.initialize(self, init)
        self.set_alpha(alpha)

    def set_alpha(self, alpha: float) -> None:
        """How far the new stage has come in: 0 not at all, 1 wholly. Means nothing without `fade`."""
        _set_alpha(self, alpha)

    def features(self, x: Tensor) -> Tensor:
        """(N, 16ch) float32 (4ch at 32 px): the last map, rectified and summed over its pixels."""
        if self.unit_range:
            x = (x + 1) / 2
        h = self.input_conv(x) if self.deep else x
        old = None
        if self.old_input is not None and self.alpha < 1:
            old = self.old_input(layers.down(x))
        for i, group in enumerate(self.blocks):
            for layer in group:  # type: ignore[attr-defined]
                if old is not None and i == self.joins and isinstance(layer, Attention):
                    h, old = layers.mix(old, h, self.alpha), None
                h = layer(h)
            if old is not None and i == self.joins:
                h, old = layers.mix(old, h, self.alpha), None
        return F.relu(h).sum((2, 3), dtype=torch.promote_types(h.dtype, torch.float32))


def chunk_size(dim_z: int, slots: int) -> int:
    """Size of the chunks that skip-z cuts z into. Raises ValueError, naming the nearest dim_z, where it does
    not divide.
    """
    if dim_z % slots:
        below, above = dim_z // slots * slots, -(-dim_z // slots) * slots
        nearest = " or ".join(str(d) for d in (below, above) if d)
        raise ValueError(f"dim_z {dim_z} cannot be cut into {slots} chunks for skip_z; nearest: {nearest}")
    return dim_z // slots


def _check(channels: int, ch: int, depth: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"channels {channels} is not possible; images have 1 or 3")
    if ch < 1 or depth < 1:
        raise ValueError(f"ch {ch} and depth {depth} must be 1 or more")


def _inserted(places: dict[int, int], resolution: int, table: Sequence[int] | None) -> int:
    if resolution not in places or table is not None:
        raise ValueError(
            f"fade insert goes with the published tables of {', '.join(map(str, places))} px only"
        )
    return places[resolution]


def _check_fade(fade: str | None) -> None:
    if fade is not None and fade not in FADES:
        raise ValueError(f"fade {fade!r} is unknown; choose {' or '.join(FADES)}")


def _set_alpha(net: Any, alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha {alpha} must lie between 0 and 1")
    net.alpha = net.kwargs["alpha"] = float(alpha)
    for block in net.gated:
        block.gate = float(alpha)


def _check_attention(attention: Sequence[int]) -> None:
    # A resolution without a block is fine, since G and D share the setting; one that no network has is a
    # slip.
    possible = [4 << i for i in range(9)]
    if wrong := [a for a in attention if a not in possible]:
        raise ValueError(
            f"attention at {wrong[0]} px is not possible; choose among {', '.join(map(str, possible))}"
        )
