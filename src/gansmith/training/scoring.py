"""Scores during training: what is needed is found before the first step; then snapshots are scored, and the
best is kept.

An evaluation sees the snapshot's file, never the networks that train. If one fails, training goes on.
"""

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gansmith.config import Config, images
from gansmith.data.shards import Dataset
from gansmith.errors import Stopped, UserError
from gansmith.evaluation import best, pictures, reals, targets
from gansmith.evaluation import metrics as table
from gansmith.evaluation.evaluate import Evaluation, Manner, open_networks, prepare
from gansmith.evaluation.features import FeatureNetwork
from gansmith.evaluation.protocol import Result
from gansmith.training import checkpoint as checkpoints
from gansmith.training.distributed import World

if TYPE_CHECKING:
    from gansmith.training.loop import Run


@dataclass
class Scoring:
    """What `eval.*` asks for, checked. dataset: None is the run's own."""

    metrics: list[str]
    networks: list[FeatureNetwork]
    num: int
    best_by: str
    dataset: Dataset | None
    evaluation: Evaluation | None = None
    noted: set[str] = field(default_factory=set)


def ready(config: Config, world: World, dry_run: bool = False) -> Scoring | None:
    """Opens the feature network and the reals before anything is trained; None where nothing is to be scored.

    dry_run: leaves reals alone, as they might have to be prepared. Raises UserError for whatever would make
    every evaluation fail.
    """
    wanted = config.eval
    if wanted.every is None:
        return None
    metrics = table.find(wanted.metrics, "eval.metrics")
    networks = open_networks(wanted.features, weights=wanted.weights, device=world.device)
    num = images(wanted.num, 1)
    have = {"labels"} if config.model.conditional else set()
    have |= {"logits"} if all(network.num_logits for network in networks) else set()
    for name in metrics:
        if why := table.lacking(name, have, num, num):
            raise UserError(f"eval.metrics: {name} cannot be computed: {why}.")
    first = table.METRICS[metrics[0]].yields[0]
    best_by = table.product(wanted.best_by or first, metrics, "eval.best_by")
    dataset = None
    if wanted.data is not None and not dry_run:
        side = config.model.resolution
        shape = (config.model.channels, side, side)
        dataset = reals.open_at(wanted.data, shape, "the run", {}, aloud=world.is_main)
    return Scoring(metrics, networks, num, best_by, dataset)


def score(run: "Run", images_seen: int) -> list[Result] | None:
    """Scores the snapshot of this moment, on all ranks; leaves a row in metrics.jsonl, a line, and `best`.

    Returns what it found, None where it found nothing.
    """
    scoring, name = run.scores, checkpoints.name(images_seen, run.lineage.number)
    file = best.snapshot_file(run.out, name)
    if scoring is None or not run.world.share(file.is_file()):
        return None  # that it could not be written was said
    began = time.monotonic()
    try:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            results = _opened(run, scoring, file).run()
    except Stopped:
        run.log.say(f"evaluation of {name}: stopped, as the run is to stop")
        return None
    except Exception as error:  # a score is worth less than the run
        run.log.warn(f"evaluation of {name} failed ({error or type(error).__name__}); training goes on")
        return None
    for text in {str(each.message) for each in noted} - scoring.noted:
        scoring.noted.add(text)
        run.log.say(f"note: {text}")
    if run.world.is_main:
        _tell(run, scoring, file, results, time.monotonic() - began)
    return results


def _opened(run: "Run", scoring: Scoring, file: Path) -> Evaluation:
    """The evaluation of this file, on all ranks or on none."""
    trouble = None
    try:
        if scoring.evaluation is not None:
            scoring.evaluation = scoring.evaluation.retargeted(file)
        else:
            scoring.evaluation = prepare(
                file,
                scoring.dataset or (run.dataset if _fits(run) else None),
                metrics=scoring.metrics,
                features=scoring.networks,
                num=scoring.num,
                manner=Manner(run.world, run.log.say, False, run.stop.asked, run.out / "evaluation"),
            )
    except Exception as error:
        trouble = error
    if run.world.any(trouble is not None):
        raise trouble or UserError("another process could not open it")
    assert scoring.evaluation is not None
    return scoring.evaluation


def _fits(run: "Run") -> bool:
    """Whether the run's data are its reals as they are: a set for random crops is larger than G's images."""
    model = run.config.model
    found = (run.dataset.channels, *run.dataset.resolution)
    return found == (model.channels, model.resolution, model.resolution)


def _tell(run: "Run", scoring: Scoring, file: Path, results: list[Result], seconds: float) -> None:
    run.log.event("evaluation", **targets.row(file, results, seconds))
    scores = "  ".join(f"{r.name} {'not finite' if r.value is None else f'{r.value:.4g}'}" for r in results)
    run.log.say(f"evaluation of {file.stem}: {scores}  ({seconds:.0f} s)")
    try:
        if said := best.update(run.out, scoring.best_by):
            run.log.say(said)
        pictures.prune(run.out)
    except OSError as error:
        run.log.warn(f"{run.out / 'best'} or pictures could not be changed ({error}); training goes on")
