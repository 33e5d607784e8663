"""What D says beside its logits, and what it learns from that: values, gradients, dropout of its features."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gansmith.config import Config
from gansmith.errors import UserError
from gansmith.models import dropout, families, normalization, spectral
from gansmith.models.normalization import AffineBatchNorm
from gansmith.training import objectives
from gansmith.training import state as states
from gansmith.training.draws import Draws
from gansmith.training.objectives import heads

CPU = torch.device("cpu")
SIZES = {"class": 5, "rotation": 4, "contrast": 128}


def discriminator(family="biggan", **more):
    torch.manual_seed(0)
    settings = {"family": family, "resolution": 32, "num_classes": 5, "channels": 1, "ch": 4}
    D = families.make_discriminator(**settings | more)
    spectral.converge(D)
    return D


@pytest.mark.parametrize("family", ["biggan", "biggan-deep", "dcgan", "sngan", "sagan", "wgan-gp"])
def test_heads_are_further_layers_of_any_family_and_leave_its_logits_alone(family):
    plain, D = discriminator(family), discriminator(family, heads=SIZES)
    names = D.state_dict().keys() - plain.state_dict().keys()
    assert plain.state_dict().keys() < D.state_dict().keys()
    assert {name.split(".")[0] for name in names} == {"heads"}
    D.load_state_dict(plain.state_dict(), strict=False)
    spectral.refresh(D, iterations=0)
    x, y = torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 3])
    logits, told = D(x, y, heads=True)
    assert torch.equal(logits, D(x, y))
    assert {name: tuple(output.shape) for name, output in told.items()} == {
        name: (4, size) for name, size in SIZES.items()
    }
    assert torch.equal(logits, plain(x, y))
    bounded = {name for name, layer in spectral.spectral_layers(D) if name.startswith("heads")}
    assert len(bounded) == (4 if "linear" in dict(spectral.spectral_layers(D)) else 0)


def test_a_given_d_says_what_it_is_asked_or_is_refused():
    D = discriminator(heads={"class": 5})
    states._check_heads(D, Config(head={"classify_d": 1.0}), 5)
    for head in ({}, {"rotate_d": 1.0}, {"classify_d": 1.0, "projection": False}):
        with pytest.raises(UserError, match="its D has class heads, and head"):
            states._check_heads(D, Config(head=head), 5)


def test_without_projection_the_class_changes_nothing():
    D = discriminator(projection=False)
    x = torch.randn(2, 1, 32, 32)
    assert "embed.weight" not in D.state_dict()
    assert torch.equal(D(x, torch.tensor([0, 1])), D(x, torch.tensor([3, 4])))


def test_every_image_is_turned_by_its_own_quarters():
    x = torch.randn(4, 2, 5, 5)
    out = heads.turned(x, torch.tensor([0, 1, 2, 3]))
    for k in range(4):
        assert torch.equal(out[k], x[k].rot90(k, (1, 2)))


@pytest.mark.parametrize("group", [4, 8])
def test_contrast_is_the_nt_xent_loss_of_each_group(group):
    net = torch.nn.Sequential(AffineBatchNorm(1, 1e-5))
    normalization.set_batch_norm_group(net, group)
    torch.manual_seed(0)
    first, second = torch.randn(8, 6, requires_grad=True), torch.randn(8, 6)
    value = heads.contrast(first, second, 0.5, net)
    losses = []
    for start in range(0, 8, group):  # as the paper's algorithm 1 says it
        both = torch.cat([first[start : start + group], second[start : start + group]])
        views = F.normalize(both.detach(), dim=1)
        for i in range(2 * group):
            likeness = [math.exp(float(views[i] @ views[k]) / 0.5) for k in range(2 * group)]
            match = likeness[(i + group) % (2 * group)]
            losses.append(-math.log(match / (sum(likeness) - likeness[i])))
    assert value.item() == pytest.approx(np.mean(losses), rel=1e-5)
    value.backward()
    assert first.grad.abs().sum() > 0


def test_similarities_are_float32_under_autocast():
    net = torch.nn.Sequential(AffineBatchNorm(1, 1e-5))
    normalization.set_batch_norm_group(net, 8)
    first, second = torch.randn(8, 128), torch.randn(8, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = heads.contrast(first, second, 0.1, net)
    assert torch.equal(value, heads.contrast(first, second, 0.1, net))


def micro_batch(count, z=None):
    positions = np.arange(count)
    draws = Draws(0, "d", positions, CPU)
    torch.manual_seed(1)
    real, y = torch.rand(count, 1, 32, 32), torch.arange(count) % 5
    return objectives.MicroBatch(torch.rand(count, 1, 32, 32) if z is None else z, y, real, y, draws, 0, 0)


def test_every_term_is_added_with_its_weight_in_its_phase():
    weights = {"classify_d": 0.5, "classify_g": 0.25, "rotate_d": 2.0, "rotate_g": 0.2, "contrast_d": 3.0}
    D, micro = discriminator(heads=SIZES), micro_batch(4)

    class G(torch.nn.Module):
        def forward(self, z, y):
            return z

    objective = objectives.build(Config(head=weights), CPU)
    quarter = (4 * micro.draws.uniform("rotation")).long()
    for phase in ("d", "g"):
        loss, scalars = objective(phase, G(), D, micro)
        terms = {name: weight for name, weight in weights.items() if name.endswith(phase)}
        expected = scalars[f"loss_{phase}"] + sum(w * scalars[name] for name, w in terms.items())
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert terms.keys() <= scalars.keys()
        whose = micro.real if phase == "d" else micro.z
        _, of_turned = D(heads.turned(whose, quarter), micro.y, heads=True)
        rotation = F.cross_entropy(of_turned["rotation"], quarter)
        assert scalars[f"rotate_{phase}"].item() == pytest.approx(rotation.item(), rel=1e-5)
        fake = F.cross_entropy(D(micro.z, micro.y, heads=True)[1]["class"], micro.y)
        real = F.cross_entropy(D(micro.real, micro.y, heads=True)[1]["class"], micro.y)
        classified = fake + real if phase == "d" else fake
        assert scalars[f"classify_{phase}"].item() == pytest.approx(classified.item(), rel=1e-5)


def test_dropout_is_named_by_keys_and_shared_by_images_of_one_key():
    D, x, y = discriminator(dropout=0.4), torch.randn(6, 1, 32, 32), torch.arange(6) % 5
    keys = Draws(3, "d", np.arange(6), CPU).keys("dropout")
    D.linear.weight.data.fill_(1.0)
    h = D.features(x)
    with dropout.masked(D, keys):
        first, second = D.dropout(h), D.dropout(h)
        assert D.dropout(torch.cat([h, h])).view(2, 6, -1).diff(dim=0).abs().max() == 0
    kept = first != 0
    assert torch.allclose(first[kept], h[kept] / 0.6)
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.15)  # of 96 features
    assert not torch.equal(first, second)
    with dropout.masked(D, keys[2:4]):
        assert torch.equal(D.dropout(h[2:4]), first[2:4])
    assert torch.equal(D.dropout(h), h)
    assert torch.equal(D(x, y), D(x, y))


def test_dropout_keeps_the_mean_and_passes_the_gradient_of_what_it_keeps():
    layer, h = dropout.KeyedDropout(0.25), torch.ones(2000, 10, requires_grad=True)
    with dropout.masked(layer, torch.arange(2000)):
        out = layer(h)
    assert out.mean().item() == pytest.approx(1, abs=0.015)  # 4 standard errors
    out.sum().backward()
    assert torch.equal(h.grad, out.detach())
