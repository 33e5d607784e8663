"""BatchNorm over fixed groups: the same for every micro-batch and number of ranks; standing statistics."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from gansmith.models import spectral
from gansmith.models.biggan import Generator
from gansmith.models.layers import Linear
from gansmith.models.normalization import (
    AffineBatchNorm,
    BatchNorm,
    ConditionalBatchNorm,
    accumulate_statistics,
    check_layout,
    moments,
    set_batch_norm_group,
)

N, C = 16, 3


def norm_layer(dtype: torch.dtype = torch.float64) -> ConditionalBatchNorm:
    torch.manual_seed(1)
    layer = ConditionalBatchNorm(C, 1e-5, Linear(5, C, None, bias=False), Linear(5, C, None, bias=False)).to(
        dtype
    )
    for p in layer.parameters():
        nn.init.normal_(p)
    return layer


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(2)
    x = torch.randn(N, C, 4, 4, generator=random, dtype=torch.float64) * 2 + 3
    x = x + torch.arange(N).view(-1, 1, 1, 1)  # groups differ
    condition = torch.randn(N, 5, generator=random, dtype=torch.float64)
    noise = torch.randn(N, C, 4, 4, generator=random, dtype=torch.float64)
    return x.to(dtype), condition.to(dtype), noise.to(dtype)


def by_definition(layer: ConditionalBatchNorm, x: Tensor, condition: Tensor, group: int) -> Tensor:
    parts = []
    for part, c in zip(x.split(group), condition.split(group)):
        mean = part.mean((0, 2, 3), keepdim=True)
        var = (part - mean).square().mean((0, 2, 3), keepdim=True)
        gain = 1 + c @ layer.gain.weight.T
        bias = c @ layer.bias.weight.T
        parts.append((part - mean) / (var + 1e-5).sqrt() * gain[:, :, None, None] + bias[:, :, None, None])
    return torch.cat(parts).relu()


Results = tuple[
    Tensor, Tensor, Tensor, Tensor
]  # output, gradients of x and of the gain, second-order gradient of x


def differentiate(forward: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype, part: slice) -> Results:
    x, condition, noise = (t[part] for t in inputs(dtype))
    x = x.clone().requires_grad_()
    condition = condition.clone().requires_grad_()
    out = forward(x, condition)
    first = torch.autograd.grad((out * noise).sum(), [x, condition], create_graph=True)
    (second,) = torch.autograd.grad((first[0].square() * noise.cos()).sum() + first[1].sin().sum(), x)
    return out.detach(), first[0].detach(), first[1].detach(), second


def assert_close(got: Results, expected: Results, tolerance: float) -> None:
    for a, b, what in zip(
        got, expected, ("output", "gradient of x", "gradient of condition", "double backward")
    ):
        error = float((a - b).abs().max() / b.abs().max())
        assert error <= tolerance, f"{what}: relative error {error:.2g}"


TOLERANCES = [(torch.float64, 1e-12), (torch.float32, 1e-5)]


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("group", [16, 4, 2])
def test_groups_in_one_micro_batch_are_normalised_by_themselves(dtype, tolerance, group: int) -> None:
    layer = norm_layer()
    expected = differentiate(lambda x, c: by_definition(layer, x, c, group), torch.float64, slice(None))
    layer = layer.to(dtype)
    set_batch_norm_group(layer, group)
    assert_close(differentiate(layer, dtype, slice(None)), expected, tolerance)


def test_the_micro_batch_does_not_matter() -> None:
    layer = norm_layer()
    set_batch_norm_group(layer, 4)
    whole = differentiate(layer, torch.float64, slice(None))
    for size in (4, 8):
        parts = [differentiate(layer, torch.float64, slice(i, i + size)) for i in range(0, N, size)]
        assert_close(tuple(torch.cat(t) for t in zip(*parts)), whole, 1e-12)


LAYOUTS = {2: ((16, 8), (8, 4), (4, 4), (4, 2)), 4: ((16, 4), (8, 4), (4, 2), (2, 2))}  # (group, micro-batch)


def _rank(rank: int, world: int, folder: str) -> None:
    """One of the ranks, in a process of its own: results for several layouts go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    results = {}
    for dtype, _ in TOLERANCES:
        for group, size in LAYOUTS[world]:
            layer = norm_layer(dtype)
            set_batch_norm_group(layer, group)
            starts = range(rank * size, N, world * size)  # micro-step i of rank r: (i · world + r) · size
            results[dtype, group, size] = [differentiate(layer, dtype, slice(i, i + size)) for i in starts]
    G = small_generator()
    set_batch_norm_group(G, 8)
    own = 8 // world
    (G(*latents(slice(rank * own, rank * own + own))).sum() / 8).backward()
    spectral.pull_back(G)
    gradient = torch.cat([p.grad.flatten() for p in G.parameters() if p.grad is not None])
    dist.all_reduce(gradient)
    results["G"] = gradient
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def small_generator() -> Generator:
    torch.manual_seed(4)
    G = Generator(resolution=32, num_classes=5, ch=2, dim_z=8, shared_dim=4, attention=())
    spectral.converge(G)
    return G


def latents(part: slice) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    return torch.randn(8, 8, generator=random)[part], (torch.arange(8) % 5)[part]


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_share_groups_as_one_process_would(tmp_path: Path, world: int) -> None:
    torch.multiprocessing.spawn(_rank, (world, str(tmp_path)), nprocs=world)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for key in ranks[0]:
        if key == "G":
            continue
        dtype, group, _ = key
        # stream order: micro-steps outside, ranks inside
        steps = [step for turn in zip(*(r[key] for r in ranks)) for step in turn]
        got = tuple(torch.cat(t) for t in zip(*steps))
        layer = norm_layer()
        expected = differentiate(
            lambda x, c, g=group, m=layer: by_definition(m, x, c, g), torch.float64, slice(None)
        )
        assert_close(got, expected, dict(TOLERANCES)[dtype])

    G = small_generator()
    (G(*latents(slice(None))).sum() / 8).backward()
    spectral.pull_back(G)
    expected = torch.cat([p.grad.flatten() for p in G.parameters() if p.grad is not None])
    for rank in ranks:
        assert float((rank["G"] - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("group", "micro_batch", "world", "sharing"),
    [(8, 8, 1, 1), (4, 8, 2, 1), (1, 8, 2, 1), (16, 8, 2, 2), (16, 4, 8, 4), (16, 8, 8, 2), (24, 8, 6, 3)],
)
def test_layouts_that_hold_the_groups(group: int, micro_batch: int, world: int, sharing: int) -> None:
    assert check_layout(group, micro_batch, world) == sharing


@pytest.mark.parametrize(
    ("group", "micro_batch", "world", "message"),
    [
        (6, 8, 1, "groups that fit: 1, 2, 4, 8; micro-batches that fit: 6 and multiples of 6"),
        (16, 8, 1, "groups that fit: 1, 2, 4, 8; micro-batches that fit: 16 and multiples of 16"),
        (
            12,
            8,
            4,
            "groups that fit: 1, 2, 4, 8, 16, 32; micro-batches that fit: 3, 6, 12 and multiples of 12",
        ),
        (24, 8, 4, "micro-batches that fit: 6, 12, 24 and multiples of 24"),
        (0, 8, 1, "groups of 0 images"),
    ],
)
def test_layouts_that_cannot_are_refused_with_those_that_can(group, micro_batch, world, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_layout(group, micro_batch, world)


def test_a_forward_that_cannot_hold_its_groups_is_refused() -> None:
    layer = norm_layer()
    set_batch_norm_group(layer, 32)
    x, condition, _ = inputs()
    with pytest.raises(ValueError, match="groups of 32 images"):
        layer(x, condition)


def test_statistics_are_float32_for_bfloat16_images() -> None:
    """Deviations of 1 around a mean of 100: bfloat16 statistics would be off by 0.25 of a deviation."""
    layer = AffineBatchNorm(C, 1e-5)
    layer.forward = lambda x: layer.normalize(x, layer.gain, layer.bias)  # type: ignore[method-assign]
    x = (100.3 + torch.randn(16, C, 16, 16)).bfloat16()
    wide = x.double()
    mean, var = wide.mean((0, 2, 3), keepdim=True), wide.var((0, 2, 3), keepdim=True, correction=0)
    expected = (wide - mean) / (var + 1e-5).sqrt()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        out = layer(x.contiguous(memory_format=memory_format)).double()
        assert float(out.detach().mean((0, 2, 3)).abs().max()) < 2e-3
        torch.testing.assert_close(out, expected, atol=0.02, rtol=0.005)  # rounding of the output only


def test_moments_are_exact_for_every_dtype_and_layout() -> None:
    x = torch.randn(8, C, 6, 6, dtype=torch.float64) + 10
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)):
        given = x.to(dtype).contiguous(memory_format=torch.channels_last)
        mean, var = moments(given)
        wide = given.double()
        torch.testing.assert_close(mean.double(), wide.mean((0, 2, 3)), atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(
            var.double(), wide.var((0, 2, 3), correction=0), atol=tolerance, rtol=tolerance
        )


# Standing statistics -----------------------------------------------------------------------------------


def test_accumulated_statistics_are_those_of_all_images_pooled() -> None:
    layer = norm_layer()
    layer.eval()
    x, condition, _ = inputs()
    with accumulate_statistics(layer):
        for part in (slice(0, 2), slice(2, 10), slice(10, 16)):  # batches of different sizes
            layer(x[part], condition[part])
    assert not layer.training
    torch.testing.assert_close(layer.stored_mean, x.mean((0, 2, 3)), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(layer.stored_var, x.var((0, 2, 3), correction=0), atol=1e-12, rtol=1e-12)
    expected = by_definition(layer, x, condition, 16)
    torch.testing.assert_close(layer(x, condition), expected, atol=1e-10, rtol=1e-10)


def test_an_interrupted_or_empty_accumulation_leaves_statistics_alone() -> None:
    layer = norm_layer()
    x, condition, _ = inputs()
    with accumulate_statistics(layer):
        pass

    def interrupted() -> None:
        with accumulate_statistics(layer):
            layer(x, condition)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(layer.stored_mean, torch.zeros(C, dtype=torch.float64))
    assert layer.accumulated is None
    assert layer.training


def test_evaluation_of_an_image_does_not_depend_on_its_company() -> None:
    G = small_generator()
    with torch.no_grad(), accumulate_statistics(G):
        G(*latents(slice(None)))
    G.eval()
    with torch.no_grad():
        together = G(*latents(slice(None)))
        alone = torch.cat([G(*latents(slice(i, i + 1))) for i in range(8)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)  # other kernels for other sizes


def test_no_forward_writes_a_statistic() -> None:
    G = small_generator()
    for mode in (True, False):
        G.train(mode)(*latents(slice(None)))
    for module in G.modules():
        if isinstance(module, BatchNorm):
            assert torch.equal(module.stored_mean, torch.zeros_like(module.stored_mean))
            assert torch.equal(module.stored_var, torch.ones_like(module.stored_var))
