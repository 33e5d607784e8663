"""What it costs to cut a batch into micro-batches: k passes against one over the same images, in one run.

    python benchmarks/micro_batches.py [--resolution 32] [--ch 32] [--batch 64] [--rounds 3] [--threads 1]

A phase of D and one of G, forward and backward of all images, and the update (reduction, pull-back, Adam,
refresh), which is paid once. Sizes take turns, each round in the other direction, so that a busy machine
slows all; the ratio is the median over rounds of a size's time over that of the whole batch.
"""

import argparse
import statistics
import time

import torch

from gansmith import hardware
from gansmith.models import layers, normalization, spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.training import objectives, precision
from gansmith.training.distributed import World
from gansmith.training.gradients import FlatGradients
from gansmith.training.precision import LossScale

CLASSES = 10


class Phases:
    """Both phases over one batch of noise images in any number of passes."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        device = hardware.choose_device(arguments.device)
        self.world, self.group = World(0, 1, device), arguments.group
        self.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.precision]
        torch.manual_seed(0)
        size = {"resolution": arguments.resolution, "num_classes": CLASSES, "ch": arguments.ch}
        slots = arguments.resolution.bit_length() - 2
        self.G, self.D = Generator(dim_z=20 * slots, **size), Discriminator(**size)
        self.players = {}
        for letter, net in (("g", self.G), ("d", self.D)):
            net.to(device).train()
            layers.set_channels_last(net)
            spectral.refresh(net)
            adam = torch.optim.Adam(net.parameters(), lr=1e-5, betas=(0.0, 0.999), fused=True)
            self.players[letter] = (net, FlatGradients(net), adam)
        normalization.set_batch_norm_group(self.G, self.group)
        shape = (arguments.batch, 3, arguments.resolution, arguments.resolution)
        self.real = torch.rand(shape, device=device) * 2 - 1
        self.real = self.real.contiguous(memory_format=torch.channels_last)
        self.z = torch.randn(arguments.batch, 20 * slots, device=device)
        self.y = torch.randint(CLASSES, (arguments.batch,), device=device)

    def seconds(self, micro: int) -> float:
        start = self.now()
        for letter, (net, gradients, adam) in self.players.items():
            spectral.set_trainable(net, True)
            spectral.set_trainable(self.G if letter == "d" else self.D, False)
            gradients.zero()
            for at in range(0, len(self.z), micro):
                part = slice(at, at + micro)
                inputs = objectives.MicroBatch(self.z[part], self.y[part], self.real[part], self.y[part])
                with hardware.autocast(self.world.device.type, self.dtype):
                    loss, _ = objectives.hinge(letter, self.G, self.D, inputs)
                (loss * (micro / len(self.z))).backward()
            gradients.finish(self.world, LossScale(False, self.world.device))
            adam.step()
            spectral.refresh(net)
        return self.now() - start

    def now(self) -> float:
        if self.world.device.type != "cpu":
            torch.accelerator.synchronize()
            return time.perf_counter()
        # One thread's CPU time is what a busy machine disturbs least.
        return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--ch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--group", type=int, default=8, help="BatchNorm group; no micro-batch is smaller")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    precision.keep_large_blocks()
    phases = Phases(arguments)
    sizes = [m for m in range(arguments.group, arguments.batch + 1) if arguments.batch % m == 0]
    sizes = [m for m in sizes if m % arguments.group == 0]
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for round_ in range(arguments.rounds + 1):  # the first warms up
        for size in sizes if round_ % 2 else reversed(sizes):
            times[size].append(phases.seconds(size))
    print(f"{'micro-batch':>11}{'passes':>8}{'ms':>10}   against one pass (worst to best round)")
    whole = times[arguments.batch][1:]
    for size in sizes:
        ratios = sorted(a / b for a, b in zip(times[size][1:], whole))
        middle = 1e3 * statistics.median(times[size][1:])
        print(
            f"{size:>11}{arguments.batch // size:>8}{middle:>10.0f}   {statistics.median(ratios):.3f}", end=""
        )
        print(f" ({ratios[-1]:.3f} to {ratios[0]:.3f})")


if __name__ == "__main__":
    main()
