"""Time of the layers that have more than one way: resampling convolutions, BatchNorm over groups. Any device.

    python benchmarks/layers.py [--device cpu] [--threads 1] [--precision bf16] [--repeats 5]

Forward and forward + backward in milliseconds, the two ways in turns. On a CPU with one thread the CPU time
of the process is taken, which a busy machine disturbs least; elsewhere the wall clock. The best is shown.
"""

import argparse
import contextlib
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gansmith.models import layers
from gansmith.models.normalization import AffineBatchNorm, set_batch_norm_group
from gansmith.training import precision

Way = Callable[[], Tensor]


def plain_up(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)


def plain_down(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)


class Clock:
    def __init__(self, device: torch.device, threads: int, dtype: torch.dtype, repeats: int) -> None:
        self.device, self.dtype, self.repeats = device, dtype, repeats
        self.now = time.process_time if device.type == "cpu" and threads == 1 else time.perf_counter

    def __call__(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return self.now()

    def compare(self, ways: list[Way], leaves: list[Tensor]) -> list[tuple[float, float]]:
        """Best (forward, forward + backward) of each way, in ms."""
        best = [(float("inf"), float("inf"))] * len(ways)
        for _ in range(self.repeats + 1):  # the first round warms up
            for i, way in enumerate(ways):
                for leaf in leaves:
                    leaf.grad = None
                start = self()
                with self.autocast():
                    out = way()
                middle = self()
                out.backward(out.detach())
                end = self()
                best[i] = (min(best[i][0], 1e3 * (middle - start)), min(best[i][1], 1e3 * (end - start)))
        return best

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def convolutions(clock: Clock, batch: int) -> None:
    print(f"{'conv3×3, N ' + str(batch):34}{'plain fwd, +bwd':>20}{'rewritten':>20}{'ratio':>8}")
    cases = [
        (name, plain, rewritten, channels, size)
        for channels in (128, 256)
        for name, plain, rewritten, sizes in (
            ("of upsampled", plain_up, layers.conv_of_upsampled, (4, 8, 16)),
            ("downsampled", plain_down, layers.conv_downsampled, (16, 32)),
        )
        for size in sizes
    ]
    for name, plain, rewritten, channels, size in cases:
        x = torch.randn(batch, channels, size, size, device=clock.device, dtype=clock.dtype)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.randn(channels, channels, 3, 3, device=clock.device).mul_(0.03).requires_grad_()
        bias = torch.zeros(channels, device=clock.device, requires_grad=True)
        leaves = [x, weight, bias]
        (a, b), (c, d) = clock.compare([lambda: plain(*leaves), lambda: rewritten(*leaves)], leaves)  # noqa: B023
        print(
            f"{name + f', {channels} channels, {size} px':34}{a:10.1f}{b:10.1f}{c:10.1f}{d:10.1f}{b / d:8.2f}"
        )


def batch_norms(clock: Clock) -> None:
    print(f"\n{'BatchNorm 64×128×32×32, group':34}{'fwd, +bwd':>20}")
    x = torch.randn(64, 128, 32, 32, device=clock.device, dtype=clock.dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    norm = AffineBatchNorm(128, 1e-5).to(clock.device)
    for group in (64, 32, 16, 8):
        set_batch_norm_group(norm, group)
        ((forward, both),) = clock.compare([lambda: norm(x)], [x])
        print(f"{group:<34}{forward:10.1f}{both:10.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    precision.keep_large_blocks()
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    clock = Clock(torch.device(arguments.device), arguments.threads, dtype, arguments.repeats)
    convolutions(clock, arguments.batch)
    batch_norms(clock)


if __name__ == "__main__":
    main()
