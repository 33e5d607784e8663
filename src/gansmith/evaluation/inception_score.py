"""The Inception score from any classifier's logits: exp E KL(p(y|x) ‖ p(y)).

Knows logits only. Which classifier made them, and which of its outputs count, is part of the protocol.
"""

from dataclasses import dataclass

import numpy as np

from gansmith.errors import UserError
from gansmith.evaluation.arrays import checked

# The FID Inception network has 1008 outputs, of which 1000 are trained. The original code takes the softmax
# of all 1008, others of the first 1000; the scores differ by about 1e-3.
INCEPTION_OUTPUTS = 1008


@dataclass(frozen=True)
class InceptionScore:
    value: float  # mean over the splits
    sd: float  # over the splits (population), as the original code prints it
    splits: int
    outputs: int  # logits that entered the softmax


def inception_score(
    logits: np.ndarray, *, splits: int = 10, outputs: int | None = None, seed: int = 0
) -> InceptionScore:
    """Mean and standard deviation over equal splits of the shuffled images (Salimans et al. 2016).

    logits: (n, K). outputs: the softmax is over the first `outputs` logits; None takes all. Shuffled, since
    a folder sorted by class would otherwise score each split's few classes. Raises UserError for fewer
    images than splits and for non-finite logits.
    """
    logits = checked(logits, "the fakes", splits)
    num = logits.shape[1] if outputs is None else outputs
    if not 2 <= num <= logits.shape[1]:
        raise UserError(
            f"an Inception score over {num} classes of a classifier with {logits.shape[1]} outputs is not "
            f"defined; choose 2 to {logits.shape[1]}, with a classifier of at least 2 classes."
        )
    order = np.random.default_rng(seed).permutation(len(logits))
    scores = [_score(logits[np.sort(part), :num]) for part in np.array_split(order, splits)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), splits, num)


def _score(logits: np.ndarray) -> float:
    log_p = logits.astype(np.float64)
    log_p -= log_p.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    log_marginal = np.log(p.mean(0).clip(min=np.finfo(np.float64).tiny))
    return float(np.exp((p * (log_p - log_marginal)).sum(1).mean()))
