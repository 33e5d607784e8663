"""Class surgery: new class vectors are the mixtures asked for, everything else is untouched."""

import pytest
import torch

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.weights import surgery

OLD = ["n02110185", "n02123045", "fish", "7"]


def network(kind, **kwargs):
    torch.manual_seed(1)
    net = kind(resolution=32, num_classes=4, channels=1, ch=4, attention=[16], **kwargs)
    spectral.converge(net)
    return net.eval()


def generator(**kwargs):
    return network(Generator, **{"dim_z": 8, "shared_dim": 6} | kwargs)


UNSHARED = {"shared_dim": 0, "skip_z": False}


def test_a_class_that_is_an_old_one_draws_what_the_old_one_drew():
    for kwargs in ({}, UNSHARED, {"family": "biggan-deep"}):
        G = generator(**kwargs)
        mix = surgery.rows(surgery.match(["cat", "fish"], OLD, {"cat": "n02123045"}, "X"), 4)
        small = surgery.with_classes(G, mix)
        z = torch.randn(6, 8)
        old, new = torch.tensor([1, 2, 1, 2, 2, 1]), torch.tensor([0, 1, 0, 1, 1, 0])
        # Products are summed in another order, so not bit for bit.
        torch.testing.assert_close(small(z, new), G(z, old), rtol=0, atol=1e-6)
        assert small.num_classes == 2


@pytest.mark.parametrize("kwargs", [{}, UNSHARED])
def test_a_class_of_its_own_draws_what_the_mean_of_all_classes_draws(kwargs):
    G = generator(**kwargs)
    grown = surgery.with_classes(G, surgery.rows(surgery.match(["owl"] * 6, OLD, {}, "X"), 4))
    z = torch.randn(3, 8)
    torch.testing.assert_close(
        grown(z, torch.tensor([0, 3, 5])), G(z, torch.full((3, 4), 0.25)), rtol=0, atol=1e-5
    )


def test_layers_without_classes_are_kept_bit_for_bit():
    for net in (generator(), network(Discriminator)):
        changed = surgery.with_classes(net, torch.full((9, 4), 0.25)).state_dict()
        before = net.state_dict()
        other = {key for key in before if not torch.equal(before[key], changed[key])}
        assert other == ({"shared.weight"} if isinstance(net, Generator) else set()) | {
            key for key in before if key.startswith("embed.")
        }


def test_ds_embedding_is_mixed_and_its_spectral_norm_converges():
    D = network(Discriminator)
    mix = surgery.rows(surgery.match(["a", "fish", "7"], OLD, {"a": "n02110185"}, "X"), 4)
    small = surgery.with_classes(D, mix)
    torch.testing.assert_close(small.embed.weight, D.embed.weight[[0, 2, 3]], rtol=0, atol=0)
    largest = torch.linalg.matrix_norm(small.embed.weight, 2)
    assert small.embed.sigma.item() == pytest.approx(largest.item(), rel=1e-5)
    assert small.embed.u.shape == (3,)
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(small.features(x), D.features(x), rtol=0, atol=0)


def test_the_source_stays_as_it_is():
    G = generator()
    before = {key: value.clone() for key, value in G.state_dict().items()}
    surgery.with_classes(G, torch.full((2, 4), 0.25))
    assert all(torch.equal(before[key], value) for key, value in G.state_dict().items())


def test_names_map_by_command_then_by_equality_then_to_the_mean():
    origins = surgery.match(["fish", "owl", "7", "dog"], OLD, {"dog": "0"}, "X")
    assert [(origin.old, origin.how) for origin in origins] == [
        (2, "same name"),
        (None, "mean"),
        (3, "same name"),  # the class called 7, not class number 7
        (0, "map"),  # by number, as no class is called 0
    ]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"fisch": "fish"}, r"the data has no class 'fisch' \(did you mean fish\?\)"),
        ({"fish": "n0211018"}, r"X has no class 'n0211018' \(did you mean n02110185"),
        ({"fish": "4"}, "X has no class '4'"),
        ({"fish": "zebra"}, r"it has n02110185, n02123045, fish, 7\)"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(chosen, message):
    with pytest.raises(UserError, match=message):
        surgery.match(["fish", "owl"], OLD, chosen, "X")


def test_all_wrong_names_are_said_together():
    with pytest.raises(UserError) as caught:
        surgery.match(["fish"], OLD, {"a": "b", "fish": "c"}, "X")
    assert str(caught.value).count("\n  - ") == 3


def test_networks_without_classes_are_refused():
    G = Generator(resolution=32, num_classes=0, ch=4, dim_z=8, attention=[])
    with pytest.raises(ValueError, match="no classes"):
        surgery.with_classes(G, torch.ones(1, 1))


def test_what_a_class_head_says_goes_with_the_classes():
    D = network(Discriminator, heads={"class": 4, "rotation": 4})
    mix = surgery.rows(surgery.match(["fish", "n02110185", "owl"], OLD, {}, "X"), 4)
    x = torch.randn(5, 1, 32, 32)
    _, before = D(x, torch.zeros(5, dtype=torch.int64), heads=True)
    changed = surgery.with_classes(D, mix)
    sigma = D.heads["class"].sigma / changed.heads["class"].sigma
    bias = changed.heads["class"].bias
    _, after = changed(x, torch.zeros(5, dtype=torch.int64), heads=True)
    assert torch.equal(after["rotation"], before["rotation"])
    expected = (before["class"] - D.heads["class"].bias) @ mix.T * sigma + bias
    torch.testing.assert_close(after["class"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bias, mix @ D.heads["class"].bias)
    assert changed.kwargs["heads"] == {"class": 3, "rotation": 4}
    assert changed.num_classes == 3
