"""The pictures of a run: real images, and fixed latents drawn again and again, a class per row.

All grids of a run have the same geometry, so data mistakes are seen before an hour is spent. Drawing works
on copies or on the averaged network, and leaves nothing behind in what is trained.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gansmith import files
from gansmith.config import Config
from gansmith.data.shards import Dataset
from gansmith.models.biggan import Generator
from gansmith.sampling import grids, interpolation, latents, sampler, statistics
from gansmith.training import announce
from gansmith.training.distributed import World
from gansmith.training.precision import Precision


def rows(config: Config, dataset: Dataset) -> list[int]:
    """Class ids of the rows: all, or `log.grid_classes` of them evenly spread; [0, 0, …] without classes."""
    wanted = config.log.grid_classes
    if not config.model.conditional:
        return [0] * wanted
    if announce.uses_labels(config):
        ids = [info.id for info in dataset.classes if info.count]
    else:
        ids = list(range(config.data.random_classes))
    if len(ids) <= wanted:
        return ids
    return [ids[round(i * (len(ids) - 1) / max(wanted - 1, 1))] for i in range(wanted)]


def draw_reals(path: Path, config: Config, dataset: Dataset) -> None:
    """reals.png: the first images of each row's class, as stored."""
    columns, labels, chosen = config.log.grid_columns, rows(config, dataset), []
    for row, label in enumerate(labels):
        if announce.uses_labels(config):
            members = np.flatnonzero(dataset.labels == label)[:columns]
        else:
            members = np.arange(row * columns, (row + 1) * columns) % len(dataset)
        chosen.append(np.resize(members, columns))  # a class with few images repeats them
    images = dataset.read(np.concatenate(chosen))
    _save(path, images, columns, _names(config, dataset, labels))


def draw_samples(
    path: Path, G: Generator, config: Config, dataset: Dataset, precision: Precision, group: int
) -> None:
    """One grid of fixed latents (seed = column). G must be in eval mode with standing statistics."""
    save_samples(path, sample(G, config, dataset, precision, group), config, dataset)


def sample(
    G: Generator,
    config: Config,
    dataset: Dataset,
    precision: Precision,
    group: int,
    world: World | None = None,
) -> np.ndarray:
    """The images of a grid, uint8 (N, H, W, C), by rows.

    world: processes that call this together and share the drawing; all of them get the same images.
    """
    columns, labels = config.log.grid_columns, rows(config, dataset)
    seeds = list(range(columns))
    z = latents.from_seeds(seeds, dim=config.model.dim_z, kind=config.model.latent)
    if config.model.conditional:
        z = z.repeat(len(labels), 1)
        y = torch.tensor(labels).repeat_interleave(columns)
    else:
        z = latents.from_seeds(range(len(labels) * columns), dim=config.model.dim_z, kind=config.model.latent)
        y = None
    micro = min(group, statistics.largest_group(config.model.resolution))
    rank, size = (world.rank, world.size) if world else (0, 1)
    side, channels = config.model.resolution, config.model.channels
    images = torch.zeros(len(z), side, side, channels, dtype=torch.uint8)
    for first in range(rank * micro, len(z), size * micro):
        part = slice(first, first + micro)
        for batch in sampler.generate(G, z[part], y if y is None else y[part], micro, dtype(precision)):
            images[part] = batch.cpu()
    if world:
        world.sum(images)  # every image has one author, and x + 0 is x
    return images.numpy()


def save_samples(path: Path, images: np.ndarray, config: Config, dataset: Dataset) -> None:
    _save(path, images, config.log.grid_columns, _names(config, dataset, rows(config, dataset)))


def draw_interpolation(
    path: Path, G: Generator, config: Config, dataset: Dataset, precision: Precision
) -> None:
    """A strip per step from one latent to the next within a class, and one from class to class."""
    labels = rows(config, dataset)[:2] if config.model.conditional else []
    common: dict[str, Any] = {"latent": config.model.latent, "autocast_dtype": dtype(precision)}
    strips = [interpolation.strip(G, mode="z", seeds=[0, 1, 2], labels=labels, **common)]
    if len(labels) == 2:
        strips.append(interpolation.strip(G, mode="class", seeds=[0], labels=labels, **common))
    _save(path, np.concatenate(strips), 9, None)


def estimate_statistics(
    G: Generator,
    config: Config,
    num_classes: int,
    group: int,
    precision: Precision,
    world: World | None = None,
) -> dict:
    """Standing statistics for the weights G has now, written into its buffers; returns their description.

    world: processes that call this together and share the forward passes.
    """
    return statistics.estimate(
        G,
        config.model.latent,
        num_classes if config.model.conditional else 0,
        images=config.log.statistics_images,
        group=min(group, statistics.largest_group(config.model.resolution)),
        precision_context=precision.autocast,
        ranks=world,
    )


def dtype(precision: Precision) -> torch.dtype | None:
    return None if precision.dtype == torch.float32 else precision.dtype


def _names(config: Config, dataset: Dataset, labels: list[int]) -> list[str] | None:
    if not announce.uses_labels(config):
        return None
    names = {info.id: info.name for info in dataset.classes}
    return [names[label] for label in labels]


def _save(path: Path, images: np.ndarray, columns: int, names: list[str] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        grids.tile(images, columns, names).save(temporary, format="PNG")
