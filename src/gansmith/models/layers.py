"""Layers and residual blocks of the BigGAN family: spectral convolutions, conditioning, attention.

Blocks compute what the published ones compute; 1×1 shortcuts run on the smaller side of a resampling, where
the result is the same and the work a quarter.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gansmith.models.normalization import AffineBatchNorm, BatchNorm, ConditionalBatchNorm
from gansmith.models.spectral import SpectralLayer

INITS = ("ortho", "n02", "xavier")


class Conv(SpectralLayer):
    """k×k convolution, stride 1, same size. Weight (out, in, k, k). used: outputs that are computed, the
    first ones; None is all.
    """

    rewrite: bool | None = None  # resampling convolutions in fewer multiplications; None: on a CPU

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        sn_eps: float | None,
        *,
        bias: bool = True,
        used: int | None = None,
    ) -> None:
        super().__init__((outputs, inputs, kernel, kernel), bias=bias, sn_eps=sn_eps)
        self.used = None if used == outputs else used

    def forward(self, x: Tensor) -> Tensor:
        if self.used is not None:
            bias = None if self.bias is None else self.bias[: self.used]
            return F.conv2d(x, self.effective_weight[: self.used], bias, padding=self.weight.shape[-1] // 2)
        return F.conv2d(x, self.effective_weight, self.bias, padding=self.weight.shape[-1] // 2)

    def of_upsampled(self, x: Tensor) -> Tensor:
        """This convolution of x repeated 2×2: (N, in, H, W) -> (N, out, 2H, 2W)."""
        if self._rewritten(x):
            return conv_of_upsampled(x, self.effective_weight, self.bias)
        return self(up(x))

    def downsampled(self, x: Tensor) -> Tensor:
        """The 2×2 means of this convolution: (N, in, H, W) -> (N, out, H/2, W/2)."""
        if self._rewritten(x):
            return conv_downsampled(x, self.effective_weight, self.bias)
        return down(self(x))

    def _rewritten(self, x: Tensor) -> bool:
        # Measured to pay on CPUs (benchmarks/layers.py): up to 2× forward and backward.
        rewrite = x.device.type == "cpu" if self.rewrite is None else self.rewrite
        return rewrite and self.weight.shape[-1] == 3


def conv_of_upsampled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv3×3(nearest 2×(x)) as one transposed 4×4 convolution of stride 2: 4/9 of the multiplications."""
    wide = _four_by_four(weight, flip=True).transpose(0, 1)
    out = F.conv_transpose2d(x, wide, stride=2, padding=1)
    # oneDNN computes the weight gradient of a transposed convolution twice when it has a bias.
    return out if bias is None else out.add_(bias.to(out.dtype).view(-1, 1, 1))


def conv_downsampled(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """2×2 means of conv3×3(x) as one 4×4 convolution of stride 2: 4/9 of the multiplications."""
    return F.conv2d(x, _four_by_four(weight, scale=0.25), bias, stride=2, padding=1)


# Row i: where tap i of a 3×3 kernel, row by row, goes in the 4×4 sum of its four shifts.
_SHIFTS = torch.eye(3, 4, device="cpu") + torch.eye(3, 4, device="cpu").roll(1, 1)
_SPREAD = torch.kron(_SHIFTS, _SHIFTS)


@functools.cache
def _spread_on(device: torch.device) -> Tensor:
    return _SPREAD.to(device)  # once: copying makes the program wait


def _four_by_four(weight: Tensor, *, flip: bool = False, scale: float = 1.0) -> Tensor:
    """(out, in, 3, 3) -> (out, in, 4, 4): the scaled sum of the kernel's, or its mirror image's, shifts."""
    spread = _SPREAD if weight.device.type == "cpu" else _spread_on(weight.device)
    spread = (spread.flip(0) if flip else spread).to(weight.dtype) * scale
    return (weight.flatten(2) @ spread).unflatten(2, (4, 4))


class Linear(SpectralLayer):
    """Weight (out, in)."""

    def __init__(self, inputs: int, outputs: int, sn_eps: float | None, *, bias: bool = True) -> None:
        super().__init__((outputs, inputs), bias=bias, sn_eps=sn_eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective_weight, self.bias)


class Embedding(SpectralLayer):
    """Class vectors, weight (classes, dim). Takes labels int64 (N,) or mixing weights float (N, classes)."""

    def __init__(self, classes: int, dim: int, sn_eps: float | None = None) -> None:
        super().__init__((classes, dim), bias=False, sn_eps=sn_eps)

    def forward(self, y: Tensor) -> Tensor:
        weight = self.effective_weight
        return y.to(weight.dtype) @ weight if y.is_floating_point() else F.embedding(y, weight)


class Attention(nn.Module):
    """Self-attention of SAGAN as BigGAN has it: keys and values 2×2 max-pooled, no scaling, gated by gamma
    (from 0).

    fused: never hold all weights at once; None: on CUDA. The fused kernels differentiate once: a penalty on
    gradients runs its forward inside `explicit_attention()`.
    """

    fused: bool | None = None
    explicit = False  # of all attention, for a while

    def __init__(self, channels: int, sn_eps: float | None) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.theta = Conv(channels, inner, 1, sn_eps, bias=False)
        self.phi = Conv(channels, inner, 1, sn_eps, bias=False)
        self.g = Conv(channels, channels // 2, 1, sn_eps, bias=False)
        self.o = Conv(channels // 2, channels, 1, sn_eps, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query = self.theta(x).flatten(2)  # (N, C/8, HW)
        key = F.max_pool2d(self.phi(x), 2).flatten(2)  # (N, C/8, HW/4)
        value = F.max_pool2d(self.g(x), 2).flatten(2)  # (N, C/2, HW/4)
        fused = x.device.type == "cuda" if self.fused is None else self.fused
        if fused and not self.explicit:
            q, k, v = (part.transpose(1, 2).unsqueeze(1) for part in (query, key, value))  # (N, 1, HW, C)
            seen = F.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1).transpose(1, 2)
        else:
            weights = F.softmax(query.transpose(1, 2) @ key, dim=-1)  # (N, HW, HW/4)
            seen = value @ weights.transpose(1, 2)
        seen = seen.unflatten(2, x.shape[2:])
        if x.is_contiguous(memory_format=torch.channels_last):
            seen = seen.contiguous(memory_format=torch.channels_last)
        return torch.addcmul(x, self.gamma.to(x.dtype), self.o(seen).to(x.dtype))


@contextlib.contextmanager
def explicit_attention() -> Iterator[None]:
    """Inside, attention holds all its weights whatever `fused` says, and can be differentiated twice."""
    before, Attention.explicit = Attention.explicit, True
    try:
        yield
    finally:
        Attention.explicit = before


MakeNorm = Callable[[int], BatchNorm]


def up(x: Tensor) -> Tensor:
    """Every pixel 2×2 times."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def with_zeros(upsampling: str) -> bool:
    """Whether an upsampling (`nearest`, `zeros`) is the second. Raises ValueError for any other."""
    if upsampling not in ("nearest", "zeros"):
        raise ValueError(f"upsampling {upsampling!r} is unknown; choose nearest or zeros")
    return upsampling == "zeros"


def up_with_zeros(x: Tensor) -> Tensor:
    """Every pixel followed by zeros to its right, below, and between."""
    out = x.new_zeros(x.shape[0], x.shape[1], 2 * x.shape[2], 2 * x.shape[3])
    out[:, :, ::2, ::2] = x
    return out


def down(x: Tensor) -> Tensor:
    """2×2 means."""
    return F.avg_pool2d(x, 2)


def mix(old: Tensor, new: Tensor, alpha: float) -> Tensor:
    """(1 − alpha) · old + alpha · new."""
    return old * (1 - alpha) + new * alpha


def gated(branch: Tensor, gate: float) -> Tensor:
    """A residual branch that is coming in; whole, it is left as it is."""
    return branch if gate == 1 else branch * gate


class GeneratorBlock(nn.Module):
    """bn-relu-up-conv-bn-relu-conv with a 1×1 shortcut; doubles the resolution (BigGAN, figure 15b).

    zeros: pixels are set apart by zeros instead of repeated.
    """

    def __init__(
        self, inputs: int, outputs: int, sn_eps: float | None, norm: MakeNorm, *, zeros: bool = False
    ) -> None:
        super().__init__()
        self.zeros = zeros
        self.conv1 = Conv(inputs, outputs, 3, sn_eps)
        self.conv2 = Conv(outputs, outputs, 3, sn_eps)
        self.conv_sc = Conv(inputs, outputs, 1, sn_eps)
        self.bn1 = norm(inputs)
        self.bn2 = norm(outputs)
        self.gate = 1.0

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        h = self.bn1(x, condition)
        h = self.conv1(up_with_zeros(h)) if self.zeros else self.conv1.of_upsampled(h)
        h = self.conv2(self.bn2(h, condition))
        shortcut = self.conv_sc(up_with_zeros(x)) if self.zeros else up(self.conv_sc(x))
        return gated(h, self.gate) + shortcut


class DeepGeneratorBlock(nn.Module):
    """Bottleneck block of BigGAN-deep (figure 16b): the shortcut keeps the first `outputs` channels.

    zeros: as in `GeneratorBlock`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        sn_eps: float | None,
        norm: MakeNorm,
        *,
        up: bool,
        zeros: bool = False,
    ) -> None:
        super().__init__()
        hidden = inputs // 4
        self.zeros = zeros
        self.outputs, self.up, self.gate = outputs, up, 1.0
        self.conv1 = Conv(inputs, hidden, 1, sn_eps)
        self.conv2 = Conv(hidden, hidden, 3, sn_eps)
        self.conv3 = Conv(hidden, hidden, 3, sn_eps)
        self.conv4 = Conv(hidden, outputs, 1, sn_eps)
        self.bn1 = norm(inputs)
        self.bn2, self.bn3, self.bn4 = norm(hidden), norm(hidden), norm(hidden)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        h = self.bn2(self.conv1(self.bn1(x, condition)), condition)
        if self.up and self.zeros:
            h = self.conv2(up_with_zeros(h))
        else:
            h = self.conv2.of_upsampled(h) if self.up else self.conv2(h)
        h = self.conv3(self.bn3(h, condition))
        h = self.conv4(self.bn4(h, condition))
        x = x[:, : self.outputs]
        if self.up:
            x = up_with_zeros(x) if self.zeros else up(x)
        return gated(h, self.gate) + x


class DiscriminatorBlock(nn.Module):
    """(relu)-conv-relu-conv-pool with a 1×1 shortcut (BigGAN, figure 15c). The first block has no leading
    relu. bare: without any shortcut.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        sn_eps: float | None,
        *,
        down: bool,
        first: bool,
        wide: bool,
        bare: bool = False,
    ) -> None:
        super().__init__()
        hidden = outputs if wide else inputs
        self.down, self.first, self.bare, self.gate = down, first, bare, 1.0
        self.conv1 = Conv(inputs, hidden, 3, sn_eps)
        self.conv2 = Conv(hidden, outputs, 3, sn_eps)
        shortcut = not bare and (inputs != outputs or down)
        self.conv_sc = Conv(inputs, outputs, 1, sn_eps) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu_(self.conv1(x if self.first else F.relu(x)))
        h = self.conv2.downsampled(h) if self.down else self.conv2(h)
        if self.bare:
            return gated(h, self.gate)
        x = down(x) if self.down else x
        return gated(h, self.gate) + (x if self.conv_sc is None else self.conv_sc(x))


class DeepDiscriminatorBlock(nn.Module):
    """Bottleneck block of BigGAN-deep (figure 16c): the shortcut appends the channels that are new."""

    def __init__(self, inputs: int, outputs: int, sn_eps: float | None, *, down: bool) -> None:
        super().__init__()
        hidden = outputs // 4
        self.down, self.gate = down, 1.0
        self.conv1 = Conv(inputs, hidden, 1, sn_eps)
        self.conv2 = Conv(hidden, hidden, 3, sn_eps)
        self.conv3 = Conv(hidden, hidden, 3, sn_eps)
        self.conv4 = Conv(hidden, outputs, 1, sn_eps)
        self.conv_sc = Conv(inputs, outputs - inputs, 1, sn_eps) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(x))
        h = self.conv2(F.relu_(h))
        h = F.relu_(self.conv3(F.relu_(h)))
        if self.down:
            h, x = down(h), down(x)
        h = self.conv4(h)
        return gated(h, self.gate) + (x if self.conv_sc is None else torch.cat([x, self.conv_sc(x)], 1))


def batch_norm_maker(
    classes: int,
    shared: bool,
    condition: int,
    sn_eps: float | None,
    eps: float,
    gain_offset: float = 1,
) -> MakeNorm:
    """How a generator conditions its blocks: by a linear map of a vector, by class, or not at all."""
    if condition:
        return lambda channels: ConditionalBatchNorm(
            channels,
            eps,
            Linear(condition, channels, sn_eps, bias=False),
            Linear(condition, channels, sn_eps, bias=False),
            gain_offset,
        )
    if classes and not shared:
        return lambda channels: ConditionalBatchNorm(
            channels, eps, Embedding(classes, channels), Embedding(classes, channels), gain_offset
        )
    return lambda channels: AffineBatchNorm(channels, eps)


@torch.no_grad()
def initialize(net: nn.Module, init: str) -> None:
    """Draws every convolution, linear and embedding weight; biases are 0. Does nothing on the meta device."""
    if init not in INITS:
        raise ValueError(f"init {init!r} is unknown; choose one of {', '.join(INITS)}")
    draw = {
        "ortho": nn.init.orthogonal_,
        "n02": lambda weight: nn.init.normal_(weight, std=0.02),
        "xavier": nn.init.xavier_uniform_,
    }[init]
    for module in net.modules():
        if isinstance(module, SpectralLayer) and not module.weight.is_meta:
            draw(module.weight)


def set_channels_last(net: nn.Module, channels_last: bool = True) -> None:
    """Makes G start from, and every Ŵ lie in, channels_last memory; D follows its input. Needs a refresh
    afterwards.

    Master weights stay contiguous.
    """
    net.channels_last = channels_last  # type: ignore[assignment]
    for module in net.modules():
        if isinstance(module, SpectralLayer):
            module.channels_last = channels_last
            module.drop()


def set_conv_rewrites(net: nn.Module, rewrite: bool | None) -> None:
    """Switches `Conv.rewrite` of every convolution."""
    for module in net.modules():
        if isinstance(module, Conv):
            module.rewrite = rewrite


def settings(arguments: dict[str, Any]) -> dict[str, Any]:
    """A constructor's keyword arguments as JSON can hold them."""
    own = {k: v for k, v in arguments.items() if k not in ("self", "__class__")}
    return {k: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v for k, v in own.items()}


def full_precision(x: Tensor) -> contextlib.AbstractContextManager:
    """Switches autocast off on x's device, where it is on."""
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return contextlib.nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def widen(x: Tensor) -> Tensor:
    """bfloat16 and float16 -> float32; wider types as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
