"""Losses against their formulas, regularisers against autograd."""

import pytest
import torch
from torch import nn

from gansmith.config import Config
from gansmith.errors import UserError
from gansmith.models.layers import Linear
from gansmith.training import objectives


class Score(nn.Module):
    """A D whose logit is the mean pixel."""

    def forward(self, x, y):
        return x.mean((1, 2, 3))


def constant(value):
    return lambda z, y: torch.full((len(z), 1, 2, 2), value)


def test_hinge_of_the_discriminator_is_the_papers_formula():
    real = torch.tensor([0.5, -2.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    micro = objectives.MicroBatch(torch.zeros(3, 1), None, real, None)
    loss, scalars = objectives.hinge("d", constant(-0.25), Score(), micro)
    expected = (0.5 + 3.0) / 2 + 0.75  # relu(1 − D(x)) averaged, relu(1 + D(G)) averaged
    assert loss.item() == pytest.approx(expected)
    assert scalars["d_real"].item() == pytest.approx(-0.75)
    assert scalars["d_fake"].item() == pytest.approx(-0.25)


def test_hinge_of_the_generator_is_minus_the_logit():
    loss, _ = objectives.hinge(
        "g", constant(0.5), Score(), objectives.MicroBatch(torch.zeros(3, 1), None, None, None)
    )
    assert loss.item() == pytest.approx(-0.5)


def test_hinge_sends_no_gradient_to_the_generator_in_a_d_phase():
    level = torch.ones((), requires_grad=True)
    micro = objectives.MicroBatch(torch.zeros(1, 1), None, torch.zeros(1, 1, 2, 2), None)
    loss, _ = objectives.hinge("d", lambda z, y: level * torch.ones(1, 1, 2, 2), Score(), micro)
    assert not loss.requires_grad


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 2, 3, 3)])
def test_orthogonal_gradient_is_that_of_the_off_diagonal_penalty(shape):
    torch.manual_seed(0)
    net = nn.Linear(1, 1) if len(shape) == 2 else nn.Conv2d(1, 1, 1)
    net.weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    strength = 0.3
    W = net.weight.flatten(1)
    gram = W @ W.T
    penalty = strength * ((gram * (1 - torch.eye(len(W), dtype=W.dtype))) ** 2).sum()
    (expected,) = torch.autograd.grad(penalty, net.weight)
    net.weight.grad = torch.full_like(net.weight, 7.0)
    objectives.add_orthogonal_gradient(net, strength)
    torch.testing.assert_close(net.weight.grad, expected + 7.0, rtol=1e-12, atol=1e-12)


def test_orthogonal_gradient_spares_embeddings():
    from gansmith.models.layers import Embedding

    net = Embedding(4, 3)
    net.weight.data.normal_()
    net.weight.grad = torch.zeros_like(net.weight)
    objectives.add_orthogonal_gradient(net, 1.0)
    assert net.weight.grad.abs().max() == 0


def computed():
    """A D of one's own whose only weight is computed."""
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 4, 3)), nn.Flatten())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": {"ortho_d": 1.0}}, "loss.ortho_d: D has no convolution or linear layer with a weight that"),
        ({"penalty": {"l2_d": 1.0}}, "penalty.l2_d: D has no convolution or linear layer"),
        ({"penalty": {"sigma_d": 1.0}}, "penalty.sigma_d: D has no layer with gansmith's spectral norm"),
    ],
)
def test_a_regulariser_that_finds_no_weight_of_its_kind_is_refused(settings, said):
    with pytest.raises(UserError, match=said):
        objectives.check_weights(Config(**settings), "d", computed())
    objectives.check_weights(Config(), "d", computed())
    objectives.check_weights(Config(**settings), "g", computed())


def test_frozen_layers_are_nothing_to_regularise():
    D = Linear(3, 2, 1e-6)
    objectives.check_weights(Config(penalty={"sigma_d": 1.0, "l2_d": 1.0}), "d", D)
    for name in ("sigma_d", "l2_d"):
        with pytest.raises(UserError, match=name):
            objectives.check_weights(Config(penalty={name: 1.0}), "d", D, (D.weight,))


def test_an_objective_is_found_by_module_and_function():
    assert objectives.find("hinge") is objectives.hinge
    assert objectives.find("gansmith.training.objectives:hinge") is objectives.hinge


@pytest.mark.parametrize(
    ("name", "words"),
    [("no_such_module_here:f", "cannot be imported"), ("gansmith.training.objectives:hinje", "it has")],
)
def test_an_objective_that_is_not_there_is_named(name, words):
    with pytest.raises(UserError, match=words):
        objectives.find(name)
