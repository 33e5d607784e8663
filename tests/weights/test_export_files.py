"""What is exported is what was evaluated: the same images from the snapshot and from each exported form."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import gansmith
from gansmith import files
from gansmith.cli import gansmith_command
from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.sampling import statistics
from gansmith.weights import biggan_pytorch, convert, snapshot
from gansmith.weights.export import author, hub
from gansmith.weights.export.card import Card
from gansmith.weights.export.plain import Drawing, plain
from gansmith.weights.promotion import promote_generator
from tests.weights import author_forward

CLASSES = [{"id": 0, "name": "cat", "count": 5}, {"id": 1, "name": "dog", "count": 6}]


@torch.no_grad()
def networks(family: str = "biggan", **changes: Any) -> tuple[Generator, Discriminator]:
    """Untidy ones: biases, gates and statistics that training leaves; u and v one step from converged."""
    common = {"family": family, "resolution": 32, "num_classes": 2, "ch": 4, "attention": (16,)}
    g = common | {"dim_z": 16, "shared_dim": 6} | changes
    # BigGAN-PyTorch's own 32 px D has attention after all blocks or none.
    d = common | {"attention": (), "channels": changes.get("channels", 3)}
    G, D = Generator(**g), Discriminator(**d)
    for net in (G, D):
        spectral.converge(net)
        for name, p in net.named_parameters():
            p.fill_(0.7) if name.endswith("gamma") else p.add_(0.05 * torch.randn_like(p))
        for name, buffer in net.named_buffers():
            if "stored" in name:
                buffer.add_(0.3 * torch.rand_like(buffer))
        spectral.refresh(net, 1)
        net.eval().requires_grad_(False)
    return G, D


def info(**changes: Any) -> dict[str, Any]:
    return {
        "latent": "normal",
        "classes": CLASSES,
        "images_seen": 1234,
        "lineage": 0,
        "ema": True,
        "statistics": {"truncation": 1.0, "kind": "none", "images": 64, "group": 8},
        "config": {"data": {"path": "/home/someone/pets"}, "optim": {"lr_g": 3e-4}},
    } | changes


@pytest.fixture(autouse=True)
def _few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "IMAGES", 64)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with a snapshot that was scored, and one that was not."""
    G, D = networks()
    (tmp_path / "run" / "snapshots").mkdir(parents=True)
    snapshot.save(tmp_path / "run" / "snapshots" / "000000001234.safetensors", G, D=D, info=info())
    result = {
        "metric": "frechet", "name": "FD-pixels", "value": 12.345, "sd": None, "better": "lower",
        "protocol": {"n_real": 1797, "n_fake": 5000, "truncation": None, "seed": 0,
                     "features": {"name": "pixels", "resizer": "area", "weights_sha256": ""}},
        "protocol_id": "abc123def456",
    }  # fmt: skip
    rows = [
        {"type": "evaluation", "snapshot": "000000000999", "results": [result | {"value": 99.0}]},
        {"type": "status", "images_seen": 1234},
        {"type": "evaluation", "snapshot": "000000001234", "results": [result]},
    ]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"cut')
    return tmp_path / "run"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(gansmith_command, ["export", *map(str, arguments)])


def images(path: Path | str, truncation: float | None = None) -> np.ndarray:
    return gansmith.load(path, "cpu").sample(3, truncation=truncation)


def test_folder_draws_the_evaluated_images_and_cites_their_snapshot(run: Path, tmp_path: Path) -> None:
    source = run / "snapshots" / "000000001234.safetensors"
    done = invoke(run, tmp_path / "pets", "--license", "cc-by-4.0", "--with-d")
    assert done.exit_code == 0, done.output
    assert files.sha256(tmp_path / "pets" / "model.safetensors") == files.sha256(source)
    np.testing.assert_array_equal(images(tmp_path / "pets"), images(run))
    card = (tmp_path / "pets" / "README.md").read_text()
    assert files.sha256(source) in card
    assert "license: cc-by-4.0" in card
    assert "| FD-pixels | 12.345 | lower | 1,797 / 5,000 | none | abc123def456 |" in card
    assert "99" not in card.split("## Scores")[1].split("##")[0]
    assert "`pets`, 2 classes: cat, dog." in card
    assert "/home/someone" not in card
    assert "- abc123def456: features pixels, resizer area, seed 0" in card
    assert 'gansmith.load("pets")' in card
    again = convert.open_any(tmp_path / "pets")  # what `convert` and `train --init-from` read
    assert (again.source_format, again.D is not None) == ("gansmith", True)
    described = json.loads((tmp_path / "pets" / "config.json").read_text())
    assert described["id2label"] == {"0": "cat", "1": "dog"}
    assert described["snapshot_sha256"] == files.sha256(source)
    with Image.open(tmp_path / "pets" / "samples.png") as picture:
        assert picture.height == 2 * 32 + 2


def test_a_card_says_what_a_network_was_tuned_from() -> None:
    card = Card(
        name="jane/pets",
        source_sha256="00",
        truncation="no truncation",
        recipe={"data.path": "/home/someone/pets", "init.source": "/w/biggan-128", "init.sha256": "ab12"},
    )
    described = {"id2label": {"0": "cat"}}
    assert card._data(described) == (
        "`pets`, 1 class: cat. Training began from the weights `biggan-128` (SHA-256 of their tensors "
        "`ab12`), with data and a licence of their own."
    )


def test_folder_without_d_holds_none_and_draws_the_same(run: Path, tmp_path: Path) -> None:
    assert invoke(run, tmp_path / "pets").exit_code == 0
    assert snapshot.load(tmp_path / "pets", discriminator=True)[1] is None
    np.testing.assert_array_equal(images(tmp_path / "pets"), images(run))


def test_truncation_is_baked_into_the_folder(run: Path, tmp_path: Path) -> None:
    assert invoke(run, tmp_path / "pets", "--truncation", 0.5).exit_code == 0
    described = snapshot.describe(tmp_path / "pets" / "model.safetensors")
    assert described["statistics"]["truncation"] == 0.5
    np.testing.assert_array_equal(images(tmp_path / "pets", 0.5), images(run, 0.5))


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_classes": 0}, {"spectral": False}, {"shared_dim": 0, "skip_z": False}, {"channels": 1}],
    ids=str,
)
@pytest.mark.parametrize("family", ["biggan", "biggan-deep"])
def test_plain_networks_draw_the_same(family: str, changes: dict[str, Any]) -> None:
    G, _ = networks(family, **changes)
    drawing = Drawing(G)
    inputs = drawing.example(4)
    assert ("y" in inputs) == (G.num_classes > 0)
    torch.testing.assert_close(drawing(**inputs), G(*inputs.values()), rtol=0, atol=0)
    assert not spectral.spectral_layers(plain(G))


def test_plain_networks_keep_how_far_a_promotion_has_come() -> None:
    G = promote_generator(networks()[0])
    G.set_alpha(0.4)
    inputs = Drawing(G).example(2)
    torch.testing.assert_close(Drawing(G)(**inputs), G(*inputs.values()), rtol=0, atol=0)


def test_class_vectors_may_be_given_and_mixed() -> None:
    G, _ = networks()
    drawing, z = Drawing(G, "embedding"), torch.randn(2, 16)
    assert G.shared is not None
    vectors = G.shared.weight
    torch.testing.assert_close(drawing(z, vectors), G(z, torch.tensor([0, 1])), rtol=0, atol=1e-6)
    mixed = G(z[:1], torch.tensor([[0.5, 0.5]]))
    torch.testing.assert_close(drawing(z[:1], vectors.mean(0, keepdim=True)), mixed, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="no shared class embedding"):
        Drawing(networks(num_classes=0)[0], "embedding")


@pytest.mark.parametrize("family", ["biggan", "biggan-deep"])
def test_biggan_pytorch_gives_the_images_back(family: str, tmp_path: Path) -> None:
    G, D = networks(family, output_bn_eps=1e-4)
    # What their file must give is not a converged σ but ours.
    layer = spectral.spectral_layers(G)[0][1]
    true = float(torch.linalg.matrix_norm(layer.weight.flatten(1), 2))
    assert abs(float(layer.sigma) / true - 1) > 1e-4
    error = author.write(tmp_path / "theirs", G, D, info())
    assert error < 1e-6
    back = biggan_pytorch.read(tmp_path / "theirs")
    z, y = torch.randn(6, 16), torch.arange(6) % 2
    assert back.G is not None
    assert back.D is not None
    assert (back.G(z, y) - G(z, y)).abs().max() < 5e-5
    x = torch.randn(6, 3, 32, 32).clamp(-1, 1)
    torch.testing.assert_close(back.D(x, y), D(x, y), rtol=1e-4, atol=1e-4)
    assert {name.rpartition(".")[2] for name, _ in back.unused} == {"sv0"}
    assert not back.unfilled


@pytest.mark.parametrize("family", ["biggan", "biggan-deep"])
def test_biggan_pytorch_itself_would_draw_the_same(family: str, tmp_path: Path) -> None:
    """By its own formulas over the file's tensors, nothing of ours: one power step from u0 included."""
    G, D = networks(family, output_bn_eps=1e-4)
    author.write(tmp_path / "theirs", G, D, info())
    files_of = {
        name: author_forward.Weights(
            torch.load(tmp_path / "theirs" / f"{name}.pth", weights_only=True),
            sn_eps=G.kwargs["sn_eps"],
            bn_eps=G.kwargs["bn_eps"],
        )
        for name in ("G", "G_ema", "D")
    }
    z, y = torch.randn(6, 16), torch.arange(6) % 2
    images = G(z, y)
    assert images.std() > 0.05
    for name in ("G", "G_ema"):
        theirs = author_forward.generator(files_of[name], z, y, deep=family == "biggan-deep")
        assert (theirs - images).abs().max() < 5e-5
    # It matters: a vector of our own, stepped once, gives other images.
    layer = spectral.spectral_layers(G)[0]
    files_of["G"].state[f"{layer[0]}.u0"] = torch.randn_like(files_of["G"].state[f"{layer[0]}.u0"])
    other = author_forward.generator(files_of["G"], z, y, deep=family == "biggan-deep")
    assert (other - images).abs().max() > 1e-3
    if family == "biggan":
        x = torch.randn(6, 3, 32, 32).clamp(-1, 1)
        logits = author_forward.discriminator(files_of["D"], x, y, [True, True, False, False])
        torch.testing.assert_close(logits, D(x, y), rtol=1e-4, atol=1e-4)


def test_biggan_pytorch_by_the_verb(run: Path, tmp_path: Path) -> None:
    done = invoke(run, tmp_path / "theirs", "--format", "biggan-pytorch", "--with-d")
    assert done.exit_code == 0, done.output
    names = {file.name for file in (tmp_path / "theirs").iterdir()}
    assert names == {"G.pth", "G_ema.pth", "D.pth", "state_dict.pth", "config.json"}
    saved = torch.load(tmp_path / "theirs" / "state_dict.pth", weights_only=True)
    assert saved["config"]["G_ch"] == 4
    imported = biggan_pytorch.read(tmp_path / "theirs")
    assert imported.G is not None
    G, _, _ = snapshot.load(run)
    z, y = torch.randn(4, 16), torch.tensor([0, 1, 0, 1])
    assert (imported.G(z, y) - G(z, y)).abs().max() < 5e-5


def test_networks_that_biggan_pytorch_cannot_build_are_refused(tmp_path: Path) -> None:
    for G, message in (
        (networks(channels=1)[0], "grey images"),
        (networks(num_classes=0)[0], "has no classes"),
        (promote_generator(networks()[0]), "table of channels"),
    ):
        with pytest.raises(UserError, match=message):
            author.write(tmp_path / "theirs", G, None, info())
    assert not list(tmp_path.iterdir())


class StandIn:
    """The part of huggingface_hub that is used, with a folder in the place of the hub."""

    def __init__(self, place: Path) -> None:
        self.place, self.asked = place, {}

    def HfApi(self) -> "StandIn":
        return self

    def create_repo(self, **kwargs: Any) -> str:
        self.asked = kwargs
        return f"https://hub/{kwargs['repo_id']}"

    def upload_folder(self, *, folder_path: str, repo_id: str, repo_type: str) -> None:
        import shutil

        shutil.copytree(folder_path, self.place / repo_id)

    def snapshot_download(self, *, repo_id: str, allow_patterns: list[str]) -> str:
        if not (self.place / repo_id).is_dir():
            raise OSError("404 Client Error\nand more")
        return str(self.place / repo_id)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    hub_folder = StandIn(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub_folder)
    return hub_folder


def test_pushed_folder_loads_by_its_name(run: Path, tmp_path: Path, stand_in: StandIn) -> None:
    done = invoke(run, tmp_path / "pets", "--push", "jane/pets", "--private")
    assert done.exit_code == 0, done.output
    assert "https://hub/jane/pets" in done.output
    assert stand_in.asked["private"] is True
    np.testing.assert_array_equal(images("jane/pets"), images(run))
    with pytest.raises(UserError, match=r"jane/others does not exist here.*404 Client Error\)"):
        gansmith.load("jane/others")


def test_hub_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'gansmith\[hub\]'"):
        gansmith.load("jane/pets")
    with pytest.raises(UserError, match="no exported folder"):
        hub.push(tmp_path, "jane/pets")
    with pytest.raises(UserError, match="is user/name"):
        hub.push(tmp_path, "pets")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DEST.onnx", "--with-d"], "holds G only"),
        (["DEST", "--format", "onnx"], "a name ending in .onnx"),
        (["DEST.pt2", "--format", "huggingface"], "a name without .pt2"),
        (["DEST", "--conditioning", "embedding"], "belongs to graphs"),
        (["DEST", "--push", "pets"], "user/name"),
        (["DEST", "--private"], "--push"),
        (["DEST", "--truncation", "-1"], "above 0"),
        (["DEST", "--format", "tflite"], "tflite"),
    ],
)
def test_bad_arguments_are_refused(run: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = invoke(run, *[word.replace("DEST", str(tmp_path / "out")) for word in arguments])
    assert done.exit_code != 0
    assert message in done.output + str(done.exception)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder where nobody can create files")
@pytest.mark.parametrize("name", ["out", "out.onnx"])
def test_a_place_that_cannot_be_written_is_told_before_the_source_is_read(name: str) -> None:
    said = str(invoke("/no/such/run", f"/sys/{name}").exception)
    assert said.startswith(f"/sys/{name} cannot be made: /sys is not writable")
    assert ".tmp" not in said


def test_missing_d_existing_destination_and_damaged_source_are_refused(run: Path, tmp_path: Path) -> None:
    G, _ = networks()
    snapshot.save(tmp_path / "alone.safetensors", G, info=info())
    for arguments, message in (
        ([tmp_path / "alone.safetensors", tmp_path / "x", "--with-d"], "keeps no D"),
        ([run, run], "exists and is never overwritten"),
    ):
        assert message in str(invoke(*arguments).exception)
    file = run / "snapshots" / "000000001234.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    assert "is damaged" in str(invoke(file, tmp_path / "x").exception)
    assert not (tmp_path / "x").exists()


def test_onnx_without_its_package_names_the_extra(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = invoke(run, tmp_path / "g.onnx")
    assert "pip install 'gansmith[onnx]'" in str(done.exception)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
