"""What is chosen for which hardware, and the loss scale of fp16."""

import pytest
import torch

from gansmith import hardware
from gansmith.errors import UserError
from gansmith.training import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "dtype", "reason"),
    [
        ({"amx_bf16", "avx512_bf16"}, torch.bfloat16, "AMX"),
        ({"avx512_bf16"}, torch.bfloat16, "AVX512-bf16"),
        ({"avx2"}, torch.float32, "no native bf16"),
    ],
)
def test_auto_takes_bf16_where_the_cpu_has_it(monkeypatch, flags, dtype, reason):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: flags)
    chosen = precision.choose("auto", CPU)
    assert chosen.dtype == dtype
    assert reason in chosen.reason


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(UserError, match="bf16 or fp32"):
        precision.choose("fp16", CPU)


GOOD, BAD = torch.tensor(True), torch.tensor(False)


def test_the_loss_scale_halves_at_once_and_doubles_with_patience():
    scale = precision.LossScale(enabled=True, patience=3)
    start = float(scale.scale)
    scale.update(BAD)
    assert (scale.scale, scale.skipped, scale.skipped_in_a_row) == (start / 2, 1, 1)
    for _ in range(3):
        scale.update(GOOD)
    assert (scale.scale, scale.skipped, scale.skipped_in_a_row) == (start, 1, 0)


def test_the_loss_scale_survives_a_checkpoint():
    before = precision.LossScale(enabled=True)
    for finite in (BAD, BAD, GOOD):
        before.update(finite)
    after = precision.LossScale(enabled=True)
    after.restore(before.state())
    assert after.state() == before.state()
    for _ in range(40):
        before.update(BAD)
    after.restore(before.state())  # a scale halved down to 1 stays there
    assert (after.scale, after.skipped_in_a_row) == (1.0, 40)
    plain = precision.LossScale(enabled=False)
    plain.restore(before.state())  # the precision was changed: counters stay, the scale does not
    assert (plain.scale, plain.skipped) == (1.0, 42)


def test_without_fp16_there_is_no_scale_but_skips_are_counted():
    scale = precision.LossScale(enabled=False)
    scale.update(BAD)
    assert (scale.scale, scale.skipped) == (1.0, 1)
