"""Standing statistics are those of the weights, the latents and the truncation, and disturb nothing."""

import copy
from collections.abc import Callable

import numpy as np
import torch

from gansmith.models import normalization
from gansmith.models.biggan import Generator
from gansmith.sampling import latents, statistics

Build = Callable[..., Generator]


def test_one_group_in_eval_mode_repeats_its_train_mode_images(build: Build) -> None:
    G = build()
    record = statistics.estimate(G, "normal", 6, truncation=0.7, images=24, group=24, seed=5)
    z = latents.from_seeds(range(24), dim=8, truncation=0.7, purpose="statistics/5")
    y = statistics.balanced_labels(24, 6, seed=5)
    with torch.no_grad():
        standing = G(z, y)
        batch = G.train()(z, y)
    # The same moments, once pooled in float64 and once by the fused kernel in float32.
    assert torch.allclose(standing, batch, atol=1e-4)
    assert record == {"truncation": 0.7, "kind": "resample", "images": 24, "group": 24}


def test_groups_are_pooled_without_mixing_them(build: Build) -> None:
    G = build()
    statistics.estimate(G, "normal", 6, images=40, group=8)
    first = next(m for m in G.modules() if isinstance(m, normalization.BatchNorm))
    z = latents.from_seeds(range(40), dim=8, purpose="statistics/0")
    with torch.no_grad():  # the input of the first BatchNorm layer knows no groups yet
        h = G.linear(z[:, : G.chunks[0]]).unflatten(1, (-1, 4, 4)).double()
    assert torch.allclose(first.stored_mean.double(), h.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(first.stored_var.double(), h.var((0, 2, 3), correction=0), atol=1e-6)


def test_estimating_is_deterministic_and_leaves_the_rest_as_it_was(build: Build) -> None:
    G, other = build(), build()
    G.train()
    normalization.set_batch_norm_group(G, 4)
    before = {name: value.clone() for name, value in G.state_dict().items()}
    hats = [(m, m.weight_hat.clone()) for m in G.modules() if getattr(m, "weight_hat", None) is not None]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    statistics.estimate(G, "normal", 6, images=32, group=16)
    statistics.estimate(other, "normal", 6, images=32, group=16)
    assert G.training
    assert not other.training
    assert {m.group for m in G.modules() if isinstance(m, normalization.BatchNorm)} == {4}
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])
    for ours, theirs in zip(statistics.buffers(G), statistics.buffers(other), strict=True):
        assert torch.equal(ours, theirs)
    for name, value in G.state_dict().items():
        assert torch.equal(value, before[name]) != ("stored_" in name), name
    assert all(torch.equal(layer.weight_hat, kept) for layer, kept in hats)


def test_a_truncation_has_statistics_of_its_own(build: Build) -> None:
    G = build()
    statistics.estimate(G, "normal", 6, images=64, group=16)
    full = copy.deepcopy(statistics.buffers(G))
    statistics.estimate(G, "normal", 6, images=64, group=16, truncation=0.3)
    # The first layer is linear in z: its variance falls with that of z, 0.03 of a full normal.
    ratio = (statistics.buffers(G)[1] / full[1]).mean()
    assert 0.01 < ratio < 0.06


def test_images_are_rounded_up_to_whole_groups(build: Build) -> None:
    assert statistics.estimate(build(), "uniform", 6, images=33, group=16) == {
        "truncation": 1.0,
        "kind": "none",
        "images": 48,
        "group": 16,
    }


def test_every_class_is_drawn_equally_often() -> None:
    labels = statistics.balanced_labels(60, 6, seed=0)
    assert torch.bincount(labels).tolist() == [10] * 6
    assert labels[:6].sort().values.tolist() == list(range(6))
    assert labels[:6].tolist() != labels[6:12].tolist()
    assert len(statistics.balanced_labels(10, 1000, seed=0).unique()) == 10


def test_the_group_is_that_of_training_as_far_as_memory_allows() -> None:
    assert statistics.default_group({"config": {"bn": {"group": 16}}}, 128) == 16
    assert statistics.default_group({"config": {"bn": {"group": 2048}}}, 128) == 64
    assert statistics.default_group({"config": {"bn": {"group": 2048}}}, 512) == 16
    assert statistics.default_group({"statistics": {"group": 8}, "config": {"bn": {"group": 32}}}, 32) == 8
    assert statistics.default_group({"config": {"bn": {"group": "auto"}}}, 32) == 64


def test_an_unconditional_generator_needs_no_labels(build: Build) -> None:
    G = build(num_classes=0, skip_z=True)
    statistics.estimate(G, "normal", 0, images=16, group=16)
    assert all(buffer.isfinite().all() for buffer in statistics.buffers(G))
