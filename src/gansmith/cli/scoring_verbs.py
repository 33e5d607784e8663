"""The verbs of `gansmith eval` beside scoring one target: compare, truncation, watch, train-classifier."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gansmith.cli.sample import parse_thresholds
from gansmith.cli.scoring import (
    aligned,
    check_out,
    metrics_option,
    prepare,
    record,
    repeats_option,
    scoring_options,
    show,
    truncation_kind_option,
    working,
)
from gansmith.errors import Stopped, TooFewClasses, UserError

if TYPE_CHECKING:
    from gansmith.evaluation.protocol import Result


@click.command()
@click.argument("results", nargs=-1, required=True, metavar="RESULT…")
def compare(results: tuple[str, ...]) -> None:
    """Put results side by side: JSON files of --out, or scored runs.

    Only scores of equal protocols are ranked; what differs is named.
    """
    from gansmith.evaluation import compare as comparing

    if len(results) < 2:
        raise UserError("eval compare: one result alone cannot be compared; give two or more.")
    rows = comparing.compare([comparing.load(path) for path in results], results)
    cells = [["score", *results, "better"]]
    for row in rows:
        values = [
            "–" if value is None else show(value) + (" *" if index == row.winner else "")
            for index, value in enumerate(row.values)
        ]
        cells.append([row.name, *values, row.better])
    click.echo(aligned(cells))
    for row in rows:
        click.echo(f"{row.name}: {row.verdict}")


@click.command()
@click.argument("run")
@scoring_options
@truncation_kind_option
@click.option(
    "--thresholds",
    default="none,2,1.5,1.2,1,0.8,0.6,0.5,0.4,0.3,0.2",
    show_default=True,
    help="Such as none,1,0.5.",
)
@click.option(
    "--out", type=click.Path(file_okay=False), help="Folder for the PNG and the CSV. [RUN/evaluation]"
)
def truncation(
    run: str, thresholds: str, truncation_kind: str, seed: int, out: str | None, **options: Any
) -> None:
    """Sweep the truncation of RUN: the FID–IS curve as PNG and CSV, with the paper's three points.

    Without an Inception score (a feature network without logits): precision–recall.
    """
    from gansmith.evaluation import pictures, sweep, targets
    from gansmith.sampling import latents

    sweep.plotting()
    levels = parse_thresholds(thresholds)
    for level in levels:
        if level is not None:
            latents.check_truncation(level, truncation_kind, "normal")
    with working(options.pop("device"), None) as (manner, world, _):
        evaluation = prepare(run, options | {"metrics": "frechet"}, manner)
        place = evaluation.target.run
        folder = Path(out) if out else (place or Path(".")) / "evaluation"

        def arrived(point: sweep.Point) -> None:
            shown = "none" if point.truncation is None else f"{point.truncation:g}"
            scores = "  ".join(f"{result.name} {show(result)}" for result in point.results)
            manner.say(f"truncation {shown}: {scores}")

        curve = sweep.sweep(evaluation, levels, truncation_kind, seed, arrived)
        if not world.is_main:
            return
        network = pictures.portable(evaluation.networks[0].name)
        stem = folder / f"{targets.name_of(evaluation.target.file)}-truncation-{network}"
        sweep.write_csv(stem.with_name(f"{stem.name}.csv"), curve)
        sweep.write_png(stem.with_name(f"{stem.name}.png"), curve, Path(run).name)
        cells = [["point", "truncation", *curve.titles.values()]]
        for point in curve.chosen:
            shown = "none" if point.truncation is None else f"{point.truncation:g}"
            cells.append([point.name, shown, *(f"{point.scores[name]:.4g}" for name in curve.titles)])
        click.echo(aligned(cells))
        if curve.real is not None:
            click.echo(f"{curve.titles['is']} of real images: {curve.real:.4g}")
        click.echo(f"→ {stem}.csv, {stem}.png")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@scoring_options
@metrics_option
@click.option("--truncation", type=float, help="Threshold for z. [none]")
@truncation_kind_option
@repeats_option
@click.option("--best-by", metavar="METRIC", help="Keep RUN/best at the best snapshot by this score.")
@click.option("--until-finished", is_flag=True, help="End with the run, instead of waiting for ever.")
@click.option("--pause", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds.")
def watch(
    run: Path,
    best_by: str | None,
    until_finished: bool,
    pause: float,
    repeats: int,
    seed: int,
    **options: Any,
) -> None:
    """Score the snapshots of RUN as they appear, beside the training, which it cannot disturb.

    Those scored before, with the same protocol, are left out. Ctrl-C ends it: exit code 3, goes on later.
    """
    from gansmith.evaluation import best, pictures
    from gansmith.evaluation import metrics as table
    from gansmith.evaluation.watch import watch as watching

    if not (run / "config.yaml").exists():
        raise UserError(f"{run} is no run; give the folder that `gansmith train --out` names.")
    names = [name for name in options["metrics"].split(",") if name]
    if best_by is not None:
        best_by = table.product(best_by, table.find(names) if names else None)
    with working(options.pop("device"), run / "evaluation") as (manner, world, stop):

        def keep(file: Path, results: list["Result"], seconds: float) -> None:
            record(run, file, results, seconds, world)
            pictures.prune(run)
            manner.say(f"{file.stem}: " + "  ".join(f"{each.name} {show(each)}" for each in results))
            if best_by is not None and (said := best.update(run, best_by)):
                manner.say(said)

        if world.size > 1:
            raise UserError("eval watch runs in one process; start it without torchrun.")
        count = watching(
            run,
            lambda file: prepare(str(file), dict(options), manner),
            keep,
            stop.asked,
            seed=seed,
            repeats=repeats,
            until_finished=until_finished,
            pause=pause,
        )
        if best_by is not None and (said := best.update(run, best_by)):
            manner.say(said)
        click.echo(f"{run} is finished; {count} snapshots were scored")


@click.command("train-classifier")
@click.option("--data", required=True, metavar="PATH", help="Labelled real images: any source.")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="File to write (.safetensors).")
@click.option("--resolution", type=click.IntRange(min=8), help="Pixels, for images of any size.")
@click.option("--budget", metavar="TIME", help="Train for 90s, 10m …: not repeatable. [a number of steps]")
@click.option("--steps", type=click.IntRange(min=1), help="Train for so many updates of 128 images.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", help="cpu, cuda, cuda:1, mps, …  [the accelerator, if any]")
def train_classifier(
    data: str,
    out: str,
    resolution: int | None,
    budget: str | None,
    steps: int | None,
    seed: int,
    device: str | None,
) -> None:
    """Train a small classifier on your own labelled images: the feature network classifier:OUT.

    What the paper did where ImageNet's features say nothing about the data (JFT): scores then are IS and
    Fréchet distance of that network, and named so. A tenth of the images is held out and tells its accuracy.
    """
    from gansmith.training import stopping

    check_out(out)
    if budget is not None and steps is not None:
        raise UserError("--budget and --steps contradict each other; give one of them.")
    seconds = stopping.seconds(budget, "--budget") if budget else None
    try:
        with stopping.terminable():
            _train_classifier(data, Path(out), resolution, seconds, steps, seed, device)
    except KeyboardInterrupt:
        raise Stopped(f"stopped; {out} was not written: the same command starts again.") from None


def _train_classifier(
    data: str,
    out: Path,
    resolution: int | None,
    seconds: float | None,
    steps: int | None,
    seed: int,
    device: str | None,
) -> None:
    import numpy as np

    from gansmith.data import open_dataset
    from gansmith.data.progress import Progress
    from gansmith.evaluation import classifier, indexed

    few = f"--data {data} has fewer than two classes, and a classifier tells classes apart: give two folders "
    few += "of images or more, one per class."
    try:
        dataset = open_dataset(data, resolution=resolution)
    except TooFewClasses:
        raise UserError(few) from None
    if sum(info.count > 0 for info in dataset.classes) < 2:
        raise UserError(few)
    training, held_out = classifier.held_out_split(dataset.labels, seed)
    if steps is None and seconds is None:
        steps = classifier.default_steps(len(training))
    bar = Progress("training", (steps or 0) * classifier.BATCH, shown=True)

    def advanced(done: int, total: int | None, loss: float) -> None:
        bar.advance(classifier.BATCH)

    try:
        net = classifier.train_classifier(
            indexed.Reals(dataset, training),
            dataset.labels[training],
            dataset.num_classes,
            steps=steps,
            seconds=seconds,
            seed=seed,
            device=device,
            progress=advanced,
        )
    finally:
        bar.close()
    found = classifier.accuracy(net, indexed.Reals(dataset, held_out), dataset.labels[held_out])
    names = [info.name for info in dataset.classes]
    classifier.save(
        out,
        net,
        {"classes": names, "accuracy": found.value, "reference": dataset.content_hash, "seed": seed},
    )
    click.echo(f"accuracy {found.value:.1%} on {len(held_out):,} held-out images")
    worst = [f"{names[i]} {found.per_class[i]:.0%}" for i in np.argsort(found.per_class)[:3]]
    click.echo(f"worst classes: {', '.join(worst)}")
    click.echo(f"→ {out}; use it with --features classifier:{out}")
