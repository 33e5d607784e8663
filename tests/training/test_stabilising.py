"""Flood, stop, gates, clipping: exact values and gradients, what is left out, and whether it was active."""

import numpy as np
import pytest
import torch

from gansmith.config import Config
from gansmith.errors import UserError
from gansmith.training import objectives, stabilising
from gansmith.training.distributed import World
from gansmith.training.draws import Draws
from gansmith.training.runlog import Averages
from gansmith.training.state import Player
from tests.training.test_step import Watch

ALONE = World(0, 1, torch.device("cpu"))


def stabiliser(net=None, **settings):
    player = Player(net, None, None, None, None)
    return stabilising.build(Config(stabilise=settings), {"d": player, "g": player}, ALONE, epoch=100)


def weigh(made, letter, loss, accuracy=None, batch=16):
    means = {"loss": torch.tensor(loss)} | (
        {} if accuracy is None else {"d_accuracy": torch.tensor(accuracy)}
    )
    return made.weigh(letter, means, batch)


def after_step(made, letter, net):
    averages = Averages()
    made.after_step(letter, net, averages)
    return averages.take(ALONE)


def active(weighed):
    return {name for name, value in weighed.noted.items() if bool(value)}


@pytest.mark.parametrize(("loss", "value", "sign"), [(0.5, 0.5, 1), (0.05, 0.35, -1), (-1.0, 1.4, -1)])
def test_the_factor_makes_the_gradient_that_of_the_flooded_loss(loss, value, sign):
    weights = torch.tensor([0.3, -2.0, loss - 0.3 + 2.0], requires_grad=True)
    flooded = stabilising.flooded(weights.sum(), 0.2)
    assert flooded.item() == pytest.approx(value, abs=1e-6)
    flooded.backward()
    assert torch.equal(weights.grad, stabilising.flood_sign(weights.detach().sum(), 0.2) * torch.ones(3))
    assert weights.grad[0] == sign


def test_zero_is_a_level_and_none_is_off():
    assert stabiliser() is None
    made = stabiliser(flood_d=0.0)
    assert weigh(made, "d", 0.1).factor == 1
    below = weigh(made, "d", -0.1)
    assert below.factor == -1
    assert active(below) == {"flood_d_active"}
    assert weigh(made, "g", -5.0).factor is None


def test_a_relative_level_follows_the_mean_of_the_losses_so_far():
    made = stabiliser(flood_g="0.5x", baseline=32)
    k = 0.5 ** (16 / 32)
    total = weight = 0.0
    for loss in (2.0, 1.0, float("nan"), 0.4, 3.0):
        weighed = weigh(made, "g", loss)
        if loss == loss:
            total, weight = k * total + loss, k * weight + 1
            assert (weighed.factor < 0) == (loss < 0.5 * total / weight)
    mean = made.memory["stabilise.mean_g"]
    assert (mean[0] / mean[1]).item() == pytest.approx(total / weight, rel=1e-6)


def test_twice_the_batch_moves_the_mean_as_two_steps_do():
    twice, once = torch.zeros(2), torch.zeros(2)
    for _ in range(2):
        stabilising.track(twice, torch.tensor(3.0), 0.5 ** (16 / 100))
    stabilising.track(once, torch.tensor(3.0), 0.5 ** (32 / 100))
    assert torch.allclose(twice, once, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "loss", "accuracy", "left_out"),
    [
        ({"stop_d": 0.2}, 0.21, None, set()),
        ({"stop_d": 0.2}, 0.2, None, {"stop_d_active"}),
        ({"stop_g": 1.5}, 1.49, None, set()),
        ({"stop_g": 1.5}, 1.5, None, {"stop_g_active"}),
        ({"stop_g": 1.5, "flood_d": 0.9}, 0.3, None, {"flood_d_active", "stop_g_active"}),  # flooded first
        ({"gate_d": 0.8}, 1.0, 0.8, set()),
        ({"gate_d": 0.8}, 1.0, 0.81, {"gate_d_active"}),
        ({"gate_g": 0.6}, 1.0, 0.6, set()),
        ({"gate_g": 0.6}, 1.0, 0.59, {"gate_g_active"}),
        ({"gate_g": 0.6, "gate_d": 0.8, "stop_d": 0.5}, 0.4, 0.9, {"gate_d_active", "stop_d_active"}),
        ({"stop_g": 1.5, "stop_d": 0.1}, float("nan"), None, {"stop_d_active", "stop_g_active"}),
    ],
)  # fmt: skip
def test_what_leaves_which_network_out(settings, loss, accuracy, left_out):
    made = stabiliser(**settings)
    for letter in ("d", "g"):
        weighed = weigh(made, letter, loss, accuracy)
        expected = {name for name in left_out if name.split("_")[1] == letter}
        assert active(weighed) == expected
        out = {name for name in expected if not name.startswith("flood")}
        assert weighed.take is None or bool(weighed.take) == (not out)


def test_nothing_is_read_from_the_device():
    watch = Watch()
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Linear(3, 3))
    made = stabiliser(net, flood_d="0.5x", stop_d=0.1, stop_g=1.5, gate_d=0.8, gate_g=0.6, flood_g=0.1)
    clamped = [stabiliser(net, clamp_d=0.5, clip_weights=0.1), stabiliser(net, clamp_d="1.1x")]
    gradient, averages = torch.ones(5), Averages()
    with watch:
        for letter in ("d", "g"):
            means = {"loss": torch.tensor(0.7), "d_accuracy": torch.tensor(0.7)}
            made.act(letter, gradient, means, 16, averages)
            for each in clamped:
                each.after_step(letter, net, averages)
    assert watch.calls > 20
    assert watch.read == []


def test_accuracy_is_the_share_of_right_signs_over_reals_and_fakes():
    def G(z, y):
        return z

    class Sum(torch.nn.Module):
        def forward(self, x, y):
            return x.sum(1)

    real, fake = torch.tensor([[1.0], [2.0], [-1.0], [3.0]]), torch.tensor([[-1.0], [1.0], [2.0], [3.0]])
    objective = objectives.build(Config(stabilise={"gate_g": 0.6}), torch.device("cpu"))
    draws = Draws(0, "d", np.arange(4), ALONE.device)
    _, scalars = objective("d", G, Sum(), objectives.MicroBatch(fake, None, real, None, draws))
    assert scalars["d_accuracy"] == 0.5  # 3 of 4 reals, 1 of 4 fakes


def test_a_gate_without_an_accuracy_names_what_is_missing():
    with pytest.raises(UserError, match='"d_accuracy" among its scalars'):
        weigh(stabiliser(gate_d=0.8), "d", 1.0)


def test_clipping_keeps_every_trained_weight_within_the_bound():
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, -0.5], [0.004, -0.01]]))
        net.bias.copy_(torch.tensor([7.0, 0.0]))
    net.bias.requires_grad_(False)
    made = stabiliser(clip_weights=0.01)
    assert after_step(made, "g", net) == {}
    assert after_step(made, "d", net) == {"clip_d_active": 1.0}
    assert torch.equal(net.weight, torch.tensor([[0.01, -0.01], [0.004, -0.01]]))
    assert net.bias[0] == 7.0
    assert after_step(made, "d", net) == {"clip_d_active": 0.0}


def with_values(rows, columns, values):
    """A matrix of these singular values."""
    random = torch.Generator().manual_seed(1)
    u, _ = torch.linalg.qr(torch.randn(rows, rows, generator=random))
    v, _ = torch.linalg.qr(torch.randn(columns, columns, generator=random))
    return u[:, : len(values)] @ torch.diag(torch.tensor(values)) @ v[: len(values)]


@pytest.mark.parametrize(
    ("limit", "left"), [(2.0, [2.0, 1.5, 1.0, 0.5]), ("0.8x", [1.5, 1.2, 1.0, 0.5]), (4.0, [3, 1.5, 1, 0.5])]
)
def test_the_clamp_lowers_the_largest_singular_value_alone(limit, left):
    net = torch.nn.Sequential(torch.nn.Linear(30, 12), torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(5, 1))
    values = [3.0, 1.5, 1.0, 0.5]
    with torch.no_grad():
        net[0].weight.copy_(with_values(12, 30, values))
        net[1].weight.copy_(with_values(4, 27, values).view(4, 3, 3, 3))
    single = net[2].weight.detach().clone()
    made = stabiliser(net, clamp_g=limit)
    assert after_step(made, "d", net) == {}
    assert after_step(made, "g", net) == {"clamp_g_active": float(left[0] < 3)}
    for layer in (net[0], net[1]):
        found = torch.linalg.svdvals(layer.weight.detach().flatten(1))[:4]
        assert torch.allclose(found, torch.tensor(left), rtol=1e-4)
    if limit == "0.8x":  # there is no second value to be relative to
        assert torch.equal(net[2].weight, single)


def test_a_clamp_finds_a_weight_that_is_no_copy():
    net = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(3, 2))
    with pytest.raises(UserError, match="clamp_d: the network has no convolution or linear layer"):
        stabiliser(net, clamp_d=1.0)


def test_a_clamp_goes_on_from_what_it_remembers_bit_for_bit():
    torch.manual_seed(0)
    whole, parts = torch.nn.Linear(20, 10), torch.nn.Linear(20, 10)
    parts.load_state_dict(whole.state_dict())
    first, second = (stabiliser(net, clamp_d="0.9x") for net in (whole, parts))
    for _ in range(2):
        for made, net in ((first, whole), (second, parts)):
            after_step(made, "d", net)
    again = stabiliser(parts, clamp_d="0.9x")
    for name, value in again.memory.items():
        value.copy_(second.memory[name])
    again.restored()
    fresh = stabiliser(whole, clamp_d="0.9x")  # switched on in the middle: its memory was nowhere saved
    fresh.restored()
    assert [made.clamps["d"].spectra.warm for made in (again, fresh)] == [True, False]
    for made, net in ((first, whole), (again, parts)):
        after_step(made, "d", net)
    assert torch.equal(whole.weight, parts.weight)
    assert all(torch.equal(first.memory[name], value) for name, value in again.memory.items())


def test_a_plateau_is_a_fall_by_less_than_the_tolerance():
    falls = [[1.0], [1.0, 0.5], [1.0, 0.5, 0.45], [0.5, 0.6]]
    assert [stabilising.settled(losses, 0.1) for losses in falls] == [False, False, True, True]
    for odd in (float("nan"), float("inf"), float("-inf")):
        assert not stabilising.settled([1.0, odd], 0.1)
        assert not stabilising.settled([odd, 1.0], 0.1)
