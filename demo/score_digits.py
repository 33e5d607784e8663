"""What the demo's run has learned, in figures a person understands.

    python demo/score_digits.py RUN

A classifier of real handwritten digits (scikit-learn's support vector machine, on 8×8 pixels) reads 1,000
generated ones: the share it reads as the class that was asked for is the class-conditional accuracy. The
within-class variance against that of the real digits tells whether a class is more than one picture.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import gansmith
from gansmith.sampling import grids

PER_CLASS = 100


def main(run: str) -> int:
    """Prints the scores of a run and saves a grid; 0 if both reach the demo's marks, else 1."""
    images = gansmith.load(run).sample(PER_CLASS)
    judge = Judge()
    accuracy, ratio = judge.scores(images)

    picture = Path(run) / "digits.png"
    rows = images.reshape(10, PER_CLASS, *images.shape[1:])[:, :16].reshape(-1, *images.shape[1:])
    grids.tile(rows, 16, [str(digit) for digit in range(10)]).save(picture)

    print(f"classifier on held-out real digits      {judge.on_reals:.3f}")
    print(
        f"class-conditional accuracy              {accuracy:.3f}   of {len(images):,} generated (mark: 0.95)"
    )
    print(f"within-class variance, of the real one  {ratio:.2f}    (mark: 0.50)")
    print(f"look at {picture}")
    return 0 if accuracy >= 0.95 and ratio >= 0.5 else 1


class Judge:
    """The classifier and the real digits' variance. on_reals: its accuracy on digits it never saw."""

    def __init__(self) -> None:
        real, labels = load_digits(return_X_y=True)
        learn_x, held_x, learn_y, held_y = train_test_split(
            real, labels, test_size=0.25, random_state=0, stratify=labels
        )
        self.classifier = SVC(gamma=0.001).fit(learn_x, learn_y)
        self.on_reals = float(self.classifier.score(held_x, held_y))
        self.variance = within_class_variance(real, labels)

    def scores(self, images: np.ndarray) -> tuple[float, float]:
        """Accuracy, and variance within a class over that of the real ones, of uint8 (10·n, 32, 32, 1): n
        images of each digit, one digit after the other.
        """
        asked = np.arange(10).repeat(len(images) // 10)
        small = shrink(images)
        accuracy = float((self.classifier.predict(small) == asked).mean())
        return accuracy, within_class_variance(small, asked) / self.variance


def shrink(images: np.ndarray) -> np.ndarray:
    """uint8 (N, 32, 32, 1) → float (N, 64): means over 4×4 pixels, in the digits' own range 0 … 16."""
    blocks = images[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4))
    return blocks.reshape(len(images), 64) / 255 * 16


def within_class_variance(images: np.ndarray, labels: np.ndarray) -> float:
    """Mean over classes of the summed pixel variance within the class. images: (N, pixels)."""
    return float(np.mean([images[labels == label].var(0).sum() for label in np.unique(labels)]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python demo/score_digits.py RUN")
    sys.exit(main(sys.argv[1]))
