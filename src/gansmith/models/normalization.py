"""Batch normalisation over fixed groups of images, with class- and latent-conditional gain and bias.

Statistics depend on which images share them. Here they are shared by exactly `group` images that lie next to
each other in the stream, whatever the micro-batch and the number of ranks: several groups in a local micro-
batch, or one group over several adjacent ranks. A train-mode forward writes no buffer; eval mode reads the
standing statistics `stored_mean` and `stored_var`, which `accumulate_statistics` estimates.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """y = (x − mean)/√(var + eps) · scale + shift, then relu. Statistics are float32 (float64 for float64 x).

    Subclasses say where scale and shift, (C,) or (N, C), come from. standing: False has no standing
    statistics: eval mode too normalises by what it sees, the local batch as one group.
    """

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int, eps: float, standing: bool = True) -> None:
        super().__init__()
        if standing:
            self.register_buffer("stored_mean", torch.zeros(channels))
            self.register_buffer("stored_var", torch.ones(channels))
        self.eps, self.standing = eps, standing
        self.group: int | None = None  # images that share statistics; None: the whole local batch
        self.ranks: Communicator | None = None  # who may hold parts of a group; None: this process alone
        self.accumulated: Moments | None = None

    def normalize(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x (N, C, H, W), scale and shift (C,) or (N, C) -> (N, C, H, W) in x's dtype."""
        if self.standing and not self.training:
            factor = torch.rsqrt(self.stored_var + self.eps)
            scale = scale * factor
            return _scale_shift(x, scale, shift - self.stored_mean * scale)
        if self.accumulated is not None:
            self.accumulated.add(x)
        # The kernel itself scales and shifts whole channels; and float32 factors make it keep float32
        # statistics.
        if per_channel := scale.dim() == 1:
            weight, bias = scale, shift
        else:
            weight, bias = torch.ones_like(self.stored_var), torch.zeros_like(self.stored_mean)
        group = (self.group if self.training else None) or len(x)
        if len(x) % group:
            normalized = self._over_ranks(x, weight, bias, group)
        else:
            parts = [
                F.batch_norm(part, None, None, weight, bias, True, 0.0, self.eps) for part in x.split(group)
            ]
            normalized = parts[0] if len(parts) == 1 else torch.cat(parts)
        return normalized if per_channel else _scale_shift(normalized, scale, shift)

    def _over_ranks(self, x: Tensor, weight: Tensor, bias: Tensor, group: int) -> Tensor:
        sharing = check_layout(group, len(x), self.ranks.world if self.ranks else 1)
        assert self.ranks is not None
        local = torch.stack(_Moments.apply(x))
        # Every rank holds the same count, so the pooled moments are plain averages of (mean, M2/count).
        means, variances = _gather(local, self.ranks.block(sharing)).unbind(1)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        return _centred(x, mean, torch.rsqrt(var + self.eps) * weight, bias)


def _scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    scale, shift = (t.to(x.dtype).view(-1, x.shape[1], 1, 1) for t in (scale, shift))
    return torch.addcmul(shift, x, scale)


def _centred(x: Tensor, centre: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x − centre) · scale + shift per channel, in x's dtype, by the native kernel: one pass, float32 inside.

    The kernel takes the centre as a constant, so what the centre's gradient needs goes through the shift.
    """
    constant = centre.detach()
    shift = shift - (centre - constant) * scale
    almost_one = torch.full_like(constant, 1 - 1e-5)
    return F.batch_norm(x, constant, almost_one, scale, shift, False, 0.0, 1e-5)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of x (N, C, H, W), float32 or x's wider type, no gradient."""
    if x.device.type not in ("cpu", "cuda"):
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        return mean, var
    # BatchNorm's own reduction, 30× faster than var_mean on channels_last CPUs; wide running statistics,
    # which it would update, make it keep wide results.
    like = torch.zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    return torch.ops.aten.batch_norm_update_stats(x, like, like.clone(), 0.0)


class _Moments(torch.autograd.Function):
    """`moments` with gradients of any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = moments(x)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        return _centred(x, mean, grad_var * (2 / count), grad_mean / count)


class AffineBatchNorm(BatchNorm):
    """One gain and one bias per channel: `gain`, `bias` (C,), as in BigGAN's output layer."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(channels, eps)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, condition: Any = None) -> Tensor:
        return F.relu_(self.normalize(x, self.gain, self.bias))


class JudgingBatchNorm(BatchNorm):
    """A discriminator's: `gain`, `bias` (C,), no standing statistics, then leaky relu (DCGAN: slope 0.2)."""

    def __init__(self, channels: int, eps: float, slope: float) -> None:
        super().__init__(channels, eps, standing=False)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(self.normalize(x, self.gain, self.bias), self.slope)


class ConditionalBatchNorm(BatchNorm):
    """Gain 1 + gain(condition) and bias(condition), both modules: condition -> (N, C). gain_offset: what
    stands for the 1.
    """

    def __init__(
        self, channels: int, eps: float, gain: nn.Module, bias: nn.Module, gain_offset: float = 1
    ) -> None:
        super().__init__(channels, eps)
        self.gain, self.bias, self.gain_offset = gain, bias, gain_offset

    def forward(self, x: Tensor, condition: Any) -> Tensor:
        return F.relu_(self.normalize(x, self.gain_offset + self.gain(condition), self.bias(condition)))


# Groups
# -------------------------------------------------------------------------------------------------------


def check_layout(group: int, micro_batch: int, world: int) -> int:
    """The number of adjacent ranks that share one group of `group` images: 1 where groups lie in a micro-
    batch.

    Raises ValueError, with the groups and micro-batches that would do, for a layout that cannot hold the
    groups.
    """
    if group >= 1 and micro_batch % group == 0:
        return 1
    if group > micro_batch and group % micro_batch == 0 and world % (group // micro_batch) == 0:
        return group // micro_batch
    groups = [g for g in range(1, micro_batch + 1) if micro_batch % g == 0]
    groups += [k * micro_batch for k in range(2, world + 1) if world % k == 0]
    batches = [group // k for k in range(world, 1, -1) if world % k == 0 and group % k == 0]
    fitting = ", ".join(map(str, sorted({b for b in [*batches, group] if b > 0}))) or "none"
    raise ValueError(
        f"groups of {group} images (bn.group) do not fit micro-batches of {micro_batch} on {world} rank(s); "
        f"groups that fit: {', '.join(map(str, groups))}; "
        f"micro-batches that fit: {fitting} and multiples of {max(group, 1)}"
    )


class Communicator:
    """The ranks that may share groups; copies of a network share it too."""

    def __init__(self, process_group: dist.ProcessGroup | None) -> None:
        self.process_group = process_group or dist.group.WORLD
        self.blocks: dict[int, dist.ProcessGroup] = {}

    @property
    def world(self) -> int:
        return dist.get_world_size(self.process_group)

    def block(self, size: int) -> dist.ProcessGroup:
        """This rank's block of `size` adjacent ranks; its members make it when they first ask for it."""
        if size not in self.blocks:
            assert self.process_group is not None
            members = dist.get_process_group_ranks(self.process_group)
            rank = dist.get_rank(self.process_group)
            first = rank // size * size
            self.blocks[size] = (
                self.process_group
                if size == len(members)
                else dist.new_group(members[first : first + size], use_local_synchronization=True)
            )
        return self.blocks[size]

    def __deepcopy__(self, memo: dict) -> "Communicator":
        return self


class _AllReduce(torch.autograd.Function):
    """Sum over ranks; its adjoint is the same sum, so it differentiates any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: dist.ProcessGroup) -> Tensor:
        ctx.ranks = ranks
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ranks)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduce.apply(grad, ctx.ranks), None


def _gather(x: Tensor, ranks: dist.ProcessGroup) -> Tensor:
    """x of every rank, stacked (ranks, …): one all-reduce in which each rank fills its own slot."""
    own = torch.zeros(dist.get_world_size(ranks), *[1] * x.dim(), dtype=x.dtype, device=x.device)
    own[dist.get_rank(ranks)] = 1
    return _AllReduce.apply(own * x, ranks)


_COMMUNICATORS: dict[Any, Communicator] = {}


def set_batch_norm_group(
    net: nn.Module, group: int | None, process_group: dist.ProcessGroup | None = None
) -> None:
    """Sets how many images, adjacent in stream order, share BatchNorm statistics in train mode.

    group: None lets the whole local batch share, whatever its size. A forward of N local images must hold
    groups (N % group == 0) or be a k-th of one: then the ranks r of process_group (None: the world) with the
    same r // k share it, and all of them must run the same forwards and backwards. What fits is said by
    `check_layout`; a forward that does not fit raises its ValueError.
    """
    ranks = None
    if dist.is_available() and dist.is_initialized():
        # One object per process group: making communicators is collective and slow.
        ranks = _COMMUNICATORS.setdefault(process_group or dist.group.WORLD, Communicator(process_group))
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.group, module.ranks = group, ranks


def whole_groups(x: Tensor, net: nn.Module) -> tuple[Tensor, slice]:
    """The BatchNorm groups of `net` that local rows x (N, …) lie in, whole: (groups, group, …), and where in
    each of them local rows lie.

    A group that ranks share comes with the rows of the others, through which gradients flow; then all of them
    must call this together. Without groups all rows are one.
    """
    norm = next((module for module in net.modules() if isinstance(module, BatchNorm)), None)
    group = len(x) if norm is None or norm.group is None else norm.group
    if len(x) % group == 0:
        return x.unflatten(0, (-1, group)), slice(0, group)
    sharing = check_layout(group, len(x), norm.ranks.world if norm and norm.ranks else 1)
    assert norm is not None
    assert norm.ranks is not None
    block = norm.ranks.block(sharing)
    first = dist.get_rank(block) * len(x)
    return _gather(x, block).flatten(0, 1)[None], slice(first, first + len(x))


# Standing statistics
# -----------------------------------------------------------------------------------------------


class Moments:
    """Count, mean and sum of squared deviations per channel, pooled in float64 (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    @torch.no_grad()
    def add(self, x: Tensor) -> None:
        """x (N, C, H, W)."""
        mean, var = (moment.double() for moment in moments(x))
        self.include(x.numel() // x.shape[1], mean, var)

    def include(self, count: int, mean: Tensor, var: Tensor) -> None:
        """Pools the moments of `count` more values per channel; mean, var (C,) float64."""
        total = self.count + count
        delta = mean - self.mean
        self.squares = self.squares + var * count + delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total


@contextmanager
def accumulate_statistics(net: nn.Module) -> Iterator[None]:
    """Re-estimates standing statistics: forwards inside run in train mode and are pooled, every image alike.

    On exit stored_mean and stored_var of every BatchNorm layer hold the pooled mean and (biased) variance,
    and the net is in the mode it was in. Without a forward, or with an exception, the statistics stay as they
    were.
    """
    norms = [m for m in net.modules() if isinstance(m, BatchNorm)]
    modes = [(m, m.training) for m in net.modules()]
    net.train()
    for norm in norms:
        norm.accumulated = Moments()
    pooled: list[Moments] = []
    try:
        yield
        pooled = [norm.accumulated for norm in norms if norm.accumulated is not None]
    finally:
        for norm in norms:
            norm.accumulated = None
        for module, mode in modes:
            module.training = mode
    for norm, moments in zip(norms, pooled):
        if moments.count:
            norm.stored_mean.copy_(moments.mean)
            norm.stored_var.copy_(moments.squares / moments.count)
