"""A start without an adversary (NoGAN, after DeOldify): G alone on a perceptual loss, then D on a G that
stands still, then both.

Every real image has a latent of its own, named by its place in the data set and by whether it is mirrored,
and always the same (GLO: Bojanowski et al. 2018, without learning the latents): G learns to draw the image
from it, as near as a fixed feature network and its pixels can tell. D's part is `release.py`'s.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gansmith.config import Config, is_some
from gansmith.data.feed import Feed
from gansmith.errors import UserError
from gansmith.evaluation import features
from gansmith.sampling import latents
from gansmith.training.objectives import MicroBatch


@dataclass(frozen=True)
class Pretraining:
    """The loss of G alone: an objective like others. pixels: weight of the mean difference of pixels."""

    network: features.FeatureNetwork
    pixels: float

    def __call__(
        self, phase: str, G: nn.Module, D: nn.Module, micro: MicroBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert micro.real is not None
        made = G(micro.z, micro.y)
        with torch.no_grad():
            wanted = self.network.differentiable((micro.real + 1) * 127.5)
        apart = relative_distances(self.network.differentiable((made + 1) * 127.5), wanted).mean()
        beside = (made - micro.real).abs().mean()
        loss = apart + self.pixels * beside
        scalars = {"loss_pretrain": loss, "pretrain_features": apart, "pretrain_pixels": beside}
        return loss, {name: value.detach() for name, value in scalars.items()}


def relative_distances(of_made: Tensor, of_real: Tensor) -> Tensor:
    """‖φ(G(z)) − φ(x)‖² / ‖φ(x)‖² of every image, (N,), for features (N, F) of both."""
    return (of_made - of_real).square().sum(1) / of_real.square().sum(1).clamp_min(1e-8)


def ready(config: Config, device: torch.device) -> Pretraining | None:
    """What `pretrain.*` asks G to begin with; None for nothing. Raises UserError where there is no such
    feature network, or none that can be learned from.
    """
    pretrain = config.pretrain
    if not is_some(pretrain.generator):
        return None
    spec = features.default() if pretrain.features == "auto" else pretrain.features
    network = features.find(spec, weights=pretrain.weights, device=device)
    if not network.takes_floats:
        raise UserError(
            f"pretrain.features {spec}: takes whole pixel values only, which give no gradient; choose "
            "effnet-lite0, pixels, inception, dinov2 or classifier:FILE."
        )
    return Pretraining(network, pretrain.pixels)


def own_latents(config: Config, feed: Feed, positions: np.ndarray) -> Tensor:
    """The latents of the images at these positions of the stream: float32 (N, dim_z), on the CPU."""
    found = feed.order.locate(positions)
    seeds = 2 * found.sample + (found.flip & feed.flip)
    purpose = f"pretrain {config.train.seed}"
    return latents.from_seeds(
        seeds.tolist(), dim=config.model.dim_z, kind=config.model.latent, purpose=purpose
    )
