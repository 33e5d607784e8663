"""Leading singular triples, followed at the price of a few passes: against the full decomposition."""

import pytest
import torch
from torch import Tensor, nn

from gansmith.models import singular, spectral
from gansmith.models.layers import Conv, Embedding, Linear
from gansmith.models.singular import Spectra


def orthonormal(rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns))[0]


def matrix(rows: int, columns: int, sigma: list[float]) -> Tensor:
    values = torch.tensor(sigma)
    return orthonormal(rows, len(values)) * values @ orthonormal(columns, len(values)).T


def exact(W: Tensor, count: int = 3) -> Tensor:
    found = torch.linalg.svdvals(W.flatten(1).double())[:count]
    return torch.cat([found, torch.zeros(count - len(found))]).float()


CLUSTER = [3.0, 2.9999, 2.999] + 40 * [2.9] + [i / 60 for i in range(60)]
SPECTRA = {  # name: matrix, largest error of a value as a share of σ0 after the cold start
    "apart": (lambda: matrix(128, 300, [40.0, 13.0, 5.0] + [3 - i / 40 for i in range(100)]), 1e-5),
    "clustered": (lambda: matrix(128, 300, CLUSTER), 2e-2),
    "all alike": (lambda: matrix(96, 300, 96 * [1.0]), 1e-5),
    "noise": (lambda: torch.randn(128, 32, 3, 3), 1e-3),
    "tall noise": (lambda: torch.randn(600, 40), 1e-3),
    "slope": (lambda: matrix(100, 200, [2 - i / 100 for i in range(100)]), 5e-3),
    "rank two": (lambda: matrix(128, 300, [5.0, 2.0]), 1e-5),
    "tiny beside large": (lambda: matrix(128, 300, [100.0, 1e-2, 1e-3]), 1e-6),
    "one output": (lambda: torch.randn(1, 50), 1e-6),
    "two inputs": (lambda: torch.randn(50, 2), 1e-6),
    "nothing": (lambda: torch.zeros(20, 30), 0.0),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_values_are_those_of_the_full_decomposition(name) -> None:
    make, tolerance = SPECTRA[name]
    torch.manual_seed(0)
    W = make()
    spectra = Spectra([(name, W)])
    spectra.advance()
    expected = exact(W)
    for allowed in (tolerance, tolerance / 4 + 1e-6):  # 40 iterations more at least halve the error
        error = (spectra.values()[0] - expected).abs().max()
        assert float(error) <= allowed * float(expected[0]) + 1e-7 * float(expected[0])
        spectra.advance(40)


def test_small_values_beside_a_large_one_keep_their_digits() -> None:
    torch.manual_seed(0)
    W = matrix(128, 300, [100.0, 1e-2, 1e-3]).double()
    spectra = Spectra([("W", W)])
    spectra.advance()
    torch.testing.assert_close(spectra.values()[0], exact(W.double()).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_vectors_are_singular_vectors_and_can_take_a_value_down(shape) -> None:
    """W − (σ0 − clamp)·u0v0ᵀ has its largest value at the clamp."""
    torch.manual_seed(0)
    W = matrix(*shape, [9.0, 4.0, 2.0, 1.5, 1.0, 0.5])
    spectra = Spectra([("W", W)])
    spectra.advance()
    found = spectra.triples()["W"]
    assert found.u.shape == (3, shape[0])
    assert found.v.shape == (3, shape[1])
    torch.testing.assert_close(W @ found.v.T, found.u.T * found.sigma, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.u @ W, found.sigma[:, None] * found.v, rtol=0, atol=1e-4)
    assert float(spectra.residuals()[0]) < 1e-5
    W -= (found.sigma[0] - 5.0) * torch.outer(found.u[0], found.v[0])
    torch.testing.assert_close(exact(W), torch.tensor([5.0, 4.0, 2.0]), rtol=0, atol=1e-4)
    spectra.advance(2)
    torch.testing.assert_close(spectra.values()[0], exact(W), rtol=0, atol=1e-4)


def test_one_iteration_now_and_then_follows_a_weight_that_is_trained() -> None:
    """A weight drifts by 0.4 % of its norm in a low rank between two questions: σ0 … σ2 stay within 1 %."""
    torch.manual_seed(0)
    W = matrix(96, 300, [3.0 - 0.03 * i for i in range(96)])
    spectra = Spectra([("W", W)])
    spectra.advance()
    left, right = torch.randn(96, 2), torch.randn(2, 300)
    push = left @ right
    push *= 0.004 * W.norm() / push.norm()
    worst = 0.0
    for _ in range(60):
        W += push
        spectra.advance()
        worst = max(worst, float(((spectra.values()[0] - exact(W)) / exact(W)).abs().max()))
    assert exact(W)[0] > 1.2 * 3  # the drift did matter
    assert worst < 0.01


def test_residuals_tell_how_far_an_unfinished_iteration_is() -> None:
    torch.manual_seed(0)
    W = torch.randn(128, 300)
    spectra = Spectra([("W", W)])
    spectra.advance()
    early = float(spectra.residuals()[0])
    assert (exact(W) - spectra.values()[0]).abs().max() <= early * exact(W)[0]
    spectra.advance(60)
    assert float(spectra.residuals()[0]) < early / 4


def test_a_weight_that_is_not_finite_for_a_while_says_so_and_recovers() -> None:
    torch.manual_seed(0)
    W, other = torch.randn(20, 30), torch.randn(20, 30)
    spectra = Spectra([("W", W), ("other", other)])
    spectra.advance()
    before = W.clone()
    W[3, 4] = torch.nan
    spectra.advance()
    assert spectra.values()[0].isnan().all()
    torch.testing.assert_close(spectra.values()[1], exact(other), rtol=0.01, atol=0)
    W.copy_(before)
    spectra.advance(10)
    torch.testing.assert_close(spectra.values()[0], exact(W), rtol=0.01, atol=0)


def test_following_repeats_and_draws_nothing_from_the_global_generator() -> None:
    W = torch.randn(20, 30)
    state = torch.random.get_rng_state()
    answers = []
    for _ in range(2):
        spectra = Spectra([("W", W)])
        spectra.advance()
        answers.append(spectra.values())
    assert torch.equal(*answers)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_all_weights_of_a_network_are_found_by_the_names_of_their_layers() -> None:
    net = nn.Sequential(
        Conv(3, 4, 3, 1e-6), Linear(5, 6, None), Embedding(7, 8), nn.Conv2d(2, 3, 1), nn.ReLU()
    )
    found = singular.weights(net)
    assert [(name, tuple(weight.shape)) for name, weight in found] == [
        ("0", (4, 3, 3, 3)), ("1", (6, 5)), ("2", (7, 8)), ("3", (3, 2, 1, 1)),
    ]  # fmt: skip
    assert not any(weight.requires_grad for _, weight in found)
    nn.init.normal_(net[0].weight)
    spectral.converge(net)
    spectra = Spectra(found)
    spectra.advance()
    assert float(spectra.values()[0, 0]) == pytest.approx(float(net[0].sigma), rel=1e-3)
