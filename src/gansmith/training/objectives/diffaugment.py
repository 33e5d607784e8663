"""DiffAugment (Zhao et al. 2020): the same kinds of differentiable augmentation for reals and fakes, always.

Operations take images (N, C, R, R) in [-1, 1] and uniform numbers (N, k) in [0, 1), which say everything
about what happens to an image. A flip is ours, for consistency regularisation.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from gansmith.models.layers import full_precision
from gansmith.training.objectives import transforms

SHIFT, CUT = 0.125, 0.5  # of the side: the farthest translation, the square that is cut out


def color(x: Tensor, u: Tensor) -> Tensor:
    """Brightness + U[-0.5, 0.5), then saturation · U[0, 2), then contrast · U[0.5, 1.5)."""
    brightness, saturation, contrast = u.view(-1, 3, 1, 1, 1).unbind(1)
    x = x + (brightness - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def translation(x: Tensor, u: Tensor) -> Tensor:
    """By whole pixels up to 1/8 of the side in both directions; zeros come in."""
    farthest = int(x.shape[-1] * SHIFT + 0.5)
    down, right = ((u * (2 * farthest + 1)).floor() - farthest).unbind(1)
    return transforms.shifted(x, down, right)


def cutout(x: Tensor, u: Tensor) -> Tensor:
    """Zeros in a square of half the side, its middle anywhere in the image."""
    side = x.shape[-1]
    size = int(side * CUT + 0.5)
    top, left = ((u * (side + 1 - size % 2)).floor() - size // 2).unbind(1)
    return transforms.cut_out(x, top, left, size)


def flip(x: Tensor, u: Tensor) -> Tensor:
    """Left to right, one in two."""
    return transforms.flipped(x, u[:, 0] < 0.5)


# name → (numbers an image needs, operation), in the order in which they are applied
OPERATIONS: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "flip": (1, flip),
    "color": (3, color),
    "translation": (2, translation),
    "cutout": (2, cutout),
}


def augment(x: Tensor, names: Sequence[str], uniform: Callable[[int], Tensor]) -> Tensor:
    """The operations of these names, one after the other. uniform: k → (N, k) numbers, fresh ones.

    In float32 whatever autocast says.
    """
    chosen = [OPERATIONS[name] for name in OPERATIONS if name in names]
    with full_precision(x):
        parts = uniform(sum(count for count, _ in chosen)).split([count for count, _ in chosen], 1)
        for (_, operation), u in zip(chosen, parts):
            x = operation(x, u)
    return x
