"""Several processes against one on this machine, and a model of many GPUs.

    python benchmarks/scaling.py [--ch 32] [--batch 32] [--rounds 3] [--steps 4]
    python benchmarks/scaling.py --model [--presets biggan-128 biggan-256] [--gpu H100] [--utilisation 0.3]

Without --model: `gansmith train` itself, 1 process × 2 threads against 2 processes × 1 thread, in turns, at
equal batch, with every BatchNorm group shared by both processes. Prints images/s, CPU time per image, the
share of the time in gradient and in BatchNorm exchange (the wait for the other process included) and the
bytes of a step. With --model: what the same exchanges cost on 8 and 64 GPUs, from counted FLOPs and bytes and
stated assumptions.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from typing import Any

GPUS_PER_NODE = 8


# Measured here
# -------------------------------------------------------------------------------------------------------


def record(notes: dict[str, float], statuses: list[dict[str, float]]) -> None:
    """Times both exchanges of this process from now on, and notes all sums at every status line."""
    from gansmith.models import normalization
    from gansmith.training import distributed, runlog

    def timed(name: str, function: Any, size: Any) -> Any:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            notes[name] += time.perf_counter() - start
            notes[f"{name} bytes"] += size(*arguments)
            notes[f"{name} calls"] += 1
            return result

        return call

    def bytes_of(tensor: Any) -> int:
        return tensor.numel() * tensor.element_size()

    distributed.World.sum = timed("gradients", distributed.World.sum, lambda world, t: bytes_of(t))
    exchange = normalization._AllReduce
    exchange.forward = staticmethod(timed("BatchNorm", exchange.forward, lambda ctx, x, ranks: bytes_of(x)))
    say = runlog.RunLog.status

    def status(self: Any, row: dict[str, Any]) -> None:
        now = {"wall": time.perf_counter(), "cpu": time.process_time(), "images": row["images_seen"]}
        statuses.append(now | notes)
        say(self, row)

    runlog.RunLog.status = status


def work(pipe: Connection, rank: int, world: int, threads: int, port: int, settings: dict[str, Any]) -> None:
    """One process of a short run; sends what the steps after the first two took."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    from gansmith.training.run import train

    notes = dict.fromkeys(
        f"{kind}{what}" for kind in ("gradients", "BatchNorm") for what in ("", " bytes", " calls")
    )
    notes = dict.fromkeys(notes, 0.0)
    statuses: list[dict[str, float]] = []
    record(notes, statuses)
    with tempfile.TemporaryDirectory() as folder:
        out = pipe.recv()
        train("builtin:digits", "cifar10", out or folder, settings=settings | {"train.threads": threads})
    first, last = statuses[1], statuses[-1]  # the first step warms up
    pipe.send({key: last[key] - first[key] for key in last})


def measure(world: int, threads: int, settings: dict[str, Any]) -> dict[str, float]:
    """Sums over processes (cpu) and of the slowest one (the rest), from the second step on."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free, tempfile.TemporaryDirectory() as out:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        pipes = []
        for rank in range(world):
            ours, theirs = context.Pipe()
            context.Process(target=work, args=(theirs, rank, world, threads, port, settings)).start()
            ours.send(f"{out}/run")
            pipes.append(ours)
        results = [pipe.recv() for pipe in pipes]
    slowest = max(results, key=lambda result: result["wall"])
    return slowest | {"cpu": sum(result["cpu"] for result in results)}


def compare(arguments: argparse.Namespace) -> None:
    step = arguments.batch * 2
    settings = {
        "model.channels": 1,
        "model.ch": arguments.ch,
        "data.flip": False,
        "optim.d_steps": 2,
        "train.batch": arguments.batch,
        "bn.group": arguments.batch,  # over both processes where there are two
        "train.precision": arguments.precision,
        "train.duration": step * (arguments.steps + 2),
        "log.status_every": step,
        "log.snapshot_every": "1M",
        "log.checkpoint_every": "1M",
        "log.statistics_images": arguments.batch,
        "log.grid_columns": 1,
    }
    sides: dict[str, list[dict[str, float]]] = {"1 process × 2 threads": [], "2 processes × 1 thread": []}
    for _ in range(arguments.rounds):
        for name, results in sides.items():
            world, threads = int(name[0]), int(name.split("×")[1].split()[0])
            results.append(measure(world, threads, settings))
            print(json.dumps({"side": name, **results[-1]}), file=sys.stderr)
    print(
        f"32 px, ch {arguments.ch}, {arguments.precision}, batch {arguments.batch}, one BatchNorm group; "
        f"{arguments.rounds} rounds of {arguments.steps} steps, medians"
    )
    print(f"{'':24}{'images/s':>9}{'CPU ms/image':>14}{'gradients':>11}{'BatchNorm':>11}{'MB/step':>18}")
    for name, results in sides.items():
        rate = statistics.median(r["images"] / r["wall"] for r in results)
        cpu = statistics.median(1000 * r["cpu"] / r["images"] for r in results)
        shares = [statistics.median(r[k] / r["wall"] for r in results) for k in ("gradients", "BatchNorm")]
        steps = results[0]["images"] / step
        sizes = [results[0][f"{k} bytes"] / steps / 1e6 for k in ("gradients", "BatchNorm")]
        calls = [results[0][f"{k} calls"] / steps for k in ("gradients", "BatchNorm")]
        alone = name.startswith("1")
        print(f"{name:24}{rate:9.1f}{cpu:14.1f}", end="")
        if alone:
            print(f"{'–':>11}{'–':>11}{'–':>18}")
        else:
            print(f"{shares[0]:11.1%}{shares[1]:11.1%}{sizes[0]:9.2f} + {sizes[1]:.3f}")
            print(f"  in {calls[0]:.0f} gradient and {calls[1]:.0f} BatchNorm exchanges per step")
    one, two = sides.values()
    ratios = sorted(b["images"] / b["wall"] / (a["images"] / a["wall"]) for a, b in zip(one, two))
    used = sorted(a["cpu"] / a["images"] / (b["cpu"] / b["images"]) for a, b in zip(one, two))
    for what, values in (("images/s", ratios), ("CPU time", used)):
        middle = statistics.median(values)
        print(f"two against one, by {what}: {middle:.2f} ({values[0]:.2f} to {values[-1]:.2f})")


# Modelled
# -------------------------------------------------------------------------------------------------------


def model(arguments: argparse.Namespace) -> None:
    """Seconds of a step: computing at a share of the peak; gradients once per phase around a ring; one small
    exchange per BatchNorm layer forward and one backward, where groups are larger than what a process has."""
    import torch

    from gansmith import config as configuration
    from gansmith.models.normalization import BatchNorm
    from gansmith.planning import gpus, work
    from gansmith.training import batching, state

    gpu = gpus.GPUS[arguments.gpu]
    print(
        f"{gpu.name}: {arguments.utilisation:.0%} of {gpu.half:.0f} TFLOP/s; gradients around rings, at "
        f"{arguments.achieved:.0%} of {gpu.link:g} GB/s in a node of {GPUS_PER_NODE} and of the network's "
        f"GB/s per node between nodes;\na small exchange takes {arguments.latency_node:g} µs in a node, "
        f"{arguments.latency:g} µs between nodes."
    )
    print(
        "| preset | GPUs | network, GB/s | images per GPU | computing, ms per step | gradients, MB (D, G) "
        "| exchanged in, ms | BatchNorm exchanges × ranks | in ms | efficiency | with overlap at most |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    places = [(n, network) for n in arguments.gpus for network in (arguments.network if n > 8 else [None])]
    for preset in arguments.presets:
        config, _ = configuration.load(preset)
        _, classes, _ = work.data_set(config, None, None)
        group, d_steps = batching.bn_group(config), config.optim.d_steps
        with torch.device("meta"):
            G, _ = state.networks(config, classes)
        layers = sum(isinstance(module, BatchNorm) for module in G.modules())
        for number, network in places:
            counted = work.count(config, classes, batching.resolve(config, group, number))
            here = config.train.batch // number
            compute = counted.step / (number * gpu.half * 1e12 * arguments.utilisation)
            link = (gpu.link if network is None else min(gpu.link, network)) * 1e9 * arguments.achieved
            size = 4 * (d_steps * counted.parameters_d + counted.parameters_g)
            gradients = 2 * (number - 1) / number * size / link
            # A D phase forwards G, a G phase goes back as well. Groups are of adjacent ranks, of one node.
            ranks = max(1, group // here)
            exchanges = layers * (d_steps + 2) if ranks > 1 else 0
            small = arguments.latency if ranks > GPUS_PER_NODE else arguments.latency_node
            norm = exchanges * small * 1e-6
            step = compute + gradients + norm
            # In the backward of the last micro-batch: about half of what is computed, where there is but one.
            hidden = min(gradients, compute / 2)
            print(
                f"| {preset} | {number} | {'–' if network is None else f'{network:g}'} | {here} "
                f"| {1000 * compute:.0f} "
                f"| {4e-6 * counted.parameters_d:.0f}, {4e-6 * counted.parameters_g:.0f} "
                f"| {1000 * gradients:.1f} | {f'{exchanges} × {ranks}' if exchanges else 'none'} "
                f"| {1000 * norm:.1f} | {compute / step:.1%} | {compute / (step - hidden):.1%} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ch", type=int, default=32)
    parser.add_argument(
        "--batch", type=int, default=32, help="of all processes together, one BatchNorm group"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=4, help="timed per side and round, 2 D and 1 G phase each"
    )
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--model", action="store_true", help="many GPUs, computed")
    parser.add_argument("--presets", nargs="+", default=["biggan-128", "biggan-256", "biggan-deep-256"])
    parser.add_argument("--gpus", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--gpu", default="H100")
    parser.add_argument("--utilisation", type=float, default=0.3, help="share of the bf16 matrix peak")
    parser.add_argument(
        "--network", nargs="+", type=float, default=[400.0, 25.0], help="GB/s per node and way, between nodes"
    )
    parser.add_argument("--achieved", type=float, default=0.7, help="of stated link rates by large exchanges")
    parser.add_argument("--latency-node", type=float, default=30.0, help="µs of a small exchange in a node")
    parser.add_argument("--latency", type=float, default=60.0, help="µs of a small exchange between nodes")
    arguments = parser.parse_args()
    model(arguments) if arguments.model else compare(arguments)


if __name__ == "__main__":
    main()
