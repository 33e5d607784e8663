"""gansmith: large class-conditional GANs, trained without losing a run.

The public API is four names, imported when first used (so `import gansmith` is fast):
`load` (sample from a run, snapshot or checkpoint), `train`, `evaluate`, `open_dataset`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["evaluate", "load", "open_dataset", "train"]

_HOME = {
    "evaluate": "gansmith.evaluation.evaluate",
    "load": "gansmith.sampling.sampler",
    "open_dataset": "gansmith.data",
    "train": "gansmith.training.run",
}

if TYPE_CHECKING:
    from gansmith.data import open_dataset
    from gansmith.evaluation.evaluate import evaluate
    from gansmith.sampling.sampler import load
    from gansmith.training.run import train


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'gansmith' has no attribute {name!r}; it has {', '.join(__all__)}")
