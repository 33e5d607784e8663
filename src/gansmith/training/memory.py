"""Which micro-batch fits: tried at the start on an accelerator, predicted on a CPU; and a smaller one where
it did not after all.

The total batch, the stream and the BatchNorm groups never change; only how many images one forward holds.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gansmith import hardware
from gansmith.data.memory import available_bytes
from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.training import batching
from gansmith.training import state as states
from gansmith.training.draws import Draws
from gansmith.training.objectives import MicroBatch

if TYPE_CHECKING:
    from gansmith.training.loop import Run
    from gansmith.training.state import State

USABLE = 0.9  # of an accelerator's memory: pictures and evaluations need some too
USABLE_HERE = 0.5  # of the memory that is available on a CPU: others live there
# More images per forward bring a CPU nothing (benchmarks/micro_batches.py).
ENOUGH_ON_CPU = 64


def settle(run: "Run", state: "State", chosen_before: dict[str, Any] | None) -> None:
    """Replaces what `auto` stands for so far, one BatchNorm group, by what fits; says so.

    chosen_before: what a checkpoint says was chosen. On the same machine it is taken again, since another
    micro-batch would change the rounding. All ranks call this together and get the same.
    """
    train = run.config.train
    asked = {"d": train.micro_batch, "g": train.micro_batch_g or train.micro_batch}
    before = chosen_before if chosen_before and chosen_before["machine"] == machine(run) else {}
    for letter in ("d", "g"):
        if asked[letter] != "auto":
            continue
        known = run.world.share(before.get(letter))
        if known is not None and known in _options(run, letter):
            chosen, why = known, "as before"
        else:
            chosen, why = largest(run, state, letter), "as much as is of use and fits"
        _set(run, letter, chosen)
        run.log.say(f"micro-batch of {letter.upper()} phases: {chosen}, {why} ({machine(run)})")


def record(run: "Run") -> dict[str, Any]:
    """What was chosen, for the checkpoint."""
    return {"d": run.micro_batch, "g": run.micro_batch_g, "machine": machine(run)}


def machine(run: "Run") -> str:
    """What the choice depends on, in words."""
    device = run.world.device
    gib = hardware.memory_bytes(device) / 2**30
    size = f" of {gib:.0f} GiB" if gib else ""
    return f"{run.world.size} × {device.type}{size}, {run.precision.name}"


def largest(run: "Run", state: "State", letter: str) -> int:
    """The largest micro-batch that fits on every rank; the present one if that alone is possible."""
    present, best = _micro_batch(run, letter), _micro_batch(run, letter)
    on_cpu = run.world.device.type == "cpu"
    # Groups that ranks share keep their layout: a rank that fails alone would leave the others waiting.
    for candidate in _options(run, letter):
        if candidate <= present or candidate % run.bn_group or (on_cpu and candidate > ENOUGH_ON_CPU):
            continue
        fits = predicted(run, letter, candidate) if on_cpu else tried(run, state, letter, candidate)
        if run.world.any(not fits):
            break
        best = candidate
    return best


def tried(run: "Run", state: "State", letter: str, count: int) -> bool:
    """Whether a forward and backward of `count` images leaves enough of the device's memory."""
    device = run.world.device
    player, other = (state.D, state.G) if letter == "d" else (state.G, state.D)
    spectral.set_trainable(player.net, True)
    spectral.set_trainable(other.net, False)
    hardware.reserved_peak(device, reset=True)
    try:
        # Moments come with the first step; until then something as large stands for them.
        missing = sum(
            len(each.kind.moments) * each.gradients.flat.numel()
            for each in (state.G, state.D)
            if not each.optimizer.state
        )
        moments = torch.empty(missing, device=device)
        with torch.random.fork_rng(devices=[], device_type=device.type):
            with run.precision.autocast():
                loss, _ = run.objective(letter, state.G.net, state.D.net, _blank(run, letter, count, device))
            loss.backward()
        hardware.reserved_peak(device)
        del loss, moments
    except Exception as error:
        if not hardware.is_out_of_memory(error):
            raise
        return False
    finally:
        player.gradients.zero()
        hardware.release_memory(device)
    limit = hardware.memory_bytes(device)
    return not limit or hardware.reserved_peak(device) <= USABLE * limit


def predicted(run: "Run", letter: str, count: int) -> bool:
    """Whether `count` images a forward need less than is to be had on this CPU, by shapes alone."""
    per_image = bytes_per_image(run, letter)
    return per_image is not None and per_image * count <= USABLE_HERE * available_bytes() / run.world.size


def bytes_per_image(run: "Run", letter: str) -> float | None:
    """What autograd keeps of an image between forward and backward; None for an objective or a D of the
    user's own that does not run on shapes alone.
    """
    with torch.device("meta"):
        G, D = states.networks(run.config, run.num_classes)
    for net in (G, D):
        spectral.refresh(net, iterations=0)
        net.train()
    spectral.set_trainable(G, letter == "g")
    spectral.set_trainable(D, letter == "d")
    held = []
    for count in (2, 4):
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = _blank(run, letter, count, torch.device("meta"))
        try:
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss, _ = run.objective(letter, G, D, inputs)
            held.append(sum(sizes.values()))
            del loss
        except Exception:  # whatever the user's functions do with shapes that hold no numbers
            return None
    # Autocast leaves the meta device alone: everything was float32.
    return (held[1] - held[0]) / 2 * (0.6 if run.precision.dtype != torch.float32 else 1.0)


def shrink(run: "Run", letter: str) -> None:
    """Halves the micro-batch of a phase that ran out of memory. Raises UserError where it cannot."""
    now = _micro_batch(run, letter)
    smaller = [m for m in _options(run, letter) if 2 * m <= now and m % run.bn_group == 0]
    hardware.release_memory(run.world.device)
    run.log.event("out_of_memory", phase=letter, micro_batch=now)
    if not smaller:
        raise ended(run, letter, "and no smaller ones hold the groups")
    _set(run, letter, max(smaller))
    run.log.warn(
        f"out of memory in a {letter.upper()} phase with micro-batches of {now}: it is repeated, and the run "
        f"goes on, with {max(smaller)}"
    )


def ended(run: "Run", letter: str, why: str) -> UserError:
    """The error of a run that no smaller micro-batch helps. why: goes on the sentence of what happened."""
    processes = f"{run.world.size} process{'es' if run.world.size > 1 else ''}"
    blocks = max(run.config.model.resolution // 4, 4)
    return UserError(
        f"out of memory in a {letter.upper()} phase with micro-batches of {_micro_batch(run, letter)} and "
        f"BatchNorm groups of {run.bn_group} (bn.group) on {processes}, {why}. The run goes on from its last "
        f"checkpoint with: more processes; --set train.checkpoint_from={blocks} (recomputes blocks); "
        "or a smaller group, --set bn.group=… --allow-change bn.group (docs/memory.md)."
    )


def groups_are_shared(run: "Run", letter: str) -> bool:
    """Whether ranks wait for each other inside a forward."""
    return run.world.size > 1 and _micro_batch(run, letter) % run.bn_group != 0


def _options(run: "Run", letter: str) -> list[int]:
    # What cuts the batch at the start cuts every larger one: growth adds as much again.
    batch = run.growth.start if letter == "d" else run.growth.start_g
    return batching.possible(batch, run.bn_group, run.world.size)


def _micro_batch(run: "Run", letter: str) -> int:
    return run.micro_batch if letter == "d" else run.micro_batch_g


def _set(run: "Run", letter: str, micro_batch: int) -> None:
    if letter == "d":
        run.micro_batch = micro_batch
    else:
        run.micro_batch_g = micro_batch


def _blank(run: "Run", letter: str, count: int, device: torch.device) -> MicroBatch:
    """A micro-batch of noise and of images that show nothing."""
    model = run.config.model
    y = torch.zeros(count, dtype=torch.int64, device=device) if run.num_classes else None
    shape = (count, model.channels, model.resolution, model.resolution)
    real = torch.zeros(shape, device=device) if letter == "d" or _needs_reals(run) else None
    if real is not None and run.config.train.channels_last:
        real = real.contiguous(memory_format=torch.channels_last)
    z = torch.randn(count, model.dim_z, device=device)
    draws = Draws(0, letter, np.arange(count), device)
    return MicroBatch(z, y, real, y if real is not None else None, draws)


def _needs_reals(run: "Run") -> bool:
    return getattr(run.objective, "needs_reals_in_g", False)
