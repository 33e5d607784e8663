"""Latents are pure functions: of a position, for training, and of a seed, for people."""

import numpy as np
import pytest
import torch

from gansmith.errors import UserError
from gansmith.sampling import latents


def stream(positions: list[int] | np.ndarray, **changed: object) -> tuple[torch.Tensor, torch.Tensor]:
    options = {"seed": 3, "name": "d", "dim": 5, "num_classes": 7, **changed}
    return latents.stream(positions=np.asarray(positions), **options)  # type: ignore[arg-type]


def test_stream_has_the_values_it_always_had() -> None:
    # Runs are resumed across versions: these numbers must never change.
    z, y = stream([0, 255, 10**12])
    first = [-0.44838858, 0.23123458, 1.72558618, 0.32759157, -1.25194037]
    assert torch.allclose(z[0], torch.tensor(first), rtol=0, atol=1e-6)
    assert torch.allclose(z[:, -1], torch.tensor([-1.25194037, 1.58677304, -0.02533916]), rtol=0, atol=1e-6)
    assert y.tolist() == [5, 2, 6]


def test_seeds_have_the_latents_they_always_had() -> None:
    full = torch.tensor([[-0.57937300, -1.38080287, -0.79671097, 0.30345649]])
    half = torch.tensor([[0.46530336, 0.16961104, 0.35213473, 0.30345649]])
    assert torch.allclose(latents.from_seeds([7], dim=4), full, rtol=0, atol=1e-6)
    assert torch.allclose(latents.from_seeds([7], dim=4, truncation=0.5), half, rtol=0, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 3, 32, 300])
@pytest.mark.parametrize("world", [1, 2])
def test_stream_is_the_same_for_every_micro_batch_and_number_of_ranks(micro_batch: int, world: int) -> None:
    whole_z, whole_y = stream(np.arange(600))
    for rank in range(world):
        for first in range(rank * micro_batch, 600, world * micro_batch):
            positions = np.arange(first, min(first + micro_batch, 600))
            z, y = stream(positions)
            assert torch.equal(z, whole_z[positions])
            assert torch.equal(y, whole_y[positions])


def test_stream_takes_positions_in_any_order() -> None:
    z, y = stream([700, 3, 256, 3])
    ordered_z, ordered_y = stream([3, 256, 700])
    assert torch.equal(z, ordered_z[[2, 0, 1, 0]])
    assert torch.equal(y, ordered_y[[2, 0, 1, 0]])


def test_streams_of_other_seeds_and_names_are_unrelated() -> None:
    positions = np.arange(4096)
    z = stream(positions)[0].flatten()
    for other in (stream(positions, seed=4)[0], stream(positions, name="g")[0], stream(positions + 4096)[0]):
        correlation = torch.corrcoef(torch.stack([z, other.flatten()]))[0, 1]
        assert abs(correlation) < 4 / len(z) ** 0.5


def test_stream_labels_are_uniform() -> None:
    counts = torch.bincount(stream(np.arange(70_000))[1], minlength=7)
    chi2 = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi2 < 22.5  # 0.999 quantile for 6 degrees of freedom
    assert stream(np.arange(300), num_classes=0)[1].unique().tolist() == [0]


def test_drawing_leaves_global_random_state_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    stream(np.arange(300))
    latents.from_seeds(range(9), dim=4, truncation=0.3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize(
    ("kind", "mean", "deviation", "low", "high"),
    [
        ("normal", 0.0, 1.0, -7, 7),
        ("uniform", 0.0, 3**-0.5, -1, 1),
        ("bernoulli", 0.5, 0.5, 0, 1),
        ("censored_normal", (2 * np.pi) ** -0.5, (0.5 - 1 / (2 * np.pi)) ** 0.5, 0, 7),
    ],
)
def test_latents_have_their_distribution(
    kind: str, mean: float, deviation: float, low: float, high: float
) -> None:
    for z in (
        stream(np.arange(2048), dim=50, kind=kind)[0],
        latents.from_seeds(range(2048), dim=50, kind=kind),
    ):
        # 102,400 draws: five standard errors of the mean, and 2 % for the deviation.
        assert abs(z.mean() - mean) < 5 * deviation / z.numel() ** 0.5
        assert abs(z.std() / deviation - 1) < 0.02
        assert z.dtype == torch.float32
        assert z.min() >= low
        assert z.max() <= high


def test_bernoulli_is_zero_or_one_and_censored_is_half_zero() -> None:
    assert latents.from_seeds(range(50), dim=50, kind="bernoulli").unique().tolist() == [0, 1]
    zeros = (latents.from_seeds(range(200), dim=50, kind="censored_normal") == 0).float().mean()
    assert abs(zeros - 0.5) < 0.02


@pytest.mark.parametrize("how", ["resample", "scale"])
@pytest.mark.parametrize("truncation", [None, 0.5])
def test_a_seed_names_one_latent_in_any_company(how: str, truncation: float | None) -> None:
    together = latents.from_seeds(range(40), dim=12, truncation=truncation, how=how)
    alone = latents.from_seeds([17], dim=12, truncation=truncation, how=how)
    assert torch.equal(alone[0], together[17])
    assert len(together.unique(dim=0)) == 40


def test_resampling_redraws_only_entries_beyond_the_threshold() -> None:
    full = latents.from_seeds(range(200), dim=120)
    cut = latents.from_seeds(range(200), dim=120, truncation=0.5)
    inside = full.abs() <= 0.5
    assert torch.equal(cut[inside], full[inside])
    assert cut.abs().max() <= 0.5
    # Normal truncated to ±0.5: variance 1 − 2·0.5·φ(0.5)/(2Φ(0.5) − 1) = 0.0806.
    assert abs(cut.var() - 0.0806) < 0.001


def test_scaling_multiplies_a_normal_truncated_at_two() -> None:
    half = latents.from_seeds(range(200), dim=120, truncation=0.5, how="scale")
    one = latents.from_seeds(range(200), dim=120, truncation=1.0, how="scale")
    assert torch.equal(half, one * 0.5)
    assert 1.9 < one.abs().max() <= 2
    assert abs(one.std() - 0.8796) < 0.01  # √(1 − 4φ(2)/(2Φ(2) − 1))


def test_no_seeds_give_an_empty_batch() -> None:
    assert latents.from_seeds([], dim=6).shape == (0, 6)


def test_purposes_are_separate_families_of_seeds() -> None:
    mine = latents.from_seeds(range(4), dim=6)
    assert not torch.isin(mine, latents.from_seeds(range(4), dim=6, purpose="statistics/0")).any()


@pytest.mark.parametrize(
    ("truncation", "how", "kind", "message"),
    [
        (0, "resample", "normal", "must be a number above 0"),
        (-1, "scale", "normal", "must be a number above 0"),
        (float("nan"), "resample", "normal", "must be a number above 0"),
        (float("inf"), "resample", "normal", "must be a number above 0"),
        (0.001, "resample", "normal", "0.02 or more"),
        (0.5, "clip", "normal", "choose resample"),
        (0.5, "resample", "uniform", "needs a normal latent"),
    ],
)
def test_impossible_truncations_are_refused(truncation: float, how: str, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        latents.from_seeds([0], dim=4, kind=kind, truncation=truncation, how=how)


def test_unknown_latent_is_refused() -> None:
    with pytest.raises(UserError, match="choose one of normal, uniform, bernoulli, censored_normal"):
        stream([0], kind="gaussian")
