"""Our networks against an independent plain implementation: the one `benchmarks/step.py` measures against."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator

SETTINGS = {"num_classes": 4, "attention": (), "init": "n02"}


@pytest.fixture
def plain(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "plain_reference", repository / "benchmarks/plain_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict({k: v for k, v in source.state_dict().items() if not k.endswith(".v")})


def gradients_agree(ours: nn.Module, plain: nn.Module) -> None:
    theirs = dict(plain.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in theirs.values())
    for name, p in ours.named_parameters():
        error = float((p.grad - theirs[name].grad).abs().max())
        assert error <= 1e-6 * max(float(theirs[name].grad.abs().max()), 0.1 * largest), name


@pytest.mark.parametrize(("resolution", "ch"), [(32, 4), (64, 1)])
def test_losses_and_gradients_of_a_step_are_those_of_a_power_iteration_in_every_forward(
    plain: ModuleType, resolution: int, ch: int
) -> None:
    """With converged vectors one more iteration changes nothing, so both must agree to rounding."""
    size = {"resolution": resolution, "ch": ch}
    G, D = (
        Generator(dim_z=8, shared_dim=0, skip_z=False, **SETTINGS, **size),
        Discriminator(**SETTINGS, **size),
    )
    for net in (G, D):
        for p in net.parameters():
            nn.init.normal_(p, std=0.1)
        spectral.converge(net.double(), tolerance=1e-8, max_iterations=10_000)
    plain_g = plain.Generator(num_classes=4, dim_z=8, **size)
    plain_d = plain.Discriminator(num_classes=4, **size)
    copy_weights(G, plain_g.double())
    copy_weights(D, plain_d.double())

    z, y, real = torch.randn(8, 8).double(), torch.arange(8) % 4, torch.rand(8, 3, resolution, resolution)
    real = real.double() * 2 - 1
    images, expected = G(z, y), plain_g(z, y)
    torch.testing.assert_close(images, expected, atol=1e-7, rtol=0)
    for net_g, net_d in ((G, D), (plain_g, plain_d)):
        logits = net_d(torch.cat([net_g(z, y).detach(), real]), torch.cat([y, y]))
        on_fake, on_real = logits.chunk(2)
        (F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()).backward()
    spectral.pull_back(D)
    gradients_agree(D, plain_d)

    spectral.set_trainable(D, False)
    (-D(G(z, y), y).mean()).backward()
    (-plain_d(plain_g(z, y), y).mean()).backward()
    spectral.pull_back(G)
    gradients_agree(G, plain_g)
