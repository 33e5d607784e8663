"""Where the time of a step goes on both sides of `step.py`, and the picture of it.

Ours is `gansmith train --profile` itself, with data, average and logging, on images of noise. The plain
reference is timed by the same stopwatch; it has no data, average or logging. Its spectral norm is what the
forward passes compute of it; the way back through σ is in the backward passes, where it cannot be told apart.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plain_reference
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gansmith.evaluation.sweep import plotting
from gansmith.models.biggan import Discriminator, Generator
from gansmith.models.summary import count_macs
from gansmith.training import profiling
from gansmith.training.profiling import PARTS, Stopwatch

# GMAC of G and D per image, forward: what the published networks need, by resolution and ch.
PUBLISHED = {(32, 64): (1.68, 1.08), (64, 64): (7.26, 1.11), (128, 96): (21.12, 10.84)}
Parts = dict[str, dict[str, float]]  # "seconds", "flops" by part, of one step


# The plain reference
# -------------------------------------------------------------------------------------------------------


def plain(step: plain_reference.Step, batches: list[tuple], device: torch.device) -> Parts:
    """Seconds and FLOP of a step of the plain reference by part, over `batches`."""
    clock = Stopwatch(device)
    networks = step.G, step.D
    step.G, step.D = (profiling._Watched(net, name, clock) for net, name in zip(networks, "GD"))
    for adam in (step.adam_g, step.adam_d):
        for name in ("zero_grad", "step"):
            setattr(adam, name, marked(getattr(adam, name), "optimizer", clock))
    normalized = plain_reference.SpectralWeight.normalized
    plain_reference.SpectralWeight.normalized = marked(normalized, "spectral norm", clock)
    for inputs in batches:
        clock("other")
        step(*inputs)
    clock("end")
    step.G, step.D = networks
    seconds = {part: total / len(batches) for part, total in clock.seconds().items()}
    size, resolution = batches[0][0].shape[0], batches[0][0].shape[-1]
    return {"seconds": seconds, "flops": plain_flops(*networks, size, resolution)}


def marked(function: Callable, part: str, clock: Stopwatch) -> Callable:
    """The function, which says that it begins, and that what was before it goes on."""

    def call(*arguments: Any, **settings: Any) -> Any:
        before = clock.marks[-1][0]
        clock(part)
        result = function(*arguments, **settings)
        clock(before)
        return result

    return call


def plain_flops(G: nn.Module, D: nn.Module, batch: int, resolution: int) -> dict[str, float]:
    """By textbook, as `profiling.step_flops`: here the G phase makes gradients of D's weights, too."""
    device = next(G.parameters()).device
    z = torch.zeros(2, G.linear.weight.shape[1], device=device)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    image = torch.zeros(2, 3, resolution, resolution, device=device)
    counts = []
    for net, x in ((G.eval(), z), (D.eval(), image)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(x, y)
        counts.append(counter.get_total_flops() / 2 * batch)
        net.train()
    g, d = counts
    return {"G forward": 2 * g, "D forward": 3 * d, "D backward": 2 * 3 * d, "G backward": 2 * g}


# gansmith
# -------------------------------------------------------------------------------------------------------


def ours(resolution: int, ch: int, batch: int, dtype: str, steps: int, device: str) -> Parts:
    """The same of `gansmith train`, with the networks of `step.build`; and the matrix peak, FLOP/s."""
    settings = {
        "model.resolution": resolution, "model.ch": ch, "model.dim_z": 128, "model.shared_dim": 0,
        "model.skip_z": False, "model.attention_g": [], "model.attention_d": [], "model.init": "n02",
        "loss.ortho_g": 0, "optim.d_steps": 1, "bn.group": batch, "train.batch": batch,
        "train.micro_batch": batch, "train.precision": dtype, "train.threads": torch.get_num_threads(),
        "train.duration": batch * (steps + profiling.WARM_UP + 1), "log.status_every": batch * steps,
        "log.snapshot_every": "1M", "log.checkpoint_every": "1M", "log.statistics_images": max(batch, 16),
        "log.grid_columns": 1,
    }  # fmt: skip
    from gansmith.training.run import train

    with tempfile.TemporaryDirectory() as folder:
        os.environ["GANSMITH_CACHE"] = f"{folder}/cache"
        noise(Path(folder) / "images", resolution)
        out = train(f"{folder}/images", out=f"{folder}/run", settings=settings, device=device, profile=steps)
        lines = (out / "metrics.jsonl").read_text().splitlines()
    (event,) = (row for row in map(json.loads, lines) if row["type"] == "profile")
    return {"seconds": event["parts"], "flops": event["flops"], "peak": event["matrix_peak"]}


def noise(folder: Path, resolution: int, classes: int = 10, each: int = 12) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for label in range(classes):
        (folder / str(label)).mkdir(parents=True)
        for index in range(each):
            pixels = random.integers(0, 256, (resolution, resolution, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / str(label) / f"{index}.png")


# Shown
# -------------------------------------------------------------------------------------------------------


def table(sides: dict[str, Parts], peak: float) -> None:
    """One line per part: ms, GFLOP and share of the peak on either side."""
    print(f"\n{'a step':16}" + "".join(f"{name + ': ms':>22}{'GFLOP':>8}{'of peak':>9}" for name in sides))
    for part in (*PARTS, "in all"):
        line = f"{part:16}"
        for side in sides.values():
            seconds, flops = (
                sum(side[what].values()) if part == "in all" else side[what].get(part)
                for what in ("seconds", "flops")
            )
            line += f"{'–' if seconds is None else f'{1e3 * seconds:.1f}':>22}"
            if flops and seconds:
                line += f"{flops / 1e9:8.1f}{flops / seconds / peak:9.1%}"
            else:
                line += " " * 17
        print(line.rstrip())
    print(f"the peak: {peak / 1e9:,.0f} GFLOP/s in matrix products of ours, just measured")


def published(resolution: int) -> None:
    """Our count of the published networks beside the published one."""
    for (size, ch), macs in PUBLISHED.items():
        if size != resolution:
            continue
        slots = resolution.bit_length() - 2
        more = {"shared_dim": 0, "skip_z": False} if size == 32 else {}
        more |= {} if size == 128 else {"attention": ()}
        with torch.device("meta"):
            G = Generator(resolution=size, num_classes=1000, ch=ch, dim_z=20 * slots, **more)
            D = Discriminator(
                resolution=size,
                num_classes=1000,
                ch=ch,
                **{k: v for k, v in more.items() if k == "attention"},
            )
        counted = [count_macs(net) / 1e9 for net in (G, D)]
        print(
            f"GMAC per image forward, counted at ch {ch}: G {counted[0]:.2f}, D {counted[1]:.2f}; "
            f"published {macs[0]:.2f}, {macs[1]:.2f} (here 1×1 shortcuts run on the smaller side)"
        )


def picture(sides: dict[str, Parts], images: int, title: str, path: str) -> None:
    """Stacked bars, a side each: milliseconds per image by part."""
    pyplot = plotting()
    figure, axes = pyplot.subplots(figsize=(7, 1.1 + 0.55 * len(sides)))
    used = [p for p in PARTS if any(s["seconds"].get(p, 0) > 0 for s in sides.values())]
    colours = dict(zip(used, pyplot.get_cmap("tab20").colors))
    for row, (_, side) in enumerate(sides.items()):
        left = 0.0
        for part in used:
            width = 1e3 * side["seconds"].get(part, 0.0) / images
            axes.barh(row, width, left=left, color=colours[part], label=part if row == 0 else None)
            left += width
    axes.set_yticks(range(len(sides)), list(sides))
    axes.invert_yaxis()
    axes.set_xlabel("ms per image")
    axes.set_title(title, fontsize=9)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[part]) for part in used]
    figure.legend(handles, used, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    figure.savefig(path, dpi=80, bbox_inches="tight", pil_kwargs={"optimize": True})
