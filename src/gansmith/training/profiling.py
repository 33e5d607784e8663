"""Where the time of a step goes: parts of the real loop, timed on the device that works.

The loop says which part begins (`run.mark`); when nothing is profiled that is a function that does nothing.
On an accelerator a mark is an event in its queue, read when all is over, so that profiling waits for nothing
either. Must not change what is computed.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from gansmith import hardware
from gansmith.models import families
from gansmith.models.summary import count_macs

if TYPE_CHECKING:
    from gansmith.training.loop import Run
    from gansmith.training.state import State

Mark = Callable[[str], None]
WARM_UP = 2  # steps that are not counted: kernels are chosen, caches filled
STEP = "step"  # the mark at the beginning of a step; what it times is what no other part is
PARTS = (
    "data", "G forward", "D forward", "D backward", "G backward", "loss", "reduction", "spectral norm",
    "regularisation", "optimizer", "EMA", "logging", "other",
)  # fmt: skip


def unmarked(part: str) -> None:
    """The mark of a run that is not profiled."""


class Stopwatch:
    """Adds up seconds by part. Each mark ends the part before it. now: a CPU's clock, in seconds."""

    now = staticmethod(time.perf_counter)

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[tuple[str, Any]] = []

    def __call__(self, part: str) -> None:
        if self.device.type == "cpu":
            self.marks.append((part, self.now()))
            return
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        self.marks.append((part, event))

    def seconds(self) -> dict[str, float]:
        """Waits for the device."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        total: dict[str, float] = {}
        for (part, start), (_, end) in zip(self.marks, self.marks[1:]):
            took = end - start if self.device.type == "cpu" else start.elapsed_time(end) / 1e3
            total[part] = total.get(part, 0.0) + took
        return total


class _Watched:
    """A network that says when its forward begins and ends, and when its backward begins."""

    def __init__(self, net: Any, name: str, mark: Mark) -> None:
        self._net, self._name, self._mark = net, name, mark

    def __call__(self, *inputs: Any, **more: Any) -> torch.Tensor:
        self._mark(f"{self._name} forward")
        out = self._net(*inputs, **more)
        if out.requires_grad:
            out.register_hook(self._backward)
        self._mark("loss")
        return out

    def _backward(self, grad: torch.Tensor) -> None:
        self._mark(f"{self._name} backward")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)


class _WatchedObjective:
    """An objective whose networks say when they begin, and which else is what it was."""

    def __init__(self, objective: Any, mark: Mark) -> None:
        self._objective, self._mark = objective, mark

    def __call__(self, letter: str, G: Any, D: Any, micro: Any) -> Any:
        watched = (_Watched(net, name, self._mark) for net, name in ((G, "G"), (D, "D")))
        return self._objective(letter, *watched, micro)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


class Profile:
    """Times `steps` steps of a run after a warm-up, says the table, and lets the run go on unwatched."""

    def __init__(self, run: "Run", state: "State", steps: int) -> None:
        self.run, self.state, self.steps = run, state, steps
        self.clock = Stopwatch(run.world.device)
        self.begun = 0
        self.objective = run.objective
        self._watch(self.mark)
        run.objective = _WatchedObjective(self.objective, self.mark)

    def _watch(self, mark: Mark) -> None:
        self.run.mark = self.state.G.gradients.mark = self.state.D.gradients.mark = mark

    def mark(self, part: str) -> None:
        if part == STEP:
            self.begun += 1
        if self.begun > WARM_UP:
            self.clock("other" if part == STEP else part)
        if self.begun > WARM_UP + self.steps:
            self._watch(unmarked)
            self.run.objective = self.objective
            self._say()

    def _say(self) -> None:
        run = self.run
        seconds = {part: total / self.steps for part, total in self.clock.seconds().items()}
        flops = step_flops(run, self.state)
        peak = matrix_peak(run.world.device, run.precision.dtype)
        for line in table(seconds, flops, peak, run.precision.name):
            run.log.say(line)
        peak_gib = hardware.peak_memory_gib(run.world.device)
        run.log.say(f"most memory so far: {peak_gib:.2f} GiB")
        run.log.event(
            "profile", steps=self.steps, parts=seconds, flops=flops, matrix_peak=peak, peak_gib=peak_gib
        )


def start(run: "Run", state: "State", steps: int) -> None:
    """Profiles the next steps of a run; on several processes that of rank 0 is watched."""
    if run.world.is_main:
        Profile(run, state, steps)


def step_flops(run: "Run", state: "State") -> dict[str, float]:
    """FLOP of a step by part on this process, by textbook: two per multiply-accumulate, nothing saved by
    rewriting. Empty for a D of the user's own.
    """
    if not families.is_ours(state.D.net):
        return {}
    g, d = 2 * count_macs(state.G.net), 2 * count_macs(state.D.net)
    world, steps = run.world.size, run.config.optim.d_steps
    shown, made = steps * run.batch / world, run.batch_g / world
    # D phase: G forward; D forward and both backwards on reals and fakes. G phase: all of G; D forward and
    # backward to its input only.
    return {
        "G forward": g * (shown + made),
        "D forward": d * (2 * shown + made),
        "D backward": d * (2 * 2 * shown + made),
        "G backward": 2 * g * made,
    }


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of a few large matrix products: what this device reaches, here and now."""
    size = 2048 if device.type == "cpu" else 8192
    a, b = torch.ones(2, size, size, device=device, dtype=dtype).unbind()
    best = float("inf")
    for _ in range(4):
        clock = Stopwatch(device)
        clock("product")
        a @ b
        clock("end")
        best = min(best, clock.seconds()["product"])
    return 2 * size**3 / best


def table(seconds: dict[str, float], flops: dict[str, float], peak: float, arithmetic: str) -> list[str]:
    """The lines of a profile. seconds and flops: of a step by part; peak in FLOP/s."""
    whole = sum(seconds.values())
    lines = [f"{'a step':<16}{'ms':>10}{'share':>8}{'GFLOP':>10}{'of the peak':>13}"]
    for part in sorted(seconds, key=PARTS.index):
        row = f"{part:<16}{1e3 * seconds[part]:>10.2f}{seconds[part] / whole:>8.1%}"
        if part in flops and seconds[part]:
            row += f"{flops[part] / 1e9:>10.1f}{flops[part] / seconds[part] / peak:>13.1%}"
        lines.append(row)
    total = f"{'in all':<16}{1e3 * whole:>10.2f}{'':>8}"
    if flops:
        total += f"{sum(flops.values()) / 1e9:>10.1f}{sum(flops.values()) / whole / peak:>13.1%}"
    return [
        *lines,
        total,
        f"the peak: {peak / 1e9:,.0f} GFLOP/s in {arithmetic} matrix products, just measured",
    ]
