"""Going on: from which checkpoint, with which changes, at which place of the data; or refusing to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gansmith import config as configuration
from gansmith.config import Config
from gansmith.config.merge import unknown_key
from gansmith.data.order import Order, Segment, SetRef
from gansmith.data.shards import Dataset
from gansmith.errors import UserError
from gansmith.training import checkpoint as checkpoints
from gansmith.training.distributed import World
from gansmith.training.lineage import Lineage

# What every position of the streams depends on, and what the saved tensors are the shapes of.
UNCHANGEABLE = {"train.seed", "data.balanced"} | {
    path
    for path in configuration.fields()
    if path.startswith(("model.", "init."))
    and path not in ("model.latent", "model.init", "model.bn_eps", "model.sn_eps", "model.dropout_d")
    and path != "init.freeze_d"
    and not path.startswith("init.release")
}


@dataclass(frozen=True)
class Saved:
    """A checkpoint to go on from: its folder, its record, what differs now (path, old, new), and what was
    accepted before the run went back to it, see `accepted`."""

    path: Path
    record: dict[str, Any]
    changes: list[tuple[str, Any, Any]]
    accepted: Mapping[str, Any]

    @property
    def images_seen(self) -> int:
        return int(self.record["images_seen"])

    @property
    def epoch(self) -> int:
        """Images of the data set it was trained on last; more than any run has where nobody knows."""
        return int(self.record["data"]["images"]) or 1 << 40

    @property
    def bn_group(self) -> int | None:
        """The group the run has, unless `bn.group` is what was changed."""
        changed = any(path == "bn.group" for path, _, _ in self.changes)
        return None if changed else self.record["resolved"]["bn_group"]


@dataclass(frozen=True)
class Recipe:
    """What a run's folder says of the run's settings.

    file: its config.yaml, None where that is missing or cut short. missing: path → value then, from the
    record of the newest checkpoint, whose name is `origin`; the preset apart.
    """

    file: Path | None = None
    data: str | None = None
    preset: str | None = None
    missing: dict[str, Any] = field(default_factory=dict)
    origin: str = ""

    @property
    def note(self) -> str | None:
        """What is to be said of a damaged file."""
        if not self.missing:
            return None
        return (
            f"config.yaml is missing or damaged; {len(self.missing)} settings are taken from checkpoint "
            f"{self.origin} instead"
        )


def recipe(out: Path) -> Recipe:
    """The settings of the run in `out`, by its config.yaml; where that is missing or cut short, by the newest
    checkpoint, whose state.json holds them all.
    """
    file = out / "config.yaml"
    try:
        said = configuration.given(file) if file.exists() else {}
        whole = bool(said) and file.read_bytes().endswith(b"\n")
    except UserError:
        said, whole = {}, False
    if whole:
        return Recipe(file, said.get("data.path"))
    origin, trained = _settings_of_newest(out / "checkpoints")
    if not trained:  # a broken file alone is told by whoever loads it
        return Recipe(file if file.exists() else None)
    return Recipe(None, trained.get("data.path"), trained.pop("preset", None), trained, origin)


def _settings_of_newest(folder: Path) -> tuple[str, dict[str, Any]]:
    """(Name, settings by dotted path) of the newest checkpoint that tells them."""
    try:
        newest_first = reversed(checkpoints.listed(folder))
    except OSError:  # told by whoever goes on from them
        return "", {}
    for path in newest_first:
        try:
            values = json.loads((path / "state.json").read_text())["config"]
            return path.name, {name: values[name] for name in configuration.fields() if name in values}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "", {}


def find(
    folder: Path,
    config: Config,
    allow_change: Sequence[str],
    world: World,
    warn: checkpoints.Warn,
    dry_run: bool,
    lineage: Lineage,
) -> Saved | None:
    """The newest undamaged checkpoint below `folder` that is the run's, the same one on every rank; None for
    a new run.

    Damaged ones are set aside (renamed), so that they neither count nor get in the way. Raises UserError for
    changed identity settings that are not allowed, and where a rank does not see the checkpoint.
    """
    _check_allowed(allow_change)
    path = checkpoints.latest(folder, warn, lineage.keeps) if world.is_main else None
    if path is not None and world.is_main and not dry_run:
        checkpoints.set_aside(folder, newer_than=path)
    path = world.share(path)
    if path is None:
        return None
    if not (path / "state.json").exists():
        raise UserError(f"process {world.rank} does not see {path}: all nodes need the same --out folder.")
    record = checkpoints.read_record(path)
    last = lineage.last
    known = last.accepted if last and last.origin == path.name else {}
    return Saved(path, record, _changes(record, config, allow_change, known), known)


def accepted(record: Mapping[str, Any], config: Config, content_hash: str) -> dict[str, Any]:
    """What a run has by now and an earlier checkpoint of it had not, as path → value of now: identity
    settings, and `data` → content hash. Whoever goes back to that checkpoint has accepted these before.
    """
    kinds = configuration.fields()
    changes = configuration.diff(configuration.from_flat(record["config"]), config)
    found = {path: new for path, _, new in changes if kinds[path] == "identity"}
    return found if record["data"]["content_hash"] == content_hash else found | {"data": content_hash}


def _check_allowed(allow_change: Sequence[str]) -> None:
    known = {path for path, kind in configuration.fields().items() if kind == "identity"} | {"data"}
    for path in allow_change:
        if path not in known:
            raise UserError(f"--allow-change {path}: no such identity setting; {unknown_key(path)}.")


def _changes(
    record: dict[str, Any], config: Config, allow_change: Sequence[str], known: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    changes = configuration.diff(configuration.from_flat(record["config"]), config)
    kinds = configuration.fields()
    refused = [
        (path, old, new)
        for path, old, new in changes
        if kinds[path] == "identity" and not (path in known and known[path] == new)
        if path not in allow_change or path in UNCHANGEABLE
    ]
    if refused:
        listed = "\n".join(f"  - {path}: {old} → {new}" for path, old, new in refused)
        allowable = [path for path, _, _ in refused if path not in UNCHANGEABLE]
        flags = " ".join(f"--allow-change {path}" for path in allowable)
        # Where one of them can never change, the others' flags would only lead to the next refusal.
        way_out = f", or add {flags}" if len(allowable) == len(refused) else ""
        raise UserError(
            f"this run was trained with other settings, and they are part of what it is:\n{listed}\n"
            f"Go back to them, or use another --out{way_out}."
        )
    return [change for change in changes if change[0] != "preset"]


def order(
    saved: Saved | None,
    config: Config,
    dataset: Dataset,
    num_classes: int,
    allow_change: Sequence[str],
    branch: int,
) -> Order:
    """The data stream: new, continued, or with a new segment at the present position for other data, or for
    another order of the same on a new branch of the run."""
    sets = (SetRef(dataset.content_hash, len(dataset)),)
    labels = dataset.labels if config.data.balanced else None
    if saved is None:
        return Order(config.train.seed, (Segment(0, sets, branch),), config.data.balanced, labels)
    record = saved.record
    if record["resolved"]["num_classes"] != num_classes:
        raise UserError(
            f"--data has {num_classes} classes, this run was trained with "
            f"{record['resolved']['num_classes']} on other images; go back to its data, or use another --out."
        )
    if record["order"] is None:  # imported: its stream is as if it had been trained on these data
        begun = Order(config.train.seed, (Segment(0, sets),), config.data.balanced, labels)
        return begun.opened_at(record["images_seen"], sets, lineage=branch)
    continued = Order.from_json(record["order"], labels=labels)
    if record["data"]["content_hash"] == dataset.content_hash:
        return continued.opened_at(record["images_seen"], continued.segments[-1].sets, lineage=branch)
    allowed = "data" in allow_change or saved.accepted.get("data") == dataset.content_hash
    if not allowed and record["data"]["content_hash"] is not None:  # None: of a promotion
        raise UserError(
            f"--data is not what this run was trained on ({dataset.content_hash[:12]}, {len(dataset):,} "
            f"images, instead of {record['data']['content_hash'][:12]}, {record['data']['images']:,}); "
            "add --allow-change data to go on with it."
        )
    return continued.opened_at(record["images_seen"], sets, lineage=branch)
