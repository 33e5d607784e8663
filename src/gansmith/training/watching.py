"""Signals beyond losses, looked at with a status line now and then: singular values, how varied fixed latents
come out, and what D says of images that are not trained on (docs/watching.md).

G is looked at as it is trained, with BatchNorm statistics of the batch: what collapses, collapses there
first. Looking leaves nothing behind: no buffer, mode or random state of a network changes, and no bit of a
run depends on what was seen. The processes of a run share the work.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gansmith.config import Config, images
from gansmith.data.feed import to_device
from gansmith.data.shards import Dataset
from gansmith.errors import UserError
from gansmith.evaluation import reals
from gansmith.models import singular
from gansmith.models.normalization import BatchNorm
from gansmith.sampling import latents
from gansmith.sampling.statistics import largest_group
from gansmith.training import announce, diversity
from gansmith.training.distributed import World

if TYPE_CHECKING:
    from gansmith.training.loop import Run
    from gansmith.training.state import State

SPACING = 48  # images trained on per image looked at: under 1 % of the time (benchmarks/watching.py)
PER_CLASS = 6  # fixed latents at least, where there are many classes
ITERATIONS = 2  # of the singular values, per look
THUMBNAIL = 8  # side; stands for the features of a D that has none


@dataclass
class Pictures:
    """Images that D is shown at every look: uint8 (N, h, w, c) on the run's device, labels int64 (N,)."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass
class Watch:
    """What is looked at. every: images between looks. features: their length, with what D calls them."""

    every: int
    spectra: singular.Spectra
    z: Tensor
    labels: Tensor  # int64, one per latent
    real: Pictures
    held_out: Pictures | None
    features: int
    class_names: dict[int, str]  # of labels, where they are those of the data

    def due(self, before: int, now: int) -> bool:
        """Whether the images from `before` to `now` passed the next look."""
        return before // self.every != now // self.every


def cadence(config: Config, status: int, epoch: int) -> int | None:
    """Images between looks, a multiple of those between status lines; None: never."""
    if config.watch.every is None:
        return None
    auto = config.watch.every == "auto"
    wanted = SPACING * config.watch.images if auto else images(config.watch.every, epoch)
    return -(-wanted // status) * status


def other_images(config: Config, world: World) -> Dataset | None:
    """The set that `watch.data` names, opened as the run's images are. Raises UserError if it cannot be."""
    if config.watch.data is None:
        return None
    return reals.open_at(config.watch.data, *_as_the_runs(config), aloud=world.is_main)


def expect_other_images(config: Config) -> None:
    """Raises UserError where `other_images` would, up to decoding an image; writes nothing."""
    if config.watch.data is not None:
        reals.expect_at(config.watch.data, *_as_the_runs(config))


def _as_the_runs(config: Config) -> tuple[tuple[int, int, int], str, dict[str, Any]]:
    """How `reals` opens images as those of the run: their shape, whose it is, and options."""
    model = config.model
    options = {"unconditional": not announce.uses_labels(config)}
    return (model.channels, model.resolution, model.resolution), "the run", options


@torch.no_grad()
def ready(run: "Run", state: "State", held_out: Dataset | None) -> Watch | None:
    """Chooses what is looked at; None where nothing is to be."""
    every = cadence(run.config, run.every["status"], len(run.dataset))
    if every is None:
        return None
    config, num, device = run.config, run.config.watch.images, run.world.device
    labelled = announce.uses_labels(config)
    chosen = _spread(run.drawn_classes.numpy(), num // PER_CLASS) if run.num_classes else np.zeros(1, int)
    labels = torch.from_numpy(np.resize(chosen, num))
    z = latents.from_seeds(range(num), dim=config.model.dim_z, kind=config.model.latent)
    same = held_out is not None and held_out.content_hash == run.dataset.content_hash
    others = None if held_out is None or same else _pictures(run, held_out, labels.numpy(), labelled)
    if held_out is not None and others is not None and not len(others):
        _say_no_class_is_the_runs(run, held_out)
        others = None
    watch = Watch(
        every=every,
        spectra=singular.Spectra(_shared(run.world, weights(state))),
        z=z.to(device),
        labels=labels,
        real=_pictures(run, run.dataset, labels.numpy(), labelled),
        held_out=others,
        features=0,
        class_names={info.id: info.name for info in run.dataset.classes} if labelled else {},
    )
    with _undisturbed(run, state):
        one = slice(0, 1)
        watch.features = _features(run, state, _images(state, watch.real, one)).shape[1]
        answer = state.D.net.forward(_images(state, watch.real, one), _labels(run, watch.real.labels[one]))
        if not (isinstance(answer, Tensor) and answer.numel() == 1):
            watch.held_out = None  # a D of the user's own that answers with something else than logits
    return watch


def _say_no_class_is_the_runs(run: "Run", held_out: Dataset) -> None:
    theirs, ours = (", ".join(sorted(info.name for info in d.classes)[:5]) for d in (held_out, run.dataset))
    what = f"no class of the images that are not trained on ({theirs}) has a name of the run's ({ours})"
    if run.config.watch.data is not None:
        raise UserError(
            f"watch.data {run.config.watch.data}: {what}; name its folders as --data does, or leave it out."
        )
    run.log.warn(f"{what}: what D says of them is not looked at")


def weights(state: "State") -> list[tuple[str, Tensor]]:
    """Every weight of both networks, as `G.linear`, `D.blocks.0.0.conv1`, …"""
    return [
        (f"{letter}.{name}", weight)
        for letter, player in (("G", state.G), ("D", state.D))
        for name, weight in singular.weights(player.net)
    ]


@torch.no_grad()
def look(run: "Run", state: "State") -> dict[str, Any]:
    """The signals of this moment, for a status row: the same on all processes, which call it together.

    None stands for what is not a number, be it of a network or because the reals do not differ.
    """
    watch = run.watch
    assert watch is not None
    with _undisturbed(run, state):
        fake = _gathered(run, len(watch.z), watch.features, lambda part: _drawn(run, state, watch, part))
        real = _gathered(
            run, len(watch.real), watch.features,
            lambda part: _features(run, state, _images(state, watch.real, part)),
        )  # fmt: skip
        row = _diversity(watch, fake, real) | _memory(run, state, watch)
    return row | _sigmas(run, state, watch)


def _diversity(watch: Watch, fake: Tensor, real: Tensor) -> dict[str, Any]:
    together = watch.labels if watch.class_names else torch.zeros_like(watch.labels)
    of_reals = watch.real.labels if watch.class_names else torch.zeros_like(watch.real.labels)
    found = diversity.compare(fake, real, together, of_reals)
    by_class = found.pop("diversity_class")
    row: dict[str, Any] = {name: _number(value) for name, value in found.items()}
    if watch.class_names:
        row["diversity_class_min"] = min((r for r in by_class.values() if r == r), default=None)
        row["diversity_class"] = {watch.class_names[c]: _number(ratio) for c, ratio in by_class.items()}
    return row


def _memory(run: "Run", state: "State", watch: Watch) -> dict[str, Any]:
    """D's mean answer to images that are not trained on, and how much higher that to trained ones is."""
    if watch.held_out is None:
        return {}
    trained, held_out = (_answers(run, state, pictures) for pictures in (watch.real, watch.held_out))
    # Class by class: what D says depends on the class, and one set may hold more of it.
    gaps = [
        float(trained[watch.real.labels == c].mean() - held_out[watch.held_out.labels == c].mean())
        for c in sorted(set(watch.real.labels.tolist()) & set(watch.held_out.labels.tolist()))
    ]
    return {
        "d_held_out": _number(float(held_out.mean())),
        "d_gap": _number(float(np.mean(gaps))) if gaps else None,
    }


def _sigmas(run: "Run", state: "State", watch: Watch) -> dict[str, Any]:
    names = [name for name, _ in weights(state)]
    values = torch.zeros(len(names), singular.COUNT, device=run.world.device)
    if watch.spectra.names:
        watch.spectra.advance(ITERATIONS)
        values[run.world.rank :: run.world.size] = watch.spectra.values()
    run.world.sum(values)
    columns = values.t().tolist()
    row: dict[str, Any] = {
        f"sigma{i}": {name: _number(value) for name, value in zip(names, column)}
        for i, column in enumerate(columns)
    }
    for letter in "gd":
        ratios = [
            largest / second
            for name, largest, second in zip(names, columns[0], columns[1])
            if name.startswith(letter.upper()) and second > 0
        ]
        row[f"sigma_ratio_{letter}"] = _number(max(ratios)) if ratios else None
    return row


# What is shown to whom
# ---------------------------------------------------------------------------------------------------------


def _pictures(run: "Run", dataset: Dataset, labels: np.ndarray, labelled: bool) -> Pictures:
    """As many images as there are labels, of these classes where they are the data's own: evenly spread over
    the set, all of a class that has too few.
    """
    if labelled:
        ids = {info.name: info.id for info in run.dataset.classes}
        own = np.array([ids.get(info.name, -1) for info in dataset.classes])[dataset.labels]
        waiting = {
            c: iter(_spread(np.flatnonzero(own == c), count))
            for c, count in zip(*np.unique(labels, return_counts=True))
        }
        # In the order of the labels: a D with BatchNorm sees classes mixed as they are among the fakes.
        rows = np.array([row for c in labels if (row := next(waiting[c], None)) is not None], np.int64)
        labels = own[rows]
    else:
        rows = _spread(np.arange(len(dataset)), len(labels))
        labels = labels[: len(rows)]
    side = run.config.model.resolution
    top, left = ((size - side) // 2 for size in dataset.resolution)  # data for random crops is larger
    pixels = dataset.read(rows)[:, top : top + side, left : left + side]
    return Pictures(torch.from_numpy(pixels).to(run.world.device), torch.from_numpy(labels))


def _spread(members: np.ndarray, num: int) -> np.ndarray:
    """At most `num` of them, evenly spread from the first to the last."""
    num = max(1, min(num, len(members)))
    return members[np.linspace(0, len(members) - 1, num).round().astype(int)] if len(members) else members


def _images(state: "State", pictures: Pictures, part: slice) -> Tensor:
    """(N, C, R, R) in [-1, 1], in the precision of D's weights."""
    wanted = next(state.D.net.parameters()).dtype
    return to_device(pictures.pixels[part], pictures.pixels.device).to(wanted)


def _labels(run: "Run", labels: Tensor) -> Tensor | None:
    return labels.to(run.world.device) if run.num_classes else None


def _drawn(run: "Run", state: "State", watch: Watch, part: slice) -> Tensor:
    with run.precision.autocast():
        fake = state.G.net.forward(watch.z[part], _labels(run, watch.labels[part]))
    return _features(run, state, fake)


def _features(run: "Run", state: "State", x: Tensor) -> Tensor:
    """(N, C, R, R) in [-1, 1] → (N, dim) float32."""
    if not hasattr(state.D.net, "features"):
        return F.adaptive_avg_pool2d(x, THUMBNAIL).flatten(1)
    with run.precision.autocast():
        return state.D.net.features(x).float().flatten(1)


def _answers(run: "Run", state: "State", pictures: Pictures) -> Tensor:
    """What D says of them, (N,)."""

    def of(part: slice) -> Tensor:
        images, labels = _images(state, pictures, part), _labels(run, pictures.labels[part])
        with run.precision.autocast():
            return state.D.net.forward(images, labels).view(-1, 1)

    return _gathered(run, len(pictures), 1, of).flatten()


# How it is done
# ---------------------------------------------------------------------------------------------------------


@contextmanager
def _undisturbed(run: "Run", state: "State") -> Iterator[None]:
    """G in training mode, D in eval mode, whole BatchNorm groups on this process; random draws of their own.

    Networks are called by `forward`, beside their compiled form, whose shapes these are not.
    """
    nets, device = (state.G.net, state.D.net), run.world.device
    modes = [(module, module.training) for net in nets for module in net.modules()]
    norms = [(module, module.group) for module, _ in modes if isinstance(module, BatchNorm)]
    draws = {"devices": []} if device.type == "cpu" else {"devices": [device], "device_type": device.type}
    with torch.random.fork_rng(**draws):
        torch.manual_seed(0)
        try:
            state.D.net.eval()
            for norm, _ in norms:
                norm.group = None
            yield
        finally:
            for norm, group in norms:
                norm.group = group
            for module, mode in modes:
                module.training = mode


def _gathered(run: "Run", num: int, width: int, compute: Callable[[slice], Tensor]) -> Tensor:
    """compute of every part of `num` rows, each by one of the processes: (num, width) on all, on the host.

    A part is a BatchNorm group of training, as far as memory allows.
    """
    world, size = run.world, min(run.bn_group, largest_group(run.config.model.resolution))
    rows = torch.zeros(num, width, device=world.device)
    for first in range(world.rank * size, num, world.size * size):
        rows[first : first + size] = compute(slice(first, first + size))
    world.sum(rows)  # every row has one author, and x + 0 is x
    return rows.cpu()


def _shared(world: World, weights: list[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """This process's part of the weights."""
    return weights[world.rank :: world.size]


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
