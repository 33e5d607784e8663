"""What can be scored: a run, a snapshot or a checkpoint that draws images, or images that are there already.

Every target gives its images in chunks of a fixed size, each a pure function of (target, seed, index): ranks
share the work, and any number of them gives the same bits. Must not know features or scores.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gansmith import hardware
from gansmith.data.shards import ClassInfo, is_prepared
from gansmith.errors import UserError
from gansmith.evaluation.protocol import UNKNOWN, Result
from gansmith.evaluation.stored import ImageFiles, NpzImages, PreparedImages, StoredImages
from gansmith.sampling import latents, statistics
from gansmith.sampling.sampler import Sampler, to_uint8
from gansmith.weights import snapshot


@dataclass(frozen=True)
class Chunk:
    """images: uint8 (n, C, H, W) on the CPU or the target's device. labels: int64 (n,), None: not known."""

    images: torch.Tensor
    labels: torch.Tensor | None


class Target(ABC):
    """path: as given. file: what is scored. run: the folder of the run it lies in, or None. shape: (C, H, W).
    available: number of images, None for as many as asked for. classes: names by label, [] without labels.
    images_seen: of the network, None for images.
    """

    path: Path
    file: Path
    run: Path | None = None
    shape: tuple[int, int, int]
    available: int | None = None
    classes: list[str]
    images_seen: int | None = None
    _ids: np.ndarray | None = None  # our label → the reference's

    @property
    def labelled(self) -> bool:
        """Whether chunks carry the reference's labels; known once a reference is followed."""
        return self._ids is not None

    @property
    def chunk_size(self) -> int:
        """Images per chunk: as many as fit one forward (64 up to 128 px, then fewer)."""
        return statistics.largest_group(max(self.shape[1:]))

    def num_chunks(self, num: int) -> int:
        return -(-num // self.chunk_size)

    def chunk(self, index: int, *, seed: int, num: int) -> Chunk:
        """Images index · chunk_size … of the `num` that `seed` names. Raises UserError for NaN or damage."""
        first = index * self.chunk_size
        return self.pick(np.arange(first, min(first + self.chunk_size, num)), seed=seed, num=num)

    @abstractmethod
    def pick(self, places: np.ndarray, *, seed: int, num: int) -> Chunk:
        """The images with these numbers below `num`, int64 (n,); as in their chunks, up to float rounding."""

    def follow(self, reference: list[ClassInfo]) -> str:
        """Adopts the reference's class ids and, where images are drawn, its class frequencies; says which
        rule holds: `proportional`, `balanced`, `own` (as the images are), or `none`.
        """
        names = [info.name for info in reference]
        if not self.classes or sorted(self.classes) != sorted(names):
            return self._without_reference()
        ids = {info.name: info.id for info in reference}
        return self._adopt([ids[name] for name in self.classes], reference)

    @abstractmethod
    def _without_reference(self) -> str: ...

    @abstractmethod
    def _adopt(self, ids: list[int], reference: list[ClassInfo]) -> str: ...

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Its part of a score's protocol: target_sha256, ema, batchnorm, truncation, …"""


class NetworkTarget(Target):
    """A generator that draws as many images as asked for. Its own copy: nothing else sees it."""

    def __init__(
        self,
        path: Path,
        *,
        truncation: float | None = None,
        kind: str = "resample",
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.path, self.file = path, snapshot.find(path)
        G, _, info = snapshot.load(self.file)
        if truncation is not None:
            latents.check_truncation(truncation, kind, info["latent"])
        self.sampler = Sampler(G, info, file=self.file, device=device, autocast_dtype=dtype)
        self.run = run_of(self.file)
        height, width, channels = self.sampler.image_shape
        self.shape = (channels, height, width)
        self.images_seen = int(info["images_seen"])
        self.truncate(truncation, kind)
        named = {entry["id"]: entry["name"] for entry in info["classes"]}
        self.classes = [named[i] for i in range(self.sampler.num_classes) if i in named]
        if len(self.classes) != self.sampler.num_classes:
            self.classes = []  # random labels have no names
        self._labels = np.zeros(1, np.int64)

    def of_another(self, file: Path) -> "NetworkTarget":
        """Another network, drawn from in the same way."""
        return NetworkTarget(
            file,
            truncation=self.truncation,
            kind=self.kind,
            device=self.sampler.device,
            dtype=self.sampler.autocast_dtype,
        )

    def truncate(self, truncation: float | None, kind: str = "resample") -> None:
        """Draws with this truncation from now on, with standing statistics that belong to it."""
        self.truncation, self.kind = truncation, kind
        self.sampler.use_truncation(truncation, kind)

    @torch.no_grad()
    def pick(self, places: np.ndarray, *, seed: int, num: int) -> Chunk:
        info, G = self.sampler.info, self.sampler.G
        z = latents.from_seeds(
            places.tolist(),
            dim=G.kwargs["dim_z"],
            kind=info["latent"],
            truncation=self.truncation,
            how=self.kind,
            purpose=f"evaluation/{seed}",
        )
        labels = torch.from_numpy(self._labels[places % len(self._labels)])
        y = labels.to(self.sampler.device) if self.sampler.num_classes else None
        with hardware.autocast(self.sampler.device.type, self.sampler.autocast_dtype):
            images = G(z.to(self.sampler.device), y)
        if not (finite := images.isfinite().flatten(1).all(1)).all():
            raise UserError(
                f"{self.file}: {int((~finite).sum())} of {len(images)} images hold NaN or infinity: the "
                "network has diverged, or --precision is too coarse for it. Score an earlier snapshot of the "
                "run, or use --precision fp32."
            )
        known = None if self._ids is None else torch.from_numpy(self._ids)[labels]
        return Chunk(to_uint8(images).permute(0, 3, 1, 2), known)

    def _without_reference(self) -> str:
        self._ids = None
        counts = [entry["count"] for entry in self.sampler.info["classes"]] if self.classes else []
        self._labels = spread_labels(counts or [1] * max(self.sampler.num_classes, 1))
        return "own" if self.sampler.num_classes else "none"

    def _adopt(self, ids: list[int], reference: list[ClassInfo]) -> str:
        counts = {info.id: info.count for info in reference}
        wanted = [counts[label] for label in ids]
        self._ids, self._labels = np.asarray(ids), spread_labels(wanted)
        return "balanced" if len(set(wanted)) == 1 else "proportional"

    def describe(self) -> dict[str, Any]:
        info, sampler = self.sampler.info, self.sampler
        return {
            "target_kind": "network",
            "target": str(self.file),
            "target_sha256": snapshot.fingerprint(
                {key: value.cpu() for key, value in sampler.G.state_dict().items() if "stored_" not in key}
            ),
            "images_seen": self.images_seen,
            "truncation": self.truncation,
            "truncation_kind": "none" if self.truncation is None else self.kind,
            "ema": bool(info.get("ema", True)),
            "batchnorm": "standing statistics",
            "precision": "fp32" if sampler.autocast_dtype is None else str(sampler.autocast_dtype)[6:],
        }


class ImageTarget(Target):
    """Images that are there: a folder, a zip, a prepared set, any other source of images, or an .npz."""

    def __init__(self, path: Path, images: StoredImages) -> None:
        self.path = self.file = path
        self._images = images
        self.shape, self.available, self.classes = images.shape, len(images), images.classes

    def pick(self, places: np.ndarray, *, seed: int, num: int) -> Chunk:
        assert self.available is not None
        chosen = np.arange(self.available)
        if num < self.available:  # a seeded part, as files lie class by class
            random = np.random.Generator(np.random.Philox(key=seed))
            chosen = np.sort(random.permutation(self.available)[:num])
        here = chosen[places]
        images = torch.from_numpy(self._images.read(here)).permute(0, 3, 1, 2)
        if self._ids is None or self._images.labels is None:
            return Chunk(images, None)
        return Chunk(images, torch.from_numpy(self._ids[self._images.labels[here]]))

    def _without_reference(self) -> str:
        self._ids = None
        return "own"

    def _adopt(self, ids: list[int], reference: list[ClassInfo]) -> str:
        self._ids = np.asarray(ids)
        return "own"

    def follow(self, reference: list[ClassInfo]) -> str:
        labels = self._images.labels
        if labels is not None and not self.classes:  # numbers without names: the reference's own ids
            if len(labels) and labels.min() >= 0 and labels.max() < len(reference):
                return self._adopt(list(range(len(reference))), reference)
            return self._without_reference()
        return super().follow(reference)

    def describe(self) -> dict[str, Any]:
        return {
            "target_kind": self._images.kind,
            "target": str(self.path),
            "target_sha256": self._images.sha256(),
            "images_seen": None,
            "truncation": None,
            "truncation_kind": UNKNOWN,
            "ema": None,
            "batchnorm": None,
            "precision": None,
        }


def open_target(
    path: str | Path,
    *,
    truncation: float | None = None,
    kind: str = "resample",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Target:
    """Opens what `path` names, by looking at it.

    truncation, kind: as in `latents.from_seeds`, for networks. dtype: autocast of the generator. Raises
    UserError where there is nothing to score.
    """
    path = Path(path)
    if is_network(path):
        return NetworkTarget(path, truncation=truncation, kind=kind, device=device, dtype=dtype)
    if truncation is not None:
        raise UserError(f"--truncation is for networks; {path} holds images: leave it out.")
    if path.suffix.lower() == ".npz" and path.is_file():
        return ImageTarget(path, NpzImages(path))
    if is_prepared(path):
        return ImageTarget(path, PreparedImages(str(path)))
    return ImageTarget(path, ImageFiles(str(path)))


def is_network(path: Path) -> bool:
    """Whether a path is (or should be) a run, a snapshot or a checkpoint, rather than images."""
    if path.is_file():
        return path.suffix == ".safetensors" or path.name == "best"
    inside = ("config.yaml", "snapshots", "checkpoints", snapshot.CHECKPOINT_FILE)
    return path.is_dir() and (
        any((path / name).exists() for name in inside) or any(path.glob("*.safetensors"))
    )


def run_of(file: Path) -> Path | None:
    """The run's folder that a snapshot or checkpoint lies in; None if it lies elsewhere."""
    for folder in file.absolute().parents[:3]:
        if (folder / "config.yaml").is_file():
            return folder
    return None


def name_of(file: Path) -> str:
    """What a file of a run is called: `000012345678`, of a snapshot and of a checkpoint alike."""
    return (file.parent if file.name == snapshot.CHECKPOINT_FILE else file).resolve().name.split(".")[0]


def row(file: Path, results: Sequence[Result], seconds: float) -> dict[str, Any]:
    """An evaluation of a run's file, for its metrics.jsonl (beside type and time)."""
    return {
        "images_seen": int(snapshot.describe(file)["images_seen"]),
        "snapshot": name_of(file),
        "results": [result.as_json() for result in results],
        "seconds": seconds,
    }


def spread_labels(counts: list[int]) -> np.ndarray:
    """Every label as often as counted, int64 (sum,), so evenly spread that any beginning is close to the
    whole in its frequencies: the k-th of a class's n images stands at (k + ½) / n of the way. Labels with
    equal counts come in rounds.
    """
    labels = np.repeat(np.arange(len(counts)), counts)
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in counts if n] or [np.zeros(0)])
    return labels[np.argsort(places, kind="stable")].astype(np.int64)
