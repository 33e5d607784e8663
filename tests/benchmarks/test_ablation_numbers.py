"""Spreads, paired differences and the table; scores of digits; D with spectral norm per forward."""

import numpy as np
import pytest
import torch
from ablation import digits, paired, tables
from ablation.per_forward import Discriminator
from ablation.spec import Score, Spec, Variant
from ablation.subsets import Images
from sklearn.datasets import load_digits

from gansmith.models import biggan, spectral


def test_spread_is_of_a_sample() -> None:
    assert paired.spread([1.0, 2.0, 6.0]) == paired.Spread(3.0, pytest.approx(7**0.5), 3)
    assert paired.spread([1.0]) == paired.Spread(1.0, None, 1)


def test_difference_is_paired_by_seed() -> None:
    """Seeds differ by far more than variants do; seeds that one side lacks do not count."""
    baseline = {0: 10.0, 1: 20.0, 2: 90.0, 3: 1.0}
    gap = paired.difference({0: 11.0, 1: 22.0, 2: 93.0, 7: 5.0}, baseline)
    assert gap == paired.Difference(2.0, pytest.approx(1 / 3**0.5), 3)
    assert gap.clear
    assert paired.difference({7: 5.0}, baseline) is None


def test_difference_within_two_errors_or_of_one_seed_is_not_clear() -> None:
    assert not paired.Difference(1.0, 0.5, 3).clear
    assert paired.Difference(-1.01, 0.5, 3).clear
    assert not paired.difference({0: 9.0}, {0: 1.0}).clear  # type: ignore[union-attr]


def test_chance_of_a_clear_difference_is_what_a_simulation_finds() -> None:
    gaps = np.random.default_rng(0).standard_normal((20_000, 3))
    error = gaps.std(1, ddof=1) / 3**0.5
    found = (np.abs(gaps.mean(1)) > paired.CLEAR * error).mean()
    assert paired.chance(3) == pytest.approx(1 - 2 / 6**0.5, abs=1e-9)
    assert found == pytest.approx(paired.chance(3), abs=0.011)  # 4 standard errors of 20,000


def row(variant: str, seed: int, value: float | None, end: str = "finished") -> tables.Row:
    return tables.Row(variant, seed, end, 64, 1.0, 1.0, "f", {"frechet": value})


def test_table_marks_differences_beyond_two_errors() -> None:
    variants = tuple(Variant(name, Images("d"), {}) for name in ("baseline", "far", "near", "gone"))
    spec = Spec("s", "About.", Images("d"), None, "1k", None, (0, 1, 2), "baseline",
                Score(("frechet",), "pixels", 10, (None,)), variants)  # fmt: skip
    rows = [row("baseline", s, v) for s, v in enumerate((10.0, 12.0, 14.0))]
    rows += [row("far", s, v) for s, v in enumerate((5.0, 7.5, 8.5))]
    rows += [row("near", s, v, "diverged") for s, v in enumerate((11.0, 9.0, None))]
    table = tables.markdown(spec, rows, {"frechet": "lower"}).splitlines()
    assert table[2] == "| variant | runs | frechet ↓ | difference |"
    assert table[4] == "| baseline | 3 | 12.0 ± 2.0 |  |"
    assert table[5] == "| far | 3 | 7.00 ± 1.80 | **-5.00 ± 0.29 better** |"
    assert table[6] == "| near | 3 (3 diverged) | 10.0 ± 1.4 | -1.0 ± 2.0 |"
    assert table[7] == "| gone | 0 of 3 | – |  |"
    assert "18% of differences of 3 seeds are bold by chance" in table[9]


def test_digits_are_scored_at_the_size_they_were_made() -> None:
    real, labels = load_digits(return_X_y=True)
    large = np.repeat(np.repeat(real.reshape(-1, 8, 8), 4, 1), 4, 2)
    images = torch.from_numpy((large / 16 * 255).round().astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    small = digits.blocks(images).numpy()
    assert np.abs(small - real).max() < 16 / 255
    found = digits.scores(small, labels)
    assert found["read-as-asked"] > 0.99
    assert found["worst-class"] > 0.95
    assert found["variety"] == pytest.approx(1, abs=0.01)
    assert found["evenness"] == pytest.approx(1, abs=0.001)


def test_one_image_for_all_has_neither_variety_nor_evenness() -> None:
    real, labels = load_digits(return_X_y=True)
    same = np.repeat(real[labels == 3][:1], 100, 0)
    found = digits.scores(same, np.arange(100) % 10)
    expected = {"variety": 0, "evenness": 0, "read-as-asked": 0.1, "worst-class": 0}
    assert found == {name: pytest.approx(value, abs=1e-9) for name, value in expected.items()}
    assert digits.scores(same, None)["read-as-asked"] is None


SETTINGS = {"resolution": 32, "num_classes": 3, "channels": 1, "ch": 2, "attention": (), "sn_eps": 1e-6}


def test_spectral_norm_per_forward_starts_as_per_step() -> None:
    """Same draws, converged vectors: logits are equal, gradients to rounding, as an iteration more hardly
    matters."""
    torch.manual_seed(0)
    ours = biggan.Discriminator(**SETTINGS)
    spectral.converge(ours, tolerance=1e-6, max_iterations=5000)
    torch.manual_seed(0)
    theirs = Discriminator(**SETTINGS)
    x, y = torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(theirs.eval()(x, y), ours(x, y), atol=1e-4, rtol=1e-3)
    ours(x, y).sum().backward()
    spectral.pull_back(ours)
    theirs.train()(x, y).sum().backward()
    for (name, expected), found in zip(ours.named_parameters(), theirs.parameters()):
        error = (expected.grad - found.grad).abs().max()  # type: ignore[operator, union-attr]
        assert error <= 0.02 * expected.grad.abs().max(), name  # type: ignore[union-attr]


def test_spectral_norm_per_forward_iterates_in_training_only() -> None:
    net = Discriminator(**SETTINGS)
    x, y = torch.randn(2, 1, 32, 32), torch.tensor([0, 1])
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)  # the vectors are those of other weights
    net.eval()(x, y)
    before = net.net.linear.u.clone(), net.net.blocks[0][0].conv1.u.clone()
    net(x, y)
    assert torch.equal(before[1], net.net.blocks[0][0].conv1.u)
    sums = [net.train()(x, y).sum() for _ in range(2)]
    assert not torch.equal(before[1], net.net.blocks[0][0].conv1.u)
    sum(sums).backward()  # the first graph has kept its own vectors
    assert spectral.spectral_layers(net) == []
