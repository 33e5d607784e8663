"""A D+G step against the plain reference, paired in one run: images per second, and where the time goes.

    python benchmarks/step.py [--resolution 32] [--ch 32] [--batch 64] [--rounds 5] [--steps 2] [--threads 2]
        [--device cpu] [--cpu-time] [--picture FILE.png] [--no-parts]

Every side starts from the same weights and sees the same images and latents, and the losses of the first step
must agree before anything is timed. Each side is a process of its own, because part of the speed is the
allocator setting that `gansmith train` makes (`precision.keep_large_blocks`); on a CPU the plain side is
timed without it, as it was published, and with it. bf16 takes part where the device has it. The sides are
timed in turns, so that a busy machine slows all. EMA and data loading are on no side.

What follows is a step by part on both sides (parts.py), with EMA, data and logging on ours, and how fast a
step would be that did nothing but its multiplications, at the peak of this machine's matrix products.
"""

import argparse
import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import parts
import plain_reference
import plots
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gansmith import hardware
from gansmith.models import layers, spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.training import precision, profiling

CLASSES, DIM_Z = 10, 128


class Step:
    """The same update by gansmith's networks: what `training/loop.py` does with one micro-batch."""

    def __init__(self, G: Generator, D: Discriminator, dtype: str) -> None:
        self.G, self.D = G.train(), D.train()
        self.adam_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.0, 0.999), eps=1e-6, fused=True)
        self.adam_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.0, 0.999), eps=1e-6, fused=True)
        self.bf16 = dtype == "bf16"

    def __call__(
        self, real: Tensor, y: Tensor, z: list[Tensor], classes: list[Tensor]
    ) -> tuple[float, float]:
        G, D = self.G, self.D
        real = real.contiguous(memory_format=torch.channels_last)
        spectral.set_trainable(D, True)
        with self.autocast(real):
            with torch.no_grad():
                fake = G(z[0], classes[0])
            logits = D(torch.cat([fake, real]), torch.cat([classes[0], y]))
        on_fake, on_real = logits.chunk(2)
        loss_d = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        loss_d.backward()
        self.update(D, self.adam_d)

        spectral.set_trainable(D, False)
        with self.autocast(real):
            loss_g = -D(G(z[1], classes[1]), classes[1]).mean()
        loss_g.backward()
        self.update(G, self.adam_g)
        return loss_d.item(), loss_g.item()

    def autocast(self, x: Tensor) -> contextlib.AbstractContextManager:
        return torch.autocast(x.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def update(self, net: torch.nn.Module, adam: torch.optim.Optimizer) -> None:
        spectral.pull_back(net)
        adam.step()
        for _, parameter, leaf in spectral.effective_parameters(net):
            for tensor in (parameter, leaf):
                if tensor.grad is not None:
                    tensor.grad.zero_()
        spectral.refresh(net)


def build(
    side: str, ch: int, resolution: int = 32, device: str = "cpu"
) -> Callable[..., tuple[float, float]]:
    """A step of one side (plain, bf16 or fp32), all from the same weights and singular vectors."""
    torch.manual_seed(0)
    settings = {"resolution": resolution, "num_classes": CLASSES, "ch": ch, "attention": (), "init": "n02"}
    G = Generator(dim_z=DIM_Z, shared_dim=0, skip_z=False, **settings)
    D = Discriminator(**settings)
    for net in (G, D):
        layers.set_channels_last(net)
        spectral.converge(net, max_iterations=500)
        net.to(device)
        spectral.refresh(net, iterations=0)
    if side != "plain":
        return Step(G, D, side)
    size = {"num_classes": CLASSES, "ch": ch, "resolution": resolution}
    plain_g = plain_reference.Generator(dim_z=DIM_Z, **size).to(device)
    plain_d = plain_reference.Discriminator(**size).to(device)
    for net, plain in ((G, plain_g), (D, plain_d)):
        plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.endswith(".v")})
    return plain_reference.Step(plain_g, plain_d)


def batch(size: int, seed: int, resolution: int = 32, device: str = "cpu") -> tuple[Any, ...]:
    """Noise in place of images: time does not depend on what they show."""
    random = torch.Generator().manual_seed(seed)
    real = torch.rand(size, 3, resolution, resolution, generator=random) * 2 - 1
    labels = [torch.randint(CLASSES, (size,), generator=random).to(device) for _ in range(3)]
    latents = [torch.randn(size, DIM_Z, generator=random).to(device) for _ in range(2)]
    return real.to(device), labels[0], latents, labels[1:]


def executed_flops(step: Callable[..., Any], arguments: argparse.Namespace) -> float:
    """FLOP of a step as it is computed, rewritten convolutions and all."""
    with FlopCounterMode(display=False) as counter:
        step(*batch(2, 0, arguments.resolution, arguments.device))
    return counter.get_total_flops() / 2 * arguments.batch


def work(pipe: Connection, side: str, keep_blocks: bool, arguments: argparse.Namespace) -> None:
    """One side in its own process: sends its first losses and its FLOP; then on request the seconds of a
    step, or those of its parts.
    """
    torch.set_num_threads(arguments.threads)
    if keep_blocks:
        precision.keep_large_blocks()
    if arguments.threads == 1:  # one thread's CPU time is what a busy machine disturbs least
        profiling.Stopwatch.now = staticmethod(time.thread_time)
    size, resolution, device = arguments.batch, arguments.resolution, arguments.device
    step = build(side, arguments.ch, resolution, device)
    first = step(*batch(size, 0, resolution, device))
    batches = [batch(size, seed, resolution, device) for seed in range(arguments.steps)]
    pipe.send((first, executed_flops(step, arguments)))
    now = time.process_time if arguments.cpu_time else time.perf_counter
    while asked := pipe.recv():
        if asked == "seconds":
            start = now()
            for inputs in batches:
                step(*inputs)  # ends with numbers on the host: nothing is left in a device's queue
            pipe.send((now() - start) / len(batches))
        elif side == "plain":
            pipe.send(parts.plain(step, batches, torch.device(device)))
        else:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                shown = parts.ours(resolution, arguments.ch, size, side, arguments.steps, device)
            pipe.send(shown)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--resolution", type=int, default=32, choices=sorted(plain_reference.GENERATOR))
    parser.add_argument("--ch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps per side and round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time, not wall clock: for a busy machine"
    )
    parser.add_argument("--no-parts", action="store_true", help="only how fast, not where the time goes")
    parser.add_argument("--picture", metavar="FILE.png", help="draws the parts, too")
    arguments = parser.parse_args()

    if arguments.picture:
        plots.ready()
    on_cpu = arguments.device == "cpu"
    sides = {"plain": ("plain", False)}
    if on_cpu:
        sides["plain, kept blocks"] = ("plain", True)
    sides["gansmith fp32"] = ("fp32", True)
    if hardware.native_bf16(torch.device(arguments.device))[0]:
        sides["gansmith bf16"] = ("bf16", True)
    context = multiprocessing.get_context("spawn")
    pipes, losses, flops = {}, {}, {}
    for name, (side, keep_blocks) in sides.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=work, args=(theirs, side, keep_blocks, arguments), daemon=True).start()
        theirs.close()  # so that the end of a process is noticed
        losses[name], flops[name] = pipes[name].recv()
        print(f"{name:20} losses of D and G in the first step {losses[name][0]:.5f} {losses[name][1]:.5f}")
    difference = max(abs(a - b) for a, b in zip(losses["plain"], losses["gansmith fp32"]))
    assert difference < 1e-3, f"the two sides do not compute the same: losses differ by {difference:g}"

    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds + 1):  # the first warms up
        for name, pipe in pipes.items():
            pipe.send("seconds")
            times[name].append(pipe.recv())
    print(f"\n{'images/s':20}{'median':>8}{'worst':>8}{'best':>8}   times as fast as plain, per round")
    for name in sides:
        rates = [arguments.batch / seconds for seconds in times[name][1:]]
        ratios = sorted(a / b for a, b in zip(times["plain"][1:], times[name][1:]))
        print(f"{name:20}{statistics.median(rates):8.1f}{min(rates):8.1f}{max(rates):8.1f}", end="")
        print(f"   {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    if not arguments.no_parts:
        *_, best = sides
        shown = {}
        for name in ("plain", best):
            pipes[name].send("parts")
            shown[name] = pipes[name].recv()
        peak = shown[best]["peak"]
        parts.table(shown, peak)
        parts.published(arguments.resolution)
        bound = statistics.median(times["plain"][1:]) * peak / flops[best]
        print(
            f"GFLOP of a step as computed: plain {flops['plain'] / 1e9:.1f}, ours {flops[best] / 1e9:.1f}. "
            f"At that peak, and with nothing else to do, ours would be {bound:.1f} times as fast as plain."
        )
        if arguments.picture:
            title = f"{arguments.resolution} px, ch {arguments.ch}, batch {arguments.batch}: a step by part"
            parts.picture(shown, arguments.batch, title, arguments.picture)
    for pipe in pipes.values():
        pipe.send(None)


if __name__ == "__main__":
    main()
