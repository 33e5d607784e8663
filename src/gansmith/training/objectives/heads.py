"""Losses on what D says beside its logits: the class (AC-GAN, Odena et al. 2017), by what an image was turned
(SSGAN, Chen et al. 2019), which image it is (SimCLR, Chen et al. 2020). They know no D.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gansmith.config.stability import HeadConfig
from gansmith.models.layers import full_precision
from gansmith.models.normalization import whole_groups
from gansmith.training.objectives import diffaugment
from gansmith.training.objectives.base import Images, MicroBatch, Terms, drawn

VIEWS = ("view", "other view")


def turned(x: Tensor, quarter: Tensor) -> Tensor:
    """Images (N, C, R, R), each turned by so many quarters to the left."""
    out = x
    for k in range(1, 4):
        out = torch.where((quarter == k).view(-1, 1, 1, 1), x.rot90(k, (2, 3)), out)
    return out


def contrast(first: Tensor, second: Tensor, temperature: float, net: nn.Module) -> Tensor:
    """NT-Xent (Chen et al. 2020, equation 1) of two views of every image, (N, d) each; its mean.

    An image's own other view is to be told from both views of the others of its BatchNorm group. net: the
    generator, whose groups they are, though the images be real. A group that ranks share takes the views of
    all of them. In float32 whatever autocast says.
    """
    views = torch.stack([F.normalize(first, dim=1), F.normalize(second, dim=1)], 1)
    groups, here = whole_groups(views, net)  # (groups, g, 2, d)
    others = torch.cat(groups.unbind(2), 1)  # (groups, 2g, d)
    size, own = groups.shape[1], torch.arange(here.start, here.stop, device=views.device)
    themselves = torch.cat([own, own + size])
    matches = torch.cat([own + size, own])
    asking = torch.cat(groups[:, here].unbind(2), 1)
    with full_precision(asking):
        likeness = asking @ others.transpose(1, 2) / temperature
    itself = themselves[:, None] == torch.arange(2 * size, device=views.device)
    likeness = likeness.masked_fill(itself, -torch.inf)
    return F.cross_entropy(likeness.flatten(0, 1), matches.repeat(len(groups)))


class Heads:
    """The terms of `head.*`, in both phases. D is judged once, on all images of a phase together; the further
    images that heads need are shown to it among the others.
    """

    def __init__(self, config: HeadConfig) -> None:
        self.config = config
        terms = (
            config.classify_d, config.classify_g, config.rotate_d, config.rotate_g, config.contrast_d,
        )  # fmt: skip
        self.asked = any(term is not None for term in terms)

    def shown(self, phase: str, shown: dict[str, Images], micro: MicroBatch) -> dict[str, Images]:
        """What else D sees: turned reals in D phases, turned fakes in G phases, two views of every real."""
        config = self.config
        more: dict[str, Images] = {}
        whose = "real" if phase == "d" else "fake"
        if (config.rotate_d if phase == "d" else config.rotate_g) is not None:
            x, y = shown[whose]
            more["turned"] = turned(x, _quarters(micro)), y
        if phase == "d" and config.contrast_d is not None:
            assert micro.real is not None
            for name in VIEWS:
                uniform = partial(drawn(micro).uniform, name)
                view = diffaugment.augment(micro.real, config.contrast_transforms, uniform)
                more[name] = view, micro.real_y
        return more

    def terms(
        self,
        phase: str,
        told: dict[str, dict[str, Tensor]],
        shown: dict[str, Images],
        micro: MicroBatch,
        G: nn.Module,
    ) -> Terms:
        """Weighted losses by name. told: of every set of images, what the heads said of them."""
        config = self.config
        terms: Terms = {}
        classify, rotate = getattr(config, f"classify_{phase}"), getattr(config, f"rotate_{phase}")
        if classify is not None:
            whose = ("real", "fake") if phase == "d" else ("fake",)
            losses = [F.cross_entropy(told[name]["class"], _classes(shown[name])) for name in whose]
            terms[f"classify_{phase}"] = classify, torch.stack(losses).sum()
        if rotate is not None:
            terms[f"rotate_{phase}"] = rotate, F.cross_entropy(told["turned"]["rotation"], _quarters(micro))
        if phase == "d" and config.contrast_d is not None:
            one, other = (told[name]["contrast"] for name in VIEWS)
            value = contrast(one, other, config.contrast_temperature, G)
            terms["contrast_d"] = config.contrast_d, value
        return terms


def _quarters(micro: MicroBatch) -> Tensor:
    """How many quarters an image is turned, int64 (N,) in 0 … 3."""
    return (4 * drawn(micro).uniform("rotation")).long()


def _classes(shown: Images) -> Tensor:
    assert shown[1] is not None
    return shown[1]
