"""From a configuration to a running loop: checks come first, what is expensive or lasting comes after."""

import gc
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from gansmith import config as configuration
from gansmith import environment, files, hardware
from gansmith.config import Config, images
from gansmith.data import holding, open_dataset
from gansmith.data.feed import Feed
from gansmith.data.shards import Dataset
from gansmith.errors import UserError
from gansmith.training import (
    announce,
    batching,
    grids,
    growth,
    guarding,
    initial,
    memory,
    objectives,
    precision,
    pretraining,
    profiling,
    release,
    resuming,
    rundir,
    scoring,
    stabilising,
    tuning,
    watching,
)
from gansmith.training import lineage as lineages
from gansmith.training import loop as training
from gansmith.training import state as states
from gansmith.training.checkpoint import read_tensors
from gansmith.training.distributed import TIMEOUT, World, joined
from gansmith.training.lineage import Lineage
from gansmith.training.runlog import RunLog
from gansmith.training.stopping import StopRequest


def train(
    data: str | None = None,
    preset: str | None = None,
    out: str | Path | None = None,
    *,
    config_file: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    checkpoint_dir: str | Path | None = None,
    stop_after: float | None = None,
    allow_change: Sequence[str] = (),
    dry_run: bool = False,
    profile: int | None = None,
) -> Path:
    """Trains a GAN, or goes on with the run in `out`. Returns the run's folder.

    data: any source of docs/data.md. preset: a recipe. settings: dotted path → value, over preset and file.
    checkpoint_dir: None is OUT/checkpoints. stop_after: seconds. allow_change: identity settings that may
    differ on resume. profile: so many steps are timed, part by part. Raises UserError (nothing was written),
    Stopped (resumable: asked to, or its end could not be saved) or Diverged.
    """
    config, origins, where, note = _settled(data, preset, out, config_file, settings)
    with ExitStack() as stack:
        # Rank 0 may compute features of many reals while the others wait.
        patience = TIMEOUT if config.eval.every is None else timedelta(days=1)
        world = stack.enter_context(joined(device, patience))
        # Cheap failures first: settings that need neither data nor a folder.
        objectives.check(config, world.device)
        scores = scoring.ready(config, world, dry_run)
        alone = pretraining.ready(config, world.device)
        chosen = precision.choose(config.train.precision, world.device)
        precision.set_up(
            deterministic=config.train.deterministic, tf32=config.train.tf32, threads=config.train.threads
        )
        # The folder is ours alone; what it holds is a run of this configuration, or nothing.
        if not dry_run:
            stack.enter_context(rundir.owned(where, Path(checkpoint_dir) if checkpoint_dir else None, world))
        log = RunLog(None if dry_run else where, world, config.log.tensorboard)
        if note:
            log.warn(note)
        folder = where / "checkpoints" if where.exists() else Path(checkpoint_dir or where / "checkpoints")
        session = _Session(
            config, origins, where, folder, world, chosen, log, scores, alone, allow_change, stop_after
        )
        while True:
            try:
                return _go_on(session, dry_run, profile)
            except guarding.WentBack:  # the run is begun again, as after a kill
                session.again, profile = True, None
            # What was left goes before as much is built anew: frames hold each other, and the old networks.
            gc.collect()
            hardware.release_memory(world.device)


@dataclass
class _Session:
    """What stays as it is when the run goes back and is begun again from an earlier checkpoint."""

    config: Config
    origins: dict[str, str]
    out: Path
    checkpoints: Path
    world: World
    precision: precision.Precision
    log: RunLog
    scores: scoring.Scoring | None
    alone: pretraining.Pretraining | None
    allow_change: Sequence[str]
    stop_after: float | None
    stop: StopRequest | None = None
    again: bool = False


def _go_on(session: _Session, dry_run: bool, profile: int | None) -> Path:
    """Trains from the newest checkpoint that is the run's, or from the beginning, to the end."""
    world, log, where, folder = session.world, session.log, session.out, session.checkpoints
    lineage = world.share(lineages.read(where) if world.is_main else Lineage())
    if world.is_main and not dry_run:
        why = "of a branch that the run went back from"
        lineages.set_aside(where, lambda *moment: not lineage.keeps(*moment), why, log.say)
    config, origins, source = initial.settle(session.config, session.origins, folder, world)
    saved = resuming.find(folder, config, session.allow_change, world, log.warn, dry_run, lineage)
    group = (saved.bn_group if saved else None) or batching.bn_group(config)
    sizes = batching.resolve(config, group, world.size)
    plan = announce.Plan(config, origins, session.precision, sizes, group, world)
    if saved and saved.images_seen >= (goal := images(config.train.duration, saved.epoch)):
        log.say(f"{where} is finished: {saved.images_seen:,} of {goal:,} images; raise --duration to go on")
        return where
    if dry_run:
        found = announce.peek(config)
        if source:
            initial.check(source, config, found)
        announce.everything(log, plan, found)
        epoch = found.num_images
        watching.expect_other_images(config)
        for note in guarding.notes(config, _cadences(config, epoch), images(config.train.duration, epoch)):
            log.say(note)
        if source:
            initial.introduce(log, source, config, found)
        going_on = f"goes on at {saved.images_seen:,} images" if saved else "starts"
        log.say(f"dry run: nothing was written; without --dry-run this {going_on} in {where}")
        return where
    run, state, held_out = _ready(session, plan, saved, source, lineage)
    session.stop = run.stop = session.stop or StopRequest(session.stop_after)
    scores = run.scores = session.scores
    run.pretraining = session.alone
    run.watch = watching.ready(run, state, held_out or (scores.dataset if scores else None))
    if world.is_main and not session.again:
        if saved and saved.changes:
            rundir.leave_behind(where, saved.images_seen, log.say)
        _write_description(run, state, origins)
    _say_how_it_starts(run, state, saved)
    if profile:
        profiling.start(run, state, profile)
    with run.stop.listening():
        training.train(run, state)
    log.say(
        f"finished: {state.images_seen:,} images{guarding.ending(run, state)}; draw with "
        f"`gansmith sample grid {where} --out grid.png`"
    )
    log.event("finished", images_seen=state.images_seen)
    return where


def _settled(
    data: str | None,
    preset: str | None,
    out: str | Path | None,
    config_file: str | Path | None,
    settings: Mapping[str, Any] | None,
) -> tuple[Config, dict[str, str], Path, str | None]:
    """The merged settings with their origins, the run's folder, and what is to be said of them; a run knows
    its own recipe and data.
    """
    overrides = dict(settings or {})
    if data is not None:
        # Absolute, so that the run's folder can be gone on with from anywhere.
        overrides["data.path"] = str(Path(data).resolve()) if Path(data).exists() else data
    for name in ("eval.data", "watch.data", "init.source"):
        if (other := overrides.get(name)) is not None and Path(other).exists():
            overrides[name] = str(Path(other).resolve())
    own = resuming.recipe(Path(out)) if out is not None else resuming.Recipe()
    note, file = None, Path(config_file) if config_file else None
    if file is None and preset is None:  # gansmith train --out RUN: the run knows its own recipe
        note, file, preset, overrides = own.note, own.file, own.preset, own.missing | overrides
    config, origins = configuration.load(preset, file, overrides)
    if config.data.path is None and own.data is not None:  # nor does it forget its data
        overrides["data.path"] = own.data
        config, origins = configuration.load(preset, file, overrides)
    if config.data.path is None:
        nothing = f"--out {out} holds no run to go on with, and " if out is not None else ""
        raise UserError(f"{nothing}--data is missing: give a folder of images, a zip, … or builtin:digits.")
    where = Path(out) if out is not None else Path("runs") / f"{config.preset or 'run'}-{_stem(config)}"
    return config, origins, where, note


def _ready(
    session: _Session,
    plan: announce.Plan,
    saved: resuming.Saved | None,
    source: initial.Source | None,
    lineage: Lineage,
) -> tuple[training.Run, states.State, Dataset | None]:
    """Opens the data, builds the networks or restores them, and puts together what the loop needs; and the
    images that are not trained on.
    """
    config, world, chosen, sizes, group = plan.config, plan.world, plan.precision, plan.sizes, plan.bn_group
    log, out = session.log, session.out
    dataset, held_out = _open(config, world)
    if world.share(dataset.content_hash) != dataset.content_hash:
        raise UserError(
            f"process {world.rank} sees other images at --data {config.data.path} than process 0."
        )
    summary = announce.summarise(dataset)
    num_classes = announce.num_classes(config, summary)
    order = resuming.order(saved, config, dataset, num_classes, session.allow_change, lineage.number)
    if source:
        initial.check(source, config, summary)
    if not session.again:
        announce.everything(log, plan, summary)
    given = None
    if source:
        initial.introduce(log, source, config, summary)
        given = initial.networks(source, config, dataset, world, log)
    state = states.build(config, num_classes, group, order, world, chosen.dtype, given)
    objective = objectives.build(guarding.helped(config, lineage), world.device, len(dataset))
    for letter, player in (("g", state.G), ("d", state.D)):
        objectives.check_weights(config, letter, player.net, player.frozen)
    rule = growth.rule(config, len(dataset))
    stabiliser = stabilising.build(config, {"d": state.D, "g": state.G}, world, len(dataset))
    state.memory = getattr(objective, "memory", {}) | growth.memory(rule, world.device)
    state.memory |= stabiliser.memory if stabiliser else {}
    if saved:
        states.restore(state, read_tensors(saved.path))
        states.restore_record(state, saved.record)
    if stabiliser:
        stabiliser.restored()
    run = training.Run(
        config=config,
        world=world,
        precision=chosen,
        dataset=dataset,
        feed=Feed(
            dataset,
            order,
            flip=config.data.flip,
            labels=config.data.labels,
            num_classes=num_classes,
            crop=config.model.resolution if config.data.random_crop else None,
            workers=config.data.workers,
            pinned=hardware.can_pin(world.device),
        ),
        objective=objective,
        log=log,
        stop=StopRequest(),
        out=out,
        checkpoints=out / "checkpoints",
        num_classes=num_classes,
        drawn_classes=announce.drawn_classes(config, dataset),
        bn_group=group,
        batch=sizes.batch,
        batch_g=sizes.batch_g,
        micro_batch=sizes.micro_batch,
        micro_batch_g=sizes.micro_batch_g,
        every=_cadences(config, len(dataset)),
        duration=images(config.train.duration, len(dataset)),
        ema_half_life=max(1, images(config.ema.half_life, len(dataset))),
        ema_start=images(config.ema.start, len(dataset)),
        release=release.rule(config, len(dataset)),
        growth=rule,
        lineage=lineage,
        from_seed=saved.record.get("from_seed", False) if saved else source is None,
        stabiliser=stabiliser,
        alone_until=images(config.pretrain.generator, len(dataset)),
    )
    record = saved.record if saved else None
    state.guard = guarding.begin(record, run.duration, out, lineage, run.alone_until)
    if not session.again:
        for note in guarding.notes(config, run.every, run.duration):
            log.say(note)
    tuning.apply(config, state, world.device, log)
    memory.settle(run, state, saved.record.get("micro_batch") if saved else None)
    run.batch, run.batch_g = growth.sizes(rule, state.growth, state.images_seen)
    growth.check(run)
    return run, state, held_out


def _cadences(config: Config, epoch: int) -> dict[str, int]:
    """What happens again and again → images between, at least one."""
    asked = {
        "status": config.log.status_every,
        "snapshot": config.log.snapshot_every,
        "checkpoint": config.log.checkpoint_every,
        "evaluation": config.eval.every,
    }
    return {name: max(1, images(every, epoch)) for name, every in asked.items() if every is not None}


def _stem(config: Config) -> str:
    path = (config.data.path or "").removeprefix("builtin:").rstrip("/")
    return Path(path).name.split(".")[0] or "data"


def _open(config: Config, world: World) -> tuple[Dataset, Dataset | None]:
    """The prepared data, and what is not trained on. Whoever comes first prepares what is not; the others
    wait at its lock, not in a collective that would time out."""
    assert config.data.path is not None
    with open(os.devnull, "w") as nowhere, ExitStack() as stack:
        if not world.is_main:
            stack.enter_context(redirect_stdout(nowhere))
        whole = open_dataset(config.data.path, **announce.prepare_options(config))
    dataset, held_out = holding.split(whole, config.data.hold_out)
    return dataset, watching.other_images(config, world) or held_out


def _say_how_it_starts(run: training.Run, state: states.State, saved: resuming.Saved | None) -> None:
    if state.images_seen < run.alone_until:
        run.log.say(f"G is trained alone until {run.alone_until:,} images (pretrain.generator)")
    if state.release.holds and release.pretrains_d(run.config):
        run.log.say(f"G then stands still while D learns, {run.release}")
    if saved is None:
        run.log.event("start", images_seen=0)
        return
    run.log.say(f"going on at {state.images_seen:,} images, step {state.step:,}, from {saved.path}")
    for path, old, new in saved.changes:
        run.log.say(f"  changed: {path} {old} → {new}")
    run.log.event("resume", images_seen=state.images_seen, changes=[list(change) for change in saved.changes])


def _write_description(run: training.Run, state: states.State, origins: Mapping[str, str]) -> None:
    """config.yaml, environment.json, reals.png, and for a new run samples/init.png."""
    try:
        files.write_text(run.out / "config.yaml", configuration.to_yaml(run.config, origins))
        files.write_text(run.out / "environment.json", json.dumps(environment.collect(), indent=1))
        grids.draw_reals(run.out / "reals.png", run.config, run.dataset)
        if state.images_seen == 0:
            drawn = states.replica(state.G.net)
            grids.estimate_statistics(drawn, run.config, run.num_classes, run.bn_group, run.precision)
            init = run.out / "samples" / "init.png"
            grids.draw_samples(init, drawn, run.config, run.dataset, run.precision, run.bn_group)
    except OSError as error:
        raise UserError(
            f"--out {run.out}: cannot be written ({error}); free space or give another."
        ) from None
