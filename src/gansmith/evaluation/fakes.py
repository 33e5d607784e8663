"""One pass over a target's images: made once, seen by every feature network, shared by all ranks.

Must not know scores.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gansmith.data.progress import Progress
from gansmith.data.shards import ClassInfo
from gansmith.errors import Stopped, UserError
from gansmith.evaluation.duplicates import DIGEST, digests_of
from gansmith.evaluation.features import FeatureNetwork
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.indexed import as_small, small_shape
from gansmith.evaluation.ranks import Ranks, complete
from gansmith.evaluation.targets import Target


@dataclass(frozen=True)
class Fakes:
    """Of n images in their order: features, a set per network; digests, uint8 (n, 16), of their pixels;
    small, uint8 (n, C, H, W), as a classifier sees them, where asked for.
    """

    features: list[FeatureSet]
    digests: np.ndarray
    small: np.ndarray | None


def fake_features(
    target: Target,
    networks: Sequence[FeatureNetwork],
    num: int,
    seed: int,
    ranks: Ranks,
    *,
    classes: Sequence[ClassInfo],
    stop: Callable[[], bool] = lambda: False,
    show: bool = False,
    keep: bool = False,
) -> Fakes:
    """What scores need of the `num` images of `seed`, each made once; complete on every rank.

    Rank r makes the chunks r, r + size, …, so any number of ranks computes the same bits. stop: asked before
    every round; then Stopped is raised, on all ranks. keep: the images too. What goes wrong on one rank ends
    all.
    """
    size, count = target.chunk_size, target.num_chunks(num)
    arrays = [
        (np.zeros((num, net.dim), np.float32), np.zeros((num, net.num_logits or 0), np.float32))
        for net in networks
    ]
    labels, labelled = np.zeros(num, np.int64), False
    digests = np.zeros((num, DIGEST), np.uint8)
    small = np.zeros((num, *small_shape(target.shape)), np.uint8) if keep else None
    trouble: Exception | None = None
    progress = Progress("fakes", num, shown=show and ranks.is_main)
    try:
        for first in range(0, count + ranks.size, ranks.size):  # the last round only hears of trouble
            if ranks.any(trouble is not None or stop()):
                if ranks.any(trouble is not None):
                    raise trouble or UserError("another process could not score its images; it says why.")
                raise Stopped(
                    "stopped before all images were made; the reals stay known, the same command starts again"
                )
            if (index := first + ranks.rank) >= count:
                continue
            try:
                chunk = target.chunk(index, seed=seed, num=num)
                here = slice(index * size, index * size + len(chunk.images))
                for network, (features, logits) in zip(networks, arrays):
                    found = network(chunk.images)
                    features[here] = found.features.numpy()
                    if found.logits is not None:
                        logits[here] = found.logits.numpy()
                pixels = chunk.images.cpu()
                digests[here] = digests_of(pixels.numpy())
                if small is not None:
                    small[here] = as_small(pixels).numpy()
                if chunk.labels is not None:
                    labels[here], labelled = chunk.labels.cpu().numpy(), True
            except Exception as error:
                trouble = error
            progress.advance(min(size * ranks.size, max(num - first * size, 0)))
    finally:
        progress.close()
    labelled = ranks.any(labelled)
    for features, logits in arrays:
        complete(features, ranks)
        complete(logits, ranks)
    for rows in (labels, digests) if small is None else (labels, digests, small):
        complete(rows, ranks)
    sets = [
        _feature_set(network, *found, labels if labelled else None, classes)
        for network, found in zip(networks, arrays)
    ]
    return Fakes(sets, digests, small)


def _feature_set(
    network: FeatureNetwork,
    features: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray | None,
    classes: Sequence[ClassInfo],
) -> FeatureSet:
    known = [] if labels is None else [info.name for info in classes]
    return FeatureSet(
        features=features,
        logits=logits if network.num_logits else None,
        labels=labels,
        num_classes=len(known),
        class_names=known,
    )
