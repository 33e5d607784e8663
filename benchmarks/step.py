"""Images per second of a D+G step of the 32 px CIFAR network, against the plain reference, paired in one run.

    python benchmarks/step.py [--ch 32] [--batch 64] [--rounds 5] [--steps 2] [--threads 2] [--cpu-time]

Every side starts from the same weights and sees the same images and latents, and the losses of the first step
must agree before anything is timed. Each side is a process of its own, because part of the speed is the
allocator setting that `gansmith train` makes (`precision.keep_large_blocks`); the plain side is timed without
it, as it was published, and with it. The sides are timed in turns, so that a busy machine slows all. EMA and
data loading are on no side.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import plain_reference
import torch
import torch.nn.functional as F
from torch import Tensor

from gansmith.models import layers, spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.training import precision

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
        with self.autocast():
            with torch.no_grad():
                fake = G(z[0], classes[0])
            logits = D(torch.cat([fake, real]), torch.cat([classes[0], y]))
        on_fake, on_real = logits.chunk(2)
        loss_d = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        loss_d.backward()
        self.update(D, self.adam_d)

        spectral.set_trainable(D, False)
        with self.autocast():
            loss_g = -D(G(z[1], classes[1]), classes[1]).mean()
        loss_g.backward()
        self.update(G, self.adam_g)
        return loss_d.item(), loss_g.item()

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def update(self, net: torch.nn.Module, adam: torch.optim.Optimizer) -> None:
        spectral.pull_back(net)
        adam.step()
        for _, parameter, leaf in spectral.effective_parameters(net):
            for tensor in (parameter, leaf):
                if tensor.grad is not None:
                    tensor.grad.zero_()
        spectral.refresh(net)


def build(side: str, ch: int) -> Callable[..., tuple[float, float]]:
    """A step of one side (plain, bf16 or fp32), all from the same weights and singular vectors."""
    torch.manual_seed(0)
    settings = {"resolution": 32, "num_classes": CLASSES, "ch": ch, "attention": (), "init": "n02"}
    G = Generator(dim_z=DIM_Z, shared_dim=0, skip_z=False, **settings)
    D = Discriminator(**settings)
    for net in (G, D):
        layers.set_channels_last(net)
        spectral.converge(net, max_iterations=500)
    if side != "plain":
        return Step(G, D, side)
    plain_g = plain_reference.Generator(num_classes=CLASSES, ch=ch, dim_z=DIM_Z)
    plain_d = plain_reference.Discriminator(num_classes=CLASSES, ch=ch)
    for net, plain in ((G, plain_g), (D, plain_d)):
        plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.endswith(".v")})
    return plain_reference.Step(plain_g, plain_d)


def batch(size: int, seed: int) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Noise in place of images: time does not depend on what they show."""
    random = torch.Generator().manual_seed(seed)
    real = torch.rand(size, 3, 32, 32, generator=random) * 2 - 1
    labels = [torch.randint(CLASSES, (size,), generator=random) for _ in range(3)]
    latents = [torch.randn(size, DIM_Z, generator=random) for _ in range(2)]
    return real, labels[0], latents, labels[1:]


def work(pipe: Connection, side: str, keep_blocks: bool, arguments: argparse.Namespace) -> None:
    """One side in its own process: sends its first losses, then the seconds of a step on request."""
    torch.set_num_threads(arguments.threads)
    if keep_blocks:
        precision.keep_large_blocks()
    step = build(side, arguments.ch)
    pipe.send(step(*batch(arguments.batch, seed=0)))
    batches = [batch(arguments.batch, seed) for seed in range(arguments.steps)]
    now = time.process_time if arguments.cpu_time else time.perf_counter
    while pipe.recv():
        start = now()
        for inputs in batches:
            step(*inputs)
        pipe.send((now() - start) / len(batches))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps per side and round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU time, not wall clock: for a busy machine"
    )
    arguments = parser.parse_args()

    sides = {
        "plain": ("plain", False),
        "plain, kept blocks": ("plain", True),
        "gansmith fp32": ("fp32", True),
        "gansmith bf16": ("bf16", True),
    }
    context = multiprocessing.get_context("spawn")
    pipes, losses = {}, {}
    for name, (side, keep_blocks) in sides.items():
        pipes[name], theirs = context.Pipe()
        context.Process(target=work, args=(theirs, side, keep_blocks, arguments), daemon=True).start()
        losses[name] = pipes[name].recv()
        print(f"{name:20} losses of D and G in the first step {losses[name][0]:.5f} {losses[name][1]:.5f}")
    difference = max(abs(a - b) for a, b in zip(losses["plain"], losses["gansmith fp32"]))
    assert difference < 1e-3, f"the two sides do not compute the same: losses differ by {difference:g}"

    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds + 1):  # the first warms up
        for name, pipe in pipes.items():
            pipe.send(True)
            times[name].append(pipe.recv())
    print(f"\n{'images/s':20}{'median':>8}{'worst':>8}{'best':>8}   times as fast as plain, per round")
    for name in sides:
        rates = [arguments.batch / seconds for seconds in times[name][1:]]
        ratios = sorted(a / b for a, b in zip(times["plain"][1:], times[name][1:]))
        print(f"{name:20}{statistics.median(rates):8.1f}{min(rates):8.1f}{max(rates):8.1f}", end="")
        print(f"   {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        pipes[name].send(False)


if __name__ == "__main__":
    main()
