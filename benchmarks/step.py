"""Images per second of a D+G step of the 32 px CIFAR network, against the plain reference, paired in one run.

    python benchmarks/step.py [--ch 32] [--batch 64] [--rounds 5] [--steps 2] [--threads 2] [--precision bf16]

Both sides start from the same weights and see the same images and latents; their losses of the first step are
compared before anything is timed. They are timed in turns, so that a busy machine slows both. The printed
ratio is the median of the rounds. EMA and data loading are on neither side.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable

import plain_reference
import torch
import torch.nn.functional as F
from torch import Tensor

from gansmith.models import layers, spectral
from gansmith.models.biggan import Discriminator, Generator

CLASSES, DIM_Z = 10, 128


class Step:
    """The same update by gansmith's networks: what `training/loop.py` does with one micro-batch on one
    device.
    """

    def __init__(self, G: Generator, D: Discriminator, precision: str) -> None:
        self.G, self.D = G.train(), D.train()
        self.adam_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.0, 0.999), eps=1e-6, fused=True)
        self.adam_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.0, 0.999), eps=1e-6, fused=True)
        self.bf16 = precision == "bf16"

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
        return float(loss_d), float(loss_g)

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


def build(ch: int, precision: str) -> tuple[plain_reference.Step, Step]:
    """The two steps, from the same weights and u, one power iteration apart from nothing."""
    torch.manual_seed(0)
    settings = {"resolution": 32, "num_classes": CLASSES, "ch": ch, "attention": (), "init": "n02"}
    G = Generator(dim_z=DIM_Z, shared_dim=0, skip_z=False, **settings)
    D = Discriminator(**settings)
    plain_g = plain_reference.Generator(num_classes=CLASSES, ch=ch, dim_z=DIM_Z)
    plain_d = plain_reference.Discriminator(num_classes=CLASSES, ch=ch)
    for ours, plain in ((G, plain_g), (D, plain_d)):
        layers.set_channels_last(ours)
        spectral.converge(ours, max_iterations=500)
        shared = {k: v for k, v in ours.state_dict().items() if not k.endswith(".v")}
        plain.load_state_dict(shared)
    return plain_reference.Step(plain_g, plain_d), Step(G, D, precision)


def batch(size: int, seed: int) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Noise in place of images: time does not depend on what they show."""
    random = torch.Generator().manual_seed(seed)
    real = torch.rand(size, 3, 32, 32, generator=random) * 2 - 1
    labels = [torch.randint(CLASSES, (size,), generator=random) for _ in range(3)]
    latents = [torch.randn(size, DIM_Z, generator=random) for _ in range(2)]
    return real, labels[0], latents, labels[1:]


def seconds(step: Callable, batches: list) -> float:
    start = time.perf_counter()
    for inputs in batches:
        step(*inputs)
    return (time.perf_counter() - start) / len(batches)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ch", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps per side and round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    plain, exact = build(arguments.ch, "fp32")
    inputs = batch(arguments.batch, seed=0)
    losses = [step(*inputs) for step in (plain, exact)]
    print(f"first step, losses of D and G: plain {losses[0][0]:.6f} {losses[0][1]:.6f}, ", end="")
    print(f"gansmith in fp32 {losses[1][0]:.6f} {losses[1][1]:.6f}")
    difference = max(abs(a - b) for a, b in zip(*losses))
    assert difference < 1e-3, f"the two sides do not compute the same: losses differ by {difference:g}"

    plain, ours = build(arguments.ch, arguments.precision)
    batches = [batch(arguments.batch, seed) for seed in range(arguments.steps)]
    plain(*inputs), ours(*inputs)
    times = [(seconds(plain, batches), seconds(ours, batches)) for _ in range(arguments.rounds)]
    for name, index in (("plain fp32", 0), (f"gansmith {arguments.precision}", 1)):
        rates = [arguments.batch / pair[index] for pair in times]
        print(f"{name:14} {statistics.median(rates):8.1f} images/s ({min(rates):.1f} to {max(rates):.1f})")
    ratios = sorted(a / b for a, b in times)
    print(f"ratio          {statistics.median(ratios):8.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
