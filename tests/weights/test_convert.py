"""`gansmith convert`: formats are told apart by what they hold, mistakes end in one message, nothing half-
written.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gansmith import cli
from gansmith.errors import UserError
from gansmith.models.biggan import Discriminator, Generator
from gansmith.weights import author_config, convert, snapshot
from gansmith.weights.convert import detect, open_any

CONFIG = {
    "model": "BigGAN", "resolution": 32, "G_ch": 2, "D_ch": 2, "n_classes": 3, "dim_z": 8, "G_shared": True,
    "shared_dim": 4, "hier": True, "G_attn": "16", "D_attn": "0", "SN_eps": 1e-6, "BN_eps": 1e-5,
    "batch_size": 8, "num_D_steps": 2,
}  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gansmith(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `gansmith convert ARGUMENTS` in this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gansmith", "convert", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capfd.readouterr()

    return run


def author_state(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = {name: value for name, value in net.state_dict().items() if not name.endswith(".v")}
    return {name[:-1] + "u0" if name.endswith(".u") else name: value for name, value in state.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A weights folder with everything in it, after one step of each optimizer."""
    folder = tmp_path / "138k"
    folder.mkdir()
    G, D = (
        Generator(**author_config.generator_kwargs(CONFIG)),
        Discriminator(**author_config.discriminator_kwargs(CONFIG)),
    )
    for letter, net in (("G", G), ("D", D)):
        adam = torch.optim.Adam(
            net.parameters(), lr=1e-3 if letter == "G" else 4e-3, betas=(0.0, 0.999), eps=1e-6
        )
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        adam.step()
        torch.save(adam.state_dict(), folder / f"{letter}_optim.pth")
        torch.save(author_state(net), folder / f"{letter}.pth")
    with torch.no_grad():
        for parameter in G.parameters():
            parameter.mul_(0.9)
    torch.save(author_state(G), folder / "G_ema.pth")
    torch.save({"itr": 1, "config": CONFIG}, folder / "state_dict.pth")
    return folder


def test_a_folder_becomes_a_snapshot_that_draws(gansmith: Run, folder: Path, tmp_path: Path) -> None:
    code, out, err = gansmith(folder, tmp_path / "new" / "one.safetensors")
    assert (code, err) == (0, "")
    for row in ("BigGAN-PyTorch", "32 px, 3 channels", "G (averaged)", "G as trained", "Adam of D (1 steps)"):
        assert row in out
    G, D, info = snapshot.load(tmp_path / "new/one.safetensors", discriminator=True)
    saved = torch.load(folder / "G_ema.pth", weights_only=True)
    assert torch.equal(G.linear.weight, saved["linear.weight"])
    assert D is not None
    assert info["images_seen"] == 16
    assert info["imported"]["files"] == [
        "D.pth",
        "D_optim.pth",
        "G.pth",
        "G_ema.pth",
        "G_optim.pth",
        "state_dict.pth",
    ]
    code, _, _ = gansmith(folder, tmp_path / "raw.safetensors", "--raw")
    assert code == 0
    raw, _, info = snapshot.load(tmp_path / "raw.safetensors")
    torch.testing.assert_close(raw.linear.weight * 0.9, G.linear.weight)
    assert info["ema"] is False


def test_dry_runs_say_what_is_there_and_write_nothing(gansmith: Run, folder: Path, tmp_path: Path) -> None:
    code, out, _ = gansmith(folder, tmp_path / "new", "--dry-run")
    assert code == 0
    assert "nothing was written" in out
    assert "a run that trains on" in out
    assert not (tmp_path / "new").exists()


def test_a_snapshot_is_read_through_the_same_door(folder: Path, tmp_path: Path) -> None:
    convert.save_snapshot(open_any(folder), tmp_path / "one.safetensors")
    again = open_any(tmp_path / "one.safetensors")
    assert detect(tmp_path / "one.safetensors") == convert.OURS
    assert again.G is not None
    assert again.D is not None
    assert again.info["imported"]["format"] == "BigGAN-PyTorch"
    convert.save_snapshot(again, tmp_path / "two.safetensors")
    assert (
        snapshot.describe(tmp_path / "two.safetensors")["sha256"]
        == snapshot.describe(tmp_path / "one.safetensors")["sha256"]
    )


@pytest.mark.parametrize("name", ["biggan-128", "biggan-deep-64", "hf-biggan-deep-128", "tfhub-biggan-128"])
def test_formats_are_told_apart_by_what_they_hold(shared_dir: Path, tmp_path: Path, name: str) -> None:
    expected = {"hf": "Hugging Face pytorch_pretrained_biggan", "tfhub": "TF-Hub"}
    golden = shared_dir / "golden" / name
    assert detect(golden) == expected.get(name.split("-")[0], "BigGAN-PyTorch")
    if not name.startswith("tfhub"):
        file = next(file for file in (golden / "G_ema.pth", golden / "pytorch_model.bin") if file.exists())
        shutil.copy(file, tmp_path / "weights.pt")
        assert detect(tmp_path / "weights.pt") == detect(golden)


def damage(folder: Path, kind: str) -> tuple[Path, list[object]]:
    """Breaks a weights folder in one way; returns what to convert, and further arguments."""
    file = folder / "G_ema.pth"
    state = torch.load(file, weights_only=True)
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-2000])
    elif kind == "missing key":
        torch.save({key: value for key, value in state.items() if key != "linear.bias"}, file)
    elif kind == "extra key":
        torch.save(state | {"encoder.weight": torch.ones(1)}, file)
    elif kind == "NaN":
        state["blocks.0.0.conv1.weight"][0] = float("nan")
        torch.save(state, file)
    elif kind == "wrong family":
        config = {"model": "BigGANdeep"}
        (folder / "other.json").write_text(json.dumps(config))
        return folder, ["--config", folder / "other.json"]
    elif kind == "two states":
        shutil.copy(file, folder / "G_best1.pth")
    elif kind == "two formats":
        torch.save({"generator.gen_z.weight_orig": torch.ones(1)}, folder / "pytorch_model.bin")
    elif kind == "several folders":
        shutil.copytree(folder, folder.parent / "139k")
        return folder.parent, []
    elif kind == "discriminator":
        return folder / "D.pth", []
    elif kind == "optimizer":
        return folder / "D_optim.pth", []
    elif kind == "nothing":
        return folder / "G_last.pth", []
    elif kind == "text":
        (folder.parent / "notes.txt").write_text("weights are on the other disk")
        return folder.parent / "notes.txt", []
    elif kind == "empty":
        (folder.parent / "empty").mkdir()
        return folder.parent / "empty", []
    elif kind == "bad config":
        (folder / "c.json").write_text("{")
        return folder, ["--config", folder / "c.json"]
    elif kind == "bad setting":
        return folder, ["--set", "model.ch=4"]
    elif kind == "idle flag":
        return folder, ["--hf-parity"]
    elif kind == "unknown version":
        convert.save_snapshot(open_any(folder), folder.parent / "one.safetensors")
        content = (folder.parent / "one.safetensors").read_bytes()
        (folder.parent / "one.safetensors").write_bytes(
            content.replace(rb"\"version\": 2", rb"\"version\": 9")
        )
        return folder.parent / "one.safetensors", []
    return folder, []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "G_ema.pth is cut short or damaged"),
        ("missing key", "linear.bias is missing"),
        ("extra key", "encoder.weight has no place in it"),
        ("NaN", "blocks.0.0.conv1.weight holds NaN or infinity"),
        ("wrong family", "does not fit the network"),
        ("two states", "holds several saved states: latest, best1; choose one, as with --which latest"),
        ("two formats", "holds two models: BigGAN-PyTorch and Hugging Face"),
        ("several folders", "holds several models: 138k, 139k; give one of them"),
        ("discriminator", "holds a discriminator only"),
        ("optimizer", "holds no network; give its folder"),
        ("nothing", "G_last.pth does not exist"),
        ("text", "holds no weights that are known here. These are read:"),
        ("empty", "holds no weights that are known here. These are read:"),
        ("bad config", "c.json cannot be read as JSON"),
        ("bad setting", "--set model.ch: the networks have 2; leave it out."),
        ("idle flag", "--hf-parity has no meaning for"),
        ("unknown version", "has snapshot format 9"),
    ],
)
def test_bad_input_ends_in_one_message_and_leaves_nothing(
    gansmith: Run, folder: Path, tmp_path: Path, kind: str, message: str
) -> None:
    source, further = damage(folder, kind)
    there = set(tmp_path.rglob("*"))
    code, _, err = gansmith(source, tmp_path.parent / f"{tmp_path.name}-out", *further)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err
    assert not (tmp_path.parent / f"{tmp_path.name}-out").exists()
    assert set(tmp_path.rglob("*")) == there


def test_destinations_are_never_overwritten(gansmith: Run, folder: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").write_text("x")
    (tmp_path / "one.safetensors").write_text("x")
    for dest, message in (
        (full, "exists and is never overwritten"),
        (tmp_path / "one.safetensors", "exists and is never overwritten"),
        (folder / "new", "among the weights"),
        (full / "thesis.txt" / "new", "thesis.txt is a file"),
    ):
        code, _, err = gansmith(folder, dest)
        assert code == 2
        assert message in err
    assert (full / "thesis.txt").read_text() == "x"


def test_info_leads_from_weights_of_others_to_convert(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gansmith", "info", str(folder)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capfd.readouterr().err
    assert stop.value.code == 2
    assert said.startswith(f"error: {folder} holds weights of {convert.detect(folder)}; ")
    assert f"`gansmith convert {folder} DEST --dry-run`" in said


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder where nobody can create files")
def test_a_place_that_cannot_be_written_is_told_before_the_source_is_read(gansmith: Run) -> None:
    code, out, err = gansmith("/no/such/source", "/sys/new")
    assert (code, out) == (2, "")
    assert err.startswith("error: /sys/new cannot be made: /sys is not writable")
    assert ".tmp" not in err


def test_a_hostile_file_is_refused_and_runs_nothing(gansmith: Run, folder: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "mark",))

    torch.save({"itr": 1, "config": Hostile()}, folder / "state_dict.pth")
    code, _, err = gansmith(folder, tmp_path / "new")
    assert code == 2
    assert "refused and nothing of it was run" in err
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "new").exists()


def test_what_has_no_optimizers_becomes_a_folder_to_draw_from(
    gansmith: Run, folder: Path, tmp_path: Path
) -> None:
    (folder / "D_optim.pth").unlink()
    code, out, _ = gansmith(folder, tmp_path / "new")
    assert code == 0
    assert "only to draw from: Adam of D is not there" in out
    assert snapshot.find(tmp_path / "new") == tmp_path / "new/snapshots/000000000016.safetensors"


def test_every_path_is_detected_or_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        detect(tmp_path / "nowhere")
