"""Neighbour searches against brute force in float64, where rounding could mislead them, and in pieces."""

import numpy as np
import pytest

from gansmith.errors import UserError
from gansmith.evaluation import neighbours
from gansmith.evaluation.neighbours import count_inside, nearest, nearest_others


def cloud(n: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, dim)) + shift).astype(np.float32)


def all_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([np.sqrt(((row.astype(np.float64) - y) ** 2).sum(1)) for row in x])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks small enough that a few hundred rows cross their borders, groups of columns included."""
    monkeypatch.setattr(neighbours, "BASE", 700)
    monkeypatch.setattr(neighbours, "GROUP", 8)


@pytest.mark.parametrize(("n", "m", "dim", "k"), [(300, 2000, 16, 5), (50, 33, 4, 33), (1, 1500, 3, 1)])
@pytest.mark.parametrize("chunk", [1024, 37])
def test_nearest_equals_brute_force(n: int, m: int, dim: int, k: int, chunk: int) -> None:
    query, base = cloud(n, dim, 0), cloud(m, dim, 1, 0.1)
    found = nearest(query, base, k, chunk=chunk)
    expected = all_distances(query, base)
    assert np.array_equal(found.indices, expected.argsort(1)[:, :k])
    assert found.distances == pytest.approx(np.sort(expected, 1)[:, :k], rel=1e-14)


def test_memory_chunk_changes_no_bit() -> None:
    query, base = cloud(500, 24, 0), cloud(1500, 24, 1)
    whole = nearest(query, base, 4)
    for chunk in (1, 50, 499):
        pieces = nearest(query[:100], base, 4, chunk=chunk)
        assert np.array_equal(pieces.indices, whole.indices[:100])
        assert np.array_equal(pieces.distances, whole.distances[:100])


def test_others_leave_out_the_row_itself_but_not_its_copies() -> None:
    points = cloud(900, 12, 0)
    points[800] = points[7]
    found = nearest_others(points, 3)
    expected = all_distances(points, points)
    np.fill_diagonal(expected, np.inf)
    assert np.array_equal(found.indices, expected.argsort(1, kind="stable")[:, :3])
    assert (found.indices[7, 0], found.indices[800, 0]) == (800, 7)
    assert found.distances[7, 0] == 0


def test_differences_below_the_rounding_of_the_products_are_still_ordered() -> None:
    """Far from the mean of all, steps of 1e-5 vanish in float32 products of numbers around 1e6."""
    line = np.zeros((400, 2), np.float32)
    line[:, 0] = np.arange(400) * 1e-5
    base = np.concatenate([line, line + np.float32([0, 2000])])  # the mean lies between the two lines
    query = line[::7] + np.float32([2e-6, 0])
    found = nearest(query, base, 3)
    expected = all_distances(query, base)
    assert found.distances == pytest.approx(np.sort(expected, 1)[:, :3], abs=1e-13)
    assert np.array_equal(found.indices[:, 0], expected.argmin(1))


@pytest.mark.parametrize("spread", [0.0, 1e-6])
def test_a_constant_or_nearly_constant_cloud_is_searched_exactly(spread: float) -> None:
    points = (5 + spread * np.random.default_rng(0).standard_normal((600, 8))).astype(np.float32)
    expected = all_distances(points, points)
    np.fill_diagonal(expected, np.inf)
    assert nearest_others(points, 2).distances == pytest.approx(np.sort(expected, 1)[:, :2], abs=1e-14)


def test_balls_are_counted_as_by_brute_force_on_both_sides() -> None:
    points, centres = cloud(450, 6, 0), cloud(800, 6, 1, 0.2)
    of_centres, of_points = (
        nearest_others(centres, 4).distances[:, 3],
        nearest_others(points, 2).distances[:, 1],
    )
    distances = all_distances(points, centres)
    for chunk in (1024, 64):
        got = count_inside(points, centres, [("centres", of_centres), ("points", of_points)], chunk=chunk)
        for inside, (hits_points, hits_centres) in zip(
            (distances <= of_centres, distances <= of_points[:, None]), got
        ):
            assert np.array_equal(hits_points, inside.sum(1))
            assert np.array_equal(hits_centres, inside.sum(0))


def test_a_point_on_the_border_of_a_ball_is_inside() -> None:
    """The k-th neighbour itself defines the radius: rounding must not put it outside."""
    points = cloud(600, 40, 0, shift=3)
    found = nearest_others(points, 3)
    for row in range(0, 600, 60):
        neighbour = points[found.indices[row, 2]][None]
        hits, _ = count_inside(neighbour, points[row][None], [("centres", found.distances[row, 2:])])[0]
        assert hits[0] == 1


def test_unusable_input_is_refused() -> None:
    query, base = cloud(5, 4, 0), cloud(6, 4, 1)
    with pytest.raises(UserError, match="the base: 6 images; this score needs at least 7"):
        nearest(query, base, 7)
    with pytest.raises(UserError, match="needs at least 7"):
        nearest_others(base, 6)
    base[2, 2] = np.nan
    with pytest.raises(UserError, match="1 of 6 images have NaN"):
        nearest(query, base, 1)
