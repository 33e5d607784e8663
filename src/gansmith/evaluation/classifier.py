"""A small classifier of the user's own images: what Inception is to photographs, for any labelled data.

Its last features give a Fréchet distance and its logits an Inception Score on own data (BigGAN, section 4.2
does so for JFT); the classification accuracy score trains one on fakes. It knows tensors of images and
labels; it must not know data sets or generators.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import gansmith
from gansmith import files, hardware
from gansmith.errors import UserError
from gansmith.evaluation.features.base import frozen
from gansmith.evaluation.features.resizing import antialiased_bicubic

FORMAT = "gansmith-classifier"
VERSION = 1
MAX_RESOLUTION = 64  # a class is told from this many pixels; more would cost without helping a score
BATCH = 128
PEAK_RATE = 0.2  # of SGD at a batch of 128, reached after a fifth of the budget


class Images(Protocol):
    """Images by number: a uint8 (n, C, H, W) tensor, or anything that reads as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """int64 (k,) → uint8 (k, C, H, W)."""


class _Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, halve: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.halve = halve

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(self.bn(F.max_pool2d(x, 2) if self.halve else x))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _Conv(width, width), _Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class Classifier(nn.Module):
    """A ResNet of nine layers. In: float32 (N, channels, resolution, resolution), about unit variance.

    width: channels of the first layer; the features are 8 × as many, averaged over what is left of the image.
    """

    def __init__(self, resolution: int, channels: int, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.kwargs = {
            "resolution": resolution,
            "channels": channels,
            "num_classes": num_classes,
            "width": width,
        }
        self.resolution, self.channels, self.num_classes = resolution, channels, num_classes
        self.dim = 8 * width
        layers: list[nn.Module] = [_Conv(channels, width)]
        side = resolution
        if side > 32:  # large images lose half at once, where the layers are still cheap
            layers, side = [_Conv(channels, width, halve=True)], side // 2
        for factor in (1, 2, 4):
            layers.append(_Conv(factor * width, 2 * factor * width, halve=side >= 4))
            side = side // 2 if side >= 4 else side
            if factor != 2:
                layers.append(_Residual(2 * factor * width))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(self.dim, num_classes)

    def features_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """float32 features (N, dim) and logits (N, num_classes), the head in fp32 under any autocast."""
        features = self.body(x).float().mean((2, 3))
        with torch.autocast(x.device.type, enabled=False):
            return features, self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.features_and_logits(x)[1]


def as_input(images: Tensor, net: Classifier) -> Tensor:
    """uint8 (N, 1 or 3, H, W) → what the classifier takes: its size, its channels, about unit variance."""
    x = antialiased_bicubic(images, net.resolution)
    if x.shape[1] != net.channels:
        x = x.mean(1, keepdim=True) if net.channels == 1 else x.expand(-1, 3, -1, -1)
    return ((x - 127.5) / 64).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Accuracy:
    """value: share of images whose class was recognised. per_class: float64 (num_classes,), NaN for classes
    without images. count: of images.
    """

    value: float
    per_class: np.ndarray
    count: int


Progress = Callable[[int, int | None, float], None]


def train_classifier(
    images: Images,
    labels: np.ndarray,
    num_classes: int,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    mirror: bool | None = None,
    width: int = 16,
    device: str | torch.device | None = None,
    progress: Progress | None = None,
) -> Classifier:
    """Trains a classifier from scratch, in eval mode on the device at the end.

    labels: int (n,). steps: updates of 128 images; or seconds of wall clock; None for both: `default_steps`.
    With steps, equal calls give equal networks on the same machine; the caller's random streams and flags are
    left alone. mirror: whether images are flipped sideways; None flips colour images, not grey ones (letters
    and digits). progress: called after every step with (steps done, all steps or None, mean recent loss).
    Images larger than 64 px are seen at 64 px; all are shifted by up to an eighth. bf16 where it is native.
    """
    labels = np.asarray(labels)
    assert len(images) == len(labels), f"{len(images)} images, {len(labels)} labels"
    assert len(labels) > 0, "a classifier needs images"
    if steps is None and seconds is None:
        steps = default_steps(len(labels))
    place = hardware.choose_device(device)
    sample = images[torch.zeros(1, dtype=torch.int64)]
    channels, side = sample.shape[1], min(max(sample.shape[2:]), MAX_RESOLUTION)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(side, channels, num_classes, width)
    net = frozen(net, place).requires_grad_(True).train()
    _fit(net, images, labels, steps, seconds, seed, channels == 3 if mirror is None else mirror, progress)
    return net.eval().requires_grad_(False)


def default_steps(num_images: int) -> int:
    """12 epochs, but at least 400 updates and at most 6,000."""
    return max(400, min(6000, 12 * num_images // BATCH))


def _fit(
    net: Classifier,
    images: Images,
    labels: np.ndarray,
    steps: int | None,
    seconds: float | None,
    seed: int,
    mirror: bool,
    progress: Progress | None,
) -> None:
    device = net.head.weight.device
    dtype = torch.bfloat16 if hardware.native_bf16(device)[0] else None
    decayed = [p for p in net.parameters() if p.ndim > 1]
    rest = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, PEAK_RATE, momentum=0.9, nesterov=True)
    drawing = torch.Generator().manual_seed(seed)
    started, done, recent = time.monotonic(), 0, 0.0
    order = torch.empty(0, dtype=torch.int64)
    targets = torch.from_numpy(labels.astype(np.int64))
    while True:
        shares = [done / steps] if steps is not None else []
        shares += [(time.monotonic() - started) / seconds] if seconds is not None else []
        if (spent := max(shares)) >= 1:
            return
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(labels), generator=drawing)])
        chosen, order = order[:BATCH], order[BATCH:]
        for group in optimizer.param_groups:  # up a fifth of the way, then down to nothing
            group["lr"] = PEAK_RATE * min((spent + 0.01) / 0.21, (1 - spent) / 0.8)
        with torch.enable_grad(), hardware.full_fp32():
            x = _moved(as_input(images[chosen].to(device), net), mirror, drawing)
            with hardware.autocast(device.type, dtype):
                logits = net(x)
            loss = F.cross_entropy(logits, targets[chosen].to(device))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        done += 1
        recent = float(loss.detach()) if done == 1 else 0.95 * recent + 0.05 * float(loss.detach())
        if progress is not None:
            progress(done, steps, recent)


def _moved(x: Tensor, mirror: bool, drawing: torch.Generator) -> Tensor:
    """Every image shifted by up to an eighth of its side, its border repeated; half of them mirrored."""
    count, _, height, width = x.shape
    reach = height // 8
    shift = torch.randint(-reach, reach + 1, (2, count, 1), generator=drawing)
    rows = (torch.arange(height) + shift[0]).clamp_(0, height - 1)
    columns = (torch.arange(width) + shift[1]).clamp_(0, width - 1)
    if mirror:
        flipped = torch.rand(count, 1, generator=drawing) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    rows, columns = rows.to(x.device), columns.to(x.device)
    x = x.permute(0, 2, 3, 1)[
        torch.arange(count, device=x.device)[:, None, None], rows[:, :, None], columns[:, None]
    ]
    return x.permute(0, 3, 1, 2)  # channels_last still


@torch.no_grad()
def accuracy(net: Classifier, images: Images, labels: np.ndarray) -> Accuracy:
    """How many of these images the classifier gets right, in fp32; labels: int (n,)."""
    labels = np.asarray(labels)
    assert len(images) == len(labels), f"{len(images)} images, {len(labels)} labels"
    device, right = net.head.weight.device, np.zeros(len(labels), bool)
    for first in range(0, len(labels), 256):
        here = torch.arange(first, min(first + 256, len(labels)))
        with hardware.full_fp32(), hardware.autocast(device.type, None):
            guess = net(as_input(images[here].to(device), net)).argmax(1).cpu().numpy()
        right[here] = guess == labels[here]
    counts = np.bincount(labels, minlength=net.num_classes)
    hits = np.bincount(labels, weights=right, minlength=net.num_classes)
    with np.errstate(invalid="ignore"):
        return Accuracy(float(right.mean()), hits / counts, len(labels))


def held_out_split(labels: np.ndarray, seed: int, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """(training, held out): sorted indices; of every class of two or more images the share, at least one."""
    keys = np.random.default_rng(seed).permutation(len(labels))
    kept_out = []
    for label in np.unique(labels):
        members = keys[labels[keys] == label]
        kept_out.append(members[: max(1, round(share * len(members)))] if len(members) > 1 else members[:0])
    held_out = np.sort(np.concatenate(kept_out))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def save(path: Path, net: Classifier, info: dict[str, Any]) -> None:
    """Writes a classifier atomically. info: JSON-able, with `classes` (names in order of the logits) and
    `accuracy` (on held-out images); the network's arguments and the version are added.
    """
    missing = {"classes", "accuracy"} - info.keys()
    assert not missing, f"classifier info lacks {sorted(missing)}"
    described = {
        **info,
        "format": FORMAT,
        "version": VERSION,
        "network": net.kwargs,
        "gansmith_version": gansmith.__version__,
    }
    state = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    with files.replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # the library writes files that only their owner can read
        save_file(state, temporary, metadata={"gansmith": json.dumps(described)})
        temporary.chmod(mode)


def load(path: Path) -> tuple[Classifier, dict[str, Any]]:
    """A saved classifier on the CPU in eval mode, and its description.

    Raises UserError for a file that is missing, damaged or something else.
    """
    make = "`gansmith eval train-classifier --data D` makes one."
    if not path.is_file():
        raise UserError(f"--features classifier:{path}: no such file; {make}")
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            info = json.loads((opened.metadata() or {}).get("gansmith", "{}"))
            state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"--features classifier:{path} is damaged, or no classifier ({error}); {make}"
        ) from None
    if info.get("format") != FORMAT:
        raise UserError(f"--features classifier:{path} is a safetensors file, but no classifier; {make}")
    if info["version"] > VERSION:
        raise UserError(
            f"{path} was written by gansmith {info['gansmith_version']}; upgrade this one, or train another."
        )
    try:
        with torch.device("meta"):
            net = Classifier(**info["network"])
        net.load_state_dict(state, assign=True)
    except (TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--features classifier:{path} is damaged ({reason}); {make}") from None
    return net.eval().requires_grad_(False), info
