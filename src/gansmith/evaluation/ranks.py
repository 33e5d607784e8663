"""The processes that share an evaluation: what is asked of them, and the one that stands alone.

`training.distributed.World` answers the same questions for the processes that torchrun starts. Knows nothing
of what is shared.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch

T = TypeVar("T")
ROWS = 8192  # sent at once: bounds memory on an accelerator


class Ranks(Protocol):
    """rank 0 … size − 1, each with its device; collectives are called by all of them together."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def is_main(self) -> bool: ...
    def sum(self, tensor: torch.Tensor) -> None: ...
    def any(self, flag: bool) -> bool: ...
    def share(self, value: T) -> T: ...


@dataclass(frozen=True)
class Alone:
    """One process, for which every collective is free."""

    device: torch.device
    rank: int = 0
    size: int = 1
    is_main: bool = True

    def sum(self, tensor: torch.Tensor) -> None: ...

    def any(self, flag: bool) -> bool:
        return flag

    def share(self, value: T) -> T:
        return value


def complete(rows: np.ndarray, ranks: Ranks) -> None:
    """Fills an array, of which every rank wrote other rows and left the others 0, on all ranks, in place.

    x + 0 is x: the result has the bits that its one author wrote.
    """
    if ranks.size == 1:
        return
    for first in range(0, len(rows), ROWS):
        part = torch.from_numpy(rows[first : first + ROWS]).to(ranks.device, copy=True)
        ranks.sum(part)
        rows[first : first + ROWS] = part.cpu().numpy()
