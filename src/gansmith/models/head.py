"""How every discriminator ends: logits of its features, with the class by projection (Miyato & Koyama 2018),
and what else may be asked of the features.

Knows no convolution; what the features are is the business of the networks.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gansmith.models.dropout import KeyedDropout
from gansmith.models.layers import Embedding, Linear, full_precision

HEADS = ("class", "rotation", "contrast")  # the last with a hidden layer, as SimCLR has it


class ProjectionDiscriminator(nn.Module):
    """Images (N, C, R, R) and y int64 (N,) -> logits (N,) float32: linear(h) + ⟨embed(y), h⟩ of the features
    h, in float32 whatever autocast says. Without classes, num_classes 0, y is None and there is no embed.

    Subclasses set kwargs (their arguments) and num_classes, call `end`, and say what `features` are.
    """

    kwargs: dict[str, Any]
    num_classes: int
    linear: nn.Module
    embed: nn.Module | None
    heads: nn.ModuleDict | None
    dropout: KeyedDropout | None

    def end(
        self,
        size: int,
        sn_eps: float | None,
        heads: Mapping[str, int] | None,
        projection: bool,
        dropout: float,
    ) -> None:
        """The layers on features of this size. heads: further outputs by name (of HEADS), how many of each.
        projection: False leaves the class out of the logits, though there are classes. dropout: share of the
        features that are dropped where training gives keys (dropout.py).
        """
        if unknown := [name for name in heads or () if name not in HEADS]:
            raise ValueError(f"head {unknown[0]!r} is unknown; choose among {', '.join(HEADS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout} must be 0 or more and less than 1")
        self.linear = Linear(size, 1, sn_eps)
        self.embed = Embedding(self.num_classes, size, sn_eps) if self.num_classes and projection else None
        self.heads = None
        if heads:
            self.heads = nn.ModuleDict({name: _head(name, size, heads[name], sn_eps) for name in heads})
        self.dropout = KeyedDropout(dropout) if dropout else None

    def features(self, x: Tensor) -> Tensor:
        """(N, F) float32."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor | None = None, heads: bool = False) -> Any:
        """The logits; with heads also what they say, name -> (N, outputs) float32."""
        check_labels(y, self.num_classes)
        h = self.features(x)
        if self.dropout is not None:
            h = self.dropout(h)
        with full_precision(h):
            logits = self.linear(h).squeeze(1)
            logits = logits if self.embed is None else logits + (self.embed(y) * h).sum(1)
            if not heads:
                return logits
            assert self.heads is not None
            return logits, {name: head(h) for name, head in self.heads.items()}


def _head(name: str, size: int, outputs: int, sn_eps: float | None) -> nn.Module:
    last = Linear(size, outputs, sn_eps)
    return last if name != "contrast" else nn.Sequential(Linear(size, size, sn_eps), nn.ReLU(), last)


def check_labels(y: Tensor | None, num_classes: int) -> None:
    """Raises ValueError where a network with classes is given none, or the other way round."""
    if (y is None) != (num_classes == 0):
        raise ValueError(
            f"the network has {num_classes} classes, but y is {'missing' if y is None else 'given'}"
        )
