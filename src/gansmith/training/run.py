"""From a configuration to a running loop: everything is checked before anything expensive or lasting
happens.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gansmith import config as configuration
from gansmith import environment, files
from gansmith.config import Config, images
from gansmith.config.merge import unknown_key
from gansmith.data import open_dataset
from gansmith.data.feed import Feed
from gansmith.data.order import Order, Segment, SetRef
from gansmith.data.shards import Dataset
from gansmith.errors import UserError
from gansmith.training import announce, batching, grids, objectives, precision
from gansmith.training import checkpoint as checkpoints
from gansmith.training import loop as training
from gansmith.training import state as states
from gansmith.training.distributed import World, joined
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
) -> Path:
    """Trains a GAN, or goes on with the run in `out`. Returns the run's folder.

    data: any source `docs/data.md` lists. preset: a recipe. settings: dotted path → value, over preset and
    file.
    stop_after: seconds. Raises UserError (nothing was written), Stopped (saved, resumable) or Diverged.
    """
    out_path = Path(out) if out is not None else None
    overrides = dict(settings or {})
    if data is not None:
        overrides["data.path"] = data
    if (
        config_file is None
        and preset is None
        and out_path is not None
        and (out_path / "config.yaml").exists()
    ):
        config_file = out_path / "config.yaml"  # gansmith train --out RUN: the run knows its own recipe
    config, origins = configuration.load(preset, Path(config_file) if config_file else None, overrides)
    if config.data.path is None:
        raise UserError("--data is missing: give a folder of images, a zip, … or builtin:digits.")
    out_path = out_path or Path("runs") / f"{config.preset or 'run'}-{_stem(config.data.path)}"
    folder = Path(checkpoint_dir) if checkpoint_dir is not None else out_path / "checkpoints"
    with ExitStack() as stack:
        world = stack.enter_context(joined(device))
        _start(config, origins, out_path, folder, world, stop_after, allow_change, dry_run, stack)
    return out_path


def _start(
    config: Config,
    origins: Mapping[str, str],
    out: Path,
    folder: Path,
    world: World,
    stop_after: float | None,
    allow_change: Sequence[str],
    dry_run: bool,
    stack: ExitStack,
) -> None:
    # 1. Cheap failures first: settings that need no data.
    objective = objectives.find(config.loss.objective)
    chosen = precision.choose(config.train.precision, world.device)
    precision.set_up(deterministic=config.train.deterministic, tf32=config.train.tf32)
    _check_allowed(allow_change)

    # 2. The folder is ours alone, and what it holds is a run of this configuration, or nothing.
    if not dry_run:
        stack.enter_context(_owned(out, folder, world))
    log = RunLog(None if dry_run else out, world, config.log.tensorboard)
    found = checkpoints.latest(folder, log.warn)
    saved = checkpoints.read_record(found) if found else None
    changes = _compare(saved, config, allow_change) if saved else []

    # 3. The data, prepared once if it was not.
    if dry_run:
        summary = announce.peek(config)
    else:
        dataset = _open(config, world)
        summary = announce.summarise(dataset)
    num_classes = announce.num_classes(config, summary)
    announce.check_data(config, summary)

    # 4. Automatic choices.
    group = saved["resolved"]["bn_group"] if saved else batching.bn_group(config)
    sizes = batching.resolve(config, group, world.size)
    duration = images(config.train.duration, summary.num_images)

    # 5. Say what is going to happen.
    announce.settings(log, config, origins, chosen, sizes, group, world, duration)
    announce.data(log, summary)
    announce.networks(log, config, num_classes, sizes)
    if dry_run:
        log.say(f"dry run: nothing was written; without --dry-run this trains in {out}")
        return

    # 6. Build, or restore.
    sets = (SetRef(dataset.content_hash, len(dataset)),)
    order = Order(
        seed=config.train.seed,
        segments=(Segment(0, sets),),
        balanced=config.data.balanced,
        labels=dataset.labels if config.data.balanced else None,
    )
    if saved:
        order = _continued_order(saved, order, dataset, num_classes, allow_change)
    state = states.build(config, num_classes, group, order, world, chosen.dtype)
    if saved and found:
        states.restore(state, checkpoints.read_tensors(found))
        states.restore_record(state, saved)
    if saved and state.images_seen >= duration:
        log.say(f"{out} is finished: {state.images_seen:,} of {duration:,} images; raise --duration to go on")
        return

    run = training.Run(
        config=config,
        world=world,
        precision=chosen,
        dataset=dataset,
        feed=_feed(config, dataset, order, num_classes),
        objective=objective,
        log=log,
        stop=StopRequest(stop_after),
        out=out,
        checkpoints=folder,
        num_classes=num_classes,
        bn_group=group,
        batch_g=sizes.batch_g,
        micro_batch=sizes.micro_batch,
        micro_batch_g=sizes.micro_batch_g,
        every={
            "status": images(config.log.status_every, len(dataset)),
            "snapshot": images(config.log.snapshot_every, len(dataset)),
            "checkpoint": images(config.log.checkpoint_every, len(dataset)),
        },
        duration=duration,
        ema_half_life=images(config.ema.half_life, len(dataset)),
        ema_start=images(config.ema.start, len(dataset)),
    )
    if world.is_main:
        _write_description(run, state, origins)
    if saved:
        log.say(f"going on at {state.images_seen:,} images, step {state.step:,}, from {found}")
        for path, old, new in changes:
            log.say(f"  changed: {path} {old} → {new}")
        log.event("resume", images_seen=state.images_seen, changes=[list(change) for change in changes])
    else:
        log.event("start", images_seen=0)
    with run.stop.listening():
        training.train(run, state)
    log.say(f"finished: {state.images_seen:,} images; draw with `gansmith sample grid {out}`")
    log.event("finished", images_seen=state.images_seen)


def _stem(path: str) -> str:
    return Path(path.removeprefix("builtin:").rstrip("/")).name.split(".")[0] or "data"


def _check_allowed(allow_change: Sequence[str]) -> None:
    known = {path for path, kind in configuration.fields().items() if kind == "identity"} | {"data"}
    for path in allow_change:
        if path not in known:
            raise UserError(f"--allow-change {path}: no such identity setting; {unknown_key(path)}.")


@contextmanager
def _owned(out: Path, folder: Path, world: World) -> Iterator[None]:
    """Rank 0 makes the run's folders and holds their lock as long as it trains."""
    if not world.is_main:
        world.barrier()
        yield
        return
    if out.is_dir() and any(out.iterdir()) and not _is_run(out):
        raise UserError(f"--out {out} holds other files and is no gansmith run; give a new folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a+")
    except OSError as error:
        raise UserError(
            f"--out {out}: the folder cannot be written ({error.strerror}); give another."
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise UserError(f"--out {out} is in use by {lock.read().strip() or 'another process'}.") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}")
        lock.flush()
        checkpoints.remove_leftovers(folder)
        checkpoints.remove_leftovers(out / "snapshots")
        world.barrier()
        yield


def _is_run(out: Path) -> bool:
    return any((out / name).exists() for name in ("config.yaml", ".lock", "checkpoints"))


def _compare(
    saved: dict[str, Any], config: Config, allow_change: Sequence[str]
) -> list[tuple[str, Any, Any]]:
    """What differs from the saved configuration. Raises UserError for identity settings not allowed to
    change.
    """
    changes = configuration.diff(configuration.from_flat(saved["config"]), config)
    kinds = configuration.fields()
    refused = [
        change for change in changes if kinds[change[0]] == "identity" and change[0] not in allow_change
    ]
    if refused:
        listed = "\n".join(f"  - {path}: {old} → {new}" for path, old, new in refused)
        flags = " ".join(f"--allow-change {path}" for path, _, _ in refused)
        raise UserError(
            f"this run was trained with other settings, and they are part of what it is:\n{listed}\n"
            f"Go back to them, use another --out, or add {flags}."
        )
    return [change for change in changes if change[0] != "preset"]


def _open(config: Config, world: World) -> Dataset:
    """Rank 0 prepares unprepared data while the others wait; then all open the same prepared set."""
    options = announce.prepare_options(config)
    assert config.data.path is not None
    if world.is_main:
        dataset = open_dataset(config.data.path, **options)
    world.barrier()
    return dataset if world.is_main else open_dataset(config.data.path, **options)


def _continued_order(
    saved: dict[str, Any], order: Order, dataset: Dataset, num_classes: int, allow_change: Sequence[str]
) -> Order:
    """The saved stream; other data opens a new segment at the present position, if that is allowed."""
    if saved["resolved"]["num_classes"] != num_classes:
        raise UserError(
            f"--data has {num_classes} classes, the run was trained with {saved['resolved']['num_classes']}."
        )
    continued = Order.from_json(saved["order"], labels=order.labels)
    if saved["data"]["content_hash"] == dataset.content_hash:
        return continued
    if "data" not in allow_change:
        raise UserError(
            f"--data is not what this run was trained on ({dataset.content_hash[:12]}, {len(dataset):,} "
            f"images, instead of {saved['data']['content_hash'][:12]}, {saved['data']['images']:,}); "
            "add --allow-change data to go on with it."
        )
    return continued.opened_at(saved["images_seen"], order.segments[0].sets)


def _feed(config: Config, dataset: Dataset, order: Order, num_classes: int) -> Feed:
    return Feed(
        dataset,
        order,
        flip=config.data.flip,
        labels=config.data.labels,
        num_classes=num_classes,
        crop=config.model.resolution if config.data.random_crop else None,
        workers=config.data.workers,
    )


def _write_description(run: training.Run, state: states.State, origins: Mapping[str, str]) -> None:
    """config.yaml, environment.json, reals.png, and for a new run samples/init.png."""
    try:
        files.write_text(run.out / "config.yaml", configuration.to_yaml(run.config, origins))
        files.write_text(run.out / "environment.json", json.dumps(environment.collect(), indent=1))
        grids.draw_reals(run.out / "reals.png", run.config, run.dataset)
        if state.images_seen == 0:
            drawn = states.replica(state.G.net)
            grids.estimate_statistics(drawn, run.config, run.num_classes, run.bn_group, run.precision)
            grids.draw_samples(
                run.out / "samples" / "init.png", drawn, run.config, run.dataset, run.precision, run.bn_group
            )
    except OSError as error:
        raise UserError(
            f"--out {run.out}: cannot be written ({error}); free space or give another."
        ) from None
