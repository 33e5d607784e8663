"""What a prepared data set says about itself: `dataset.json` and `index.npz`, verified before anything uses
them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gansmith.data.remote import Files
from gansmith.errors import UserError

FORMAT = "gansmith-dataset"
VERSION = 1


@dataclass(frozen=True)
class ClassInfo:
    """A class of a data set: its id (the label), the name people use, how many images it has."""

    id: int
    name: str
    count: int


def content_hash(labels: Sequence[int], digests: Sequence[bytes]) -> str:
    """SHA-256 over (label as int64, SHA-256 of the payload) of every image in order.

    Says which images with which labels in which order and encoding. Keys, shard sizes and class names do not
    enter.
    """
    total = hashlib.sha256()
    for label, digest in zip(labels, digests, strict=True):
        total.update(int(label).to_bytes(8, "little"))
        total.update(digest)
    return total.hexdigest()


def read_manifest(path: str, files: Files) -> dict[str, Any]:
    """The content of `dataset.json`. Raises UserError if it is missing, damaged, foreign or of a newer
    version."""
    try:
        manifest = json.loads(files.read("dataset.json"))
    except FileNotFoundError:
        raise UserError(
            f"{path} holds no dataset.json, so it is not a prepared data set; "
            f"type: gansmith data prepare {path} DEST"
        ) from None
    except ValueError as error:
        raise UserError(f"{path}/dataset.json is damaged ({error}); prepare the data set again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(
            f"{path}/dataset.json belongs to another program; type: gansmith data prepare {path} DEST"
        )
    if manifest["version"] != VERSION:
        raise UserError(
            f"{path} has format version {manifest['version']}, this gansmith reads {VERSION}: update it."
        )
    return manifest


def read_index(path: str, files: Files, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """The columns shard, offset, size and label of `index.npz`, one entry per image.

    Raises UserError if they are missing, damaged or do not belong to this `dataset.json`.
    """
    try:
        with files.open("index.npz") as file, np.load(file) as archive:
            index = {name: archive[name] for name in ("shard", "offset", "size", "label")}
        images = np.bincount(index["shard"], minlength=len(manifest["shards"])).tolist()
        counts = np.bincount(index["label"], minlength=len(manifest["classes"])).tolist()
    except FileNotFoundError:
        raise UserError(f"{path}/index.npz is missing; copy it again, or prepare again.") from None
    except Exception as error:  # zipfile and numpy raise a dozen kinds for damaged files
        raise UserError(f"{path}/index.npz is damaged ({error}); copy it again, or prepare again.") from error
    ends = np.array([shard["bytes"] for shard in manifest["shards"]])[index["shard"]]
    if (
        images != [shard["images"] for shard in manifest["shards"]]
        or counts != [one["count"] for one in manifest["classes"]]
        or (index["offset"] + index["size"] > ends).any()
    ):
        raise UserError(f"{path}/index.npz and dataset.json belong to different data sets; prepare it again.")
    return index
