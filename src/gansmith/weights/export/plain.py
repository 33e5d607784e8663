"""G as other programs want it: plain weights, no spectral norm, one function of tensors.

What is baked in: every Ŵ, the standing statistics that G has at the time (those of one truncation), and how
far a promotion has come in.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gansmith.errors import UserError
from gansmith.models import families
from gansmith.models.biggan import Generator
from gansmith.models.spectral import SpectralLayer

CONDITIONINGS = ("ids", "embedding")


@torch.no_grad()
def plain(G: Generator) -> Generator:
    """The same network with Ŵ in the place of W and no spectral norm, in eval mode on the CPU. It draws the
    same images, bit for bit in the same memory layout.
    """
    with torch.device("meta"):
        twin = families.make_generator(**G.kwargs | {"spectral": False})
    state = {key: value.detach().cpu() for key, value in G.state_dict().items()}
    for name, module in G.named_modules():
        if isinstance(module, SpectralLayer):
            state[f"{name}.weight"] = module.effective_weight.detach().cpu().contiguous()
    kept = {key: state[key].clone() for key in twin.state_dict()}
    twin.to_empty(device="cpu").load_state_dict(kept)
    return twin.eval().requires_grad_(False)


class Drawing(nn.Module):
    """(z, y) → images, to be traced. conditioning: y is class ids int64 (N,), or `embedding`: class vectors
    float32 (N, shared_dim), which may be mixed. Without classes there is no y.

    Raises UserError for embeddings of a network that shares none.
    """

    def __init__(self, G: Generator, conditioning: str = "ids") -> None:
        super().__init__()
        self.G = plain(G)
        self.conditioning = conditioning
        if conditioning == "embedding":
            if getattr(self.G, "shared", None) is None:
                raise UserError(
                    "--conditioning embedding: this network has no shared class embedding; use ids."
                )
            self.G.shared = nn.Identity()  # type: ignore[assignment]

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.G(z, y)

    def example(self, n: int, seed: int = 0) -> dict[str, Tensor]:
        """Inputs by name for n images."""
        random = torch.Generator().manual_seed(seed)
        kwargs = self.G.kwargs
        inputs = {"z": torch.randn(n, kwargs["dim_z"], generator=random)}
        if self.conditioning == "embedding":
            inputs["y"] = torch.randn(n, kwargs["shared_dim"], generator=random)
        elif kwargs["num_classes"]:
            inputs["y"] = torch.randint(kwargs["num_classes"], (n,), generator=random)
        return inputs


def description(G: Generator, info: dict[str, Any], conditioning: str) -> dict[str, Any]:
    """What a graph says of itself, JSON-able."""
    names = {entry["id"]: entry["name"] for entry in info["classes"]}
    return {
        "program": "gansmith",
        "family": G.kwargs["family"],
        "resolution": G.kwargs["resolution"],
        "dim_z": G.kwargs["dim_z"],
        "latent": info["latent"],
        "conditioning": conditioning if G.num_classes else None,
        "classes": [names.get(i, str(i)) for i in range(G.num_classes)],
        "statistics": info["statistics"],
        "images_seen": info["images_seen"],
        "snapshot_sha256": info.get("snapshot_sha256"),
    }
