"""How many images fine-tuning saves: the digits 5 to 9, from scratch and from a network that draws 0 to 4.

    python benchmarks/finetune.py --out runs/finetune

Per seed one run from scratch, and one with --init-from of half as many images, both of the recipe `digits`.
Every snapshot is scored with 200 images per class: the Fréchet distance of 8×8 pixels to all real digits of
these classes, the share that a support vector machine reads as asked, and the variance within a class over
the real one. The mark is the distance that training from scratch reaches at its end. Results go to
OUT/results.json and as tables to the terminal. Runs that are there already are gone on with, and only scored
where they are finished.
"""

import argparse
import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import gansmith
from gansmith import config
from gansmith.data import open_dataset
from gansmith.training.run import train

OLD, NEW = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
PER_CLASS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--source-images", type=int, default=24_000, help="how long the source trains")
    parser.add_argument("--images", type=int, default=12_288, help="how long a run from scratch trains")
    parser.add_argument("--every", type=int, default=1_536, help="images between two scores")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the fine-tuned runs, PATH=VALUE")
    options = parser.parse_args()
    torch.set_num_threads(1)

    data = {
        name: export(options.out / "data" / name, digits) for name, digits in (("0-4", OLD), ("5-9", NEW))
    }
    source = run(options.out / "source", data["0-4"], 100, options.source_images, options.source_images)
    judge = Judge()
    curves: dict[str, dict[int, list[dict[str, float]]]] = {}
    for seed in options.seeds:
        # Each new digit starts as some old one.
        classes = {str(new): str(old) for new, old in zip(NEW, OLD)}
        tuned = {"init.source": str(source.resolve()), "init.map": classes} | config.parse_overrides(
            tuple(options.set)
        )
        for kind, duration, settings in (
            ("scratch", options.images, {}),
            ("finetuned", options.images // 2, tuned),
        ):
            folder = options.out / f"{kind}-{seed}"
            run(folder, data["5-9"], seed, duration, options.every, settings)
            curves.setdefault(kind, {})[seed] = [
                {"images": int(file.stem)} | judge(file)
                for file in sorted(folder.glob("snapshots/*.safetensors"))
            ]
    (options.out / "results.json").write_text(json.dumps(curves, indent=1))
    report(curves)


def export(folder: Path, digits: tuple[int, ...]) -> Path:
    """The built-in digits of some classes as a folder of 32 px images per class."""
    if not folder.exists():
        dataset = open_dataset("builtin:digits", resolution=32, channels=1)
        images = dataset.read(np.arange(len(dataset)))
        for index, (pixels, label) in enumerate(zip(images, dataset.labels)):
            if label in digits and not (folder / str(label) / f"{index:04}.png").exists():
                (folder / str(label)).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[..., 0]).save(folder / str(label) / f"{index:04}.png")
    return folder


def run(
    out: Path, data: Path, seed: int, duration: int, every: int, settings: dict[str, Any] | None = None
) -> Path:
    common = {
        "train.seed": seed,
        "train.duration": duration,
        "log.snapshot_every": every,
        "log.checkpoint_every": duration,
        "log.keep_snapshots": 100,
        "log.grid_columns": 4,
        "log.statistics_images": 512,
    }
    return train(str(data), "digits", out, settings=common | (settings or {}))


class Judge:
    """Scores snapshots against the real digits of the new classes."""

    def __init__(self) -> None:
        real, labels = load_digits(return_X_y=True)
        mine = np.isin(labels, NEW)
        self.real, self.labels = real[mine], labels[mine]
        self.classifier = SVC(gamma=0.001).fit(self.real[::2], self.labels[::2])

    def __call__(self, snapshot: Path) -> dict[str, float]:
        images = gansmith.load(snapshot).sample(PER_CLASS)
        blocks = images[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4))
        fake = blocks.reshape(len(images), 64) / 255 * 16
        asked = np.repeat(NEW, PER_CLASS)
        return {
            "frechet": frechet(fake, self.real),
            "accuracy": float((self.classifier.predict(fake) == asked).mean()),
            "variance": within(fake, asked) / within(self.real, self.labels),
        }


def within(images: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([images[labels == label].var(0).sum() for label in np.unique(labels)]))


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2(Σ_a^½ Σ_b Σ_a^½)^½)"""
    root = _root(np.cov(a.T))
    cross = np.linalg.eigvalsh(root @ np.cov(b.T) @ root).clip(0)
    return float(
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + np.trace(np.cov(a.T))
        + np.trace(np.cov(b.T))
        - 2 * np.sqrt(cross).sum()
    )


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def report(curves: dict[str, dict[int, list[dict[str, float]]]]) -> None:
    """Two tables: the scores over images, and the images to the mark."""
    for seed, scratch in curves["scratch"].items():
        tuned = curves["finetuned"][seed]
        print(
            f"\nseed {seed}\n| images | scratch: FD | accuracy | variance | tuned: FD | accuracy | variance |"
        )
        print("|---:|---:|---:|---:|---:|---:|---:|")
        for one, two in zip_longest(scratch, tuned):
            cells = [
                f"{row['frechet']:.1f} | {row['accuracy']:.3f} | {row['variance']:.2f}"
                if row
                else "– | – | –"
                for row in (one, two)
            ]
            print(f"| {one['images']:,} | {cells[0]} | {cells[1]} |")
    print("\n| seed | mark (FD) | from scratch | fine-tuned | share |\n|---:|---:|---:|---:|---:|")
    for seed, scratch in curves["scratch"].items():
        mark = scratch[-1]["frechet"]
        reached = [
            next((row["images"] for row in rows if row["frechet"] <= mark), None)
            for rows in (scratch, curves["finetuned"][seed])
        ]
        share = f"{reached[1] / reached[0]:.2f}" if reached[0] and reached[1] else "not reached"
        print(f"| {seed} | {mark:.1f} | {reached[0]:,} | {reached[1] or '–'} | {share} |")


if __name__ == "__main__":
    main()
