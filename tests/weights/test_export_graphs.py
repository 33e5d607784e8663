"""Graphs of G that need no gansmith: ONNX in onnxruntime, and torch.export's files; any batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Generator
from gansmith.weights.export import graphs
from gansmith.weights.export.plain import Drawing

INFO = {"latent": "normal", "classes": [], "statistics": None, "images_seen": 7, "snapshot_sha256": "ab"}


@pytest.fixture(scope="module")
def G() -> Generator:
    G = Generator(resolution=32, num_classes=3, ch=2, dim_z=8, shared_dim=4, attention=(16,), noise=True)
    spectral.converge(G)
    with torch.no_grad():
        G.blocks[1][1].gamma.fill_(0.7)  # type: ignore[index]
        G.blocks[2][1].strength.fill_(0.5)  # type: ignore[index]
    return G.eval().requires_grad_(False)


def test_onnx_draws_the_same_at_any_batch(G: Generator, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert graphs.to_onnx(tmp_path / "g.onnx", G, INFO) < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "g.onnx", providers=["CPUExecutionProvider"])
    for n in (1, 4, 9):
        z, y = torch.randn(n, 8), torch.arange(n) % 3
        drawn = session.run(["images"], {"z": z.numpy(), "y": y.numpy()})[0]
        assert drawn.shape == (n, 3, 32, 32)
        np.testing.assert_allclose(drawn, G(z, y).detach().numpy(), rtol=0, atol=1e-4)
    said = json.loads(session.get_modelmeta().custom_metadata_map["gansmith"])
    assert (said["snapshot_sha256"], said["dim_z"], said["classes"]) == ("ab", 8, ["0", "1", "2"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["g.onnx"]


def test_torch_export_draws_the_same_at_any_batch(G: Generator, tmp_path: Path) -> None:
    assert graphs.to_torch(tmp_path / "g.pt2", G, INFO, conditioning="embedding") < 1e-4
    extra = {"gansmith.json": ""}
    loaded = torch.export.load(tmp_path / "g.pt2", extra_files=extra).module()
    for n in (1, 4, 9):
        z, y = torch.randn(n, 8), torch.arange(n) % 3
        assert G.shared is not None
        torch.testing.assert_close(loaded(z=z, y=G.shared(y)), G(z, y), rtol=0, atol=1e-4)
    assert json.loads(extra["gansmith.json"])["conditioning"] == "embedding"
    assert [entry.name for entry in tmp_path.iterdir()] == ["g.pt2"]


def test_a_graph_that_draws_something_else_is_refused(G: Generator, tmp_path: Path) -> None:
    drawing = Drawing(G)
    with pytest.raises(UserError, match="draws other images"):
        graphs._compare(tmp_path / "g.onnx", drawing, lambda given: drawing(**given) + 1e-3)
    with pytest.raises(UserError, match="draws other images"):
        graphs._compare(tmp_path / "g.onnx", drawing, lambda given: drawing(**given) * float("nan"))
