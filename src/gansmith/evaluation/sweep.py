"""The trade of variety for quality: scores over truncation thresholds, as a curve, a table and three points.

The points are the paper's (BigGAN, section 3.1 and table 1): the best Fréchet distance, the distance where
the Inception score reaches that of real data, and the distance at the best Inception score. A network without
logits gives precision and recall instead.
"""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gansmith import files
from gansmith.errors import UserError
from gansmith.evaluation import arrays, inception_score
from gansmith.evaluation import metrics as table
from gansmith.evaluation.evaluate import Evaluation
from gansmith.evaluation.protocol import Result
from gansmith.evaluation.targets import NetworkTarget
from gansmith.sampling import latents

THRESHOLDS = (None, 2.0, 1.5, 1.2, 1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2)
AXES = {"is": "Inception score", "precision": "precision"}


@dataclass(frozen=True)
class Point:
    """A place on the curve. truncation: None is no truncation. name: of one of the three points, else ""."""

    truncation: float | None
    scores: dict[str, float]
    name: str = ""
    results: tuple[Result, ...] = ()


@dataclass(frozen=True)
class Curve:
    """points: in the order of the thresholds. chosen: the paper's three, as far as the curve reaches them.
    real: Inception score of real images, None without logits.
    """

    points: list[Point]
    chosen: list[Point]
    real: float | None
    titles: dict[str, str]  # metric → printed name
    kind: str


def metrics(evaluation: Evaluation) -> list[str]:
    """What a sweep computes with these networks."""
    logits = all(network.num_logits for network in evaluation.networks)
    return ["frechet", "is", "precision-recall"] if logits else ["frechet", "precision-recall"]


def sweep(
    evaluation: Evaluation,
    thresholds: Sequence[float | None] = THRESHOLDS,
    kind: str = "resample",
    seed: int = 0,
    arrived: Callable[[Point], None] = lambda point: None,
) -> Curve:
    """Scores the evaluation's network at every threshold, with standing statistics of that threshold.

    arrived: told every point when it is known. Raises UserError for images instead of a network.
    """
    target = evaluation.target
    if not isinstance(target, NetworkTarget):
        raise UserError(f"{target.path} holds images; a truncation sweep needs the network that drew them.")
    for threshold in thresholds:
        if threshold is not None:
            latents.check_truncation(threshold, kind, target.sampler.info["latent"])
    evaluation.metrics = metrics(evaluation)
    for name in evaluation.metrics:
        if why := table.lacking(name, {"logits"}, evaluation.num, evaluation.num_real):
            raise UserError(f"eval truncation: {name} cannot be computed: {why}.")
    points: list[Point] = []
    titles: dict[str, str] = {}
    for threshold in thresholds:
        target.truncate(threshold, kind)
        results = evaluation.run(seed)
        titles |= {result.metric: result.name for result in results}
        scores = {r.metric: float("nan") if r.value is None else r.value for r in results}
        points.append(Point(threshold, scores, results=tuple(results)))
        arrived(points[-1])
    real = _of_reals(evaluation)
    return Curve(points, three_points(points, real), real, titles, kind)


def _of_reals(evaluation: Evaluation) -> float | None:
    """Inception score of as many reals: the held-out ones where there are any."""
    if not evaluation.references:
        return None
    reference = evaluation.references[0]
    features = reference.held_out or reference.features
    if features.logits is None:
        return None
    rows = arrays.some(len(features), evaluation.num, 0)  # the first ones may be all of one class
    return inception_score.inception_score(features.logits[rows]).value


def three_points(points: Sequence[Point], real: float | None) -> list[Point]:
    """Best Fréchet distance; at the Inception score of real images (between two thresholds: interpolated); at
    the best Inception score. Without Inception scores: at the best precision, at the best recall.
    """

    def best(metric: str, sign: int, name: str) -> Point:
        finite = [point for point in points if math.isfinite(point.scores[metric])] or points
        chosen = min(finite, key=lambda point: sign * point.scores[metric])
        return Point(chosen.truncation, chosen.scores, name)

    found = [best("frechet", 1, "best Fréchet distance")]
    if "is" not in points[0].scores:
        return [*found, best("precision", -1, "best precision"), best("recall", -1, "best recall")]
    if real is not None and (crossing := _crossing(points, real)):
        found.append(crossing)
    return [*found, best("is", -1, "best Inception score")]


def _crossing(points: Sequence[Point], real: float) -> Point | None:
    """Where the curve reaches the Inception score of real images; None where it stays on one side."""
    for one, other in pairwise(points):
        low, high = one.scores["is"], other.scores["is"]
        if min(low, high) <= real <= max(low, high):
            share = (real - low) / (high - low) if high != low else 0.0
            scores = {
                name: one.scores[name] + share * (other.scores[name] - one.scores[name])
                for name in one.scores
            }
            nearer = one if share < 0.5 else other
            return Point(nearer.truncation, scores, "Inception score of real images")
    return None


def write_csv(path: Path, curve: Curve) -> None:
    """A row per threshold, then one per chosen point (its threshold is the nearest one computed)."""
    names = list(curve.points[0].scores)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["point", "truncation", "kind", *names, "protocol"])
        for point in (*curve.points, *curve.chosen):
            identity = point.results[0].protocol_id if point.results else ""
            shown = "none" if point.truncation is None else point.truncation
            writer.writerow(
                [point.name, shown, curve.kind, *(point.scores[name] for name in names), identity]
            )


def write_png(path: Path, curve: Curve, title: str) -> None:
    """The curve for people. Raises UserError without matplotlib."""
    plt = plotting()
    across, up = ("is", "frechet") if "is" in curve.titles else ("recall", "precision")
    figure, axes = plt.subplots(figsize=(7, 5), dpi=120, layout="constrained")
    axes.plot([p.scores[across] for p in curve.points], [p.scores[up] for p in curve.points], "-o", ms=4)
    for point in curve.points:
        text = "none" if point.truncation is None else f"{point.truncation:g}"
        place = (point.scores[across], point.scores[up])
        axes.annotate(text, place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    for point in curve.chosen:
        axes.plot(point.scores[across], point.scores[up], "o", ms=11, mfc="none", mew=1.5, label=point.name)
    if curve.real is not None and across == "is":
        axes.axvline(curve.real, ls=":", color="grey", label="real images")
    axes.set(xlabel=curve.titles[across], ylabel=curve.titles[up], title=title)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    plt.close(figure)


def plotting() -> Any:
    """matplotlib, drawing into files. Raises UserError where it is missing: ask before the work."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "figures need matplotlib, the extra `plots`: pip install -e '.[plots]' in the repository."
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
