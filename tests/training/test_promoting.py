"""A promoted run: what it starts as, that it trains on, and that resuming amid a fade is exact."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

import gansmith
from gansmith.cli import gansmith_command
from gansmith.errors import UserError
from gansmith.sampling import statistics
from gansmith.training import schedule
from gansmith.training.promoting import promote
from gansmith.training.run import train
from gansmith.weights import snapshot

SMALL = {
    "model.ch": 4,
    "log.grid_columns": 1,
    "log.status_every": 32,
    "log.snapshot_every": 16,
    "log.checkpoint_every": 16,
}


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "IMAGES", 16)


def tensors(run: Path, images_seen: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"{images_seen:012d}"
    return load_file(folder / "networks.safetensors") | load_file(folder / "optimizers.safetensors")


@pytest.fixture
def trained(tiny: Callable[..., Path]) -> Path:
    return tiny("small", SMALL | {"train.duration": 16})


@pytest.mark.parametrize("family", ["biggan", pytest.param("biggan-deep", marks=pytest.mark.slow)])
def test_promoted_run_trains_on_and_resumes_exactly(
    family: str, tiny: Callable[..., Path], images: Path, tmp_path: Path
) -> None:
    small = tiny("small", SMALL | {"train.duration": 16, "model.family": family})
    for name in ("whole", "halves"):
        done = promote(small, tmp_path / name, 64, fade=32)
        assert (done.is_run, done.images_seen) == (True, 16)
    before, after = tensors(small, 16), tensors(tmp_path / "whole", 16)
    moved = (
        "D.input_conv.weight.exp_avg_sq"
        if family == "biggan-deep"
        else "D.blocks.0.0.conv1.weight.exp_avg_sq"
    )
    heir = moved.replace("input_conv", "old_input").replace("blocks.0.0", "old_input")
    assert torch.equal(before[moved], after[heir])
    assert torch.equal(before["G.linear.weight"], after["G.linear.weight"])
    last = {"biggan": 3, "biggan-deep": 6}[family]
    assert f"G.blocks.{last}.0.conv1.weight" in after
    assert f"G.blocks.{last}.0.conv1.weight.exp_avg" not in after

    drawn = gansmith.load(tmp_path / "whole").sample(2).astype(int)
    old = gansmith.load(small / "checkpoints" / f"{16:012d}")
    assert drawn.shape == (6, 64, 64, 1)
    assert old.G.kwargs["resolution"] == 32
    assert np.array_equal(drawn[:, ::2, ::2], drawn[:, 1::2, 1::2])  # every pixel 2×2 times

    train(str(images), out=tmp_path / "whole", settings={"train.duration": 48})
    for duration in (32, 48):
        train(str(images), out=tmp_path / "halves", settings={"train.duration": duration})
    whole, halves = (tensors(tmp_path / name, 48) for name in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert not torch.equal(whole[f"G.blocks.{last}.0.conv1.weight"], after[f"G.blocks.{last}.0.conv1.weight"])
    written = [snapshot.describe(file) for file in sorted(tmp_path.glob("halves/snapshots/*.safetensors"))]
    assert [(info["images_seen"], info["generator"]["alpha"]) for info in written] == [
        (16, 0.0),
        (32, 0.5),
        (48, 1.0),
    ]


@pytest.mark.parametrize(
    "name", ["biggan-32-unshared", pytest.param("biggan-deep-64", marks=pytest.mark.slow)]
)
def test_an_imported_run_keeps_adams_moments(name: str, shared_dir: Path, tmp_path: Path) -> None:
    """Published weights with both optimizers → run → run of twice the resolution."""
    from gansmith.training import importing, sources
    from gansmith.weights.convert import open_any
    from gansmith.weights.promotion import discriminator_growth, generator_growth

    importing.write(open_any(shared_dir / "golden" / name), tmp_path / "run")
    old = sources.read(tmp_path / "run")
    done = promote(tmp_path / "run", tmp_path / "big", 2 * old.G.kwargs["resolution"], fade="1k")
    assert done.is_run
    before, after = (
        load_file(next((tmp_path / place / "checkpoints").iterdir()) / "optimizers.safetensors")
        for place in ("run", "big")
    )
    growth = {
        "G": generator_growth(old.G.kwargs, "append"),
        "D": discriminator_growth(old.D.kwargs, "append"),
    }
    assert len(before) == len(after) > 100
    for key, value in before.items():
        letter, _, rest = key.partition(".")
        parameter, _, moment = rest.rpartition(".")
        assert torch.equal(after[f"{letter}.{growth[letter][1](parameter)}.{moment}"], value)


def test_snapshot_in_the_middle_of_a_fade_draws_what_training_drew(
    trained: Path, images: Path, tmp_path: Path
) -> None:
    promote(trained, tmp_path / "run", 64, fade=64)
    train(str(images), out=tmp_path / "run", settings={"train.duration": 32})
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["fade_alpha"] for row in rows if row["type"] == "status"] == [0.25]
    opened = gansmith.load(tmp_path / "run")
    assert opened.G.alpha == 0.25
    quarter = opened.sample(1).astype(int)
    opened.G.set_alpha(1.0)
    assert np.abs(opened.sample(1).astype(int) - quarter).max() > 0
    with pytest.raises(UserError, match=r"alpha 0\.25"):
        promote(tmp_path / "run", tmp_path / "next", 128)


def test_alpha_is_a_line_of_the_images_seen() -> None:
    from gansmith import config as configuration

    config, _ = configuration.load(
        overrides={"model.fade": "append", "model.fade_start": 100, "model.fade_images": 50}
    )
    assert [schedule.alpha(config, n) for n in (0, 100, 110, 150, 1000)] == [0, 0, 0.2, 1, 1]
    at_once, _ = configuration.load(overrides={"model.fade": "append", "model.fade_start": 100})
    assert schedule.alpha(at_once, 100) == 1


def test_snapshot_without_d_is_promoted_alone(trained: Path, tmp_path: Path) -> None:
    source = trained / "snapshots" / f"{16:012d}.safetensors"
    done = CliRunner().invoke(
        gansmith_command,
        ["convert", str(source), str(tmp_path / "big.safetensors"), "--resolution", "64", "--fade", "1k"],
    )
    assert done.exit_code == 0, done.output
    assert "there is no D" in done.output
    info = snapshot.describe(tmp_path / "big.safetensors")
    assert info["promoted"] == {"from": 32, "how": "append", "fade_images": 1000}
    big = gansmith.load(tmp_path / "big.safetensors").sample(2)
    np.testing.assert_array_equal(big[:, ::2, ::2], gansmith.load(source).sample(2))


def test_refusals_leave_nothing_behind(trained: Path, tmp_path: Path) -> None:
    before = sorted(entry.name for entry in tmp_path.iterdir())
    for arguments, message in (
        ((trained, tmp_path / "x", 128), "give --resolution 64"),
        ((trained, trained, 64), "never overwritten"),
        ((tmp_path / "none", tmp_path / "x", 64), "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            promote(*arguments)
    with pytest.raises(UserError, match="amount of images"):
        promote(trained, tmp_path / "x", 64, fade="soon")
    newest = trained / "checkpoints" / f"{16:012d}"
    (newest / "networks.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="damaged"):
        promote(newest, tmp_path / "x", 64)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before
