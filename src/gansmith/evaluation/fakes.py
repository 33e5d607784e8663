"""One pass over a target's images: made once, seen by every feature network, shared by all ranks.

Must not know scores.
"""

from collections.abc import Callable, Sequence

import numpy as np

from gansmith.data.progress import Progress
from gansmith.data.shards import ClassInfo
from gansmith.errors import Stopped
from gansmith.evaluation.features import FeatureNetwork
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.ranks import Ranks, complete
from gansmith.evaluation.targets import Target


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
) -> list[FeatureSet]:
    """The features of `num` images of `seed` in their order, a set per network, complete on every rank.

    Rank r makes the chunks r, r + size, …, so any number of ranks computes the same bits. stop: asked before
    every round; then Stopped is raised, on all ranks. What goes wrong on one rank ends all.
    """
    size, count = target.chunk_size, target.num_chunks(num)
    arrays = [
        (np.zeros((num, net.dim), np.float32), np.zeros((num, net.num_logits or 0), np.float32))
        for net in networks
    ]
    labels, labelled = np.zeros(num, np.int64), False
    trouble: Exception | None = None
    progress = Progress("fakes", num, shown=show and ranks.is_main)
    try:
        for first in range(0, count + ranks.size, ranks.size):  # the last round only hears of trouble
            if ranks.any(trouble is not None or stop()):
                raise trouble or Stopped(
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
                if chunk.labels is not None:
                    labels[here], labelled = chunk.labels.cpu().numpy(), True
            except Exception as error:
                trouble = error
            progress.advance(min(size * ranks.size, max(num - first * size, 0)))
    finally:
        progress.close()
    labelled = ranks.any(labelled)
    complete(labels, ranks)
    for features, logits in arrays:
        complete(features, ranks)
        complete(logits, ranks)
    return [
        FeatureSet(
            features=features,
            logits=logits if network.num_logits else None,
            labels=labels if labelled else None,
            num_classes=len(classes) if labelled else 0,
            class_names=[info.name for info in classes] if labelled else [],
        )
        for network, (features, logits) in zip(networks, arrays)
    ]
