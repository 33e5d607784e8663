"""What every feature network promises, and the frame all of them run in.

The frame leaves no trace: no gradient, no draw from a random stream, no flag that outlasts the call. fp32 is
fp32 inside it, whatever training has switched on.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gansmith import hardware

PRECISIONS = ("fp32", "bf16")


def frozen(net: nn.Module, device: torch.device) -> Any:
    """The network in eval mode, without gradients, on the device, channels_last."""
    return net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Features:
    """features: float32 (N, dim) on the CPU. logits: float32 (N, num_logits) on the CPU, or None."""

    features: Tensor
    logits: Tensor | None


class FeatureNetwork(ABC):
    """A fixed map from images to vectors. Made by `find`.

    name: as the user writes it. frechet_name: what a Fréchet distance in this space is called; "FID" only for
    the FID Inception network. dim: of the features. num_logits: of the logits, None where there are none.
    class_names: of the logits, where known. resizer: how images come to `resolution` (None: as they are).
    weights_sha256: hex, of the weights' file, or "" for a network without weights. precision: fp32 | bf16.
    """

    name: str
    frechet_name: str
    dim: int
    num_logits: int | None = None
    class_names: list[str] | None = None
    resizer: str
    resolution: int | None = None
    weights_sha256: str = ""
    device: torch.device = torch.device("cpu")
    precision: str = "fp32"
    takes_floats: bool = True  # or whole pixel values only

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """images: uint8 (N, C, H, W), C 1 or 3 (grey is repeated), any size from 1×1, on any device.

        Row i depends on image i only, up to float rounding; equal calls give equal numbers.
        """
        assert images.dtype == torch.uint8, f"images are uint8, not {images.dtype}"
        assert images.ndim == 4, f"images are (N, C, H, W), not {tuple(images.shape)}"
        assert images.shape[1] in (1, 3), f"images have 1 or 3 channels, not {images.shape[1]}"
        assert min(images.shape[2:]) > 0, f"images of {tuple(images.shape[2:])} pixels"
        autocast_dtype = torch.bfloat16 if self.precision == "bf16" else None
        features = [torch.empty(0, self.dim)]
        logits = [torch.empty(0, self.num_logits or 0)]
        with hardware.full_fp32(), hardware.autocast(self.device.type, autocast_dtype):
            for part in images.split(self._micro_batch) if len(images) else ():
                vectors, scores = self._compute(part.to(self.device).expand(-1, 3, -1, -1))
                features.append(vectors.float().cpu())
                logits += [] if scores is None else [scores.float().cpu()]
        return Features(torch.cat(features), None if self.num_logits is None else torch.cat(logits))

    def differentiable(self, images: Tensor) -> Tensor:
        """The features of float images (N, C, H, W) in [0, 255], C 1 or 3, on the network's device: float32
        (N, dim), with a way back to the images. Not rounded; otherwise as in a call. Needs `takes_floats`.
        """
        assert self.takes_floats
        with torch.autocast(self.device.type, enabled=False):
            return self._compute(images.float().expand(-1, 3, -1, -1))[0].float()

    @property
    def _micro_batch(self) -> int:
        return 32 if self.device.type == "cpu" else 256

    @abstractmethod
    def _compute(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 (N, 3, H, W) on `device` → features (N, dim), logits (N, num_logits) or None."""

    def describe(self) -> dict[str, Any]:
        """Everything that identifies the numbers, JSON-able; part of the protocol of every score."""
        return {
            "name": self.name,
            "frechet_name": self.frechet_name,
            "resizer": self.resizer,
            "resolution": self.resolution,
            "dim": self.dim,
            "num_logits": self.num_logits,
            "weights_sha256": self.weights_sha256,
            "arithmetic": self.precision,
        }

    def cache_identity(self) -> dict[str, Any]:
        """What stored features of a reference are found by: at least the description."""
        return self.describe()
