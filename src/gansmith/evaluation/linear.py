"""A classifier of the real classes from any features: ridge regression onto one-hot labels, in closed form.

For leakage where the feature network itself does not know the classes. Knows arrays only.
"""

from dataclasses import dataclass

import numpy as np

from gansmith.evaluation.arrays import checked, chunks

RIDGE = 1e-2  # of the mean eigenvalue: keeps directions that few images span from deciding


@dataclass(frozen=True)
class Linear:
    """logits = (x − mean) @ weights + bias, float64."""

    mean: np.ndarray  # (dim,)
    weights: np.ndarray  # (dim, K)
    bias: np.ndarray  # (K,)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, dim) → float32 (n, K)"""
        parts = [
            (part.astype(np.float64) - self.mean) @ self.weights + self.bias for part in chunks(features)
        ]
        return np.concatenate(parts).astype(np.float32)


def fit(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Linear:
    """Least squares with every class weighing the same. Deterministic; the sums are float64.

    features: (n, dim). labels: int64 (n,) below num_classes. Raises UserError for non-finite features.
    """
    features = checked(features, "the reals")
    counts = np.bincount(labels, minlength=num_classes)
    weight = 1 / counts[labels]
    total = weight.sum()
    mean = sum(w @ part.astype(np.float64) for part, w in zip(chunks(features), chunks(weight))) / total
    dim = features.shape[1]
    gram, cross = np.zeros((dim, dim)), np.zeros((dim, num_classes))
    bias = np.where(counts > 0, 1.0, 0.0) / (counts > 0).sum()
    for part, w, y in zip(chunks(features), chunks(weight), chunks(labels)):
        centred = part.astype(np.float64) - mean
        gram += (centred * w[:, None]).T @ centred
        target = np.eye(num_classes)[y] - bias
        cross += (centred * w[:, None]).T @ target
    gram[np.diag_indices(dim)] += RIDGE * np.trace(gram) / dim + np.finfo(np.float64).tiny
    return Linear(np.asarray(mean), np.linalg.solve(gram, cross), bias)
