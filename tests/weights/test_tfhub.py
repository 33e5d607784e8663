"""TF-Hub modules: parity with the published program's images, from folders, archives and bare variables;
settings by shape; statistics tables from the graph; every variable used or listed.
"""

import gzip
import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorflow_files import node, saved_model, write_bundle
from tfhub_files import ROWS, graph_of, hub_variables, images_of, module_of, network, stepped, tables_of

from gansmith.errors import UserError
from gansmith.weights import tensor_bundle, tfhub


def test_the_golden_module_gives_the_published_programs_images(shared_dir: Path) -> None:
    """5e-5 absolute: two runs of the original differ by up to 1.5e-5."""
    folder = shared_dir / "golden" / "tfhub-biggan-128"
    found = tfhub.read(folder)
    expected = load_file(folder / "io.safetensors")
    with torch.no_grad():
        images = found.G(expected["z"], expected["y"])  # type: ignore[misc]
    torch.testing.assert_close(images, expected["images"], atol=5e-5, rtol=0)
    assert found.unfilled == []
    assert found.notes == []
    assert all("averaged" in reason or name.endswith("accumulation_counter") for name, reason in found.unused)


@pytest.mark.parametrize(
    ("resolution", "dim_z", "attention"),
    [(32, 8, []), (64, 10, [32]), (128, 12, [64]), (256, 14, [128]), (512, 16, [64])],
)
def test_any_size_is_recognised_and_gives_its_own_images(
    tmp_path: Path, resolution: int, dim_z: int, attention: list[int]
) -> None:
    """2e-5 absolute: Ŵ is made anew in float32 from the same u."""
    G = network(resolution=resolution, dim_z=dim_z, attention=attention, ch=2)
    found = tfhub.read(module_of(G, tmp_path))
    G = stepped(G)
    assert found.G is not None
    assert found.family == "biggan"
    for key in ("resolution", "num_classes", "ch", "dim_z", "shared_dim", "attention", "output_bn_eps"):
        assert found.G.kwargs[key] == G.kwargs[key], key
    torch.testing.assert_close(images_of(found.G, 1), images_of(G, 1), atol=2e-5, rtol=0)
    assert found.unfilled == []


def test_what_variables_do_not_tell_may_be_said(tmp_path: Path) -> None:
    """At 256 px the stages that end at 16 and at 32 px are equally wide."""
    G = network(resolution=256, dim_z=14, attention=[16], ch=2, bn_eps=1e-3, output_bn_eps=1e-3)
    folder = module_of(G, tmp_path)
    guessed = tfhub.read(folder)
    assert guessed.G is not None
    assert guessed.G.kwargs["attention"] == [32]
    assert any("at 16 px. Another one: --config FILE" in note for note in guessed.notes)
    found = tfhub.read(folder, config={"G_attn": "16", "BN_eps": 1e-3})
    torch.testing.assert_close(images_of(found.G, 1), images_of(stepped(G), 1), atol=2e-5, rtol=0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="attention at 64 px would not have its 16 channels; 16, 32 px would"):
        tfhub.read(folder, config={"G_attn": "64"})
    with pytest.raises(UserError, match="--config: G_ch is told by a module's variables"):
        tfhub.read(folder, config={"G_ch": 2})
    with pytest.raises(UserError, match=r"--config: .*'x'; numbers are expected"):
        tfhub.read(folder, config={"BN_eps": "x"})


def test_raw_weights_are_read_when_asked_for_or_when_there_are_no_others(tmp_path: Path) -> None:
    G = network(resolution=32, dim_z=8, attention=[])
    folder = module_of(G, tmp_path / "both")
    raw = tfhub.read(folder, averaged=False)
    torch.testing.assert_close(
        raw.G.shared.weight,
        G.shared.weight + 1,
        atol=0,
        rtol=0,  # type: ignore[union-attr]
    )
    reasons = dict(raw.unused)
    assert reasons["linear/w/ema_b999900"] == "another version of linear/w is used"
    plain = tfhub.read(module_of(G, tmp_path / "raw", average=""))
    torch.testing.assert_close(images_of(plain.G), images_of(stepped(G)), atol=2e-5, rtol=0)  # type: ignore[arg-type]


def test_the_module_prefix_and_every_way_to_the_variables_are_the_same(tmp_path: Path) -> None:
    G = network(resolution=32, dim_z=8, attention=[])
    expected = images_of(tfhub.read(module_of(G, tmp_path / "plain")).G)  # type: ignore[arg-type]
    folder = module_of(G, tmp_path / "scoped", "module/")
    variables = folder / "variables"
    bare = tmp_path / "bare"
    shutil.copytree(variables, bare)
    for path in (folder, variables, variables / "variables", variables / "variables.index", bare):
        assert tfhub.is_module(path)
        assert torch.equal(images_of(tfhub.read(path).G), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["biggan.tar.gz", "biggan-128_2", "biggan.tar"])
def test_an_archive_is_read_with_or_without_its_suffix(tmp_path: Path, name: str) -> None:
    G = network(resolution=32, dim_z=8, attention=[])
    folder = module_of(G, tmp_path / "module")
    with tarfile.open(tmp_path / name, "w" if name.endswith(".tar") else "w:gz") as archive:
        archive.add(folder, arcname="." if name.endswith("gz") else "module")
    found = tfhub.read(tmp_path / name)
    assert torch.equal(images_of(found.G), images_of(tfhub.read(folder).G))  # type: ignore[arg-type]


def test_an_archive_writes_nothing_outside_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder = module_of(network(resolution=32, dim_z=8, attention=[]), tmp_path / "module")
    path = tmp_path / "in" / "evil.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / "variables", arcname="../../variables")
        info = tarfile.TarInfo("../escaped.txt")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"hi"))
        link = tarfile.TarInfo("saved_model.pb")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    assert tfhub.read(path).G is not None
    assert sorted(tmp_path.rglob("*")) == before
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cut\.tar\.gz is damaged or cut short .*; download it again"):
        tfhub.read(cut)
    twice = tmp_path / "twice.tar"
    with tarfile.open(twice, "w") as archive:
        archive.add(folder, arcname="a")
        archive.add(folder, arcname="b")
    with pytest.raises(UserError, match="holds more than one module"):
        tfhub.read(twice)


# The deep modules
# -------------------------------------------------------------------------------------------------------


DEEP: dict[str, Any] = {"family": "biggan-deep", "dim_z": 8, "rgb_rows": 4, "attention": [64]}


@pytest.mark.parametrize(
    "form", [{"scrambled": False}, {"scrambled": True}, {"scrambled": True, "listed": True, "packed": True}]
)
def test_a_deep_modules_tables_are_read_from_its_graph(tmp_path: Path, form: dict[str, bool]) -> None:
    """Which constant is whose is told by the graph's edges, whatever their names and order."""
    G = network(**{**DEEP, "attention": [32]}, resolution=64)
    folder = module_of(G, tmp_path, average="ema_0.9999")
    (folder / "saved_model.pb").write_bytes(graph_of(G, "ema_0.9999", **form))
    found = tfhub.read(folder)
    assert found.G is not None
    assert found.family == "biggan-deep"
    assert found.unfilled == []
    assert "51 truncations" in found.notes[0]
    for key in ("resolution", "ch", "depth", "dim_z", "shared_dim", "attention", "rgb_rows"):
        assert found.G.kwargs[key] == G.kwargs[key], key
    G = stepped(G)
    torch.testing.assert_close(images_of(found.G, 1), images_of(G, 1), atol=2e-5, rtol=0)
    table = found.G.statistics_table
    assert table is not None
    assert table.size == ROWS
    for name, rows in tables_of(G).items():
        np.testing.assert_array_equal(table.rows[name].numpy(), rows.astype(np.float32))
    table.put(found.G, 0.4)
    buffers = dict(G.named_buffers())
    for name, rows in tables_of(G).items():
        buffers[name].copy_(torch.from_numpy(rows[20]))
    torch.testing.assert_close(images_of(found.G, 1), images_of(G, 1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("resolution", [32, 256, 512])
def test_deep_modules_of_other_sizes_are_recognised(tmp_path: Path, resolution: int) -> None:
    attention = [64] if resolution > 32 else []
    G = network(**{**DEEP, "attention": attention}, resolution=resolution)
    folder = module_of(G, tmp_path, average="ema_0.9999")
    (folder / "saved_model.pb").write_bytes(graph_of(G, "ema_0.9999", scrambled=True))
    found = tfhub.read(folder)
    assert found.G is not None
    assert found.G.kwargs["attention"] == attention
    torch.testing.assert_close(images_of(found.G, 1), images_of(stepped(G), 1), atol=2e-5, rtol=0)


def test_tables_are_found_by_their_published_names_where_edges_do_not_tell(tmp_path: Path) -> None:
    G = network(**{**DEEP, "attention": []}, resolution=32)
    folder = module_of(G, tmp_path, average="ema_0.9999")
    graph = graph_of(G, "ema_0.9999", scrambled=False).replace(b"Conv2D", b"OddOne")
    (folder / "saved_model.pb").write_bytes(graph)
    found = tfhub.read(folder)
    assert found.G is not None
    assert found.G.statistics_table is not None
    np.testing.assert_array_equal(
        found.G.statistics_table.rows["blocks.2.0.bn3.stored_var"].numpy(),
        tables_of(G)["blocks.2.0.bn3.stored_var"].astype(np.float32),
    )


@pytest.mark.parametrize("graph", [None, b"", b"\xff\xff", saved_model([node("a", "Const")])])
def test_without_tables_statistics_are_to_be_estimated_and_it_is_said(
    tmp_path: Path, graph: bytes | None
) -> None:
    G = network(**{**DEEP, "attention": []}, resolution=32)
    folder = module_of(G, tmp_path, average="ema_0.9999")
    if graph is not None:
        (folder / "saved_model.pb").write_bytes(graph)
    found = tfhub.read(folder)
    assert found.G is not None
    assert found.G.statistics_table is None
    assert found.info["statistics"] is None
    assert "estimated anew" in found.notes[0]
    assert found.unfilled[0][1] == "not in the file; estimated"
    assert torch.equal(found.G.blocks[0][0].bn1.stored_var, torch.ones(16))  # type: ignore[index,union-attr]


# What is wrong
# -------------------------------------------------------------------------------------------------------


def test_missing_extra_and_unfit_variables_are_named(tmp_path: Path) -> None:
    variables = hub_variables(network(resolution=32, dim_z=8, attention=[]), "")
    prefix = tmp_path / "variables"

    def reading(**changed: np.ndarray | None) -> Any:
        given = {**variables, **{name.replace("__", "/"): value for name, value in changed.items()}}
        write_bundle(prefix, {name: value for name, value in given.items() if value is not None})
        return tfhub.read(prefix)

    with pytest.raises(
        UserError, match=r"variable Generator/GBlock_1/conv1/b is missing; the checkpoint is not"
    ):
        reading(Generator__GBlock_1__conv1__b=None)
    with pytest.raises(UserError, match=r"does not fit the Generator it seems to be: blocks"):
        reading(Generator__GBlock_2__conv1__w=np.zeros((3, 3, 16, 5), np.float32))
    with pytest.raises(UserError, match=r"conv1\.weight is \(16, 9, 3, 3\), expected \(16, 16, 3, 3\)"):
        reading(Generator__GBlock_2__conv0__w=np.zeros((3, 3, 9, 16), np.float32))
    with pytest.raises(UserError, match=r"linear/w \(7, 5\) does not fit the 18 inputs"):
        reading(linear__w=np.zeros((7, 5), np.float32))
    with pytest.raises(UserError, match=r"blocks\.0\.0\.conv2\.bias holds NaN or infinity"):
        reading(Generator__GBlock__conv1__b=np.full(16, np.nan, np.float32))
    found = reading(encoder__w=np.zeros(3, np.float32), global_step=np.array(123, np.int64))
    assert found.unused[-1] == ("encoder/w", "not recognised")
    assert found.step == 123
    without = reading(Generator__conv_2d__u0=None)
    assert without.unfilled == [("G.output_layer.2.u", "not in the file; converged here")]


def test_what_is_no_module_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "other", {"dense/kernel": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"not the variables of a BigGAN module .*it holds dense/kernel"):
        tfhub.read(tmp_path / "other.index")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no TensorFlow checkpoint; give a module's folder"):
        tfhub.read(tmp_path / "empty")
    with pytest.raises(UserError, match="does not exist"):
        tfhub.read(tmp_path / "nowhere")
    (tmp_path / "text").write_bytes(gzip.compress(b"hello"))
    with pytest.raises(UserError, match="holds no TensorFlow checkpoint"):
        tfhub.read(tmp_path / "text")
    assert not tfhub.is_module(tmp_path / "text")
    assert not tfhub.is_module(tmp_path / "nowhere")
    assert tensor_bundle.find(tmp_path / "text") is None
