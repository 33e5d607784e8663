"""From a file to images: `load(path).sample(8, classes=["cat"], truncation=0.5)`.

Everything needed is in the file. A seed and a class name one image, whatever else is drawn with it; memory
does not grow with the number of images drawn.
"""

import difflib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gansmith import hardware
from gansmith.errors import UserError
from gansmith.models import layers, spectral
from gansmith.models.biggan import Generator
from gansmith.sampling import latents, statistics
from gansmith.weights import snapshot
from gansmith.weights.export import hub

PRECISIONS = ("fp32", "bf16", "auto")


def load(path: str | Path, device: str | torch.device | None = None, precision: str = "fp32") -> "Sampler":
    """Opens a run (its newest snapshot), a snapshot, a checkpoint or an exported folder for sampling; what
    does not exist here and reads `user/name` comes from the Hugging Face hub.

    device: None takes the accelerator, if there is one. precision: `fp32`; `bf16` (autocast); `auto` is bf16
    on an accelerator that has it natively, else fp32. fp32 is fp32: TF32 is switched off in this process.
    Raises UserError for a device that is not here and a path or file that cannot be used.
    """
    device = hardware.choose_device(device)
    autocast_dtype = arithmetic(precision, device)
    hardware.set_tf32(False)
    if not Path(path).exists() and hub.looks_like_name(str(path)):
        path = hub.fetch(str(path))
    file = snapshot.find(path)
    G, _, info = snapshot.load(file)
    return Sampler(G, info, file=file, device=device, autocast_dtype=autocast_dtype)


def arithmetic(precision: str, device: torch.device) -> torch.dtype | None:
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision!r} is unknown; choose {', '.join(PRECISIONS)}.")
    if precision == "auto":
        native = device.type != "cpu" and hardware.native_bf16(device)[0]
        return torch.bfloat16 if native else None
    return torch.bfloat16 if precision == "bf16" else None


@torch.no_grad()
def generate(
    G: Generator,
    z: torch.Tensor,
    y: torch.Tensor | None,
    micro_batch: int,
    autocast_dtype: torch.dtype | None = None,
    keys: torch.Tensor | None = None,
) -> Iterator[torch.Tensor]:
    """Images in batches of at most `micro_batch`: uint8 (n, H, W, C) on G's device.

    z: float32 (N, dim_z). y: int64 (N,), float mixing weights (N, num_classes), or None. keys: int64 (N,) of
    a G with noise inputs, None: what z says. All on any device.
    G must be in eval mode with its normalised weights ready, and is not changed.
    """
    assert not G.training, "sampling uses standing statistics: call G.eval() first"
    device = next(G.parameters()).device
    for first in range(0, len(z), micro_batch):
        here = slice(first, first + micro_batch)
        with hardware.autocast(device.type, autocast_dtype):
            given = [None if part is None else part[here].to(device) for part in (z, y)]
            images = G(*given) if keys is None else G(*given, keys[here].to(device))
        yield to_uint8(images)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """float NCHW in [-1, 1] → uint8 NHWC, rounded: the inverse of the feed's x/127.5 − 1."""
    pixels = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()


class Sampler:
    """A generator ready to draw, with the names of its classes.

    G: the EMA generator in eval mode. info: the file's description (images_seen, classes, config, …). G's
    standing statistics follow the truncation asked for, in memory only: the file is never changed.
    """

    def __init__(
        self,
        G: Generator,
        info: dict[str, Any],
        *,
        file: Path | None = None,
        device: str | torch.device = "cpu",
        autocast_dtype: torch.dtype | None = None,
    ) -> None:
        self.G, self.info, self.file = G.eval(), info, file
        self.device = torch.device(device)
        self.autocast_dtype = autocast_dtype
        self._kept: dict[statistics.Key, list[torch.Tensor]] = {}
        self._current: statistics.Key | None = None
        layers.set_channels_last(G)
        G.to(self.device)
        if (stored := info["statistics"]) is None:
            warnings.warn("the file holds no standing statistics; they are estimated now.", stacklevel=3)
        spectral.refresh(G, iterations=0)  # moving to a device drops the normalised weights
        if stored is not None:
            self._current = (float(stored["truncation"]), stored["kind"])
            self._keep(self._current)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 for an unconditional network."""
        return self.G.kwargs["num_classes"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        return self.G.kwargs["resolution"], self.G.kwargs["resolution"], self.G.kwargs["channels"]

    @property
    def class_names(self) -> dict[int, str]:
        """Class id → name, for every class; a class without a name is called by its id."""
        names = {entry["id"]: entry["name"] for entry in self.info["classes"]}
        return {label: names.get(label, str(label)) for label in range(self.num_classes)}

    def class_ids(self, classes: Sequence[str | int] | None) -> list[int]:
        """Class ids from names or ids; None is every class. A name wins over an id that reads the same.

        An unconditional network has the one pseudo-class 0, and takes the ids that it gave. Raises UserError,
        naming the nearest classes.
        """
        if self.num_classes == 0:
            if classes is not None and list(classes) != [0]:
                raise UserError(f"classes {_joined(classes)}: this network has no classes; leave them out.")
            return [0]
        if classes is None:
            return list(range(self.num_classes))
        by_name = {name: label for label, name in reversed(self.class_names.items())}
        labels = []
        for asked in classes:
            text = str(asked).strip()
            if isinstance(asked, str) and text in by_name:
                label = by_name[text]
            elif text.isdecimal() and int(text) < self.num_classes:
                label = int(text)
            else:
                raise UserError(self._unknown(text))
            if label in labels:
                raise UserError(f"classes {_joined(classes)}: {text!r} is named twice; name it once.")
            labels.append(label)
        if not labels:
            raise UserError("classes are empty; name one, or leave them out for all of them.")
        return labels

    def _unknown(self, text: str) -> str:
        names = list(self.class_names.values())
        folded = {name.casefold(): name for name in names}
        near = [folded[match] for match in difflib.get_close_matches(text.casefold(), folded, 3, 0.5)]
        hint = f"nearest: {', '.join(near)}" if near else f"there are {', '.join(names[:8])}"
        more = ", …" if not near and len(names) > 8 else ""
        return (
            f"classes: {text!r} is neither a class name nor an id below {self.num_classes}; {hint}{more}. "
            f"`gansmith info {self.file or 'FILE'}` lists all."
        )

    def use_truncation(self, truncation: float | None, kind: str = "resample") -> None:
        """Makes G's standing statistics those of a truncation: nothing to do if they are, else re-estimated.

        Deterministic: 1,024 fixed latents in groups as large as training's, or smaller where memory asks for
        it. Weights that were published with statistics by truncation have them interpolated for `scale` up
        to 1; without truncation they take those of 1, the fullest there are.
        """
        if truncation is not None:
            latents.check_truncation(truncation, kind, self.info["latent"])
        wanted = statistics.key(truncation, kind)
        if wanted != self._current:
            self._put(wanted, truncation, kind)

    def has_statistics(self, truncation: float | None, kind: str = "resample") -> bool:
        """Whether standing statistics for a truncation are at hand, from the file or estimated before."""
        return statistics.key(truncation, kind) in self._kept or self._row(truncation, kind) is not None

    def _row(self, truncation: float | None, kind: str) -> float | None:
        """Where the published table has these statistics: a truncation in [0, 1], or None."""
        if self.G.statistics_table is None:
            return None
        if truncation is None:
            return 1.0
        return truncation if kind == "scale" and truncation <= 1 else None

    @torch.no_grad()
    def _put(self, wanted: statistics.Key, truncation: float | None, kind: str) -> None:
        if wanted in self._kept:
            for buffer, kept in zip(statistics.buffers(self.G), self._kept[wanted]):
                buffer.copy_(kept)
        elif self.G.statistics_table is not None and (row := self._row(truncation, kind)) is not None:
            self.G.statistics_table.put(self.G, row)
        else:
            statistics.estimate(
                self.G,
                self.info["latent"],
                self.num_classes,
                truncation=truncation,
                kind=kind,
                group=statistics.default_group(self.info, self.G.kwargs["resolution"]),
                precision_context=partial(hardware.autocast, self.device.type, self.autocast_dtype),
            )
            self._keep(wanted)
        self._current = wanted

    def _keep(self, key: statistics.Key) -> None:
        # Going back to a truncation gives the very images it gave before, the file's own statistics included.
        self._kept[key] = [buffer.clone() for buffer in statistics.buffers(self.G)]

    def images(
        self,
        n: int | None = None,
        *,
        seeds: Sequence[int] | None = None,
        classes: Sequence[str | int] | None = None,
        truncation: float | None = None,
        truncation_kind: str = "resample",
        micro_batch: int = 8,
    ) -> Iterator[np.ndarray]:
        """Batches of images, made when asked for: uint8 (≤ micro_batch, H, W, C), for any number of images.

        n: images per class, with seeds 0 … n−1; or seeds: the same seeds for every class. classes: names or
        ids, None is all. Order: class by class, within a class in the order of the seeds. truncation: None or
        a threshold, by `resample` or `scale` (see `latents.from_seeds`). Arguments are checked before the
        first image is asked for.
        """
        if (n is None) == (seeds is None):
            raise UserError("give either the number of images per class (n) or their seeds.")
        if (n is not None and n < 1) or (seeds is not None and len(seeds) == 0) or micro_batch < 1:
            raise UserError("the number of images, of seeds and the micro-batch must be at least 1.")
        wanted = range(n) if n is not None else seeds
        pairs = ((label, seed) for label in self.class_ids(classes) for seed in wanted or ())
        return self.draw(
            pairs, truncation=truncation, truncation_kind=truncation_kind, micro_batch=micro_batch
        )

    def draw(
        self,
        pairs: Iterable[tuple[int, int]],
        *,
        truncation: float | None = None,
        truncation_kind: str = "resample",
        micro_batch: int = 8,
    ) -> Iterator[np.ndarray]:
        """Batches of the images that (class id, seed) pairs name, in their order; otherwise as `images`."""
        self.use_truncation(truncation, truncation_kind)
        return self._batches(iter(pairs), truncation, truncation_kind, micro_batch)

    def _batches(
        self, pairs: Iterator[tuple[int, int]], truncation: float | None, kind: str, micro_batch: int
    ) -> Iterator[np.ndarray]:
        while batch := list(islice(pairs, micro_batch)):
            self.use_truncation(truncation, kind)  # another iterator may have asked for another one meanwhile
            z = latents.from_seeds(
                [seed for _, seed in batch],
                dim=self.G.kwargs["dim_z"],
                kind=self.info["latent"],
                truncation=truncation,
                how=kind,
            )
            y = torch.tensor([label for label, _ in batch]) if self.num_classes else None
            for images in generate(self.G, z, y, micro_batch, self.autocast_dtype):
                yield images.cpu().numpy()

    def sample(self, n: int | None = None, **options: Any) -> np.ndarray:
        """All images at once: uint8 (classes · n, H, W, C); the arguments and the order are those of
        `images`.
        """
        return np.concatenate(list(self.images(n, **options)))


def _joined(classes: Sequence[str | int]) -> str:
    return ",".join(map(str, classes))
