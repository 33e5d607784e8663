"""Hugging Face's deep generators: parity, all rows of statistics, and the program's quirks on request."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Generator
from gansmith.models.statistics_table import StatisticsTable
from gansmith.sampling.sampler import Sampler
from gansmith.weights import snapshot
from gansmith.weights.huggingface import read

GOLDEN = "golden/hf-biggan-deep-128"


def images_at(G: Any, io: dict[str, torch.Tensor], truncation: float) -> torch.Tensor:
    G.statistics_table.put(G, truncation)
    with torch.no_grad():
        return G(io["z"], io["y"])


@pytest.fixture
def golden(shared_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(shared_dir / GOLDEN, tmp_path / "hf")
    return tmp_path / "hf"


def test_images_are_those_of_the_program(golden: Path) -> None:
    """To 5e-5 absolute; also with its quirks, since 0.4 is a row of its own, and without config.json."""
    io = load_file(golden / "io.safetensors")
    for options in ({}, {"hugging_face": True}):
        imported = read(golden, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(images_at(imported.G, io, 0.4), io["images"], atol=5e-5, rtol=0)
        assert (imported.unused, imported.unfilled) == ([], [])
    (golden / "config.json").unlink()
    inferred = read(golden / "pytorch_model.bin")
    torch.testing.assert_close(images_at(inferred.G, io, 0.4), io["images"], atol=5e-5, rtol=0)
    assert "inferred from the tensors" in inferred.notes[0]


def test_a_snapshot_keeps_all_rows_and_samples_at_any_truncation(golden: Path, tmp_path: Path) -> None:
    io = load_file(golden / "io.safetensors")
    imported = read(golden)
    assert imported.G is not None
    snapshot.save(tmp_path / "one.safetensors", imported.G, info=imported.info)
    G, _, info = snapshot.load(tmp_path / "one.safetensors")
    saved = torch.load(golden / "pytorch_model.bin", weights_only=True)
    assert G.statistics_table is not None
    rows = G.statistics_table.rows
    assert len(rows) == sum(name.endswith(("running_means", "running_vars")) for name in saved)
    assert torch.equal(rows["blocks.9.0.bn2.stored_mean"], saved["generator.layers.10.bn_1.running_means"])
    assert torch.equal(rows["output_layer.0.stored_var"], saved["generator.bn.running_vars"])
    sampler = Sampler(G, info)
    mean = dict(G.named_buffers())["blocks.9.0.bn2.stored_mean"]
    table = rows["blocks.9.0.bn2.stored_mean"]
    for truncation, expected in (
        (0.4, table[20]),
        (0.41, (table[20] + table[21]) / 2),
        (None, table[50]),
        (0.58, table[29]),
    ):
        assert sampler.has_statistics(truncation, "scale")
        sampler.use_truncation(truncation, "scale")
        torch.testing.assert_close(mean, expected, atol=1e-6, rtol=1e-6)
    sampler.use_truncation(0.4, "scale")
    with torch.no_grad():
        torch.testing.assert_close(G(io["z"], io["y"]), io["images"], atol=5e-5, rtol=0)


def test_parity_survives_in_the_snapshot(golden: Path, tmp_path: Path) -> None:
    imported = read(golden, hugging_face=True)
    assert imported.G is not None
    snapshot.save(tmp_path / "one.safetensors", imported.G, info=imported.info)
    G, _, info = snapshot.load(tmp_path / "one.safetensors")
    assert G.statistics_table is not None
    Sampler(G, info).use_truncation(0.41, "scale")
    assert G.statistics_table.hugging_face
    assert info["statistics_table"] == {"rows": 51, "hugging_face": True}


def program(values: torch.Tensor, truncation: float) -> torch.Tensor:
    """The interpolation as the published program does it."""
    fraction, start = math.modf(truncation / (1.0 / (len(values) - 1)))
    first = int(start)
    if fraction != 0.0:
        return values[first] * fraction + values[first + 1] * (1 - fraction)
    return values[first]


@pytest.mark.parametrize("truncation", [i / 50 for i in range(51)] + [0.03, 0.415, 0.777, 0.999])
def test_rows_are_interpolated_rightly_or_as_the_program_does(truncation: float) -> None:
    values = torch.arange(51.0)[:, None].square()
    place = truncation * 50
    below = min(int(place + 1e-9), 49)
    right = values[below] + (values[below + 1] - values[below]) * (place - below)
    torch.testing.assert_close(
        StatisticsTable({"x": values}).at(truncation)["x"], right, atol=1e-3, rtol=1e-6
    )
    quirky = StatisticsTable({"x": values}, hugging_face=True).at(truncation)["x"]
    torch.testing.assert_close(quirky, program(values, truncation), atol=1e-3, rtol=1e-6)


def test_the_quirks_are_those_known() -> None:
    quirky = StatisticsTable({"x": torch.arange(51.0)[:, None]}, hugging_face=True)
    for truncation, row in ((0.58, 28), (0.14, 8), (0.28, 15), (0.56, 29), (0.4, 20), (1.0, 50)):
        assert float(quirky.at(truncation)["x"]) == pytest.approx(row, abs=1e-4)
    assert float(quirky.at(0.405)["x"]) == pytest.approx(20.75, abs=1e-4)  # the weights are swapped
    with pytest.raises(ValueError, match=r"truncation 1\.5 is outside"):
        quirky.at(1.5)


def altered(golden: Path, change: Any) -> Path:
    state = torch.load(golden / "pytorch_model.bin", weights_only=True)
    change(state)
    torch.save(state, golden / "pytorch_model.bin")
    return golden


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("generator.layers.3.conv_1.bias"), r"generator\.layers\.3\.conv_1\.bias is missing"),
        (lambda s: s.update({"generator.extra": torch.ones(1)}), r"generator\.extra has no place in it"),
        (lambda s: s["generator.gen_z.bias"].fill_(float("inf")), r"gen_z\.bias holds NaN or infinity"),
        (lambda s: s.update({"generator.bn.running_means": torch.ones(50, 8)}), r"one number of rows"),
        (lambda s: s.update({"generator.bn.bias": torch.ones(9)}), r"bn\.bias is \(9,\), expected \(8,\)"),
        (lambda s: s.pop("embeddings.weight"), r"its configuration or tensors are incomplete"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(golden: Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(altered(golden, change))


def test_configurations_of_other_networks_are_refused(golden: Path) -> None:
    config = json.loads((golden / "config.json").read_text())
    with pytest.raises(UserError, match="belong to different networks"):
        read(golden, config={"channel_width": 16})
    with pytest.raises(UserError, match=r"make images of 128 px, config\.json says 256"):
        read(golden, config={"output_dim": 256})
    with pytest.raises(UserError, match="not stages of equal depth"):
        read(golden, config={"layers": [[not up, i, o] for up, i, o in config["layers"]]})
    shutil.copy(golden / "pytorch_model.bin", golden / "other-pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"it has other-pytorch_model\.bin, pytorch_model\.bin; give the file"
    ):
        read(golden)


def as_published(G: Generator, places: dict[int, int], attended: dict[int, int]) -> dict[str, torch.Tensor]:
    """G's weights as the program saves them. places, attended: our block → position among its layers."""
    dim_z, state, ours = G.kwargs["dim_z"], {}, G.state_dict()

    def layer(name: str, theirs: str, rows: Any = lambda w: w, z_first: bool = False) -> None:
        def columns(w: torch.Tensor) -> torch.Tensor:
            return torch.cat([w[..., -dim_z:], w[..., :-dim_z]], -1) if z_first else w

        state[f"{theirs}.weight_orig"] = columns(rows(ours[f"{name}.weight"]))
        state[f"{theirs}.weight_u"] = rows(ours[f"{name}.u"])
        state[f"{theirs}.weight_v"] = columns(ours[f"{name}.v"])
        if f"{name}.bias" in ours:
            state[f"{theirs}.bias"] = rows(ours[f"{name}.bias"])

    def statistics(name: str, theirs: str) -> None:
        for kind in ("mean", "var"):
            state[f"{theirs}.running_{kind}s"] = ours[f"{name}.stored_{kind}"].expand(3, -1).clone()

    state["embeddings.weight"] = ours["shared.weight"].t()
    layer("linear", "generator.gen_z", lambda w: w.unflatten(0, (-1, 4, 4)).movedim(0, 2).flatten(0, 2), True)
    for block, place in places.items():
        for k in range(4):
            layer(f"blocks.{block}.0.conv{k + 1}", f"generator.layers.{place}.conv_{k}")
            bn, theirs = f"blocks.{block}.0.bn{k + 1}", f"generator.layers.{place}.bn_{k}"
            layer(f"{bn}.gain", f"{theirs}.scale", z_first=True)
            layer(f"{bn}.bias", f"{theirs}.offset", z_first=True)
            statistics(bn, theirs)
    for block, place in attended.items():
        for name in ("theta", "phi", "g", "o"):
            theirs = "o_conv" if name == "o" else name
            layer(f"blocks.{block}.1.{name}", f"generator.layers.{place}.snconv1x1_{theirs}")
        state[f"generator.layers.{place}.gamma"] = ours[f"blocks.{block}.1.gamma"][None]
    state |= {
        "generator.bn.weight": ours["output_layer.0.gain"],
        "generator.bn.bias": ours["output_layer.0.bias"],
    }
    statistics("output_layer.0", "generator.bn")
    layer("output_layer.2", "generator.conv_to_rgb")
    return state


@pytest.mark.parametrize("changes", [{}, {"attention_blocks": [2]}, {"table": [4, 4, 2, 2], "depth": 1}])
def test_other_sizes_and_places_of_attention_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    G = Generator(
        **{"family": "biggan-deep", "resolution": 32, "num_classes": 3, "ch": 4, "dim_z": 5, "shared_dim": 6,
           "attention": [16], "bn_eps": 1e-4, "output_bn_eps": 1e-4, "sn_eps": 1e-4, "rgb_rows": 8} | changes
    ).eval()  # fmt: skip
    for name, value in G.state_dict().items():
        if "stored_" in name or name.endswith(("gamma", "gain", "bias")):
            torch.nn.init.uniform_(value, 0.5, 1.5)
    spectral.converge(G)
    after = next(i for i, group in enumerate(G.blocks) if len(group) == 2)  # type: ignore[arg-type]
    places = {i: i + (i > after) for i in range(len(G.blocks))}
    torch.save(as_published(G, places, {after: after + 1}), tmp_path / "pytorch_model.bin")
    depth, pairs = (
        G.kwargs["depth"],
        [(g[0].conv1.weight.shape[1] // 4, g[0].conv4.weight.shape[0] // 4) for g in G.blocks],
    )  # type: ignore[index]
    layers = [[i % depth == depth - 1, *pair] for i, pair in enumerate(pairs)]
    (tmp_path / "config.json").write_text(json.dumps({"layers": layers, "channel_width": 4, "eps": 1e-4}))
    imported = read(tmp_path)
    assert imported.G is not None
    z, y = torch.randn(2, 5), torch.tensor([0, 2])
    with torch.no_grad():
        torch.testing.assert_close(imported.G(z, y), G(z, y), atol=1e-6, rtol=0)
    assert imported.G.kwargs["attention_blocks"] == changes.get("attention_blocks")


def test_attention_before_the_first_block_is_refused(shared_dir: Path, tmp_path: Path) -> None:
    golden = shared_dir / "golden" / "hf-biggan-deep-128"
    shutil.copy(golden / "config.json", tmp_path)
    state = torch.load(golden / "pytorch_model.bin", weights_only=True)
    numbers = {i: i + 1 if i < 8 else 0 if i == 8 else i for i in range(11)}
    moved = {
        re.sub(r"layers\.(\d+)", lambda match: f"layers.{numbers[int(match[1])]}", name): value
        for name, value in state.items()
    }
    torch.save(moved, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="attention stands before its first block"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("gone", "config", "message"),
    [
        ("generator.conv_to_rgb.weight_orig", {}, "conv_to_rgb.weight_orig"),
        ("generator.layers.8.", {}, "config.json has attention at layer 8, the file has none"),
        (None, {"eps": None}, "its configuration or tensors are incomplete"),
    ],
)
def test_what_is_missing_is_named(
    shared_dir: Path, tmp_path: Path, gone: str | None, config: dict[str, Any], message: str
) -> None:
    golden = shared_dir / "golden" / "hf-biggan-deep-128"
    told = json.loads((golden / "config.json").read_text()) | config
    (tmp_path / "config.json").write_text(json.dumps(told))
    state = torch.load(golden / "pytorch_model.bin", weights_only=True)
    kept = {name: value for name, value in state.items() if gone is None or not name.startswith(gone)}
    torch.save(kept | {"comment": "mine"}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=re.escape(message)):
        read(tmp_path)


def test_what_is_no_tensor_is_listed(shared_dir: Path, tmp_path: Path) -> None:
    golden = shared_dir / "golden" / "hf-biggan-deep-128"
    shutil.copy(golden / "config.json", tmp_path)
    state = torch.load(golden / "pytorch_model.bin", weights_only=True)
    torch.save(state | {"comment": "mine"}, tmp_path / "pytorch_model.bin")
    assert read(tmp_path).unused == [("comment", "no tensor")]
