"""Which score notices what: generators broken on purpose, scored side by side.

    python benchmarks/broken_generators.py RUN --data TRAIN --held-out TEST [--num 5000] [--num-real 10000]

RUN's own images are damaged as training goes wrong: all the same image, one class collapsed onto one
image, copies of training images in place of new ones, labels that belong to other classes. Reals that nobody
trained on are the upper bound. A score notices a fault where it changes clearly against the run as it is.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import gansmith
from gansmith.evaluation.evaluate import Manner
from gansmith.evaluation.reference import chosen

METRICS = (
    "frechet", "kid", "is", "precision-recall", "density-coverage", "per-class", "leakage", "duplicates",
    "memorisation",
)  # fmt: skip


def spread(rows: np.ndarray, labels: np.ndarray, num: int) -> np.ndarray:
    """`num` of the rows, every class equally often, in random order."""
    random = np.random.default_rng(0)
    classes = np.unique(labels)
    own = [rows[labels[rows] == c] for c in classes]
    return random.permutation(np.concatenate([random.choice(r, num // len(classes), False) for r in own]))


def faults(run: str, train, test, num: int, num_real: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name → (images, labels), `num` of each."""
    classes = len(train.classes)
    per_class = num // classes
    healthy = gansmith.load(run).sample(per_class, micro_batch=64)
    labels = np.repeat(np.arange(classes), per_class)
    real = spread(np.arange(len(test)), test.labels, num)
    # A copy is only found among the reals that are looked at.
    copies = spread(chosen(train, num_real), train.labels, num)

    collapsed = healthy.copy()
    collapsed[labels == 0] = healthy[0]
    half = np.arange(len(labels)) % 2 == 0
    memorised = np.where(half[:, None, None, None], train.read(copies), healthy)
    return {
        "the run as it is": (healthy, labels),
        "reals nobody trained on": (test.read(real), test.labels[real]),
        "one image for all": (np.broadcast_to(healthy[:1], healthy.shape), labels),
        "one class collapsed": (collapsed, labels),
        "half are training images": (memorised, np.where(half, train.labels[copies], labels)),
        "all are training images": (train.read(copies), train.labels[copies]),
        "labels of the next class": (healthy, (labels + 1) % classes),
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for fault, scores in rows.items():
        cells = [f"{scores[name]:.4g}" if name in scores else "–" for name in names]
        lines.append(f"| {fault} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--data", required=True, help="what the run was trained on, with classes")
    parser.add_argument("--held-out", required=True, help="reals of the same classes, not trained on")
    parser.add_argument("--features", default="effnet-lite0")
    parser.add_argument("--num", type=int, default=5000)
    parser.add_argument("--num-real", type=int, default=10000)
    arguments = parser.parse_args()

    resolution = gansmith.load(arguments.run).image_shape[0]
    train = gansmith.open_dataset(arguments.data, resolution=resolution)
    test = gansmith.open_dataset(arguments.held_out, resolution=resolution)
    made = faults(arguments.run, train, test, arguments.num, arguments.num_real)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (images, labels) in made.items():
            path = Path(folder) / f"{name.replace(' ', '-')}.npz"
            np.savez(path, images=images, labels=labels)
            results = gansmith.evaluate(
                path,
                train,
                metrics=METRICS,
                features=arguments.features,
                num_real=arguments.num_real,
                held_out=arguments.held_out,
                manner=Manner(say=print),
            )
            rows[name] = {result.metric: result.value for result in results if result.value is not None}
            copied = [result.details for result in results if result.metric == "memorisation"]
            rows[name]["suspicious"] = copied[0]["suspicious"]
            path.unlink()
            print(table({name: rows[name]}), flush=True)
    print(f"\n{arguments.num:,} images against {arguments.num_real:,} reals, {arguments.features}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
