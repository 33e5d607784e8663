"""Exact nearest neighbours and ball counts between clouds of features, in bounded memory.

Products of float32 blocks name the candidates; their distances are then computed from the differences in
float64, and a bound on the rounding of the products says where that could have missed one: there the search
is repeated with float64 products. So results equal brute force in float64, at the speed of matrix products.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gansmith.evaluation.arrays import checked, checked_pair, chunks, refuse_few

QUERIES = 1024  # rows of a block of products
BASE = 8192  # columns of a block: with QUERIES 32 MiB of float32
SLACK = 8  # candidates beyond k, so that rounding seldom matters
GROUP = 32  # columns of which first only the smallest is looked at
PAIRS = 1 << 22  # float64 numbers of an exact difference at a time: 32 MiB
DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True)
class Neighbours:
    """Of each query the k nearest rows of the base, nearest first; of equal distances the lower index."""

    indices: np.ndarray  # int64 (n, k)
    distances: np.ndarray  # float64 (n, k), Euclidean


def nearest(
    query: np.ndarray,
    base: np.ndarray,
    k: int,
    *,
    chunk: int = QUERIES,
    device: torch.device | str = "cpu",
    names: tuple[str, str] = ("the base", "the queries"),
) -> Neighbours:
    """The k nearest rows of `base` to each row of `query`.

    query (n, dim), base (m, dim): float32, may be memmaps. chunk: queries handled together, which bounds the
    memory and not the result. Where more than k + SLACK rows lie at exactly equal distance, which of them is
    named may depend on the chunk; distances never do. names: for messages. Raises UserError for fewer than
    k base rows and for non-finite features.
    """
    base, query = checked_pair(base, query, 1, names=names)
    refuse_few(len(base), names[0], k)
    return _search(query, base, k, False, chunk, torch.device(device))


def nearest_others(
    points: np.ndarray,
    k: int,
    *,
    chunk: int = QUERIES,
    device: torch.device | str = "cpu",
    name: str = "the images",
) -> Neighbours:
    """The k nearest other rows of each row: row i itself is left out, exact duplicates of it are not.

    Arguments and errors as of `nearest`; needs at least k + 1 rows.
    """
    points = checked(points, name, k + 1)
    return _search(points, points, k, True, chunk, torch.device(device))


def pair_distances2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64 (n,): |aᵢ − bᵢ|², each row for itself, so equal pairs give equal bits wherever they stand."""
    difference = a.astype(np.float64)
    difference -= b
    return np.einsum("nd,nd->n", difference, difference)


def _search(
    query: np.ndarray, base: np.ndarray, k: int, others: bool, chunk: int, device: torch.device
) -> Neighbours:
    itself = np.arange(len(query)) if others else None
    indices, distances2, sure = _candidates(query, base, k, itself, chunk, device, torch.float32)
    # Products in float64 need no proof: what they may still confuse differs by less than 1e-13.
    for again in chunks(np.flatnonzero(~sure), BASE):
        itself = again if others else None
        cpu = torch.device("cpu")
        indices[again], distances2[again], _ = _candidates(
            query[again], base, k, itself, chunk, cpu, torch.float64
        )
    return Neighbours(indices, np.sqrt(distances2))


def _candidates(
    query: np.ndarray,
    base: np.ndarray,
    k: int,
    itself: np.ndarray | None,
    chunk: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(indices (n, k), squared distances (n, k), whether each row is proven) by products in `dtype`.

    itself: for each query the base row that is itself and is left out.
    """
    available = len(base) - (itself is not None)
    keep = min(k + SLACK, available)
    centre = _mean(base)
    best = torch.full((len(query), keep), torch.inf, dtype=dtype, device=device)
    where = torch.zeros((len(query), keep), dtype=torch.int64, device=device)
    query_norms, longest = np.empty(len(query)), 0.0
    for base_start, columns, base_norms2 in _blocks(base, centre, BASE, device, dtype):
        longest = max(longest, float(base_norms2.max()) ** 0.5)
        for start, rows, norms2 in _blocks(query, centre, chunk, device, dtype):
            part = slice(start, start + len(rows))
            query_norms[part] = norms2.double().cpu().sqrt().numpy()
            # |x − y|² less |x|², which does not change a row's order
            scores = torch.addmm(base_norms2.to(dtype)[None], rows, columns.T, alpha=-2)
            if itself is not None:
                own = torch.from_numpy(itself[part] - base_start).to(device)
                inside = ((own >= 0) & (own < len(columns))).nonzero()[:, 0]
                scores[inside, own[inside]] = torch.inf
            values, places = _smallest(scores, keep)
            values = torch.cat([best[part], values], 1)
            places = torch.cat([where[part], places + base_start], 1)
            best[part], chosen = values.topk(keep, largest=False)
            where[part] = places.gather(1, chosen)
    found = where.cpu().numpy()
    distances2 = _exact(query, base, found)
    order = np.lexsort((found, distances2))[:, :k]
    indices = np.take_along_axis(found, order, 1)
    distances2 = np.take_along_axis(distances2, order, 1)
    # Nobody left out can be nearer than the last candidate's product says, less twice the rounding.
    last = best.max(1).values.double().cpu().numpy() + query_norms**2
    sure = distances2[:, -1] <= last - 2 * _rounding(query_norms, longest, base.shape[1], dtype)
    return indices, distances2, sure | (keep == available)


def _smallest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` smallest of each row (or all) with their columns, unsorted.

    Groups of columns are compared by their minima first: the `count` best lie in the `count` best groups.
    """
    width = scores.shape[1]
    groups = width // GROUP
    if groups < 2 * count:
        return scores.topk(min(count, width), largest=False, sorted=False)
    folded = scores[:, : groups * GROUP].unflatten(1, (GROUP, groups))
    promising = folded.amin(1).topk(count, largest=False, sorted=False).indices
    members = promising[:, None, :] + groups * torch.arange(GROUP, device=scores.device)[None, :, None]
    rest = torch.arange(groups * GROUP, width, device=scores.device).expand(len(scores), -1)
    members = torch.cat([members.flatten(1), rest], 1)
    values, chosen = scores.gather(1, members).topk(count, largest=False, sorted=False)
    return values, members.gather(1, chosen)


def count_inside(
    points: np.ndarray,
    centres: np.ndarray,
    tests: list[tuple[str, np.ndarray]],
    *,
    chunk: int = QUERIES,
    device: torch.device | str = "cpu",
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Counts pairs (point, centre) at distance ≤ radius, all tests in one pass over the products.

    tests: ("centres", radii (m,)) where each centre carries its radius, or ("points", radii (n,)); radii are
    float64 distances as `nearest` returns them. Gives for each test int64 (n,) hits of every point and (m,)
    hits of every centre. Exact: what rounding leaves open is decided by float64 differences.
    """
    device = torch.device(device)
    centre = _mean(centres)
    results = [(np.zeros(len(points), np.int64), np.zeros(len(centres), np.int64)) for _ in tests]
    for first, columns, column_norms2 in _blocks(centres, centre, BASE, device, torch.float32):
        longest = float(column_norms2.max()) ** 0.5
        for start, rows, row_norms2 in _blocks(points, centre, chunk, device, torch.float32):
            distances2 = torch.addmm(column_norms2[None], rows, columns.T, alpha=-2) + row_norms2[:, None]
            reach = np.array([float(row_norms2.max()) ** 0.5])
            margin = float(_rounding(reach, longest, points.shape[1], torch.float32)[0])
            for (side, radii), (of_points, of_centres) in zip(tests, results):
                part = (
                    slice(first, first + len(columns))
                    if side == "centres"
                    else slice(start, start + len(rows))
                )
                radii2 = torch.from_numpy(radii[part] ** 2)
                low, high = (radii2 - margin).float().to(device), (radii2 + margin).float().to(device)
                if side == "points":
                    low, high = low[:, None], high[:, None]
                inside = distances2 < low
                open_pairs = ((distances2 <= high) & ~inside).nonzero().cpu().numpy()
                of_points[start : start + len(rows)] += inside.sum(1).cpu().numpy()
                of_centres[first : first + len(columns)] += inside.sum(0).cpu().numpy()
                i, j = open_pairs[:, 0] + start, open_pairs[:, 1] + first
                near = _within(points, centres, i, j, radii, side)
                np.add.at(of_points, i[near], 1)
                np.add.at(of_centres, j[near], 1)
    return results


def _within(
    points: np.ndarray, centres: np.ndarray, i: np.ndarray, j: np.ndarray, radii: np.ndarray, side: str
) -> np.ndarray:
    limits = radii[j] if side == "centres" else radii[i]
    size = max(PAIRS // points.shape[1], 1)
    near = np.zeros(len(i), bool)
    for at in range(0, len(i), size):
        part = slice(at, at + size)
        near[part] = np.sqrt(pair_distances2(points[i[part]], centres[j[part]])) <= limits[part]
    return near


def _exact(query: np.ndarray, base: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Squared float64 distances (n, keep) from each query to its candidates."""
    distances2 = np.empty(found.shape)
    keep = found.shape[1]
    size = max(PAIRS // (keep * query.shape[1]), 1)
    for start in range(0, len(query), size):
        part = slice(start, start + size)
        repeated = np.repeat(query[part], keep, 0)
        distances2[part] = pair_distances2(repeated, base[found[part].ravel()]).reshape(-1, keep)
    return distances2


def _blocks(
    array: np.ndarray, centre: np.ndarray, size: int, device: torch.device, dtype: torch.dtype
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(start, rows less centre, their squared norms), row blocks of `size` on the device."""
    for start, block in zip(range(0, len(array), size), chunks(array, size)):
        # Cast first: the centre is a float32 row, so in float64 the difference is exact.
        rows = torch.from_numpy(np.subtract(block, centre, dtype=DTYPES[dtype])).to(device)
        yield start, rows, rows.square().sum(1)


def _mean(array: np.ndarray) -> np.ndarray:
    """The mean row: differences from it are shorter, so their products round less."""
    total = sum(chunk.sum(0, dtype=np.float64) for chunk in chunks(array))
    return (total / len(array)).astype(array.dtype)


def _rounding(norms: np.ndarray, longest: float, dim: int, dtype: torch.dtype) -> np.ndarray:
    """Bound on the error of a squared distance by products: n-term sums err by at most n units of last place.

    |error| ≤ dim u · 2|x||y| for the product and a few u (|x|² + |y|²) for the norms and the centring.
    """
    unit = 2.0**-53 if dtype == torch.float64 else _unit_roundoff()
    return (dim + 16) * unit * (norms + longest) ** 2


def _unit_roundoff() -> float:
    """Of float32 products as they are set now: TF32 keeps 10 bits of the factors, bf16 7."""
    return {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}[torch.get_float32_matmul_precision()]
