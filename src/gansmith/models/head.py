"""How every discriminator ends: logits of its features, with the class by projection (Miyato & Koyama 2018).

Knows no convolution; what the features are is the business of the networks.
"""

from typing import Any

from torch import Tensor, nn

from gansmith.models.layers import full_precision


class ProjectionDiscriminator(nn.Module):
    """Images (N, C, R, R) and y int64 (N,) -> logits (N,) float32: linear(h) + ⟨embed(y), h⟩ of the features
    h, in float32 whatever autocast says. Without classes, num_classes 0, y is None and there is no embed.

    Subclasses set kwargs (their arguments), num_classes, linear and embed, and say what `features` are.
    """

    kwargs: dict[str, Any]
    num_classes: int
    linear: nn.Module
    embed: nn.Module | None

    def features(self, x: Tensor) -> Tensor:
        """(N, F) float32."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        check_labels(y, self.num_classes)
        h = self.features(x)
        with full_precision(h):
            logits = self.linear(h).squeeze(1)
            return logits if self.embed is None else logits + (self.embed(y) * h).sum(1)


def check_labels(y: Tensor | None, num_classes: int) -> None:
    """Raises ValueError where a network with classes is given none, or the other way round."""
    if (y is None) != (num_classes == 0):
        raise ValueError(
            f"the network has {num_classes} classes, but y is {'missing' if y is None else 'given'}"
        )
