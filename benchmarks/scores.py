"""Seconds that each score takes once the features are there, and the neighbour search against plain ways.

    python benchmarks/scores.py
    python benchmarks/scores.py --images 50000 --dim 2048 --threads 2

Features are made up: correlated noise with the falling spectrum of real ones; the scores' times do not depend
on their values. The neighbour search has a base of --base rows; every way searches it for as many queries as
it manages in about --seconds, and the rates are compared. The plain loop is one query at a time in numpy,
float32, `argpartition` at the end; `cdist` is torch's distance matrix of 1024 queries with `topk`. Memory is
how much the process grew at its highest while it searched, features not counted. Seconds are the processor's,
of all threads together, so that what other programs take does not enter: with --threads 1 they are the time
on an idle machine, with 2 about twice that.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gansmith.evaluation.duplicates import near_duplicates
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.frechet import frechet_distance, frechet_infinity, moments
from gansmith.evaluation.inception_score import inception_score
from gansmith.evaluation.kernel import kid
from gansmith.evaluation.leakage import class_leakage
from gansmith.evaluation.manifold import manifold
from gansmith.evaluation.memorisation import memorisation
from gansmith.evaluation.neighbours import nearest
from gansmith.evaluation.per_class import per_class_diversity, per_class_frechet

CLASSES, OUTPUTS, K = 10, 1008, 5


def feature_like(n: int, dim: int, seed: int) -> np.ndarray:
    """float32 (n, dim) ≥ 0, variances over three decades, made in pieces."""
    mix = np.random.default_rng(99).standard_normal((dim, dim), np.float32) / np.float32(dim**0.5)
    mix *= np.geomspace(1, 0.03, dim, dtype=np.float32)[:, None]
    random = np.random.default_rng(seed)
    out = np.empty((n, dim), np.float32)
    for start in range(0, n, 1024):
        rows = random.standard_normal((min(1024, n - start), dim), np.float32)
        np.maximum(rows @ mix + np.float32(0.3), 0, out=out[start : start + 1024])
    return out


def seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def memory(which: str) -> int:
    """KiB of this process as Linux counts them: VmRSS now, VmHWM at the highest since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1])
    raise SystemExit("this benchmark reads /proc/self/status; run it on Linux")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def cost_table(images: int, dim: int) -> None:
    real, fake = feature_like(images, dim, 0), feature_like(images, dim, 1)
    labels = np.arange(images) % CLASSES
    logits = np.random.default_rng(2).standard_normal((images, OUTPUTS)).astype(np.float32)
    reals = FeatureSet(real, labels=labels, num_classes=CLASSES)
    fakes = FeatureSet(fake, labels=labels, num_classes=CLASSES)
    reference, of_fakes = moments(real), moments(fake)
    rows: dict[str, Callable[[], object]] = {
        "moments of the fakes": lambda: moments(fake),
        "Fréchet distance from moments": lambda: frechet_distance(of_fakes, reference),
        "Fréchet distance extrapolated": lambda: frechet_infinity(fake, reference),
        "KID, 100 × 1000": lambda: kid(real, fake),
        f"Inception score, {OUTPUTS} logits": lambda: inception_score(logits),
        "precision, recall, density, coverage": lambda: manifold(real, fake),
        f"per-class Fréchet, {CLASSES} classes": lambda: per_class_frechet(reals, fakes),
        f"per-class diversity, {CLASSES} classes": lambda: per_class_diversity(reals, fakes),
        f"class leakage, {CLASSES} classes": lambda: class_leakage(logits[:, :CLASSES], labels),
        "duplicates": lambda: near_duplicates(real, fake),
        "memorisation": lambda: memorisation(real, fake),
    }
    print(f"{images} fakes against {images} reals, {dim} features")
    for name, work in rows.items():
        print(f"  {name:<40}{seconds(work):>8.2f} s", flush=True)


def plain_loop(query: np.ndarray, base: np.ndarray) -> np.ndarray:
    """int64 (n, K): one query at a time, as one would write it first."""
    found = np.empty((len(query), K), np.int64)
    for row, image in enumerate(query):
        distances2 = ((base - image) ** 2).sum(1)
        first = np.argpartition(distances2, K)[:K]
        found[row] = first[np.argsort(distances2[first])]
    return found


def cdist(query: np.ndarray, base: np.ndarray) -> np.ndarray:
    everything = torch.from_numpy(base)
    parts = torch.from_numpy(query).split(1024)
    return torch.cat([torch.cdist(part, everything).topk(K, largest=False).indices for part in parts]).numpy()


def exact(query: np.ndarray, base: np.ndarray) -> np.ndarray:
    return nearest(query, base, K).indices


def neighbour_table(base_rows: int, dim: int, budget: float) -> None:
    base, query = feature_like(base_rows, dim, 3), feature_like(4096, dim, 4)
    print(f"{K} nearest of {base_rows} rows, {dim} features")
    print(f"  {'way':<22}{'queries':>8}{'s':>8}{'ms/query':>10}{'× loop':>8}{'MiB':>8}{'agrees':>8}")
    loop_rate, truth = 0.0, plain_loop(query[:4], base)
    ways = {"gansmith": exact, "plain loop": plain_loop, "torch.cdist + topk": cdist}
    rows = {}
    for name, way in ways.items():
        forget_peak()
        before = memory("VmRSS")
        trial = seconds(lambda: way(query[:4], base)) / 4  # noqa: B023
        at_once = seconds(lambda: way(query[:512], base)) / 512 if way is not plain_loop else trial  # noqa: B023
        count = int(np.clip(budget / at_once, 4, len(query)))
        found: list[np.ndarray] = []
        took = seconds(lambda: found.append(way(query[:count], base)))  # noqa: B023
        grown = (memory("VmHWM") - before) / 1024
        agrees = (found[0][:4] == truth).mean()
        rows[name] = (count, took, grown, agrees)
        if way is plain_loop:
            loop_rate = took / count
    for name, (count, took, grown, agrees) in rows.items():
        each = took / count
        print(
            f"  {name:<22}{count:>8}{took:>8.1f}{each * 1e3:>10.2f}{loop_rate / each:>8.1f}{grown:>8.0f}"
            f"{agrees:>8.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000, help="fakes and reals (default 10000)")
    parser.add_argument("--dim", type=int, default=1280, help="features per image (default 1280)")
    parser.add_argument(
        "--base", type=int, default=50_000, help="rows searched for neighbours (default 50000)"
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="about, for each way to search (default 20)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; numpy's: OMP_NUM_THREADS (default 1)"
    )
    parser.add_argument("--only", choices=["cost", "neighbours"], help="one of the two tables")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # few images for the features: times are all that is wanted
    if args.only != "neighbours":
        cost_table(args.images, args.dim)
    if args.only != "cost":
        neighbour_table(args.base, args.dim, args.seconds)


if __name__ == "__main__":
    main()
