"""What a run writes while it trains: snapshots with their pictures, and checkpoints. Only rank 0 writes.

A failure to write is a warning, not the end: training goes on, and the last good files stay.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import gansmith
from gansmith import config as configuration
from gansmith.training import announce, ema, grids, memory
from gansmith.training import checkpoint as checkpoints
from gansmith.training.state import State, record, replica, tensors
from gansmith.weights import snapshot as snapshots

if TYPE_CHECKING:
    from gansmith.training.loop import Run


@torch.no_grad()
def snapshot(run: "Run", state: State) -> None:
    """Averaged G with its standing statistics as a file; samples/NAME.png (averaged G), NAME-raw.png (G as
    trained), NAME-interpolation.png.
    """
    folder, name = run.out / "snapshots", checkpoints.name(state.images_seen, run.lineage.number)
    ema.make_usable(state.G_ema, state.G.net)
    group, common = run.bn_group, (run.config, run.dataset, run.precision)
    # All processes draw; what can fail comes after, on rank 0 alone.
    statistics = grids.estimate_statistics(
        state.G_ema, run.config, run.num_classes, group, run.precision, run.world
    )
    averaged = grids.sample(state.G_ema.eval(), *common, group, run.world)
    raw = replica(state.G.net)
    grids.estimate_statistics(raw, run.config, run.num_classes, group, run.precision, run.world)
    as_trained = grids.sample(raw, *common, group, run.world)
    if run.world.is_main:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            D = state.D.net if run.config.log.snapshot_d else None
            snapshots.save(
                folder / f"{name}.safetensors", state.G_ema, D=D, info=info(run, state, statistics)
            )
            samples = run.out / "samples"
            grids.save_samples(samples / f"{name}.png", averaged, run.config, run.dataset)
            grids.save_samples(samples / f"{name}-raw.png", as_trained, run.config, run.dataset)
            grids.draw_interpolation(samples / f"{name}-interpolation.png", state.G_ema, *common)
        except OSError as error:
            run.log.warn(f"snapshot {name} could not be written ({error}); training goes on")
        else:
            checkpoints.prune(
                [path for path in folder.glob("*.safetensors") if checkpoints.parse(path.name)],
                run.log.warn,
                newest=1,
                spaced=run.config.log.keep_snapshots - 1,
                gigabytes=None,
                protected=_protected(run.out),
            )
            run.log.event("snapshot", images_seen=state.images_seen, file=f"snapshots/{name}.safetensors")
    run.world.barrier()


def checkpoint(run: "Run", state: State) -> tuple[str, bool]:
    """Saves everything; returns a sentence about it, on rank 0, and whether it could be saved, on all ranks.
    The new one is safe before an old one goes.
    """
    sentence, failed = "", False
    if run.world.is_main:
        ema.make_usable(state.G_ema, state.G.net)
        try:
            path = checkpoints.save(
                run.checkpoints,
                tensors(state),
                record(state)
                | {
                    "gansmith_version": gansmith.__version__,
                    "config": configuration.flat(run.config),
                    "resolved": resolved(run),
                    "micro_batch": memory.record(run),
                    "data": {"content_hash": run.dataset.content_hash, "images": len(run.dataset)},
                    "classes": classes(run),
                    "lineage": run.lineage.to_json()["branches"],
                    "from_seed": run.from_seed,
                    "discriminator": getattr(state.D.net, "kwargs", None),
                    "world": run.world.size,
                    "precision": run.precision.name,
                },
                lambda file: snapshots.save(file, state.G_ema, info=info(run, state, None)),
            )
        except OSError as error:
            left, failed = checkpoints.listed(run.checkpoints), True
            sentence = (
                f"it could NOT be saved ({error}); the last good checkpoint is {left[-1] if left else 'none'}"
            )
            run.log.warn(f"checkpoint at {state.images_seen:,} images: {sentence}")
        else:
            sentence = f"saved as {path}; the same command goes on"
            run.log.event("checkpoint", images_seen=state.images_seen, path=str(path))
            checkpoints.delete_abandoned(run.checkpoints, run.log.warn)
            checkpoints.prune(
                checkpoints.listed(run.checkpoints),
                run.log.warn,
                newest=run.config.log.keep_checkpoints,
                spaced=run.config.log.keep_spaced,
                to_go_back=True,
                gigabytes=run.config.log.keep_gigabytes,
                protected=_protected(run.out) | {path.name},
            )
    return sentence, not run.world.any(failed)


def resolved(run: "Run") -> dict[str, Any]:
    """The automatic choices that belong to the run's identity."""
    return {"bn_group": run.bn_group, "num_classes": run.num_classes}


def classes(run: "Run") -> list[dict[str, Any]]:
    if not announce.uses_labels(run.config):
        return []
    return [{"id": info.id, "name": info.name, "count": info.count} for info in run.dataset.classes]


def info(run: "Run", state: State, statistics: dict[str, Any] | None) -> dict[str, Any]:
    """What a snapshot says of itself."""
    return {
        "latent": run.config.model.latent,
        "classes": classes(run),
        "images_seen": state.images_seen,
        "lineage": run.lineage.number,
        "ema": True,
        "statistics": statistics,
        "config": run.config.model_dump(mode="json") | {"bn": {"group": run.bn_group}},
    }


def _protected(out: Path) -> set[str]:
    """What `best` points to is never deleted."""
    best = out / "best"
    if best.is_symlink():
        return {best.readlink().name, best.readlink().stem}
    return set()
