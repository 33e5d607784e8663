"""The networks: published sizes, every switch, initialisation, conditioning, precision."""

import copy
import json

import pytest
import torch
from torch import Tensor, nn

from gansmith.models import layers, spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.models.layers import Attention
from gansmith.models.normalization import ConditionalBatchNorm
from gansmith.models.tables import BIGGAN, GENERATOR_CHANNELS

SMALL = {"resolution": 32, "num_classes": 5, "ch": 4, "attention": (16,)}
DIM_Z = 16  # divisible by the 4 slots of 32 px


def small_generator(**changes: object) -> Generator:
    G = Generator(**{**SMALL, "dim_z": DIM_Z, "shared_dim": 8, **changes})
    spectral.converge(G)
    return G


def small_discriminator(**changes: object) -> Discriminator:
    D = Discriminator(**{**SMALL, **changes})
    spectral.converge(D)
    return D


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("settings", "attention_g", "dim_z", "parameters_g", "parameters_d"),
    [
        ({"resolution": 128, "ch": 96}, 64, 120, 70_433_988, 87_982_370),
        ({"resolution": 256, "ch": 96}, 128, 140, 82_097_604, 99_225_890),
        ({"resolution": 256, "ch": 96}, 64, 140, 82_235_844, 99_225_890),
        ({"resolution": 512, "ch": 96}, 64, 128, 82_296_804, None),
        ({"resolution": 128, "ch": 128, "family": "biggan-deep"}, 64, 128, 50_244_484, 34_590_210),
        ({"resolution": 256, "ch": 128, "family": "biggan-deep"}, 64, 128, 55_736_708, 38_247_426),
    ],
)
def test_parameter_counts_are_the_published_ones(
    settings: dict, attention_g: int, dim_z: int, parameters_g: int, parameters_d: int | None
) -> None:
    with torch.device("meta"):
        assert (
            count(Generator(num_classes=1000, dim_z=dim_z, attention=[attention_g], **settings))
            == parameters_g
        )
        if parameters_d is not None:
            assert count(Discriminator(num_classes=1000, attention=[64], **settings)) == parameters_d


@pytest.mark.parametrize("family", BIGGAN)
@pytest.mark.parametrize("resolution", GENERATOR_CHANNELS)
def test_every_size_maps_shapes_on_the_meta_device(family: str, resolution: int) -> None:
    slots = len(GENERATOR_CHANNELS[resolution])
    common = {"family": family, "resolution": resolution, "num_classes": 10, "ch": 8}
    with torch.device("meta"):
        G, D = Generator(dim_z=slots * 4, **common), Discriminator(**common)
        for net in (G, D):
            spectral.refresh(net)
        images = G(torch.zeros(2, slots * 4), torch.zeros(2, dtype=torch.int64))
        assert images.shape == (2, 3, resolution, resolution)
        assert D(images, torch.zeros(2, dtype=torch.int64)).shape == (2,)
        assert D.features(images).shape == (2, 32 if resolution == 32 else 128)


def test_registration_order_is_that_of_the_published_code() -> None:
    G = Generator(resolution=64, num_classes=5, ch=4, dim_z=20, attention=[16])
    D = Discriminator(resolution=64, num_classes=5, ch=4, attention=[16])
    names_g = [name for name, _ in G.named_parameters()]
    block = ["conv1", "conv2", "conv_sc"]
    assert names_g[:3] == ["shared.weight", "linear.weight", "linear.bias"]
    assert names_g[3:13] == [
        *(f"blocks.0.0.{c}.{p}" for c in block for p in ("weight", "bias")),
        *(f"blocks.0.0.{bn}.{p}.weight" for bn in ("bn1", "bn2") for p in ("gain", "bias")),
    ]
    attention = [f"blocks.1.1.{p}" for p in ("gamma", "theta.weight", "phi.weight", "g.weight", "o.weight")]
    assert [n for n in names_g if n.startswith("blocks.1.1")] == attention
    assert names_g[-4:] == [f"output_layer.{p}" for p in ("0.gain", "0.bias", "2.weight", "2.bias")]
    assert [name for name, _ in D.named_parameters()][-3:] == ["linear.weight", "linear.bias", "embed.weight"]
    assert "blocks.1.1.gamma" in D.state_dict()  # 64 px halves to 32, then 16


def test_state_dict_holds_weights_statistics_and_spectral_vectors_only() -> None:
    parts = {name.rpartition(".")[2] for name in small_generator().state_dict()}
    assert parts == {"weight", "bias", "gain", "gamma", "u", "v", "stored_mean", "stored_var"}


SWITCHES = [
    {},
    {"skip_z": False},
    {"skip_z": False, "shared_dim": 0},
    {"num_classes": 0},
    {"num_classes": 0, "skip_z": False},
    {"channels": 1},
    {"attention": ()},
    {"init": "n02"},
    {"init": "xavier"},
    {"spectral": False},
]


@pytest.mark.parametrize("family", BIGGAN)
@pytest.mark.parametrize(
    "changes", SWITCHES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()) or "default"
)
def test_every_switch_trains_each_of_its_parameters(family: str, changes: dict) -> None:
    shared = {k: v for k, v in changes.items() if k not in ("skip_z", "shared_dim")}
    G = small_generator(family=family, **changes)
    D = small_discriminator(family=family, **shared)
    for layer in (m for net in (G, D) for m in net.modules() if isinstance(m, Attention)):
        nn.init.constant_(layer.gamma, 0.5)  # a gate at 0 passes no gradient to the weights behind it
    y = torch.arange(4) if G.num_classes else None
    images = G(torch.randn(4, DIM_Z), y)
    assert images.shape == (4, changes.get("channels", 3), 32, 32)
    assert images.abs().max() <= 1
    D(images, y).sum().backward()
    for net in (G, D):
        for name, _, leaf in spectral.effective_parameters(net):
            assert leaf.grad is not None, f"{name} got no gradient"
            assert torch.isfinite(leaf.grad).all()
    assert ("embed.weight" in D.state_dict()) == bool(G.num_classes)


def test_thin_discriminator_is_as_wide_inside_as_its_input() -> None:
    D = small_discriminator(wide=False)
    assert D.blocks[0][0].conv1.weight.shape[:2] == (3, 3)
    assert D(torch.randn(2, 3, 32, 32), torch.tensor([0, 1])).shape == (2,)


def test_a_network_is_rebuilt_from_its_keyword_arguments_through_json() -> None:
    for net in (small_generator(family="biggan-deep"), small_discriminator(channels=1)):
        twin = type(net)(**json.loads(json.dumps(net.kwargs)))
        twin.load_state_dict(net.state_dict())
        assert twin.kwargs == net.kwargs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim_z": 18}, "nearest: 16 or 20"),
        ({"shared_dim": 0}, "set shared_dim 128 or skip_z false"),
        ({"resolution": 48}, "choose one of 32, 64, 128, 256, 512, 1024"),
        ({"family": "stylegan"}, "choose one of biggan, biggan-deep"),
        ({"init": "zeros"}, "choose one of ortho, n02, xavier"),
        ({"attention": (50,)}, "attention at 50 px"),
        ({"channels": 4}, "images have 1 or 3"),
    ],
)
def test_settings_that_do_not_go_together_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Generator(**{**SMALL, "dim_z": DIM_Z, **changes})


def test_labels_must_be_given_exactly_where_there_are_classes() -> None:
    with pytest.raises(ValueError, match="5 classes, but y is missing"):
        small_generator()(torch.randn(2, DIM_Z))
    with pytest.raises(ValueError, match="0 classes, but y is given"):
        small_discriminator(num_classes=0)(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))


@pytest.mark.parametrize("changes", [{}, {"skip_z": False, "shared_dim": 0}], ids=["shared", "unshared"])
def test_mixing_weights_generalise_labels(changes: dict) -> None:
    G = small_generator(**changes).eval()
    z, y = torch.randn(3, DIM_Z), torch.tensor([0, 4, 2])
    one_hot = torch.nn.functional.one_hot(y, 5).float()
    with torch.no_grad():
        torch.testing.assert_close(G(z, one_hot), G(z, y), atol=1e-6, rtol=0)
        half = G(z, (one_hot + one_hot.roll(1, 0)) / 2)
    assert (half - G(z, y)).abs().max() > 1e-4  # another class, another image


@pytest.mark.parametrize("init", layers.INITS)
@pytest.mark.parametrize("family", BIGGAN)
def test_at_initialisation_gain_averages_one_and_activations_stay_in_range(family: str, init: str) -> None:
    G = Generator(family=family, resolution=64, num_classes=10, ch=8, dim_z=40, init=init)
    D = Discriminator(family=family, resolution=64, num_classes=10, ch=8, init=init)
    deviations: dict[str, float] = {}

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            deviations[name] = float(output.std())

        return hook

    for letter, net in (("G", G), ("D", D)):
        spectral.converge(net)
        for name, module in net.named_modules():
            if type(module).__name__.endswith("Block"):
                module.register_forward_hook(note(f"{letter}.{name}"))
    gains: list[Tensor] = []
    for module in G.modules():
        if isinstance(module, ConditionalBatchNorm):
            module.gain.register_forward_hook(
                lambda module, inputs, output: gains.append(1 + output.flatten())
            )
    y = torch.arange(8)
    with torch.no_grad():
        D(G(torch.randn(8, 40), y), y)
    assert abs(float(torch.cat(gains).mean()) - 1) < 0.05
    # A random matrix divided by its true σ passes half of the signal: without norms in D, only orthogonal
    # weights keep it through all blocks.
    kept = {name: d for name, d in deviations.items() if init == "ortho" or name.startswith("G")}
    assert {name: d for name, d in kept.items() if not 0.1 <= d <= 10} == {}
    assert min(deviations.values()) > 1e-3


def test_a_deep_copy_is_independent_and_computes_the_same() -> None:
    G = small_generator()
    z, y = torch.randn(4, DIM_Z), torch.arange(4)
    twin = copy.deepcopy(G)
    before = G(z, y)
    assert torch.equal(twin(z, y), before)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.1)
    spectral.refresh(twin)
    assert torch.equal(G(z, y), before)
    assert not torch.equal(twin(z, y), before)


def test_double_backward_through_the_whole_discriminator() -> None:
    """R1's gradient with respect to a weight and to x, against central differences in float64."""
    for family in BIGGAN:
        D = Discriminator(**{**SMALL, "family": family}).double()
        for layer in (m for m in D.modules() if isinstance(m, Attention)):
            nn.init.constant_(layer.gamma, 0.5)
        spectral.converge(D)
        x = torch.randn(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
        y = torch.tensor([1, 3])

        def penalty(x: Tensor, D: Discriminator = D, y: Tensor = y) -> Tensor:
            (slope,) = torch.autograd.grad(D(x, y).sum(), x, create_graph=True)
            return slope.square().sum()

        leaves = {name: leaf for name, _, leaf in spectral.effective_parameters(D)}
        weight = leaves["blocks.1.0.conv2.weight"]
        of_x, of_weight = torch.autograd.grad(penalty(x), [x, weight])
        for tensor, gradient in ((x, of_x), (weight, of_weight)):
            direction, step = torch.randn_like(tensor), 1e-6
            with torch.no_grad():
                tensor.add_(direction, alpha=step)
            above = float(penalty(x).detach())
            with torch.no_grad():
                tensor.add_(direction, alpha=-2 * step)
            below = float(penalty(x).detach())
            with torch.no_grad():
                tensor.add_(direction, alpha=step)
            slope = float((gradient * direction).sum())
            # relu kinks crossed by the step bound what differences can show
            assert (above - below) / (2 * step) == pytest.approx(slope, rel=2e-3)


def test_double_backward_through_the_generator_in_train_mode() -> None:
    G = small_generator().double()
    spectral.refresh(G, 0)
    z = torch.randn(4, DIM_Z, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    (slope,) = torch.autograd.grad((G(z, torch.arange(4)) * noise).sum(), z, create_graph=True)
    slope.square().sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
    assert float(z.grad.abs().max()) > 0


def test_bfloat16_autocast_keeps_heads_in_float32_and_stays_close() -> None:
    G, D = small_generator(), small_discriminator()
    for net in (G, D):
        layers.set_channels_last(net)
        spectral.refresh(net, 0)
    z, y = torch.randn(8, DIM_Z), torch.arange(8) % 5
    exact = G(z, y).detach()
    exact_logits = D(exact, y).detach()
    with torch.autocast("cpu", torch.bfloat16):
        images = G(z, y)
        logits = D(exact, y)
    assert images.dtype == logits.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert (images - exact).abs().max() < 0.1  # 8 bits of mantissa through 3 blocks
    # float32 sums: logits of bfloat16 would be multiples of 2^-8 of their size
    torch.testing.assert_close(logits, exact_logits, rtol=0.02, atol=0.02 * float(exact_logits.abs().max()))


def test_channels_last_changes_nothing_but_the_layout() -> None:
    G, D = small_generator(), small_discriminator()
    z, y = torch.randn(4, DIM_Z), torch.arange(4)
    images = G(z, y)
    logits = D(images, y)
    for net in (G, D):
        layers.set_channels_last(net)
        spectral.refresh(net, 0)
    assert all(p.is_contiguous() for p in G.parameters())
    assert G.blocks[0][0].conv1.weight_hat.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(G(z, y), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(D(G(z, y), y), logits, atol=1e-4, rtol=1e-4)
