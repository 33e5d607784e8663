"""Losses and penalties against their formulas; their gradients against formulas and finite differences."""

import math

import pytest
import torch
from torch import nn

from gansmith.config.stability import LOSSES as NAMES
from gansmith.models import layers, spectral
from gansmith.models.biggan import Discriminator
from gansmith.models.recompute import recompute_from
from gansmith.training.objectives import penalties, weights
from gansmith.training.objectives.losses import LOSSES

REAL, FAKE = (0.5, -2.0, 3.0), (0.25, -1.5, 1.0)


def softplus(t):
    return math.log1p(math.exp(t))


# name → (what D pays for one pair, what G pays for its fake)
FORMULAS = {
    "hinge": (lambda r, f: max(0, 1 - r) + max(0, 1 + f), lambda r, f: -f),
    "non_saturating": (lambda r, f: softplus(-r) + softplus(f), lambda r, f: softplus(-f)),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
    "least_squares": (lambda r, f: (r - 1) ** 2 + (f + 1) ** 2, lambda r, f: (f - 1) ** 2),
    "least_squares_01": (lambda r, f: (r - 1) ** 2 + f**2, lambda r, f: (f - 1) ** 2),
    "relativistic": (lambda r, f: softplus(-(r - f)), lambda r, f: softplus(r - f)),
}


def logits(values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_its_formula_and_so_is_its_gradient(name):
    loss, (of_d, of_g) = LOSSES[name], FORMULAS[name]
    real, fake = logits(REAL), logits(FAKE)
    assert loss.of_d(real, fake).item() == pytest.approx(sum(map(of_d, REAL, FAKE)) / 3, rel=1e-12)
    assert loss.of_g(fake, real).tolist() == pytest.approx(list(map(of_g, REAL, FAKE)), rel=1e-12)
    assert torch.autograd.gradcheck(loss.of_d, (real, fake))
    assert torch.autograd.gradcheck(lambda f: loss.of_g(f, real.detach()), (fake,))


def test_every_loss_that_the_settings_name_is_there():
    assert tuple(LOSSES) == NAMES
    assert [name for name, loss in LOSSES.items() if loss.paired] == ["relativistic"]


class Bowl(nn.Module):
    """D(x) = (w·x)²/2, whose slope is (w·x)·w."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x, y):
        return (x.flatten(1) @ self.w).square() / 2


@pytest.fixture
def bowl():
    return Bowl(torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64))


@pytest.fixture
def x():
    return torch.randn(3, 1, 2, 2, dtype=torch.float64)


def test_squared_slopes_and_their_gradient_are_those_of_the_formula(bowl, x):
    w, along = bowl.w.detach(), x.flatten(1) @ bowl.w.detach()
    squares = penalties.squared_slopes(bowl, x, None)
    torch.testing.assert_close(squares.detach(), along.square() * w.square().sum(), rtol=1e-12, atol=0)
    squares.sum().backward()
    expected = 2 * w.square().sum() * (along @ x.flatten(1)) + 2 * along.square().sum() * w
    torch.testing.assert_close(bowl.w.grad, expected, rtol=1e-12, atol=0)


def test_a_finite_difference_estimates_the_same_without_a_second_derivative(bowl, x):
    n, epsilon = torch.randn_like(x), 0.01
    w, along = bowl.w.detach(), x.flatten(1) @ bowl.w.detach()
    step = n.flatten(1) @ w
    squares = penalties.estimated_squared_slopes(bowl, x, None, n, epsilon)
    expected = (along * step + epsilon / 2 * step.square()).square()
    torch.testing.assert_close(squares.detach(), expected, rtol=1e-9, atol=1e-12)
    squares.sum().backward()
    assert torch.autograd.gradcheck(
        lambda w: ((x.flatten(1) + epsilon * n.flatten(1)) @ w).square().sum(), (bowl.w,)
    )
    many = x[:1].expand(20000, -1, -1, -1)
    estimate = penalties.estimated_squared_slopes(bowl, many, None, torch.randn_like(many), 1e-3).mean()
    exact = penalties.squared_slopes(bowl, x[:1], None)
    assert estimate.item() == pytest.approx(exact.item(), rel=0.05)  # 5 × √(2/20000)


def test_finite_differences_leave_autocast():
    D = Bowl(torch.randn(4))
    x, n = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2)
    plain = penalties.estimated_squared_slopes(D, x, None, n, 0.01)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(penalties.estimated_squared_slopes(D, x, None, n, 0.01), plain)
        assert penalties.squared_slopes(D, x, None).dtype == torch.float32


def test_the_gradient_penalty_is_taken_between_reals_and_fakes(bowl, x):
    fake, share = torch.randn_like(x), torch.tensor([0.0, 1.0, 0.3], dtype=torch.float64)
    between = torch.stack([fake[0], x[1], 0.3 * x[2] + 0.7 * fake[2]]).flatten(1)
    w = bowl.w.detach()
    penalty = penalties.gradient_penalty(bowl, x, fake, None, share)
    expected = ((between @ w).abs() * w.norm() - 1).square()
    torch.testing.assert_close(penalty.detach(), expected, rtol=1e-12, atol=0)
    penalty.sum().backward()
    (by_hand,) = torch.autograd.grad(((between @ bowl.w).abs() * bowl.w.norm() - 1).square().sum(), bowl.w)
    torch.testing.assert_close(bowl.w.grad, by_hand, rtol=1e-12, atol=0)


def test_where_d_is_flat_the_gradient_penalty_has_a_gradient_that_is_a_number(x):
    flat = Bowl(torch.zeros(4, dtype=torch.float64))
    penalty = penalties.gradient_penalty(flat, x, x, None, torch.zeros(3, dtype=torch.float64))
    penalty.sum().backward()
    assert penalty.tolist() == [1, 1, 1]
    assert flat.w.grad.isfinite().all()


def test_lecam_is_its_formula_and_so_is_its_gradient():
    real, fake = logits((1.0, -2.0)), logits((0.75, -1.0))
    usual_real, usual_fake = torch.tensor(0.5).double(), torch.tensor(-0.25).double()
    value = penalties.lecam(real, fake, usual_real, usual_fake)
    assert value.item() == pytest.approx(1.25**2 / 2 + 1.5**2 / 2)
    value.backward()
    assert real.grad.tolist() == [1.25, 0]
    assert fake.grad.tolist() == [0, -1.5]


def test_consistency_is_its_formula_and_both_sides_learn():
    a, b = logits((1.0, 2.0)), logits((0.0, 5.0))
    value = penalties.consistency(a, b)
    assert value.item() == (1 + 9) / 2
    value.backward()
    assert a.grad.tolist() == [1, -3]
    assert b.grad.tolist() == [-1, 3]


# A whole D
# -------------------------------------------------------------------------------------------------------


@pytest.fixture
def D():
    net = Discriminator(family="biggan", resolution=32, num_classes=3, channels=1, ch=2, attention=(16,))
    for module in net.modules():
        if isinstance(module, layers.Attention):
            module.gamma.data.fill_(0.7)
    net.double()
    spectral.converge(net)
    return net


def penalised(D, x):
    """R1 of a D, and its gradient in all weights."""
    leaves = [leaf for _, _, leaf in spectral.effective_parameters(D)]
    value = penalties.squared_slopes(D, x, torch.tensor([0, 2])).mean()
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    return value.detach(), leaves, [torch.zeros_like(w) if g is None else g for w, g in zip(leaves, grads)]


def test_r1_of_a_whole_d_has_the_gradient_of_finite_differences(D):
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    _, leaves, grads = penalised(D, x)
    directions = [torch.randn_like(leaf) for leaf in leaves]
    step, at = 1e-8, []  # so small that no relu changes sides
    for sign in (1, -1):
        with torch.no_grad():
            for leaf, direction in zip(leaves, directions):
                leaf.add_(direction, alpha=sign * step)
        at.append(penalised(D, x)[0])
        with torch.no_grad():
            for leaf, direction in zip(leaves, directions):
                leaf.sub_(direction, alpha=sign * step)
    along = sum((grad * direction).sum() for grad, direction in zip(grads, directions))
    assert ((at[0] - at[1]) / (2 * step)).item() == pytest.approx(along.item(), rel=1e-4)


def test_r1_does_not_depend_on_how_d_is_executed(D):
    """Fused attention, channels_last, recomputed blocks and compiled networks give the same penalty."""
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    value, _, grads = penalised(D, x)

    def not_this_way(*arguments):
        raise AssertionError("a compiled graph differentiates once")

    def same():
        again, _, grads_again = penalised(D, x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(again, value, rtol=1e-10, atol=0)
        torch.testing.assert_close(grads_again, grads, rtol=1e-9, atol=1e-12)

    for module in D.modules():
        if isinstance(module, layers.Attention):
            module.fused = True
    same()
    recompute_from(D, 8)
    D._compiled_call_impl = not_this_way  # what D.compile() puts in the way of D(x, y)
    same()
    layers.set_channels_last(D)
    spectral.refresh(D, iterations=0)
    same()


def test_recomputed_attention_is_explicit_in_the_backward_too(D, monkeypatch):
    """The backward comes when the penalty's own surroundings have ended."""

    def fused(*arguments, **more):
        raise AssertionError("the fused kernel differentiates once")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused)
    for module in D.modules():
        if isinstance(module, layers.Attention):
            module.fused = True
    recompute_from(D, 8)
    penalised(D, torch.randn(2, 1, 32, 32, dtype=torch.float64))


# Weights
# -------------------------------------------------------------------------------------------------------


def test_l2_adds_its_gradient_to_layers_and_spares_embeddings():
    net = nn.ModuleList([layers.Linear(3, 2, None), layers.Conv(2, 2, 3, None), layers.Embedding(4, 3)])
    for weight in (module.weight for module in net):
        weight.data.normal_()
        weight.grad = torch.full_like(weight, 7.0)
    value = weights.add_l2_gradient(net, 0.25)
    linear, conv, embedding = (module.weight for module in net)
    assert value.item() == pytest.approx((linear.square().sum() + conv.square().sum()).item(), rel=1e-6)
    torch.testing.assert_close(linear.grad, 7 + 0.25 * linear.detach())
    torch.testing.assert_close(conv.grad, 7 + 0.25 * conv.detach())
    assert (embedding.grad == 7).all()


def test_sigma_is_drawn_to_its_target_by_the_gradient_of_its_square():
    net = nn.ModuleList([layers.Linear(5, 3, 1e-12), layers.Conv(2, 3, 3, 1e-12), layers.Linear(2, 2, None)])
    net.double()
    for module in net:
        module.weight.data.normal_()
        module.weight.grad = torch.zeros_like(module.weight)
    spectral.converge(net, tolerance=1e-10)
    value = weights.add_sigma_gradient(net, 0.5, 2.0)
    gaps = [torch.linalg.matrix_norm(m.weight.flatten(1), ord=2) - 2 for m in net[:2]]
    assert value.item() == pytest.approx(sum(gap.item() ** 2 for gap in gaps), rel=1e-9)
    expected = torch.autograd.grad(0.5 * sum(gap.square() for gap in gaps), [m.weight for m in net[:2]])
    for module, grad in zip(net, expected):
        torch.testing.assert_close(module.weight.grad, grad, rtol=1e-7, atol=1e-9)
    assert (net[2].weight.grad == 0).all()
