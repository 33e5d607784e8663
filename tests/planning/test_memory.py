"""Memory counted from shapes is what training takes, by the allocator's own account of real runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from gansmith import config as configuration
from gansmith import hardware
from gansmith.planning import memory
from gansmith.training import batching, run, saving, state


@contextmanager
def allocated() -> Iterator[list[int]]:
    """Bytes that torch's CPU allocator hands out inside; the list gets the peak at the end."""
    found: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        yield found
    now = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    found.append(peak)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train.precision": "fp32", "train.batch": 128, "train.micro_batch": 64, "optim.d_steps": 2},
        {"model.family": "biggan-deep", "model.ch": 8, "model.dim_z": 32, "model.conditional": False},
    ],
    ids=["preset", "fp32 in micro-batches", "deep"],
)
def test_prediction_is_within_15_percent_of_a_runs_peak(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The CPU's own arithmetic: one without bf16 emulates it in float32 copies, which are no tensors.
    native = "bf16" if hardware.native_bf16(torch.device("cpu"))[0] else "fp32"
    precision = {"train.precision": settings.get("train.precision", native)}
    config, _ = configuration.load("digits", overrides=settings | precision)
    group = batching.bn_group(config)
    sizes = batching.resolve(config, group, 1)
    dtype = torch.float32 if config.train.precision == "fp32" else torch.bfloat16
    classes = 10 if config.model.conditional else 0
    predicted = memory.measure(config, classes, group, sizes.micro_batch, sizes.micro_batch_g, dtype)

    for name in ("snapshot", "checkpoint"):  # what is measured is training, not drawing and saving
        monkeypatch.setattr(saving, name, lambda *_: ("", True))
    steps = {"train.duration": 2 * config.train.batch * config.optim.d_steps, "log.statistics_images": 16,
             "log.grid_columns": 1, "log.grid_classes": 1}  # fmt: skip
    with allocated() as found:
        run.train("builtin:digits", "digits", tmp_path / "run", settings=settings | precision | steps)
    assert predicted.peak == pytest.approx(found[0], rel=0.15)


def test_activations_grow_with_the_micro_batch_and_the_rest_does_not() -> None:
    config, _ = configuration.load("digits")
    one, two, four = (memory.measure(config, 10, 16, m, m, torch.bfloat16) for m in (16, 32, 64))
    assert one.fixed == two.fixed == four.fixed
    assert four.g - two.g == pytest.approx(2 * (two.g - one.g), rel=0.02)
    assert 100 < one.calls_d <= four.calls_d < 2 * one.calls_d  # more groups, not more layers

    # Weights, Ŵ, gradients, two moments; of G the average with its Ŵ too. u and v come on top, and what has
    # no spectral norm has no Ŵ: percents.
    with torch.device("meta"):
        G, D = state.networks(config, 10)
    g, d = (sum(parameter.numel() for parameter in net.parameters()) for net in (G, D))
    assert one.fixed == pytest.approx(4 * (7 * g + 5 * d), rel=0.05)


def test_what_cannot_be_counted_is_said() -> None:
    config, _ = configuration.load("digits", overrides={"loss.objective": "mine:loss"})
    with pytest.raises(ValueError, match="own discriminator or objective"):
        memory.measure(config, 10, 16, 16, 16, torch.float32)


def test_penalties_and_augmentation_are_counted_too() -> None:
    settings = {"penalty.r1": 1.0, "penalty.consistency_real": 10, "augment.ada_target": 0.6}
    plain, penalised, paired = (
        memory.measure(configuration.load("digits", overrides=more)[0], 10, 16, 16, 16, torch.bfloat16)
        for more in ({}, settings, {"loss.objective": "relativistic"})
    )
    assert 1.5 * plain.d < penalised.d < 20 * plain.d
    assert plain.g < penalised.g < 1.5 * plain.g
    assert paired.d == pytest.approx(plain.d, rel=0.05)
