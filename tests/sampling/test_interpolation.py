"""Paths start and end where they should, and keep to where the network was trained."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gansmith.errors import UserError
from gansmith.models.biggan import Generator
from gansmith.sampling import interpolation, latents, sampler

Build = Callable[..., Generator]


@pytest.mark.parametrize("path", interpolation.PATHS)
def test_a_path_includes_both_ends_exactly(path: str) -> None:
    a, b = latents.from_seeds([0, 1], dim=120)
    points = interpolation.between(a, b, 7, path)
    assert points.shape == (7, 120)
    assert points.dtype == torch.float32
    assert torch.equal(points[0], a)
    assert torch.equal(points[-1], b)


def test_a_spherical_path_keeps_the_norm_and_its_speed() -> None:
    a, b = latents.from_seeds([0, 1], dim=120)
    points = interpolation.between(a, b, 9)
    expected = torch.linspace(a.norm().item(), b.norm().item(), 9)
    assert torch.allclose(points.norm(dim=1), expected, rtol=1e-6)
    directions = points / points.norm(dim=1, keepdim=True)
    angles = torch.arccos((directions[1:] * directions[:-1]).sum(1))
    assert torch.allclose(angles, angles.mean().expand(8), rtol=1e-4)
    # The straight line passes nearer to the middle: 1/√2 for perpendicular ends.
    assert interpolation.between(a, b, 9, "linear")[4].norm() < 0.8 * points[4].norm()


@pytest.mark.parametrize("other", [1.0, 2.0, -1.0, 0.0])
def test_a_path_between_parallel_latents_is_straight(other: float) -> None:
    a = latents.from_seeds([0], dim=16)[0]
    points = interpolation.between(a, a * other, 5)
    assert torch.allclose(points, interpolation.between(a, a * other, 5, "linear"))
    assert points.isfinite().all()


def test_mixing_weights_go_from_one_class_to_the_other() -> None:
    assert interpolation.mixing_weights(3, 1, 3, 4).tolist() == [[0, 0, 0, 1], [0, 0.5, 0, 0.5], [0, 1, 0, 0]]
    assert interpolation.mixing_weights(2, 2, 3, 3).tolist() == [[0, 0, 1]] * 3


def draw(G: Generator, seed: int, label: int) -> np.ndarray:
    (images,) = sampler.generate(G, latents.from_seeds([seed], dim=8), torch.tensor([label]), 1)
    return images[0].numpy().astype(int)


@pytest.mark.parametrize(
    ("mode", "ends"),
    [
        ("z", [((0, 2), (5, 2)), ((5, 4), (9, 4))]),
        ("class", [((0, 2), (0, 4)), ((5, 4), (5, 1))]),
        ("both", [((0, 2), (5, 4)), ((5, 4), (9, 1))]),
    ],
)
def test_rows_go_from_one_seed_and_class_to_the_next(build: Build, mode: str, ends: list[Any]) -> None:
    G = build()
    images = interpolation.strip(G, mode=mode, seeds=[0, 5, 9], labels=[2, 4, 1], steps=4, micro_batch=3)
    rows = images.reshape(-1, 4, 32, 32, 3).astype(int)
    assert len(rows) == len(ends) == interpolation.num_rows(mode, [0, 5, 9], [2, 4, 1])
    for row, (first, last) in zip(rows, ends, strict=True):
        # A mixing weight of 1 picks the same embedding as the class; sums of zeros aside, to a rounding edge.
        assert np.abs(row[0] - draw(G, *first)).max() <= 1
        assert np.abs(row[-1] - draw(G, *last)).max() <= 1
        assert np.abs(row[1] - row[0]).max() > 1


def test_a_network_without_classes_interpolates_in_z_only(build: Build) -> None:
    G = build(num_classes=0)
    assert interpolation.strip(G, mode="z", seeds=[0, 1], labels=[], steps=3).shape == (3, 32, 32, 3)
    with pytest.raises(UserError, match="use --mode z"):
        interpolation.strip(G, mode="class", seeds=[0, 1], labels=[0], steps=3)


@pytest.mark.parametrize(
    ("mode", "seeds", "labels", "message"),
    [
        ("z", [0], [0, 1], "two --seeds"),
        ("class", [0], [1], "two --classes"),
        ("both", [0, 1], [1], "two --seeds and two --classes"),
        ("w", [0, 1], [0, 1], "choose z, class, both"),
    ],
)
def test_too_few_ends_are_refused(
    build: Build, mode: str, seeds: list[int], labels: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        interpolation.strip(build(), mode=mode, seeds=seeds, labels=labels)
