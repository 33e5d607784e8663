"""Features of a prepared data set: computed once, streamed to disk, found again by content and protocol.

A cache entry is a folder named after everything that decides its numbers:

    features.f32, logits.f32   rows of float32, in the order of the images
    journal                    a JSON line for each chunk written: its end and its SHA-256
    complete.json              identity, sizes and hashes; written last

A killed computation goes on after its last whole chunk. What does not match its own hashes is computed anew,
saying so: a score never comes from a truncated or foreign file.
"""

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gansmith import files
from gansmith.data.cache import cache_folder, locked
from gansmith.data.shards import Dataset
from gansmith.errors import UserError
from gansmith.evaluation.features.base import FeatureNetwork
from gansmith.evaluation.featureset import FeatureSet

VERSION = 1  # of the entry and of the order of the images; another one is another entry
CHUNK = 512  # images computed between two writes; fixed, as float rounding may depend on it
COLUMNS = ("features", "logits")

Progress = Callable[[int, int], None]


def reference_features(
    dataset: Dataset,
    network: FeatureNetwork,
    *,
    num: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> FeatureSet:
    """Features of a data set, from the cache or computed into it; arrays are read-only memory maps.

    num: only so many images, a fixed draw of all (never the first ones: sets are often sorted by class); None
    is all. cache_dir: None is $GANSMITH_CACHE or ~/.cache/gansmith. progress: called with (done, all) images
    while computing. Of several processes one computes and the others wait. Raises UserError for a `num` that
    is too large, a damaged image and a full disk.
    """
    indices = chosen(dataset, num)
    entry = entry_folder(dataset, network, num, cache_dir)
    identity = _identity(dataset, network, num)
    with locked(entry):
        opened = _opened(entry, identity)
        if opened is None:
            _compute(entry, identity, dataset, network, indices, progress)
            opened = _opened(entry, identity)
            assert opened is not None, f"{entry} was written just now"
    features, logits = opened
    return FeatureSet(
        features=features,
        logits=logits,
        labels=dataset.labels[indices],
        num_classes=dataset.num_classes,
        class_names=[info.name for info in dataset.classes],
    )


def chosen(dataset: Dataset, num: int | None) -> np.ndarray:
    """The images that stand for a data set: all, or a fixed draw of `num`, by index in rising order."""
    if num is None or num == len(dataset):
        return np.arange(len(dataset))
    if not 1 <= num <= len(dataset):
        raise UserError(
            f"--num-real {num}: {dataset.path} has {len(dataset):,} images; choose 1 to {len(dataset)}, or "
            "leave it out for all."
        )
    return np.sort(np.random.default_rng(0).permutation(len(dataset))[:num])


def entry_folder(
    dataset: Dataset, network: FeatureNetwork, num: int | None = None, cache_dir: Path | None = None
) -> Path:
    """Where the features lie, or would."""
    key = json.dumps(_identity(dataset, network, num), sort_keys=True)
    name = f"{network.frechet_name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
    return cache_folder(cache_dir) / "features" / name


def is_cached(
    dataset: Dataset, network: FeatureNetwork, num: int | None = None, cache_dir: Path | None = None
) -> bool:
    """Whether the features are there, as far as one sees without reading them all."""
    return (entry_folder(dataset, network, num, cache_dir) / "complete.json").is_file()


def _identity(dataset: Dataset, network: FeatureNetwork, num: int | None) -> dict[str, Any]:
    return {
        "version": VERSION,
        "chunk": CHUNK,
        "content_hash": dataset.content_hash,
        "num_images": len(chosen(dataset, num)),
        "num_all": len(dataset),
        "network": network.cache_identity(),
    }


def _opened(entry: Path, identity: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None] | None:
    """The arrays of a complete entry, its hashes checked; None where there is none or, with a warning, where
    it is damaged or of something else.
    """
    if not (entry / "complete.json").is_file():
        return None
    try:
        found = json.loads((entry / "complete.json").read_text())
        if found["identity"] != identity:
            raise ValueError("it belongs to other images or another network")
        arrays: list[np.ndarray | None] = []
        for name in COLUMNS:
            if (about := found[name]) is None:
                arrays.append(None)
                continue
            file, shape = entry / f"{name}.f32", tuple(about["shape"])
            if file.stat().st_size != 4 * shape[0] * shape[1]:
                raise ValueError(
                    f"{file.name} is {file.stat().st_size:,} bytes, not {4 * shape[0] * shape[1]:,}"
                )
            if files.sha256(file) != about["sha256"]:
                raise ValueError(f"{file.name} is not what was written (SHA-256 differs)")
            arrays.append(np.memmap(file, np.float32, "r", shape=shape))
        features, logits = arrays
        if features is None:
            raise ValueError("it has no features")
        return features, logits
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(
            f"{entry}: stored features cannot be used ({error}); they are computed again.", stacklevel=3
        )
        shutil.rmtree(entry, ignore_errors=True)
        return None


def _compute(
    entry: Path,
    identity: dict[str, Any],
    dataset: Dataset,
    network: FeatureNetwork,
    indices: np.ndarray,
    progress: Progress | None,
) -> None:
    """Fills an entry chunk by chunk, going on where a killed process stopped."""
    widths = {"features": network.dim, "logits": network.num_logits}
    columns = {name: width for name, width in widths.items() if width is not None}
    try:
        done = _recover(entry, identity, columns, len(indices))
        for first in range(done, len(indices), CHUNK):
            here = indices[first : first + CHUNK]
            found = network(torch.from_numpy(dataset.read(here)).permute(0, 3, 1, 2))
            rows = {"features": found.features.numpy(), "logits": None}
            if found.logits is not None:
                rows["logits"] = found.logits.numpy()
            _append(entry, first + len(here), {name: rows[name] for name in columns})
            if progress is not None:
                progress(first + len(here), len(indices))
        about: dict[str, Any] = {"identity": identity, **dict.fromkeys(COLUMNS)}
        for name, width in columns.items():
            digest = files.sha256(entry / f"{name}.f32")
            about[name] = {"shape": [len(indices), width], "sha256": digest}
        files.write_text(entry / "complete.json", json.dumps(about, indent=1))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed = 4 * len(indices) * sum(columns.values())
        raise UserError(
            f"{entry.parent}: no space left for features of {len(indices):,} images ({needed / 1e9:.1f} GB); "
            "free some, or set $GANSMITH_CACHE to a folder on another disk."
        ) from error


def _append(entry: Path, end: int, rows: dict[str, Any]) -> None:
    digest = hashlib.sha256()
    for name, values in rows.items():
        content = np.ascontiguousarray(values, np.float32).tobytes()
        digest.update(content)
        with open(entry / f"{name}.f32", "ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    with open(entry / "journal", "a") as journal:
        journal.write(json.dumps({"end": end, "sha256": digest.hexdigest()}) + "\n")


def _recover(entry: Path, identity: dict[str, Any], columns: dict[str, int], total: int) -> int:
    """How many images are done already; leaves exactly their rows. An entry of something else is emptied."""
    begun = entry / "identity.json"
    try:
        same = json.loads(begun.read_text()) == identity
        lines = (entry / "journal").read_text().splitlines() if same else []
    except (OSError, ValueError):
        same, lines = False, []
    done, good = 0, list[str]()
    for line in lines:
        try:
            end, digest = (entry_line := json.loads(line))["end"], entry_line["sha256"]
            if end != min(done + CHUNK, total) or _digest_of(entry, columns, done, end) != digest:
                break
        except (OSError, ValueError, KeyError, TypeError):
            break
        done, good = end, [*good, line]
    if not done:
        shutil.rmtree(entry, ignore_errors=True)
        entry.mkdir(parents=True)
        files.write_text(begun, json.dumps(identity))
        return 0
    for name, width in columns.items():
        os.truncate(entry / f"{name}.f32", 4 * done * width)
    files.write_text(entry / "journal", "".join(f"{line}\n" for line in good))
    return done


def _digest_of(entry: Path, columns: dict[str, int], first: int, end: int) -> str:
    digest = hashlib.sha256()
    for name, width in columns.items():
        with open(entry / f"{name}.f32", "rb") as file:
            file.seek(4 * first * width)
            digest.update(file.read(4 * (end - first) * width))
    return digest.hexdigest()
