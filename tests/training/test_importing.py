"""Runs of other programs are gone on with: weights, averages, moments and counters are theirs, tensor by
tensor.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gansmith import config as configuration
from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.training import importing
from gansmith.training.run import train
from gansmith.weights import author_config, snapshot
from gansmith.weights.convert import open_any

CONFIG = {
    "model": "BigGAN", "resolution": 32, "G_ch": 2, "D_ch": 2, "n_classes": 3, "dim_z": 8, "G_shared": True,
    "shared_dim": 4, "hier": True, "G_attn": "16", "D_attn": "16", "SN_eps": 1e-6, "BN_eps": 1e-5,
    "batch_size": 4, "num_D_steps": 2, "num_D_accumulations": 2, "num_G_accumulations": 2, "G_lr": 1e-4,
    "D_lr": 4e-4, "G_B1": 0.0, "G_B2": 0.999, "adam_eps": 1e-6, "ema": True, "ema_decay": 0.9999,
    "augment": True, "G_ortho": 0.0,
}  # fmt: skip
ITERATIONS = 5


def author_state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = {name: value.clone() for name, value in net.state_dict().items() if not name.endswith(".v")}
    return {name[:-1] + "u0" if name.endswith(".u") else name: value for name, value in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What BigGAN-PyTorch leaves behind after five iterations of two steps of D."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("weights")
    G = Generator(**author_config.generator_kwargs(CONFIG))
    D = Discriminator(**author_config.discriminator_kwargs(CONFIG))
    for letter, net, lr, steps in (("G", G, 1e-4, ITERATIONS), ("D", D, 4e-4, 2 * ITERATIONS)):
        adam = torch.optim.Adam(net.parameters(), lr=lr, betas=(0.0, 0.999), eps=1e-6)
        for _ in range(steps):
            for parameter in net.parameters():
                parameter.grad = 0.01 * torch.randn_like(parameter)
            adam.step()
        torch.save(adam.state_dict(), folder / f"{letter}_optim.pth")
        torch.save(author_state(net), folder / f"{letter}.pth")
    with torch.no_grad():
        for parameter in G.parameters():
            parameter.mul_(0.99)
    torch.save(author_state(G), folder / "G_ema.pth")
    torch.save({"itr": ITERATIONS, "config": CONFIG}, folder / "state_dict.pth")
    return folder


def same_as_source(run: Path, folder: Path, letters: tuple[str, ...] = ("G", "D")) -> dict[str, Any]:
    """Compares the run's only checkpoint with the author's files; returns its record."""
    (checkpoint,) = (run / "checkpoints").iterdir()
    networks, optimizers = (
        load_file(checkpoint / f"{stem}.safetensors") for stem in ("networks", "optimizers")
    )
    compared = 0
    for letter in letters:
        theirs = torch.load(folder / f"{letter}.pth", weights_only=True)
        moments = torch.load(folder / f"{letter}_optim.pth", weights_only=True)["state"]
        parameters = [
            name for name in theirs if not name.endswith(("u0", "sv0", "stored_mean", "stored_var"))
        ]
        for name in theirs:
            if not name.endswith(("u0", "sv0")):
                assert torch.equal(networks[f"{letter}.{name}"], theirs[name]), name
        by_shape = {k: v for k, v in optimizers.items() if k.startswith(f"{letter}.")}
        assert len(by_shape) == 3 * len(moments) == 3 * len(parameters)
        net = open_any(folder)
        order = [name for name, _ in (net.D if letter == "D" else net.G).named_parameters()]  # type: ignore[union-attr]
        for position, name in enumerate(order):
            for key, value in moments[position].items():
                assert torch.equal(optimizers[f"{letter}.{name}.{key}"], value), (name, key)
                compared += 1
    assert compared > 100
    average = torch.load(folder / "G_ema.pth", weights_only=True)
    assert all(torch.equal(v, average[k[6:]]) for k, v in networks.items() if k.startswith("G_ema."))
    return dict(json.loads((checkpoint / "state.json").read_text()))


def test_everything_that_training_needs_is_in_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    written = importing.write(open_any(folder), tmp_path / "run")
    assert written.is_run
    record = same_as_source(tmp_path / "run", folder)
    # itr × batch_size × num_D_steps × num_D_accumulations
    assert (record["images_seen"], record["step"], record["fakes_seen"]) == (5 * 4 * 2 * 2, 5, 5 * 4 * 2)
    config, origins = configuration.load(file=tmp_path / "run/config.yaml")
    assert (config.train.batch, config.train.batch_g, config.optim.d_steps) == (8, None, 2)
    assert (config.optim.lr_g, config.optim.lr_d, config.optim.eps) == (1e-4, 4e-4, 1e-6)
    assert (config.data.flip, config.ema.ramp) == (True, None)
    # 0.9999 a step of 16 images: half after 6931.1 steps
    assert config.ema.half_life == pytest.approx(6931.1 * 16, rel=1e-4)
    assert origins


def test_another_batch_for_what_is_to_come_rescales_no_history(folder: Path, tmp_path: Path) -> None:
    importing.write(open_any(folder), tmp_path / "run", {"train.batch": 32})
    record = same_as_source(tmp_path / "run", folder)
    config = configuration.load(file=tmp_path / "run/config.yaml")[0]
    assert (config.train.batch, record["images_seen"], record["step"]) == (32, 5 * 4 * 2 * 2, 5)
    assert config.train.duration == 80 + importing.MORE


def test_an_average_of_unknown_decay_is_kept_as_its_program_would(folder: Path, tmp_path: Path) -> None:
    """Our ramp would forget it: after few images its half-life is that of even fewer."""
    shutil.copytree(folder, tmp_path / "weights")
    lacking = {key: value for key, value in CONFIG.items() if not key.startswith("ema")}
    torch.save({"itr": ITERATIONS, "config": lacking}, tmp_path / "weights/state_dict.pth")
    written = importing.write(open_any(tmp_path / "weights"), tmp_path / "run")
    config = configuration.load(file=tmp_path / "run/config.yaml")[0]
    assert config.ema.half_life == pytest.approx(6931.1 * 16, rel=1e-4)
    assert (config.ema.ramp, config.ema.start) == (None, 0)
    assert any("decay is not known: 0.9999 a step" in note for note in written.notes)
    importing.write(open_any(tmp_path / "weights"), tmp_path / "own", {"ema.ramp": 0.1})
    assert configuration.load(file=tmp_path / "own/config.yaml")[0].ema.ramp == 0.1


@pytest.mark.parametrize("name", ["biggan-64", "biggan-32-unshared", "biggan-deep-64"])
def test_the_authors_own_files_keep_every_tensor(shared_dir: Path, tmp_path: Path, name: str) -> None:
    source = shared_dir / "golden" / name
    importing.write(open_any(source), tmp_path / "run", {"train.batch": 10})
    record = same_as_source(tmp_path / "run", source)
    assert (record["step"], record["images_seen"]) == (3, 30)
    drawn = snapshot.load(tmp_path / "run")[0]
    io = load_file(source / "io.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(drawn(io["z"], io["y"]), io["G_ema_images"], atol=5e-5, rtol=0)


def test_spectral_norms_start_where_the_authors_next_step_takes_them(folder: Path, tmp_path: Path) -> None:
    """Its training takes one power step from the saved u before it computes; so σ is that of one step."""
    importing.write(open_any(folder), tmp_path / "run")
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    networks = load_file(checkpoint / "networks.safetensors")
    saved = torch.load(folder / "D.pth", weights_only=True)
    W, u = saved["blocks.1.0.conv1.weight"].flatten(1), saved["blocks.1.0.conv1.u0"]
    v = torch.nn.functional.normalize(W.T @ u, dim=0)
    u = torch.nn.functional.normalize(W @ v, dim=0)
    ours = [networks[f"D.blocks.1.0.conv1.{part}"] for part in ("u", "v")]
    torch.testing.assert_close(ours[0] @ W @ ours[1], u @ W @ v, atol=1e-6, rtol=1e-6)
    assert spectral.spectral_layers(Discriminator(**author_config.discriminator_kwargs(CONFIG)))


def test_training_goes_on_with_images_given_later(folder: Path, tmp_path: Path, images: Path) -> None:
    settings = {
        "train.duration": 80 + 16,
        "train.precision": "fp32",
        "log.grid_columns": 2,
        "log.statistics_images": 16,
    }
    importing.write(open_any(folder), tmp_path / "run", settings)
    run = train(str(images), out=tmp_path / "run")
    newest = max((run / "checkpoints").iterdir())
    record = json.loads((newest / "state.json").read_text())
    assert (record["images_seen"], record["step"]) == (96, 6)
    optimizers = load_file(newest / "optimizers.safetensors")
    assert {float(v) for k, v in optimizers.items() if k.endswith(".step") and k.startswith("D.")} == {12.0}
    assert {float(v) for k, v in optimizers.items() if k.endswith(".step") and k.startswith("G.")} == {6.0}
    assert record["order"] is not None
    assert run / "checkpoints" / "000000000080" in set((run / "checkpoints").iterdir())
    # and again, now that the data are known
    train(str(images), out=tmp_path / "run", settings={"train.duration": 112})
    assert max((run / "checkpoints").iterdir()).name == "000000000112"


def test_images_of_another_number_of_classes_are_refused(folder: Path, tmp_path: Path, images: Path) -> None:
    importing.write(open_any(folder), tmp_path / "run", {"train.duration": 200})
    two = tmp_path / "two"
    for name in sorted(path.name for path in images.iterdir() if path.is_dir())[:2]:
        (two / name).mkdir(parents=True)
        for file in list((images / name).iterdir()):
            (two / name / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="--data has 2 classes, this run was trained with 3"):
        train(str(two), out=tmp_path / "run")


def test_a_full_disk_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    imported = open_any(folder)
    monkeypatch.setattr(importing.checkpoints, "save", full)
    with pytest.raises(UserError, match=r"could not be written .*No space left"):
        importing.write(imported, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
