"""Networks of twice the resolution: what they start as, what they keep, what is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gansmith.errors import UserError
from gansmith.models import normalization, spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.models.tables import DISCRIMINATOR_CHANNELS, GENERATOR_CHANNELS
from gansmith.sampling import latents, statistics
from gansmith.weights.promotion import (
    discriminator_growth,
    generator_growth,
    promote_discriminator,
    promote_generator,
)

FAMILIES = ("biggan", "biggan-deep")
TOLERANCE = 1e-5  # images in [-1, 1], logits of about 1; float32, the same sums in another order


def generator(family: str = "biggan", resolution: int = 32, **changes: Any) -> Generator:
    stages = len(GENERATOR_CHANNELS[resolution]) - 1
    kwargs = {
        "family": family,
        "resolution": resolution,
        "num_classes": 5,
        "ch": 4,
        "dim_z": 3 * (stages + 1),
        "shared_dim": 6,
        "attention": (16,),
    }
    G = Generator(**kwargs | changes)
    _train_a_little(G)
    return G


def discriminator(family: str = "biggan", resolution: int = 32, **changes: Any) -> Discriminator:
    kwargs = {"family": family, "resolution": resolution, "num_classes": 5, "ch": 4, "attention": (16,)}
    D = Discriminator(**kwargs | changes)
    _train_a_little(D)
    return D


@torch.no_grad()
def _train_a_little(net: Any) -> None:
    """Nothing is as it was initialised: biases, gates, statistics; u and v lag one step behind."""
    spectral.converge(net)
    for p in net.parameters():
        p.add_(0.05 * torch.randn_like(p))
    for name, buffer in net.named_buffers():
        if "stored" in name:
            buffer.add_(0.3 * torch.rand_like(buffer))
    for name, p in net.named_parameters():
        if name.endswith("gamma"):
            p.fill_(0.7)
    spectral.refresh(net, 1)
    net.eval().requires_grad_(False)


def inputs(G: Generator, n: int = 8) -> tuple[Tensor, Tensor | None]:
    z = latents.from_seeds(range(n), dim=G.kwargs["dim_z"])
    return z, torch.arange(n) % G.num_classes if G.num_classes else None


def enlarged(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=2, mode="nearest")


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "grey without classes": {"num_classes": 0, "channels": 1},
    "own embedding per layer": {"shared_dim": 0, "skip_z": False},
    "no spectral norm": {"spectral": False},
    "attention by block": {"attention_blocks": [0, 2]},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_appended_generator_draws_the_old_image_enlarged(family: str, variant: str) -> None:
    old = generator(family, **VARIANTS[variant])
    new = promote_generator(old)
    assert new.kwargs["resolution"] == 64
    z, y = inputs(old)
    z_new, _ = inputs(new)  # the same seeds: the first entries are the old ones
    torch.testing.assert_close(z_new[:, : z.shape[1]], z, rtol=0, atol=0)
    for training in (False, True):
        for net in (old, new):
            net.train(training)
            normalization.set_batch_norm_group(net, 4)
        assert (new(z_new, y) - enlarged(old(z, y))).abs().max() < TOLERANCE
        assert old(z, y).std() > 0.05


@pytest.mark.parametrize("resolution", [64, pytest.param(128, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_larger_networks_start_equal_too(family: str, resolution: int) -> None:
    old = generator(family, resolution, ch=4)
    new = promote_generator(old)
    z, y = inputs(old, 2)
    assert (new(inputs(new, 2)[0], y) - enlarged(old(z, y))).abs().max() < TOLERANCE
    D_old = discriminator(family, resolution, ch=4)
    D_new = promote_discriminator(D_old)
    x = torch.randn(2, 3, 2 * resolution, 2 * resolution).clamp(-1, 1)
    logits = D_old(F.avg_pool2d(x, 2), y)
    assert (D_new(x, y) - logits).abs().max() < TOLERANCE * max(1, float(logits.abs().max()))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"wide": False},
        {"num_classes": 0, "channels": 1},
        {"attention_blocks": [0, 1]},
        {"attention": (32,)},
        {"leading_relu": True, "bare_blocks": True},  # compare_gan's
        {"unit_range": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_appended_discriminator_judges_the_pooled_image(family: str, changes: dict[str, Any]) -> None:
    old = discriminator(family, **changes)
    new = promote_discriminator(old)
    x = torch.randn(6, old.kwargs["channels"], 64, 64).clamp(-1, 1)
    y = torch.arange(6) % 5 if old.num_classes else None
    logits = old(F.avg_pool2d(x, 2), y)
    assert (new(x, y) - logits).abs().max() < TOLERANCE * max(1, float(logits.abs().max()))
    new.set_alpha(1.0)
    assert (new(x, y) - logits).abs().max() > 1e-3  # the new stage counts now


def test_promotion_again_after_the_fade_starts_equal() -> None:
    G, D = promote_generator(generator()), promote_discriminator(discriminator())
    statistics.estimate(G, "normal", 5, images=16, group=8)
    for net in (G, D):
        net.set_alpha(1.0)
    G2, D2 = promote_generator(G), promote_discriminator(D)
    assert G2.kwargs["table"] == [4, 4, 4, 4, 2, 1]
    assert D2.kwargs["table"] == [1, 2, 4, 4, 4, 4]
    assert D2.kwargs["last_map"] == 8
    assert not any("old_output.2.weight" in k and v.shape[1] == 16 for k, v in G2.state_dict().items())
    z, y = inputs(G, 2)
    assert (G2(inputs(G2, 2)[0], y) - enlarged(G(z, y))).abs().max() < TOLERANCE
    x = torch.randn(2, 3, 128, 128).clamp(-1, 1)
    assert (D2(x, y) - D(F.avg_pool2d(x, 2), y)).abs().max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_alpha_blends_on_a_line_and_the_whole_network_needs_no_older_layers(family: str) -> None:
    G = promote_generator(generator(family))
    z, y = inputs(G, 2)

    def drawn(alpha: float) -> Tensor:
        G.set_alpha(alpha)
        return torch.atanh(G(z, y).double().clamp(-1 + 1e-7, 1 - 1e-7))

    start, middle, end = drawn(0.0), drawn(0.3), drawn(1.0)
    inside = (start.abs() < 3) & (end.abs() < 3)
    assert inside.float().mean() > 0.5
    assert (middle - (0.7 * start + 0.3 * end))[inside].abs().max() < 1e-3  # atanh of float32 values
    assert G.old_output is not None
    G.old_output[2].weight.fill_(float("nan"))
    assert G(z, y).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("resolution", [128, 256])
def test_inserted_stage_only_resamples_at_first(family: str, resolution: int) -> None:
    old = generator(family, resolution, ch=4, attention=(64,))
    new = promote_generator(old, how="insert")
    assert new.kwargs["table"] is None
    place = {128: 2, 256: 6}[resolution] * (2 if family == "biggan-deep" else 1)
    h = torch.randn(2, new.blocks[place][0].bn1.stored_mean.numel(), 4, 4)  # type: ignore[index]
    condition = torch.randn(2, new.blocks[place][0].bn1.gain.weight.shape[1])  # type: ignore[index]
    out = h
    for block in new.blocks[place : place + (2 if family == "biggan-deep" else 1)]:
        out = block[0](out, condition)  # type: ignore[index]
    torch.testing.assert_close(out, enlarged(h), rtol=1e-6, atol=1e-6)
    D = promote_discriminator(discriminator(family, resolution, ch=4, attention=(64,)), how="insert")
    group = D.blocks[{128: 4, 256: 1}[resolution] - (family == "biggan-deep")]
    x = torch.randn(2, group[0].conv1.weight.shape[1], 8, 8)  # type: ignore[index]
    out = x
    for block in group:  # type: ignore[attr-defined]
        out = block(out)
    torch.testing.assert_close(out, F.avg_pool2d(x, 2), rtol=1e-6, atol=1e-6)


def test_inserted_networks_are_the_published_ones() -> None:
    """At alpha 1 they are the published 256 px ones, with attention at 128 as on TF-Hub."""
    new = promote_generator(generator(resolution=128, dim_z=120, attention=(64,)), how="insert")
    assert (new.kwargs["dim_z"], new.kwargs["attention"]) == (140, [128])
    published = Generator(resolution=256, num_classes=5, ch=4, dim_z=140, shared_dim=6, attention=(128,))
    assert [(k, v.shape) for k, v in new.state_dict().items()] == [
        (k, v.shape) for k, v in published.state_dict().items()
    ]
    new.set_alpha(1.0)
    published.load_state_dict(new.state_dict())
    spectral.refresh(published, iterations=0)
    z, y = inputs(new, 2)
    torch.testing.assert_close(published.eval()(z, y), new(z, y), rtol=0, atol=0)


@pytest.mark.parametrize("how", ["append", "insert"])
@pytest.mark.parametrize("family", FAMILIES)
def test_everything_old_is_kept_and_everything_new_is_converged(family: str, how: str) -> None:
    pairs = [
        (generator(family, 128), promote_generator, generator_growth),
        (discriminator(family, 128), promote_discriminator, discriminator_growth),
    ]
    for old, promote, growth in pairs:
        new = promote(old, how=how)  # type: ignore[operator]
        _, rename = growth(old.kwargs, how)  # type: ignore[operator]
        state = new.state_dict()
        for key, value in old.state_dict().items():
            torch.testing.assert_close(state[rename(key)], value, rtol=0, atol=0)
        came = {rename(key) for key in old.state_dict()}
        fresh = [layer for name, layer in spectral.spectral_layers(new) if f"{name}.weight" not in came]
        assert fresh
        for layer in fresh:
            W = layer.weight.flatten(1).double()
            assert float(layer.sigma) == pytest.approx(float(torch.linalg.matrix_norm(W, 2)), rel=1e-3)
        assert all(value.isfinite().all() for value in state.values())


def test_attention_stays_with_its_blocks() -> None:
    G = promote_generator(generator(resolution=64, attention=(32, 128)))
    assert G.kwargs["attention"] == [32]  # the older network had none at 128, and the new stage gets none
    assert [len(group) for group in G.blocks] == [1, 1, 2, 1, 1]  # type: ignore[arg-type]
    D = promote_discriminator(discriminator(resolution=64, attention=(32, 64)))
    assert [len(group) for group in D.blocks] == [1, 2, 1, 1, 1, 1]  # type: ignore[arg-type]


def test_the_old_network_is_not_touched() -> None:
    G = generator()
    before = {k: v.clone() for k, v in G.state_dict().items()} | {"kwargs": dict(G.kwargs)}
    random = torch.get_rng_state()
    promote_generator(G)
    assert torch.equal(torch.get_rng_state(), random)
    assert before["kwargs"] == G.kwargs
    for k, v in G.state_dict().items():
        assert torch.equal(v, before[k])


@pytest.mark.parametrize(
    ("kwargs", "resolution", "how", "message"),
    [
        ({"resolution": 64}, 256, "append", "give --resolution 128; to go further"),
        ({"resolution": 64}, 32, "append", "give --resolution 128"),
        ({"resolution": 1024}, 2048, "append", "more is not built"),
        ({"resolution": 32}, 64, "insert", "use --how append"),
        ({"resolution": 128, "table": [16, 16, 8, 4, 2, 2]}, 256, "insert", "table of its own"),
        ({"resolution": 128, "upsampling": "zeros"}, 256, "insert", "zeros between pixels"),
        ({"resolution": 64}, 128, "prepend", "append or insert"),
        ({"resolution": 64, "fade": "append", "alpha": 0.4}, 128, "append", "until alpha is 1"),
    ],
)
def test_what_cannot_be_promoted_is_refused(
    kwargs: dict[str, Any], resolution: int, how: str, message: str
) -> None:
    from gansmith.weights.promotion import check

    with pytest.raises(UserError, match=message):
        check(kwargs, resolution, how)


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="has 4 entries"):
        Generator(resolution=32, num_classes=0, table=[4, 4, 4])
    with pytest.raises(ValueError, match="fade insert goes with"):
        Discriminator(resolution=64, num_classes=0, fade="insert")
    with pytest.raises(ValueError, match="between 0 and 1"):
        Generator(resolution=32, num_classes=0, ch=4, dim_z=8, alpha=1.5)
    assert len(DISCRIMINATOR_CHANNELS[64]) == 5
