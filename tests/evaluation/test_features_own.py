"""Networks of the user's own: classifiers, TorchScript files, Python functions."""

import os
from pathlib import Path

import pytest
import torch

from gansmith.errors import UserError
from gansmith.evaluation.features import find

FUNCTION = """
import torch
scale = {scale}
def embed(images):
    assert images.dtype == torch.uint8 and images.shape[1] == 3
    return images.float().mean((2, 3)) * scale
def both(images):
    return embed(images), images.float().amax((2, 3))
def wrong(images):
    return images.float().mean()
def broken(images):
    raise ValueError("cannot embed this")
text = "no function"
"""


class Means(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=[2, 3])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, under a name no other test has imported."""
    name = f"features_of_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FUNCTION.format(scale=1))
    monkeypatch.chdir(tmp_path)
    return name


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_a_function_of_the_users(module: str) -> None:
    network, images = find(f"{module}:embed", device="cpu"), noise(3, 1, 9, 5)
    assert (network.frechet_name, network.dim, network.num_logits) == ("FD-embed", 3, None)
    assert torch.allclose(network(images).features, images.float().mean((2, 3)).expand(-1, 3))
    assert len(network.describe()["weights_sha256"]) == 64
    with_logits = find(f"{module}:both", device="cpu")
    assert torch.equal(with_logits(images).logits, images.float().amax((2, 3)).expand(-1, 3))


def test_a_function_that_answers_otherwise_is_another_network_to_the_cache(module: str) -> None:
    import importlib

    first = find(f"{module}:embed", device="cpu")
    importlib.import_module(module).scale = 2  # as if its weights had changed; the source has not
    second = find(f"{module}:embed", device="cpu")
    assert first.describe() == second.describe()
    assert first.cache_identity() != second.cache_identity()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong", r"features must be a tensor \(2, size\) for 2 images, not \(\)"),
        ("broken", "failed on uint8 images .*ValueError: cannot embed this"),
        ("text", "has no function 'text'"),
        ("missing", "has no function 'missing'"),
    ],
)
def test_functions_that_cannot_be_used(module: str, function: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(f"{module}:{function}", device="cpu")


@pytest.mark.parametrize("spec", ["no_such_module:embed", ":embed"])
def test_modules_that_are_not_there(spec: str) -> None:
    with pytest.raises(UserError, match="MODULE:FUNCTION"):
        find(spec)


def test_a_torchscript_file(tmp_path: Path) -> None:
    file, images = tmp_path / "means.pt", noise(40, 3, 6, 7)
    torch.jit.script(Means()).save(file)
    network = find(str(file), device="cpu")
    assert (network.name, network.frechet_name, network.dim) == ("means.pt", "FD-means", 3)
    assert torch.allclose(network(images).features, images.float().mean((2, 3)))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    os.rename(file, moved / "means.pt")
    assert find(str(moved / "means.pt"), device="cpu").describe() == network.describe()


def test_files_that_are_no_torchscript(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="is no TorchScript file"):
        find(str(file), device="cpu")
    with pytest.raises(UserError, match="no such file"):
        find(str(tmp_path / "missing.pt"))


def test_bf16_is_not_imposed_on_foreign_code(module: str) -> None:
    with pytest.raises(UserError, match="--precision bf16"):
        find(f"{module}:embed", precision="bf16", device="cpu")
