"""What runs can start from: published weights, lone files of them, exported and promoted networks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gansmith.cli import gansmith_command
from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.sampling import statistics
from gansmith.training.run import train
from gansmith.weights import snapshot
from gansmith.weights.export import author
from tests.training.conftest import PLAIN
from tests.training.reading import events, newest


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A weights folder of BigGAN-PyTorch: G_ema.pth, G.pth, D.pth, state_dict.pth, config.json."""
    common = {"resolution": 32, "num_classes": 3, "ch": 2, "attention": ()}
    nets = [Generator(**common, dim_z=8, shared_dim=4), Discriminator(**common)]
    for net in nets:
        spectral.converge(net.eval())
    folder = tmp_path_factory.mktemp("published") / "weights"
    author.write(folder, *nets, {})
    return folder


def dry_run(data, source, *more):
    from gansmith.cli.train import train as command

    words = [w for path, value in PLAIN.items() for w in ("--set", f"{path}={value}")]
    flags = ["--data", str(data), "--init-from", str(source), "--out", "unused", "--dry-run"]
    return CliRunner().invoke(command, [*flags, *words, *more])


@pytest.mark.parametrize("name", ["G_ema.pth", "G.pth"])
def test_a_lone_file_beside_its_d_is_warned_of_and_the_folder_is_not(published, other, name):
    """Two days of training a fresh D, while the trained one lay in the same folder."""
    alone = dry_run(other, published / name)
    assert alone.exit_code == 0, alone.output
    assert "is used without D, but a trained D lies beside it (D.pth)" in alone.output
    assert f"give the folder: --init-from {published}," in alone.output
    assert "may lose all it had learned" in alone.output
    whole = dry_run(other, published)
    assert whole.exit_code == 0, whole.output
    assert "lies beside" not in whole.output
    assert ", 3 classes; G, G as trained, D;" in whole.output


def test_of_several_saved_states_one_is_chosen_with_its_d(published, other, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(published, folder)
    for name in ("G_ema", "G", "D", "state_dict"):
        shutil.copy(folder / f"{name}.pth", folder / f"{name}_best0.pth")
    refused = dry_run(other, folder)
    assert "several saved states" in str(refused.exception)
    assert f"gansmith convert {folder} WEIGHTS --which" in str(refused.exception)
    # One of its files must not be the way out without a word.
    assert "gansmith convert" in dry_run(other, folder / "G_ema_best0.pth").output
    done = CliRunner().invoke(
        gansmith_command, ["convert", str(folder), str(tmp_path / "one"), "--which", "best0"]
    )
    assert done.exit_code == 0, done.output
    chosen = dry_run(other, tmp_path / "one")
    assert chosen.exit_code == 0, chosen.output
    assert "; G, D;" in chosen.output
    assert "warning" not in chosen.output


def test_an_exported_folder_starts_a_run(source, other, tmp_path):
    checkpoint_folder = str(newest(source))
    CliRunner().invoke(gansmith_command, ["export", checkpoint_folder, str(tmp_path / "out"), "--with-d"])
    begun = dry_run(other, tmp_path / "out")
    assert begun.exit_code == 0, begun.output
    assert "; G, D;" in begun.output
    assert "cross ← cross" in begun.output


def test_a_promoted_network_comes_in_from_the_beginning_or_has(source, tune, tmp_path, monkeypatch):
    from gansmith.training.promoting import promote

    monkeypatch.setattr(statistics, "IMAGES", 16)
    file = sorted((source / "snapshots").iterdir())[-1]
    promote(file, tmp_path / "alpha0.safetensors", 64, fade=64)
    promote(file, tmp_path / "alpha1.safetensors", 64, fade=0)
    G, _, info = snapshot.load(tmp_path / "alpha0.safetensors")
    G.set_alpha(0.5)
    snapshot.save(tmp_path / "half.safetensors", G, info=info)
    with pytest.raises(UserError, match=r"still taking in its promotion \(alpha 0\.5\); train it on"):
        tune("half", init=tmp_path / "half.safetensors")
    for name, alpha in (("alpha0", 0.0), ("alpha1", 1.0)):
        # G stands still for 8 images beside its new D, then learns; what was added comes in over 64.
        settings = {"init.release": 8, "train.duration": 24, "log.snapshot_every": 8, "optim.d_steps": 1}
        run = tune(name, settings, init=tmp_path / f"{name}.safetensors")
        files = sorted((run / "snapshots").iterdir())
        drawn = [snapshot.describe(f)["generator"] for f in files]
        assert [kwargs["resolution"] for kwargs in drawn] == [64, 64, 64]
        assert [kwargs["alpha"] for kwargs in drawn] == [max(alpha, n / 64) for n in (8, 16, 24)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hf-biggan-deep-128", "tfhub-biggan-128"])
def test_a_published_g_without_d_is_held_and_released(shared_dir, other, tmp_path, name):
    settings = {path: v for path, v in PLAIN.items() if path not in ("loss.ortho_g", "log.grid_columns")} | {
        "init.source": str(Path(shared_dir) / "golden" / name),
        "init.release": 4, "init.release_ramp": 4, "init.map": {"bar": "7"},
        "train.batch": 4, "train.micro_batch": 4, "bn.group": 4, "optim.d_steps": 1,
        "train.duration": 8, "log.grid_columns": 1,
    }  # fmt: skip
    rgb = tmp_path / "rgb"
    for image in other.glob("*/*.png"):
        (rgb / image.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(image).convert("RGB").save(rgb / image.parent.name / image.name)
    run = train(str(rgb), None, tmp_path / "run", settings=settings)
    (released,) = events(run, "released")
    assert released["images_seen"] == 4
    G, _, info = snapshot.load(run)
    assert (G.num_classes, G.kwargs["resolution"], info["images_seen"]) == (4, 128, 8)
    assert len((run / "log.txt").read_text().splitlines()) < 100  # a line per reason, not per tensor


@pytest.mark.parametrize(
    "folder",
    [
        "biggan-32-unshared",
        pytest.param("biggan-64", marks=pytest.mark.slow),
        pytest.param("biggan-deep-64", marks=pytest.mark.slow),
    ],
)
def test_published_weights_start_a_run(shared_dir, folder, tmp_path, monkeypatch):
    """What model.* has no name for travels in init.generator and init.discriminator."""
    from gansmith.training import loop
    from gansmith.weights.convert import open_any

    pictures = tmp_path / "pictures"
    for name in ("a", "b"):
        (pictures / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(ord(name) + i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(pictures / name / f"{i}.png")
    begun = {}
    monkeypatch.setattr(loop, "train", lambda run, state: begun.update(G=state.G.net, D=state.D.net))
    settings = {path: v for path, v in PLAIN.items() if path != "loss.ortho_g"}
    settings |= {"init.source": str(Path(shared_dir) / "golden" / folder), "init.map": {"a": "1", "b": "0"}}
    train(str(pictures), None, tmp_path / "run", settings=settings)
    given = open_any(Path(shared_dir) / "golden" / folder)
    x = torch.randn(2, 3, given.D.kwargs["resolution"], given.D.kwargs["resolution"])
    torch.testing.assert_close(begun["D"].eval().features(x), given.D.features(x), rtol=1e-4, atol=1e-4)
    z, y = torch.randn(2, given.G.kwargs["dim_z"]), torch.tensor([0, 1])
    torch.testing.assert_close(begun["G"].eval()(z, y), given.G_raw(z, 1 - y), rtol=0, atol=1e-5)
    assert begun["G"].num_classes == 2
