"""A snapshot is whole or absent, describes itself, and is refused with one message when anything is wrong."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.models.statistics_table import StatisticsTable
from gansmith.weights import snapshot

CLASSES = [{"id": 0, "name": "cat", "count": 3}, {"id": 1, "name": "犬", "count": 4}]
INFO: dict[str, Any] = {
    "latent": "normal",
    "classes": CLASSES,
    "images_seen": 4096,
    "lineage": 0,
    "ema": True,
    "statistics": None,
    "config": {"optim": {"lr_g": 1e-4}},
}


def networks(**changed: Any) -> tuple[Generator, Discriminator]:
    sizes = {"resolution": 32, "num_classes": 2, "ch": 2, "attention": [16], "init": "n02"} | changed
    G = Generator(dim_z=8, shared_dim=4, **sizes)
    D = Discriminator(**sizes)
    for net in (G, D):
        spectral.converge(net)
    return G.eval(), D.eval()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good snapshot with both networks."""
    G, D = networks()
    snapshot.save(tmp_path / "000000004096.safetensors", G, D=D, info=INFO)
    return tmp_path / "000000004096.safetensors"


@pytest.mark.parametrize("family", ["biggan", "biggan-deep"])
def test_networks_come_back_bit_for_bit(tmp_path: Path, family: str) -> None:
    G, D = networks(family=family)
    with torch.no_grad():
        G.output_layer[0].stored_mean.normal_()
    snapshot.save(tmp_path / "one.safetensors", G, D=D, info=INFO)
    G2, D2, info = snapshot.load(tmp_path / "one.safetensors", discriminator=True)
    assert not G2.training
    assert D2 is not None
    z, y, x = torch.randn(2, 8), torch.tensor([0, 1]), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(G(z, y), G2(z, y))
        assert torch.equal(D(x, y), D2(x, y))
    assert {key: info[key] for key in INFO} == INFO
    assert info["generator"] == G.kwargs
    assert info["discriminator"] == D.kwargs
    assert (info["format"], info["version"], info["gansmith_version"]) == ("gansmith-snapshot", 2, "0.1.0")


def test_saving_changes_no_network_and_no_random_state(tmp_path: Path) -> None:
    G, D = networks()
    G.train()
    before = {name: value.clone() for name, value in G.state_dict().items()}
    state = torch.get_rng_state()
    snapshot.save(tmp_path / "one.safetensors", G, D=D, info=INFO)
    assert G.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    with torch.no_grad():
        G(torch.randn(2, 8), torch.tensor([0, 1]))  # Ŵ is still there


def test_loading_draws_no_random_numbers(file: Path) -> None:
    state = torch.get_rng_state()
    snapshot.load(file)
    assert torch.equal(state, torch.get_rng_state())


def test_discriminator_is_loaded_on_request_only(file: Path, tmp_path: Path) -> None:
    assert snapshot.load(file)[1] is None
    snapshot.save(tmp_path / "g.safetensors", networks()[0], info=INFO)
    _, D, info = snapshot.load(tmp_path / "g.safetensors", discriminator=True)
    assert D is None
    assert info["discriminator"] is None


def test_weights_in_one_flat_buffer_are_saved(tmp_path: Path) -> None:
    G, _ = networks()
    flat = torch.cat([p.detach().flatten() for p in G.parameters()])
    offset = 0
    for p in G.parameters():
        p.data = flat[offset : offset + p.numel()].view(p.shape)
        offset += p.numel()
    snapshot.save(tmp_path / "one.safetensors", G, info=INFO)
    state = snapshot.load(tmp_path / "one.safetensors")[0].state_dict()
    assert all(torch.equal(value, state[name]) for name, value in G.state_dict().items())


def test_files_can_be_read_by_others(file: Path) -> None:
    other = file.with_name("plain")
    other.touch()
    assert file.stat().st_mode == other.stat().st_mode


def test_a_failing_save_keeps_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def disk_full(tensors: dict, path: Path, metadata: dict) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshot, "save_file", disk_full)
    with pytest.raises(OSError, match="No space"):
        snapshot.save(file, networks()[0], info=INFO)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]


def test_incomplete_info_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="latent"):
        snapshot.save(tmp_path / "x", networks()[0], info={k: v for k, v in INFO.items() if k != "latent"})
    assert not list(tmp_path.iterdir())


# Refusals ----------------------------------------------------------------------------------------


def altered(change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        tensors = load_file(file)
        with safe_open(file, framework="pt") as opened:
            info = json.loads(opened.metadata()["gansmith"])
        del info["sha256"]  # as in files of before: what else is wrong must be noticed without it
        change(tensors, info)
        save_file(tensors, file, metadata={"gansmith": json.dumps(info)})

    return apply


def nan(tensors: dict[str, torch.Tensor], info: dict[str, Any]) -> None:
    tensors["G.linear.weight"][0, 0] = float("nan")


def set_tensor(name: str, value: torch.Tensor) -> Callable[[Path], None]:
    return altered(lambda tensors, info: tensors.__setitem__(name, value))


def set_info(key: str, value: Any) -> Callable[[Path], None]:
    return altered(lambda tensors, info: info.__setitem__(key, value))


def rebuild_with(**kwargs: Any) -> Callable[[Path], None]:
    return altered(lambda tensors, info: info["generator"].update(kwargs))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: os.truncate(f, f.stat().st_size - 1), "damaged or cut short"),
        (lambda f: os.truncate(f, 100), "damaged or cut short"),
        (lambda f: os.truncate(f, 0), "damaged or cut short"),
        (lambda f: f.write_bytes(f.read_bytes() + b"x"), "damaged or cut short"),
        (lambda f: f.write_text("hello"), "damaged or cut short"),
        (lambda f: save_file({"w": torch.ones(2)}, f), "not a gansmith snapshot"),
        (
            lambda f: save_file({"w": torch.ones(2)}, f, metadata={"gansmith": "[]"}),
            "not a gansmith snapshot",
        ),
        (set_info("format", "other"), "not a gansmith snapshot"),
        (set_info("version", 3), "pip install -U gansmith"),
        (altered(lambda tensors, info: info.pop("latent")), "lacks latent"),
        (altered(nan), "linear.weight holds NaN or infinity"),
        (altered(lambda tensors, info: tensors.pop("G.linear.u")), "linear.u is missing"),
        (set_tensor("G.extra", torch.ones(1)), "extra is not part of the network"),
        (set_tensor("H.extra", torch.ones(1)), "H.extra belongs to no network"),
        (set_tensor("G.linear.bias", torch.ones(3)), r"linear.bias is torch.float32 \(3,\), not"),
        (set_tensor("G.linear.bias", torch.ones(128).half()), r"linear.bias is torch.float16 \(128,\), not"),
        (set_info("discriminator", None), "belongs to no network"),
        (rebuild_with(ch=4), r"not torch.float32 .*; and \d+ more"),
        (rebuild_with(resolution=33), "cannot be built here: resolution 33"),
        (rebuild_with(novelty=1), "cannot be built here"),
    ],
)
def test_damaged_files_are_refused_with_one_message(
    file: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(file)
    with pytest.raises(UserError, match=message) as caught:
        snapshot.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("network", ["G", "D"])
def test_one_flipped_bit_is_refused_where_it_is_loaded(file: Path, network: str) -> None:
    with safe_open(file, framework="pt") as opened:
        value = opened.get_tensor(f"{network}.linear.weight").numpy().tobytes()
    content = bytearray(file.read_bytes())
    place = content.index(value)
    content[place] ^= 1  # the lowest bit of a mantissa: no NaN, no infinity
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"is damaged: the weights of {network} .*another snapshot") as caught:
        snapshot.load(file, discriminator=True)
    assert str(file) in str(caught.value)
    if network == "D":
        assert snapshot.load(file)[1] is None


def test_a_file_of_version_1_gives_the_images_it_gave(repository: Path) -> None:
    """Written by gansmith before there were tables of statistics; to 1e-5, since kernels differ by CPU."""
    G, D, info = snapshot.load(repository / "tests/weights/files/version-1.safetensors")
    assert (info["version"], info["images_seen"], D) == (1, 4096, None)
    assert G.statistics_table is None
    with torch.no_grad():
        images = G((torch.arange(16.0).view(2, 8) - 8) / 8, torch.tensor([0, 1]))
    expected = torch.tensor([-0.04128493, 0.24106263, -0.52010775, -0.57784510])
    torch.testing.assert_close(images[0, 0, ::16, ::16].flatten(), expected, atol=1e-5, rtol=0)
    assert float(images.double().mean()) == pytest.approx(0.04734831308, abs=1e-5)


def test_tables_of_statistics_come_back_and_are_checked(tmp_path: Path) -> None:
    G, _ = networks()
    rows = {name: torch.rand(5, len(b)) for name, b in G.named_buffers() if "stored_" in name}
    G.statistics_table = StatisticsTable(rows, hugging_face=True)
    snapshot.save(tmp_path / "one.safetensors", G, info=INFO)
    table = snapshot.load(tmp_path / "one.safetensors")[0].statistics_table
    assert table is not None
    assert table.hugging_face
    assert all(torch.equal(values, table.rows[name]) for name, values in rows.items())
    set_tensor(f"T.{next(iter(rows))}", torch.rand(4, 3))(tmp_path / "one.safetensors")
    with pytest.raises(UserError, match="its tables of statistics are not those of its generator"):
        snapshot.load(tmp_path / "one.safetensors")


def test_files_without_a_hash_are_still_read(file: Path) -> None:
    altered(lambda tensors, info: None)(file)
    assert "sha256" not in snapshot.load(file)[2]


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.pth").write_bytes(b"PK\x03\x04" * 50)
    with pytest.raises(UserError, match="is not a gansmith snapshot"):
        snapshot.load(tmp_path / "state.pth")


# Finding -----------------------------------------------------------------------------------------


def make_run(run: Path, snapshots: dict[str, tuple[int, int]], checkpoints: tuple[int, ...] = ()) -> Path:
    (run / "snapshots").mkdir(parents=True)
    G, _ = networks()
    for name, (lineage, images_seen) in snapshots.items():
        info = INFO | {"lineage": lineage, "images_seen": images_seen}
        snapshot.save(run / "snapshots" / f"{name}.safetensors", G, info=info)
    for images_seen in checkpoints:
        folder = run / "checkpoints" / f"{images_seen:012d}"
        folder.mkdir(parents=True)
        snapshot.save(folder / "G_ema.safetensors", G, info=INFO | {"images_seen": images_seen})
    return run


def test_a_run_stands_for_its_newest_snapshot(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"000000000900": (0, 900), "000000001000": (0, 1000)}, (2000,))
    assert snapshot.find(run) == run / "snapshots/000000001000.safetensors"
    assert snapshot.find(run / "snapshots") == snapshot.find(run)
    assert snapshot.find(run / "checkpoints") == run / "checkpoints/000000002000/G_ema.safetensors"
    assert snapshot.find(run / "checkpoints/000000002000") == snapshot.find(run / "checkpoints")
    some = run / "snapshots/000000000900.safetensors"
    assert snapshot.find(some) == some


def test_a_later_lineage_is_newer_than_more_images(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"000000009000": (0, 9000), "000000005000-1": (1, 5000)})
    assert snapshot.find(run).name == "000000005000-1.safetensors"


def test_a_run_without_snapshots_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {}, (1000, 2000))
    assert snapshot.find(run) == run / "checkpoints/000000002000/G_ema.safetensors"


def test_damaged_and_temporary_files_are_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"000000000900": (0, 900), "000000001000": (0, 1000)})
    good = run / "snapshots/000000000900.safetensors"
    (run / "snapshots/.000000002000.safetensors").write_bytes(good.read_bytes()[:999])
    os.truncate(run / "snapshots/000000001000.safetensors", 500)
    with pytest.warns(UserWarning, match="skipped: .*000000001000.safetensors is damaged") as caught:
        assert snapshot.find(run) == good
    assert len(caught) == 1


@pytest.mark.parametrize("kind", ["link", "text", "link to checkpoint"])
def test_best_is_followed(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path / "run", {"000000000900": (0, 900), "000000001000": (0, 1000)}, (2000,))
    target = "checkpoints/000000002000" if "checkpoint" in kind else "snapshots/000000000900.safetensors"
    if kind == "text":
        (run / "best").write_text(target + "\n")
    else:
        (run / "best").symlink_to(target)
    expected = run / target / "G_ema.safetensors" if "checkpoint" in kind else run / target
    assert os.path.samefile(snapshot.find(run / "best"), expected)
    assert snapshot.load(run / "best")[2]["images_seen"] == (2000 if "checkpoint" in kind else 900)


def test_a_best_that_names_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best").write_text("snapshots/gone.safetensors")
    with pytest.raises(UserError, match="which does not exist"):
        snapshot.find(tmp_path / "best")


def test_missing_and_empty_runs_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; give a run folder"):
        snapshot.find(tmp_path / "nowhere")
    (tmp_path / "snapshots").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="holds no snapshot and no checkpoint"):
            snapshot.find(tmp_path)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.JPG").touch()
    with pytest.raises(UserError, match=f"`gansmith data inspect {tmp_path}`"):
        snapshot.find(tmp_path)
