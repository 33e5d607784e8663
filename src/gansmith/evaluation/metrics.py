"""Every score by its name: what it needs, what it yields, and how it is computed from the features.

The formulas are in the files around this one; here they meet the images of one pass. Must not know commands.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gansmith.errors import UserError
from gansmith.evaluation import (
    arrays,
    cas,
    classifier,
    critic,
    duplicates,
    frechet,
    inception_score,
    indexed,
    kernel,
    leakage,
    linear,
    manifold,
    memorisation,
    per_class,
)
from gansmith.evaluation.protocol import Score
from gansmith.evaluation.subjects import K_BALL, K_DENSITY, Subjects

JUDGED = 10_000  # reals of either kind shown to D, at most


def _frechet(s: Subjects) -> list[Score]:
    sides = ("the fakes", "the reals")
    value = frechet.frechet_distance(s.moments, s.reference.moments, root=s.reference.root, names=sides)
    name = "FID" if s.network.frechet_name == "FID" else "FD"
    return [s.score("frechet", value, "lower", name=name)]


def _frechet_infinity(s: Subjects) -> list[Score]:
    found = frechet.frechet_infinity(s.fake.features, s.reference.moments, s.seed, root=s.reference.root)
    name = "FID∞" if s.network.frechet_name == "FID" else "FD∞"
    details = {
        "error": found.standard_error,
        "r2": found.r2,
        "sizes": found.sizes,
        "distances": found.distances,
    }
    return [s.score("frechet-infinity", found.value, "lower", name=name, details=details)]


def _kid(s: Subjects) -> list[Score]:
    found = kernel.kid(s.real.features, s.fake.features, seed=s.seed)
    settings = {"subsets": found.num_subsets, "subset_size": found.subset_size}
    details = {"error": found.standard_error, "sd_of_subsets": found.sd}
    name = "KID" if s.network.frechet_name == "FID" else "KD"
    return [s.score("kid", found.value, "lower", name=name, settings=settings, details=details)]


def _inception_score(s: Subjects) -> list[Score]:
    assert s.fake.logits is not None
    found = inception_score.inception_score(s.fake.logits, seed=s.seed)
    settings = {"splits": found.splits, "outputs": found.outputs}
    return [s.score("is", found.value, "higher", name="IS", settings=settings, details={"error": found.sd})]


def _precision_recall(s: Subjects) -> list[Score]:
    k = {"k": K_BALL}
    return [
        s.score("precision", s.manifold.precision, "higher", settings=k),
        s.score("recall", s.manifold.recall, "higher", settings=k),
    ]


def _density_coverage(s: Subjects) -> list[Score]:
    k = {"k": K_DENSITY}
    expected = manifold.expected_coverage(len(s.real), len(s.fake), K_DENSITY)
    return [
        s.score("density", s.manifold.density, "higher", settings=k),
        s.score("coverage", s.manifold.coverage, "higher", settings=k, details={"expected": expected}),
    ]


def _per_class(s: Subjects) -> list[Score]:
    distance = per_class.per_class_frechet(s.real, s.fake)
    diversity = per_class.per_class_diversity(s.real, s.fake, seed=s.seed)
    ratio = diversity.distance_ratio
    names = s.real.class_names
    rows = [
        {
            "class": names[label],
            "frechet": distance.distances[label],
            "diversity": ratio[label],
            "rank_ratio": diversity.rank_ratio[label],
            "n_real": distance.num_real[label],
            "n_fake": distance.num_fake[label],
        }
        for label in range(len(names))
    ]
    worst = [names[label] for label in distance.worst]
    details = {"classes": rows, "worst": worst, "warnings": distance.warnings}
    least = [names[label] for label in diversity.worst]
    name = "FID-per-class" if s.network.frechet_name == "FID" else "FD-per-class"
    return [
        s.score("per-class-frechet", distance.mean, "lower", name=name, details=details),
        s.score(
            "per-class-diversity",
            float(np.nanmean(ratio)),
            "higher",
            name="diversity-per-class",
            details={"worst": least, "least": float(np.nanmin(ratio))},
        ),
    ]


def _leakage(s: Subjects) -> list[Score]:
    """By the network's own classifier where that knows these classes, else by one fitted to half of the
    reals; the other half tells how often it errs without a generator.
    """
    real, fake = s.real, s.fake
    assert real.labels is not None
    assert fake.labels is not None
    if s.network.class_names == real.class_names and fake.logits is not None and real.logits is not None:
        by, logits, real_logits, real_labels = "feature network", fake.logits, real.logits, real.labels
    else:
        by = "ridge regression on half of the reals"
        half, rest = classifier.held_out_split(real.labels, 0, share=0.5)  # of every class
        fitted = linear.fit(real.features[half], real.labels[half], len(real.class_names))
        logits, real_logits = fitted.logits(fake.features), fitted.logits(real.features[rest])
        real_labels = real.labels[rest]
    found = leakage.class_leakage(logits, fake.labels, real_logits=real_logits, real_labels=real_labels)
    names = real.class_names
    details: dict[str, Any] = {
        "real_accuracy": found.real_accuracy,
        "class_accuracy": dict(zip(names, found.class_accuracy.tolist())),
        "pairs": [
            {
                "asked": names[pair.asked],
                "seen": names[pair.seen],
                "count": pair.count,
                "rate": pair.rate,
                "real_rate": pair.real_rate,
            }
            for pair in found.pairs
        ],
    }
    if len(names) <= 100:
        details["confusion"] = found.confusion
    if s.images.pictures:
        details["picture"] = s.images.pictures.leakage(found.pairs, names, s.network.name)
    return [
        s.score("class-accuracy", found.accuracy, "higher", settings={"classifier": by}, details=details),
    ]


def _duplicates(s: Subjects) -> list[Score]:
    found = duplicates.near_duplicates(
        s.real.features,
        s.fake.features,
        seed=s.seed,
        device=s.network.device,
        real_neighbours=s.reference.neighbours if len(s.real) <= len(s.fake) else None,
        fake_neighbours=s.neighbours,
    )
    details = {
        "of_reals": found.real_rate,
        "exact": duplicates.exact_duplicate_rate(s.images.digests),
        "distance_ratio": found.distance_ratio,
    }
    settings = {"near": duplicates.NEAR}
    return [s.score("duplicates", found.rate, "lower", settings=settings, details=details)]


def _memorisation(s: Subjects) -> list[Score]:
    held_out = s.reference.held_out.features if s.reference.held_out is not None else None
    found = memorisation.memorisation(
        s.real.features,
        s.fake.features,
        held_out,
        device=s.network.device,
        train_neighbours=s.reference.neighbours,
    )
    details: dict[str, Any] = {
        "z": found.z,
        "suspicious": found.suspicious,
        "authenticity": found.authenticity,
        "real_authenticity": found.real_authenticity,
        "median_ratio": found.median_ratio,
    }
    if s.images.pictures:
        details["picture"] = s.images.pictures.neighbours(found.neighbours, s.network.name)
    settings: dict[str, Any] = {"compared_with": found.compared_with, "num_compared": found.num_compared}
    if s.images.held_out:
        settings["held_out"] = s.images.held_out.content_hash
    return [s.score("memorisation", found.closer, "lower", settings=settings, details=details)]


def _cas(s: Subjects) -> list[Score]:
    """Tested on the held-out reals where there are any, else on those that the generator was trained on."""
    images, tests = s.images, s.images.held_out or s.images.dataset
    assert s.fake.labels is not None
    assert images.small is not None
    found = cas.classification_accuracy_score(
        images.small,
        s.fake.labels,
        indexed.Reals(tests, np.arange(len(tests))),
        tests.labels,
        s.real.num_classes,
        budget=images.cas,
        seed=s.seed,
        device=s.network.device,
    )
    budget = {"steps": found.steps} if images.cas.seconds is None else {"seconds": images.cas.seconds}
    settings = budget | {
        "tested_on": "held-out reals" if images.held_out else "the reals",
        "test": tests.content_hash,
    }
    details = {
        "per_class": dict(zip(s.real.class_names, found.accuracy.per_class.tolist())),
        "steps": found.steps,
    }
    return [Score("cas", "CAS", found.accuracy.value, "higher", settings=settings, details=details)]


def _d_gap(s: Subjects) -> list[Score]:
    images, reals = s.images, s.images.dataset
    assert images.held_out is not None
    assert images.discriminator is not None
    count = min(len(reals), len(images.held_out), len(s.fake), JUDGED)
    judged = [
        critic.logits(
            images.discriminator,
            of,
            arrays.some(len(of), count, s.seed),
            s.network.device,
            classes=images.target.classes,
        )
        for of in (reals, images.held_out)
    ]
    found = memorisation.discriminator_gap(*judged)
    details = {
        "train_accuracy": found.train_accuracy,
        "held_out_accuracy": found.held_out_accuracy,
        "auc": found.auc,
        "z": found.z,
    }
    settings = {"images": count, "held_out": images.held_out.content_hash}
    return [Score("d-gap", "D-gap", found.gap, "lower", settings=settings, details=details)]


@dataclass(frozen=True)
class Metric:
    """yields: metric names of its results. needs: logits | labels | held_out | discriminator. least: fakes
    and reals. usual: computed where nobody names metrics. once: not for every feature network.
    """

    compute: Callable[[Subjects], list[Score]]
    yields: tuple[str, ...]
    about: str
    needs: tuple[str, ...] = ()
    least: int = 2
    usual: bool = False
    once: bool = False


METRICS = {
    "frechet": Metric(_frechet, ("frechet",), "Fréchet distance: FID where the network is FID's", usual=True),
    "frechet-infinity": Metric(
        _frechet_infinity, ("frechet-infinity",), "the same, extrapolated to infinitely many fakes", least=20
    ),
    "kid": Metric(_kid, ("kid",), "kernel distance, unbiased, with its error", usual=True),
    "is": Metric(_inception_score, ("is",), "Inception score", ("logits",), least=10, usual=True),
    "precision-recall": Metric(
        _precision_recall,
        ("precision", "recall"),
        "improved precision and recall, k = 3",
        least=6,  # with density and coverage in one pass
        usual=True,
    ),
    "density-coverage": Metric(
        _density_coverage, ("density", "coverage"), "density and coverage, k = 5", least=6, usual=True
    ),
    "per-class": Metric(
        _per_class,
        ("per-class-frechet", "per-class-diversity"),
        "Fréchet distance and diversity of every class by itself",
        ("labels",),
    ),
    "leakage": Metric(
        _leakage, ("class-accuracy",), "classes that are drawn as others, as a picture too", ("labels",)
    ),
    "duplicates": Metric(_duplicates, ("duplicates",), "fakes that have a near twin", least=3),
    "memorisation": Metric(
        _memorisation, ("memorisation",), "fakes nearer to training images than new reals, as a picture too"
    ),
    "cas": Metric(
        _cas, ("cas",), "accuracy on reals of a classifier trained on the fakes", ("labels",), once=True
    ),
    "d-gap": Metric(
        _d_gap,
        ("d-gap",),
        "D's accuracy on training reals minus that on --held-out",
        ("held_out", "discriminator"),
        usual=True,
        once=True,
    ),
}
ALIASES = {
    "memorization": "memorisation", "fid": "frechet", "fd": "frechet", "inception-score": "is",
    "prdc": "precision-recall",
    **{product: name for name, metric in METRICS.items() for product in metric.yields},
}  # fmt: skip


def find(names: Sequence[str], setting: str = "--metrics") -> list[str]:
    """Keys of METRICS for what a user wrote, in the order of the table; a product stands for its metric,
    `all` for everything. setting: where it was written, for messages. Raises UserError with the nearest
    names.
    """
    chosen = set()
    for name in names:
        key = name.strip().lower().replace("_", "-")
        if key == "all":
            chosen |= set(METRICS)
            continue
        key = key if key in METRICS else ALIASES.get(key, key)
        if key not in METRICS:
            near = difflib.get_close_matches(key, [*METRICS, *ALIASES], 3, 0.5)
            hint = f"did you mean {', '.join(near)}? There" if near else "there"
            raise UserError(f"{setting} {name!r} is unknown; {hint} are: {', '.join(METRICS)}.")
        chosen.add(key)
    return [name for name in METRICS if name in chosen]


def usual() -> list[str]:
    """What is computed where nobody names metrics."""
    return [name for name, metric in METRICS.items() if metric.usual]


def product(name: str, among: list[str] | None = None, setting: str = "--best-by") -> str:
    """The result that a user means with one name (`recall`, `fid`): of a metric with several, its first one.

    among: keys of METRICS it must come from, None for any. setting: as of `find`. Raises UserError.
    """
    metric = find([name], setting)[0]
    if among is not None and metric not in among:
        raise UserError(f"{setting} {name}: it is not computed; add it to the metrics ({', '.join(among)}).")
    key = name.strip().lower().replace("_", "-")
    yields = METRICS[metric].yields
    return key if key in yields else yields[0]


LACKING = {
    "logits": "the feature network has no classifier: use inception, effnet-lite0 or classifier:FILE",
    "labels": "it needs two classes or more, the same ones in the images and in --data",
    "held_out": "it needs real images that were not trained on: --held-out PATH",
    "discriminator": "it needs D: score a checkpoint, or snapshots made with --set log.snapshot_d=true",
}


def lacking(name: str, have: set[str], num_fake: int, num_real: int) -> str | None:
    """Why a score cannot be had, or None. have: keys of LACKING."""
    metric = METRICS[name]
    for need in metric.needs:
        if need not in have:
            return LACKING[need]
    if min(num_fake, num_real) < metric.least:
        return f"it needs at least {metric.least} images of either kind, not {min(num_fake, num_real)}"
    return None
