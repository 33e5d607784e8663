"""Noise inputs of G: what they add, what names them, and that without them nothing is otherwise."""

import pytest
import torch

from gansmith.models import keyed, spectral
from gansmith.models.biggan import Generator
from gansmith.models.noise import Noise
from gansmith.sampling import interpolation, sampler

SMALL = {"resolution": 32, "num_classes": 3, "channels": 1, "ch": 2, "dim_z": 8, "shared_dim": 4}


def generator(**more):
    torch.manual_seed(0)
    G = Generator(**SMALL | more)
    spectral.converge(G)
    return G.eval().requires_grad_(False)


def awake(**more):
    """A generator whose noise has some strength."""
    G = generator(noise=True, **more)
    for name, parameter in G.named_parameters():
        if name.endswith("strength"):
            parameter.fill_(0.5)
    return G


def test_a_map_gets_its_strength_times_noise_of_its_key_and_place():
    layer, x, keys = Noise(3, 2), torch.randn(2, 3, 4, 5, requires_grad=True), torch.tensor([5, 9])
    with torch.no_grad():
        layer.strength.copy_(torch.tensor([0.0, 1.0, -2.0]))
    out = layer(x, keys)
    noise = keyed.normal(keys, 20, 2).view(2, 1, 4, 5)
    assert torch.allclose(out - x, noise * torch.tensor([0.0, 1.0, -2.0]).view(3, 1, 1), atol=1e-6)
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert torch.allclose(layer.strength.grad, noise.sum().expand(3), rtol=1e-4)
    assert not torch.equal(Noise(3, 3)(x, keys), x + 1)


@pytest.mark.parametrize("family", ["biggan", "biggan-deep", "sagan"])
def test_strengths_are_all_it_adds_and_at_0_the_images_are_those_without(family):
    plain, noisy = generator(family=family), generator(family=family, noise=True)
    names = noisy.state_dict().keys() - plain.state_dict().keys()
    assert len(names) == len(noisy.blocks)
    assert all(name.endswith(".strength") for name in names)
    z, y = torch.randn(3, 8), torch.tensor([0, 1, 2])
    assert torch.equal(plain(z, y), noisy(z, y))
    assert not torch.equal(awake(family=family)(z, y), noisy(z, y))


def test_a_seed_names_one_image_at_any_batch_size():
    G, z, y = awake(), torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1])
    whole = torch.cat(list(sampler.generate(G, z, y, 5)))
    parts = torch.cat(list(sampler.generate(G, z, y, 2)))
    assert (whole.int() - parts.int()).abs().max() <= 1  # rounding of other kernels
    assert torch.equal(whole[3:4], next(sampler.generate(G, z[3:4], y[3:4], 1)))


def test_the_noise_stands_still_along_a_path():
    G = awake()
    seen = []
    forward = G.forward
    G.forward = lambda z, y=None, keys=None: (seen.append(keys), forward(z, y, keys))[1]
    interpolation.strip(G, mode="z", seeds=[0, 1, 2], labels=[0], steps=3, micro_batch=4)
    assert len(torch.cat(seen)) == 6
    assert len(torch.cat(seen).unique()) == 1
