"""The networks before BigGAN: published sizes, what layers compute, classes, groups, what is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gansmith.config import contradictions
from gansmith.models import families, normalization, recompute, spectral
from gansmith.models.biggan import Generator
from gansmith.models.summary import summary
from gansmith.weights.export.plain import plain

BUILT = [(family, size) for family, sizes in contradictions.OLDER.items() for size in sizes]
OLDER = tuple(contradictions.OLDER)


def generator(family: str, **changes: Any) -> Any:
    kwargs = {"family": family, "resolution": 32, "num_classes": 5, "ch": 4, "dim_z": 8, **changes}
    if family in ("sngan", "sagan"):
        kwargs = {"attention": (16,), **kwargs}
    G = families.make_generator(**kwargs)
    spectral.converge(G)
    return G


def discriminator(family: str, **changes: Any) -> Any:
    kwargs = {"family": family, "resolution": 32, "num_classes": 5, "ch": 4, **changes}
    if family in ("sngan", "sagan"):
        kwargs = {"attention": (16,), **kwargs}
    D = families.make_discriminator(**kwargs)
    spectral.converge(D)
    return D


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        kwargs = {"resolution": 64, "num_classes": 0, "ch": 64}
        G = families.make_generator(family="dcgan", dim_z=100, **kwargs)
        D = families.make_discriminator(family="dcgan", **kwargs)
        # dcgan.torch and its PyTorch port leave out biases: 8192 + 256 + 128 + 64 + 3, and 64 + … + 512 + 1.
        assert (count(G) - 8643, count(D) - 961) == (3_576_704, 2_765_568)
        # SNGAN for CIFAR-10, without classes; Miyato's D has no bias in its last layer.
        kwargs = {"family": "sngan", "resolution": 32, "num_classes": 0, "ch": 64}
        G = families.make_generator(dim_z=128, spectral=False, **kwargs)
        assert count(G) == 4_276_739
        # SAGAN at 128 px is BigGAN's network at ch 64 without skip-z.
        shared = {"resolution": 128, "num_classes": 1000, "ch": 64, "attention": (64,)}
        G = families.make_generator(family="sagan", dim_z=128, **shared)
        assert count(G) == count(Generator(dim_z=128, shared_dim=0, skip_z=False, **shared))


@pytest.mark.parametrize(("family", "resolution"), BUILT)
def test_every_size_maps_shapes_on_the_meta_device(family: str, resolution: int) -> None:
    with torch.device("meta"):
        kwargs = {"family": family, "resolution": resolution, "num_classes": 3, "ch": 8}
        G, D = families.make_generator(dim_z=16, **kwargs), families.make_discriminator(**kwargs)
        for net in (G, D):
            spectral.refresh(net)
        images = G(torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64))
        assert images.shape == (2, 3, resolution, resolution)
        assert D(images, torch.zeros(2, dtype=torch.int64)).shape == (2,)
        assert D.features(images).shape == (2, D.linear.weight.shape[1])
        assert sum(row[2] for row in summary(G)) == count(G)
        assert sum(row[2] for row in summary(D)) == count(D)


@pytest.mark.parametrize(
    "changes", [{}, {"num_classes": 0}, {"channels": 1, "init": "xavier", "spectral": True}]
)
@pytest.mark.parametrize(("family", "resolution"), [*((f, 32) for f in OLDER), ("wgan-gp", 64)])
def test_every_parameter_learns(family: str, resolution: int, changes: dict) -> None:
    G = generator(family, resolution=resolution, **changes)
    D = discriminator(family, resolution=resolution, **changes)
    for net in (G, D):
        for name, parameter in net.named_parameters():
            if name.endswith("gamma"):
                nn.init.constant_(parameter, 0.5)  # a gate at 0 passes no gradient on
    y = torch.arange(4) if G.num_classes else None
    images = G(torch.randn(4, 8), y)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    logits = D(images, y)
    logits.square().sum().backward()
    for net in (G, D):
        spectral.pull_back(net)
        idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        # BatchNorm takes out whatever a bias before it adds.
        assert all(n.endswith("conv.bias") or n.endswith("conv1.bias") or n == "linear.bias" for n in idle), (
            idle
        )


@pytest.mark.parametrize("family", OLDER)
def test_classes_are_drawn_and_judged_apart(family: str) -> None:
    G, D = generator(family), discriminator(family)
    z, y = torch.randn(3, 8), torch.tensor([0, 1, 2])
    with torch.no_grad():
        images = G(z, y)
        assert (images - G(z, y.flip(0)))[0].abs().max() > 1e-4
        torch.testing.assert_close(images, G(z, F.one_hot(y, 5).float()), rtol=0, atol=1e-6)
        projected = (D.embed(y) * D.features(images)).sum(1)
        torch.testing.assert_close(D(images, y) - D.linear(D.features(images)).squeeze(1), projected)
    with pytest.raises(ValueError, match="5 classes, but y is missing"):
        G(z)
    with pytest.raises(ValueError, match="5 classes, but y is missing"):
        D(images)


def test_sngan_and_sagan_are_biggan_with_less() -> None:
    kwargs = {"resolution": 32, "num_classes": 5, "ch": 4, "dim_z": 8}
    older = families.make_generator(family="sagan", shared_dim=16, attention=(16,), **kwargs)
    biggan = Generator(shared_dim=0, skip_z=False, attention=(16,), **kwargs)
    biggan.load_state_dict(older.state_dict())
    for net in (older, biggan):
        spectral.refresh(net, iterations=0)
    z, y = torch.randn(2, 8), torch.tensor([1, 4])
    assert torch.equal(older(z, y), biggan(z, y))
    assert (older.kwargs["skip_z"], older.kwargs["shared_dim"]) == (False, 0)
    sngan = families.make_generator(family="sngan", attention=(16,), **kwargs)
    assert sngan.kwargs["attention"] == []
    assert older.state_dict().keys() - sngan.state_dict().keys() == {
        f"blocks.1.1.{part}"
        for part in ["gamma", *(f"{c}.{p}" for c in ("theta", "phi", "g", "o") for p in ("weight", "u", "v"))]
    }


def test_dcgan_computes_what_its_paper_says() -> None:
    G, D = generator("dcgan", num_classes=0).double(), discriminator("dcgan", num_classes=0).double()
    z = torch.randn(6, 8, dtype=torch.float64)
    h = G.linear(z).view(6, -1, 4, 4)
    for (block,) in G.blocks:
        outputs, inputs = block.conv.weight.shape[:2]
        doubling = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1).double()
        doubling.load_state_dict({"weight": block.conv.weight.transpose(0, 1), "bias": block.conv.bias})
        h = doubling(F.batch_norm(h, None, None, training=True).relu())
    torch.testing.assert_close(G(z), h.tanh())
    x = h = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    for i, (block,) in enumerate(D.blocks):
        h = F.conv2d(h, block.conv.weight, None, stride=2, padding=1)
        h = F.leaky_relu(F.batch_norm(h, None, None, training=True) if i else h, 0.2)
    torch.testing.assert_close(D.features(x), h.flatten(1))


def test_dcgans_d_judges_groups_whatever_the_micro_batch() -> None:
    D = discriminator("dcgan", num_classes=0).double()
    normalization.set_batch_norm_group(D, 4)
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    whole = D(x)
    torch.testing.assert_close(torch.cat([D(x[:4]), D(x[4:])]), whole)
    assert (D(x[2:6]) - whole[2:6]).abs().max() > 1e-3  # other companions, another judgement
    D.eval()  # no standing statistics: what it sees is one group
    torch.testing.assert_close(torch.cat([D(x[:4]), D(x[4:])]), whole)
    assert not [name for name in D.state_dict() if "stored" in name]


def test_wgan_gps_critic_judges_each_image_alone() -> None:
    for resolution in (32, 64):
        D = discriminator("wgan-gp", resolution=resolution, num_classes=0).double()
        x = torch.randn(4, 3, resolution, resolution, dtype=torch.float64)
        torch.testing.assert_close(D(x)[2:3], D(x[2:3]))


def test_layer_normalisation_is_over_channels_and_pixels() -> None:
    D = discriminator("wgan-gp", resolution=64, num_classes=0).double()
    block = D.blocks[0][0]
    x = torch.randn(2, 4, 16, 16, dtype=torch.float64)

    def norm(h: Tensor) -> Tensor:
        var, mean = torch.var_mean(h, (1, 2, 3), correction=0, keepdim=True)
        return (h - mean) / (var + 1e-5).sqrt()

    h = F.conv2d(norm(x).relu(), block.conv1.weight, block.conv1.bias, padding=1)
    h = F.avg_pool2d(F.conv2d(norm(h).relu(), block.conv2.weight, block.conv2.bias, padding=1), 2)
    torch.testing.assert_close(block(x), h + F.conv2d(F.avg_pool2d(x, 2), block.conv_sc.weight))


@pytest.mark.parametrize(("family", "resolution"), [("dcgan", 32), ("wgan-gp", 32), ("wgan-gp", 64)])
def test_a_penalty_on_the_gradient_differentiates(family: str, resolution: int) -> None:
    """Against differences of the penalty along a direction of the first weight, too small to meet a kink."""
    D = discriminator(family, resolution=resolution, num_classes=0).double()
    weight = next(p for p in D.parameters() if p.dim() == 4)
    x = torch.randn(4, 3, resolution, resolution, dtype=torch.float64, requires_grad=True)

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
        return gradient.square().sum()

    along = torch.randn_like(weight)
    (exact,) = torch.autograd.grad(penalty(), weight)
    ends = []
    for step in (1e-8, -1e-8):
        with torch.no_grad():
            weight.add_(along, alpha=step)
        ends.append(float(penalty().detach()))
        with torch.no_grad():
            weight.sub_(along, alpha=step)
    assert float((exact * along).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-8, rel=1e-3)


@pytest.mark.parametrize("family", OLDER)
def test_exported_weights_draw_the_same(family: str) -> None:
    G = generator(family, spectral=True).eval()
    for layer in (m for m in G.modules() if isinstance(m, normalization.BatchNorm)):
        layer.stored_var.fill_(0.5)
    z, y = torch.randn(2, 8), torch.tensor([1, 4])
    with torch.no_grad():
        assert torch.equal(plain(G)(z, y), G(z, y))


def test_what_cannot_be_built_is_refused() -> None:
    for family, sizes in contradictions.OLDER.items():
        for resolution in {32, 64, 128, 256} - set(sizes):
            with pytest.raises(ValueError, match=f"resolution {resolution} is not built for {family}"):
                generator(family, resolution=resolution)
    with pytest.raises(ValueError, match=r"family 'pix2pix' is unknown; choose one of biggan, .*wgan-gp"):
        families.make_generator(family="pix2pix")
    with pytest.raises(ValueError, match="channels 4 is not possible"):
        generator("dcgan", channels=4)


@pytest.mark.parametrize("family", ["dcgan", "wgan-gp"])
def test_blocks_that_are_computed_again_give_the_same_gradients(family: str) -> None:
    G, D = generator(family, num_classes=0), discriminator(family, num_classes=0)
    z, found = torch.randn(4, 8), []
    for _ in range(2):
        parameters = [*G.parameters(), *D.parameters()]
        found.append(torch.autograd.grad(D(G(z)).sum(), parameters))
        assert recompute.recompute_from(G, 4) == len(G.blocks)
        assert recompute.recompute_from(D, 4) == len(D.blocks)
    assert all(torch.equal(plainly, again) for plainly, again in zip(*found))
