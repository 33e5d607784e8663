"""Checkpoints: saved so that a kill at any instant leaves a loadable one, loaded only when proven whole.

A checkpoint is a folder `checkpoints/000012345678` (images seen; after going back `000012345678-1`, with the
number of the branch, see lineage.py): `networks.safetensors` and
`optimizers.safetensors` (state.tensors), `memory.safetensors` where losses remember something,
`G_ema.safetensors` (a snapshot, for people), `state.json`, and
`manifest.json` with the size and SHA-256 of the others.
"""

import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gansmith import files
from gansmith.errors import UserError
from gansmith.weights import snapshot

FORMAT, VERSION = "gansmith-checkpoint", 1
ABANDONED, DAMAGED = ".abandoned", ".damaged"  # behind the names of what was set aside
Warn = Callable[[str], None]
_NAME = re.compile(r"(\d+)(?:-(\d+))?(?:\..*)?")


def name(images_seen: int, lineage: int = 0) -> str:
    """What the files of a moment are called: 000012345678, and on the run's second branch 000012345678-2."""
    return f"{images_seen:012d}-{lineage}" if lineage else f"{images_seen:012d}"


def parse(name: str) -> tuple[int, int] | None:
    """(images seen, number of the branch) of the name of a file or folder; None for others, as those set
    aside."""
    match = _NAME.fullmatch(name)
    if not match or name.endswith((ABANDONED, DAMAGED)):
        return None
    return int(match[1]), int(match[2] or 0)


def save(
    folder: Path,
    tensors: dict[str, dict[str, torch.Tensor]],
    record: dict[str, Any],
    save_snapshot: Callable[[Path], None],
) -> Path:
    """Writes the checkpoint for record["images_seen"], of the branch that record["lineage"] ends with, below
    `folder`. Raises OSError (disk full) leaving nothing.
    """
    target = folder / name(record["images_seen"], len(record.get("lineage", ())))
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing_folder(target) as temporary:
        for stem, group in tensors.items():
            contiguous = {key: value.detach().cpu().contiguous() for key, value in group.items()}
            snapshot.write_tensors(contiguous, temporary / f"{stem}.safetensors")
        save_snapshot(temporary / "G_ema.safetensors")
        state = {"format": FORMAT, "version": VERSION} | record
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        manifest = {
            path.name: {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
            for path in sorted(temporary.iterdir())
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return target


def problem(folder: Path, hashes: bool = True) -> str | None:
    """What is wrong with a checkpoint, or None if every file has its size and hash. hashes: False compares
    sizes alone, which reads no file.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        for file, expected in manifest.items():
            path = folder / file
            if path.stat().st_size != expected["bytes"]:
                return f"{file} has {path.stat().st_size} bytes instead of {expected['bytes']}"
            if hashes and files.sha256(path) != expected["sha256"]:
                return f"{file} is not what was written (SHA-256 differs)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"unreadable ({error})"
    return None


def listed(folder: Path) -> list[Path]:
    """Checkpoints below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and parse(path.name))


def latest(folder: Path, warn: Warn, keeps: Callable[[int, int], bool] | None = None) -> Path | None:
    """The newest undamaged checkpoint, warning of every damaged one passed over; None if there is none at
    all. keeps: of those for which it is true of (images seen, branch).

    Raises UserError when there are checkpoints and all are damaged: starting again silently would lose the
    run.
    """
    damaged: list[str] = []
    for path in reversed(listed(folder)):
        if keeps and not keeps(*(parse(path.name) or (0, 0))):
            continue
        if (wrong := problem(path)) is None:
            for text in damaged:
                warn(f"checkpoint {text}; {path.name} is used instead")
            return path
        damaged.append(f"{path} is damaged: {wrong}")
    if damaged:
        raise UserError(
            "no checkpoint of this run is whole:\n"
            + "".join(f"  - {text}\n" for text in damaged)
            + "Restore one from a copy, or start anew with another --out."
        )
    return None


def set_aside(folder: Path, newer_than: Path) -> None:
    """Renames checkpoints newer than the one in use, which are damaged: they would count in retention."""
    for path in listed(folder):
        if path.name > newer_than.name:
            target = path.with_name(f"{path.name}{DAMAGED}")
            shutil.rmtree(target, ignore_errors=True)  # of an earlier time
            path.rename(target)


def read_record(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises UserError for another program's, or a newer version's."""
    record = json.loads((folder / "state.json").read_text())
    if record.get("format") != FORMAT:
        raise UserError(f"{folder} is no gansmith checkpoint.")
    if record["version"] > VERSION:
        raise UserError(
            f"{folder} was written by a newer gansmith ({record['gansmith_version']}); update gansmith."
        )
    return record


def read_tensors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    stems = ["networks", "optimizers", *(["memory"] if (folder / "memory.safetensors").exists() else [])]
    return {stem: load_file(folder / f"{stem}.safetensors") for stem in stems}


def remove_leftovers(folder: Path) -> None:
    """Deletes what a killed save left behind. Only the owner of the run may call it.

    A checkpoint that was about to be replaced by one of the same age is put back first.
    """
    for path in folder.glob(".*") if folder.is_dir() else ():
        if path.name.endswith(".old") and not (target := folder / path.name.split(".")[1]).exists():
            path.rename(target)
        elif path.name.endswith((".tmp", ".old")):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def thin(ages: Sequence[int], keep: int, now: int | None = None) -> set[int]:
    """The `keep` of ascending ages that are spread most evenly in log time; first and last stay.

    Drops, one at a time, the one whose neighbours are closest together in ratio. What it keeps of a growing
    sequence, thinned again and again, stays spread. now: log time is counted from there back, too, so that
    there is always one from a little while ago. Of 676, 6 kept, the newest that is a tenth older than now is
    from the first third of the run, as a rule; with it from the last.
    """

    def place(age: int) -> float:
        return math.log(age + 1) - (0.0 if now is None else math.log(max(now - age, 0) + 1))

    kept = list(ages)
    while len(kept) > keep:
        if len(kept) <= 2 or keep < 2:
            kept.pop(0)
            continue
        gaps = [place(kept[i + 1]) - place(kept[i - 1]) for i in range(1, len(kept) - 1)]
        kept.pop(1 + gaps.index(min(gaps)))
    return set(kept)


def prune(
    paths: Iterable[Path],
    warn: Warn,
    *,
    newest: int,
    spaced: int,
    gigabytes: float | None,
    protected: set[str],
    to_go_back: bool = False,
) -> None:
    """Deletes what retention does not keep: the `newest`, `spaced` older ones in log time, and the
    protected stay. to_go_back: log time counts from now back, too.

    gigabytes bounds all together, oldest going first, the newest excepted. A deletion that fails is a
    warning.
    """
    by_age = {moment[0]: path for path in paths if (moment := parse(path.name))}
    ages = sorted(by_age)
    keep = set(ages[-newest:]) | thin(ages[:-newest], spaced, ages[-1] if ages and to_go_back else None)
    keep |= {age for age in ages if by_age[age].name in protected}
    if gigabytes is not None:
        for age in sorted(keep)[:-1]:
            if sum(_bytes(by_age[a]) for a in keep) > gigabytes * 1e9 and by_age[age].name not in protected:
                keep.discard(age)
    for age in ages:
        if age not in keep:
            _delete(by_age[age], warn)


def delete_abandoned(folder: Path, warn: Warn) -> None:
    """Deletes the checkpoints of branches that the run went back from: when the new one has its first,
    nothing needs them. A deletion that was stopped is gone on with by the next call; one that fails is a
    warning.
    """
    for path in sorted(folder.glob(f"[0-9]*{ABANDONED}")):
        _delete(path, warn)


def _delete(path: Path, warn: Warn) -> None:
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        warn(f"{path} could not be deleted ({error.strerror or error})")


def _bytes(path: Path) -> int:
    inside = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in inside)
