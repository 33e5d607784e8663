"""What a run computes and keeps, counted from its configuration: FLOPs per phase, parameters, files.

Sizes in bytes, amounts in images. Computes nothing of it and knows no hardware.
"""

from dataclasses import dataclass

import torch

from gansmith.config import Config, images
from gansmith.errors import UserError
from gansmith.models import families
from gansmith.models.summary import count_macs
from gansmith.training import optimizers, state
from gansmith.training.batching import Sizes

IMAGENET = (1_281_167, 1000)
# Data sets of the recipes that are not ImageNet's: images, classes.
DATA = {
    "digits": (1797, 10),
    "mnist": (60_000, 10),
    "cifar10": (50_000, 10),
    "sngan-32": (50_000, 10),
    "wgan-gp": (50_000, 10),
    "sngan-64": (202_599, 1),  # CelebA
}
DATA |= dict.fromkeys(("dcgan", "lsgan", "wgan"), DATA["sngan-64"])
DATA |= dict.fromkeys(
    (f"digits-{name}" for name in ("dcgan", "lsgan", "wgan-gp", "sngan", "sagan")), DATA["digits"]
)


@dataclass(frozen=True)
class Work:
    """FLOP of one image's share of a D and a G phase, forward and backward; of a whole step; per image seen.

    parameters_g, parameters_d: numbers, which are also the gradients that processes exchange.
    """

    forward_g: int
    forward_d: int
    phase_d: int
    phase_g: int
    step: int
    per_image: float
    parameters_g: int
    parameters_d: int


@dataclass(frozen=True)
class Disk:
    """Bytes at most: the prepared data, checkpoints and snapshots under the retention rules, sample grids."""

    data: int
    checkpoint: int
    checkpoints: int
    snapshot: int
    snapshots: int
    grids: int

    @property
    def total(self) -> int:
        return self.data + self.checkpoints + self.snapshots + self.grids


def data_set(config: Config, num_images: int | None, num_classes: int | None) -> tuple[int, int, bool]:
    """Images, classes of the networks, and whether either was assumed: the recipe's own data, else
    ImageNet.
    """
    likely = DATA.get(config.preset or "", IMAGENET)
    assumed = num_images is None or (num_classes is None and config.model.conditional)
    classes = likely[1] if num_classes is None else num_classes
    if not config.model.conditional:
        classes = 0
    elif config.data.labels == "random":
        classes = config.data.random_classes
    return likely[0] if num_images is None else num_images, classes, assumed


def count(config: Config, num_classes: int, sizes: Sizes) -> Work:
    """FLOPs from shapes alone. Raises UserError for a D of the user's own, whose shapes are not known."""
    with torch.device("meta"):
        G, D = state.networks(config, num_classes)
    if not families.is_ours(D):
        raise UserError(
            f"model.discriminator {config.model.discriminator}: the cost of an own D cannot be counted from "
            "its settings; plan without it, or measure a short run."
        )
    g, d = count_macs(G), count_macs(D)
    # D phase: G forward once; D forward and backward to weights and inputs, on reals and on fakes. G phase:
    # G forward and both backwards; D forward and backward to its input only, and forward on reals in pairs.
    pairs = config.loss.objective == "relativistic"
    phase_d, phase_g = 2 * (g + round((2 * 3 + _terms(config)) * d)), 2 * (3 * g + (2 + pairs) * d)
    step = config.optim.d_steps * sizes.batch * phase_d + sizes.batch_g * phase_g
    return Work(
        forward_g=2 * g,
        forward_d=2 * d,
        phase_d=phase_d,
        phase_g=phase_g,
        step=step,
        per_image=step / (config.optim.d_steps * sizes.batch),
        parameters_g=sum(p.numel() for p in G.parameters()),
        parameters_d=sum(p.numel() for p in D.parameters()),
    )


def _terms(config: Config) -> float:
    """What `penalty.*` adds to a D phase, in forwards of D per image: 3 for another set of images, 6 for
    slopes, by a double backward or by a second image near each.
    """
    penalty = config.penalty
    every = ((penalty.r1, penalty.r1_every), (penalty.r2, penalty.r2_every), (penalty.gradient_penalty, 1))
    again = sum(term is not None for term in (penalty.consistency_real, penalty.consistency_fake))
    return 3 * again + sum(6 / k for term, k in every if term is not None)


def disk(config: Config, work: Work, num_images: int, duration: int) -> Disk:
    """Files of a run when it is largest: a new checkpoint is whole before an old one goes."""
    log, model = config.log, config.model
    pixels = model.channels * model.resolution**2
    # A tar member for the pixels (with NumPy's header) and one for the class, each with its own header.
    sample = 512 + _blocks(128 + pixels) + 2 * 512
    both = work.parameters_g + work.parameters_d
    moments = sum(
        len(optimizers.kind(config.optim, letter).moments) * parameters
        for letter, parameters in (("g", work.parameters_g), ("d", work.parameters_d))
    )
    # Weights of both, the average, moments of both (Adam: two); the average again as a snapshot. float32.
    checkpoint = 4 * (both + work.parameters_g + moments + work.parameters_g)
    snapshot = 4 * (work.parameters_g + (work.parameters_d if log.snapshot_d else 0))
    made = {
        "checkpoints": duration // max(1, images(log.checkpoint_every, num_images)) + 1,
        "snapshots": duration // max(1, images(log.snapshot_every, num_images)) + 1,
    }
    kept = min(log.keep_checkpoints + log.keep_spaced + 1, made["checkpoints"])
    checkpoints = kept * checkpoint
    if log.keep_gigabytes is not None:
        checkpoints = min(checkpoints, max(int(log.keep_gigabytes * 1e9), checkpoint) + checkpoint)
    grid = 2 * log.grid_columns * log.grid_classes * pixels + 4 * 9 * pixels
    return Disk(
        data=num_images * (sample + 20),
        checkpoint=checkpoint,
        checkpoints=checkpoints,
        snapshot=snapshot,
        snapshots=min(log.keep_snapshots + 1, made["snapshots"]) * snapshot,
        grids=made["snapshots"] * grid,
    )


def _blocks(size: int) -> int:
    return -(-size // 512) * 512
