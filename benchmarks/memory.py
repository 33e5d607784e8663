"""Memory that training a preset needs: what is fixed, and what every image of a micro-batch adds.

    python benchmarks/memory.py biggan-128 biggan-256

Counts what autograd keeps between forward and backward in bf16, by hooks on its saved tensors, for two
micro-batches of different size; their difference is the cost per image. Tensors are fake (shapes and dtypes
without memory), so that any preset takes seconds on any machine. Workspaces of the device's kernels and its
allocator's rounding come on top.
"""

import argparse
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gansmith import config as configuration
from gansmith.models import spectral
from gansmith.training import batching, objectives, state


def saved_bytes(phase: str, G: Any, D: Any, count: int, classes: int) -> int:
    """Bytes of the storages that autograd holds after the forward pass of one micro-batch."""
    resolution, channels = G.kwargs["resolution"], G.kwargs["channels"]
    real = torch.zeros(count, channels, resolution, resolution) if phase == "d" else None
    y = torch.zeros(count, dtype=torch.int64) if classes else None
    micro = objectives.MicroBatch(torch.randn(count, G.kwargs["dim_z"]), y, real, y)
    storages: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    spectral.set_trainable(D, phase == "d")
    spectral.set_trainable(G, phase == "g")
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        loss, _ = objectives.hinge(phase, G, D, micro)
    assert loss.requires_grad  # the graph, and with it the storages, lives until here
    return sum(storages.values())


def measure(preset: str, classes: int) -> tuple[float, float, float, float, int]:
    """Parameters of G and D (millions), GiB that are fixed, MiB per image of the dearer phase, BN group."""
    config, _ = configuration.load(preset)
    classes = classes if config.model.conditional else 0
    with FakeTensorMode(allow_non_fake_inputs=True):
        G, D = state.networks(config, classes)
        for net in (G, D):
            spectral.refresh(net)
        sizes = [sum(p.numel() for p in net.parameters()) for net in (G, D)]
        bytes_of = {
            (phase, count): saved_bytes(phase, G, D, count, classes) for phase in "dg" for count in (2, 4)
        }
    # float32: weights, Ŵ, gradients, two Adam moments; of G the average and its Ŵ too
    fixed = 4 * (7 * sizes[0] + 5 * sizes[1]) / 2**30
    image = max(bytes_of[phase, 4] - bytes_of[phase, 2] for phase in "dg") / 2 / 2**20
    return sizes[0] / 1e6, sizes[1] / 1e6, fixed, image, batching.bn_group(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="*", default=configuration.preset_names())
    parser.add_argument("--classes", type=int, default=1000)
    arguments = parser.parse_args()
    print(f"{'preset':<20} {'G M':>6} {'D M':>6} {'fixed GiB':>10} {'MiB/image':>10} {'group':>6} {'GiB':>8}")
    for preset in arguments.presets:
        g, d, fixed, image, group = measure(preset, arguments.classes)
        total = fixed + group * image / 1024
        row = f"{preset:<20} {g:>6.1f} {d:>6.1f} {fixed:>10.2f} {image:>10.1f} {group:>6} {total:>8.1f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
