"""The GANs before BigGAN that are no relatives of it: DCGAN, and the residual network of WGAN-GP.

Both were published without classes. With classes, G's BatchNorm layers have one gain and bias per class, and
D takes the class by projection, as SNGAN's do. (SNGAN and SAGAN themselves: biggan.py.)
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gansmith.models import layers
from gansmith.models.head import ProjectionDiscriminator, check_labels
from gansmith.models.layers import (
    Conv,
    DiscriminatorBlock,
    GeneratorBlock,
    Linear,
    MakeNorm,
    widen,
)
from gansmith.models.normalization import AffineBatchNorm, JudgingBatchNorm
from gansmith.models.statistics_table import StatisticsTable

# Channel multipliers (× ch) of G from the 4×4 map on; D mirrors them. DCGAN at 64 px is the paper's with ch
# 128 and dcgan.torch's; 32 px has a stage less and 128 px one more, as in the code of WGAN.
DCGAN_CHANNELS = {32: (4, 2, 1), 64: (8, 4, 2, 1), 128: (16, 8, 4, 2, 1)}
# The authors' CIFAR-10 network at ch 64, and their 64 px one, in which D is wide where G is.
WGAN_GP_CHANNELS = {32: (2, 2, 2, 2), 64: (8, 8, 4, 2, 1)}
LEAK = 0.2  # slope of DCGAN's leaky relu


class BaselineGenerator(nn.Module):
    """z (N, dim_z) and y -> images (N, channels, R, R) float32 in [-1, 1], from a 4×4 map through blocks that
    double it. num_classes: 0 is unconditional.
    """

    statistics_table: StatisticsTable | None = None
    kwargs: dict[str, Any]
    num_classes: int
    linear: Linear
    blocks: nn.ModuleList  # see _listed
    output_layer: nn.Module

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.channels_last = num_classes, False

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """z float32 (N, dim_z); y int64 (N,), or float (N, num_classes) weights that mix classes, or None."""
        check_labels(y, self.num_classes)
        h = self.linear(z).unflatten(1, (-1, 4, 4))
        if self.channels_last:
            h = h.contiguous(memory_format=torch.channels_last)
        return torch.tanh(widen(self.output_layer(_through(self.blocks, h, y))))


class DCGANGenerator(BaselineGenerator):
    """Radford et al. 2015: transposed 4×4 convolutions of stride 2 (those of dcgan.torch), each after
    BatchNorm and relu. Raises ValueError for settings that do not go together.
    """

    def __init__(
        self,
        *,
        family: str = "dcgan",
        resolution: int,
        num_classes: int,
        channels: int = 3,
        ch: int = 64,
        dim_z: int = 100,
        init: str = "n02",
        bn_eps: float = 1e-5,
        sn_eps: float = 1e-6,
        spectral: bool = False,
    ) -> None:
        super().__init__(num_classes)
        self.kwargs = layers.settings(locals())
        eps = sn_eps if spectral else None
        norm = layers.batch_norm_maker(num_classes, False, 0, eps, bn_eps)
        widths = [m * ch for m in _published(family, DCGAN_CHANNELS, resolution, channels)] + [channels]
        self.linear = Linear(dim_z, widths[0] * 16, eps)
        self.blocks = _listed(DoublingBlock(*pair, eps, norm) for pair in pairwise(widths))
        self.output_layer = nn.Identity()
        layers.initialize(self, init)


class DCGANDiscriminator(ProjectionDiscriminator):
    """Radford et al. 2015: 4×4 convolutions of stride 2, BatchNorm in all but the first, leaky relu; then one
    linear layer over the 4×4 map. Each group of images that BatchNorm sees is judged together. heads,
    projection, dropout: as in `ProjectionDiscriminator.end`.
    """

    def __init__(
        self,
        *,
        family: str = "dcgan",
        resolution: int,
        num_classes: int,
        channels: int = 3,
        ch: int = 64,
        init: str = "n02",
        bn_eps: float = 1e-5,
        sn_eps: float = 1e-6,
        spectral: bool = False,
        heads: Mapping[str, int] | None = None,
        projection: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kwargs, self.num_classes = layers.settings(locals()), num_classes
        eps = sn_eps if spectral else None
        table = _published(family, DCGAN_CHANNELS, resolution, channels)
        widths = [channels] + [m * ch for m in reversed(table)]
        self.blocks = _listed(
            HalvingBlock(*pair, eps, bn_eps if i else None) for i, pair in enumerate(pairwise(widths))
        )
        self.end(widths[-1] * 16, eps, heads, projection, dropout)
        layers.initialize(self, init)

    def features(self, x: Tensor) -> Tensor:
        """(N, 16 × channels of the last map) float32: the 4×4 map."""
        return widen(_through(self.blocks, x).flatten(1))


class WGANGPGenerator(BaselineGenerator):
    """Gulrajani et al. 2017, appendix: BigGAN's residual blocks (which are older than BigGAN) and an output
    layer of BatchNorm, relu and convolution. Raises ValueError for settings that do not go together.
    """

    def __init__(
        self,
        *,
        family: str = "wgan-gp",
        resolution: int,
        num_classes: int,
        channels: int = 3,
        ch: int = 64,
        dim_z: int = 128,
        init: str = "xavier",
        bn_eps: float = 1e-5,
        sn_eps: float = 1e-6,
        spectral: bool = False,
    ) -> None:
        super().__init__(num_classes)
        self.kwargs = layers.settings(locals())
        eps = sn_eps if spectral else None
        norm = layers.batch_norm_maker(num_classes, False, 0, eps, bn_eps)
        widths = [m * ch for m in _published(family, WGAN_GP_CHANNELS, resolution, channels)]
        self.linear = Linear(dim_z, widths[0] * 16, eps)
        self.blocks = _listed(GeneratorBlock(*pair, eps, norm) for pair in pairwise(widths))
        self.output_layer = nn.Sequential(
            AffineBatchNorm(widths[-1], bn_eps), Conv(widths[-1], channels, 3, eps)
        )
        layers.initialize(self, init)


class WGANGPCritic(ProjectionDiscriminator):
    """Gulrajani et al. 2017, their published code. 32 px: four blocks without normalisation, the mean over
    the last map, 8×8. 64 px: a convolution, four blocks with layer normalisation, the whole last map, 4×4.
    No BatchNorm, since the penalty is on each image's own gradient. heads, projection, dropout: as in
    `ProjectionDiscriminator.end`.
    """

    def __init__(
        self,
        *,
        family: str = "wgan-gp",
        resolution: int,
        num_classes: int,
        channels: int = 3,
        ch: int = 64,
        init: str = "xavier",
        sn_eps: float = 1e-6,
        spectral: bool = False,
        heads: Mapping[str, int] | None = None,
        projection: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.kwargs, self.num_classes = layers.settings(locals()), num_classes
        eps = sn_eps if spectral else None
        widths = [m * ch for m in reversed(_published(family, WGAN_GP_CHANNELS, resolution, channels))]
        self.pooled = resolution == 32
        if self.pooled:
            halving, size = (True, True, False, False), widths[-1]
            blocks: list[nn.Module] = [
                DiscriminatorBlock(inputs, outputs, eps, down=down, first=i == 0, wide=True)
                for i, (inputs, outputs, down) in enumerate(zip([channels, *widths], widths, halving))
            ]
        else:
            size = widths[-1] * 16
            self.input_conv = Conv(channels, widths[0], 3, eps)
            blocks = [NormalizedBlock(*pair, eps) for pair in pairwise(widths)]
        self.blocks = _listed(blocks)
        self.end(size, eps, heads, projection, dropout)
        layers.initialize(self, init)

    def features(self, x: Tensor) -> Tensor:
        """32 px: (N, channels of the last map) float32, its mean over the pixels, rectified. 64 px: (N, 16 ×
        channels), the map itself.
        """
        h = _through(self.blocks, x if self.pooled else self.input_conv(x))
        return widen(F.relu(h)).mean((2, 3)) if self.pooled else widen(h.flatten(1))


class DoublingBlock(nn.Module):
    """bn-relu-conv: a transposed 4×4 convolution that doubles the side."""

    up = True

    def __init__(self, inputs: int, outputs: int, sn_eps: float | None, norm: MakeNorm) -> None:
        super().__init__()
        self.bn = norm(inputs)
        self.conv = Conv(inputs, outputs, 4, sn_eps)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        weight = self.conv.effective_weight.transpose(0, 1)
        return F.conv_transpose2d(self.bn(x, condition), weight, self.conv.bias, stride=2, padding=1)


class HalvingBlock(nn.Module):
    """conv-(bn)-leaky relu: a 4×4 convolution that halves the side. bn_eps: None has no BatchNorm."""

    def __init__(self, inputs: int, outputs: int, sn_eps: float | None, bn_eps: float | None) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, 4, sn_eps)
        self.bn = None if bn_eps is None else JudgingBatchNorm(outputs, bn_eps, LEAK)

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv2d(x, self.conv.effective_weight, self.conv.bias, stride=2, padding=1)
        return F.leaky_relu_(h, LEAK) if self.bn is None else self.bn(h)


class NormalizedBlock(DiscriminatorBlock):
    """norm-relu-conv-norm-relu-conv-pool with a 1×1 shortcut; the hidden width is the block's input.

    Layer normalisation is over channels and pixels, with one gain and bias per channel.
    """

    def __init__(self, inputs: int, outputs: int, sn_eps: float | None) -> None:
        super().__init__(inputs, outputs, sn_eps, down=True, first=False, wide=False)
        self.norm1 = nn.GroupNorm(1, inputs)
        self.norm2 = nn.GroupNorm(1, inputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2.downsampled(F.relu(self.norm2(h)))
        assert self.conv_sc is not None
        return h + self.conv_sc(layers.down(x))


def _listed(blocks: Iterable[nn.Module]) -> nn.ModuleList:
    """Lists of one block each, so that names are those of the other networks."""
    return nn.ModuleList(nn.ModuleList([block]) for block in blocks)


def _through(blocks: nn.ModuleList, h: Tensor, *condition: Tensor | None) -> Tensor:
    for group in blocks:
        h = group[0](h, *condition)  # type: ignore[index]
    return h


def _published(
    family: str, tables: dict[int, tuple[int, ...]], resolution: int, channels: int
) -> tuple[int, ...]:
    if resolution not in tables:
        sizes = ", ".join(map(str, tables))
        raise ValueError(f"resolution {resolution} is not built for {family}; choose one of {sizes}")
    if channels not in (1, 3):
        raise ValueError(f"channels {channels} is not possible; images have 1 or 3")
    return tables[resolution]
