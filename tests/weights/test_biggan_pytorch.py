"""BigGAN-PyTorch's files: parity with the author's outputs, every tensor used or listed, broken files
refused.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.weights.biggan_pytorch import (
    discriminator_kwargs,
    generator_kwargs,
    read_discriminator,
    read_generator,
)

GOLDEN = ["biggan-32-unshared", "biggan-64", "biggan-128", "biggan-256", "biggan-deep-64", "biggan-deep-128"]
CONFIG = {
    "model": "BigGAN", "resolution": 32, "G_ch": 2, "D_ch": 2, "n_classes": 3, "dim_z": 8, "G_shared": True,
    "shared_dim": 4, "hier": True, "G_attn": "16", "D_attn": "16", "G_depth": 1, "D_depth": 1, "G_init":
    "N02", "D_init": "N02", "SN_eps": 1e-6, "BN_eps": 1e-5, "D_wide": True,
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_published_networks_give_the_authors_images_and_logits(shared_dir: Path, name: str) -> None:
    """Images to 5e-5 absolute, logits to 1e-4 relative: two runs of the original differ by up to 1.5e-5."""
    folder = shared_dir / "golden" / name
    config = json.loads((folder / "config.json").read_text())
    io = load_file(folder / "io.safetensors")
    D, unused = read_discriminator(folder / "D.pth", config)
    assert all(key.endswith(".sv0") for key in unused)
    with torch.no_grad():
        for file, key in (("G_ema.pth", "G_ema_images"), ("G.pth", "G_images")):
            if key not in io:
                continue
            G, unused = read_generator(folder / file, config)
            assert all(key.endswith(".sv0") for key in unused)
            count = len(io[key])
            images = G(io["z"][:count], io["y"][:count])
            torch.testing.assert_close(images, io[key], atol=5e-5, rtol=0)
        for images, logits in (("x", "D_logits_on_x"), ("G_ema_images", "D_logits_on_G_ema_images")):
            count = len(io[images])
            got = D(io[images], io["y"][:count])
            torch.testing.assert_close(got, io[logits][:count], atol=0, rtol=1e-4)


def author_file(path: Path, net: torch.nn.Module, **changes: object) -> dict[str, torch.Tensor]:
    """Writes the net's weights as the author would: u as (1, out) in u0, σ in sv0, no v."""
    normalized = {name for name, _ in spectral.spectral_layers(net)}
    saved: dict[str, torch.Tensor] = {}
    for key, tensor in net.state_dict().items():
        layer, _, part = key.rpartition(".")
        if layer in normalized and part in ("u", "v"):
            if part == "u":
                saved |= {f"{layer}.u0": tensor[None] * 3, f"{layer}.sv0": torch.ones(1)}
        else:
            saved[key] = tensor
    saved |= changes  # type: ignore[arg-type]
    torch.save(saved, path)
    return saved


def built(config: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    from gansmith.models.biggan import Discriminator, Generator

    return Generator(**generator_kwargs(config)), Discriminator(**discriminator_kwargs(config))


@pytest.mark.parametrize("model", ["BigGAN", "BigGANdeep"])
def test_one_power_step_from_the_stored_u_is_what_stays(tmp_path: Path, model: str) -> None:
    config = {**CONFIG, "model": model}
    for net, read in zip(built(config), (read_generator, read_discriminator)):
        saved = author_file(tmp_path / "net.pth", net)
        loaded, unused = read(tmp_path / "net.pth", config)
        assert set(unused) == {key for key in saved if key.endswith(".sv0")}
        assert not loaded.training
        for name, layer in spectral.spectral_layers(loaded):
            W, u = saved[f"{name}.weight"].flatten(1), saved[f"{name}.u0"]
            v = torch.nn.functional.normalize(u @ W, eps=1e-6)
            u = torch.nn.functional.normalize(v @ W.T, eps=1e-6)
            sigma = (v @ W.T @ u.T).squeeze()
            torch.testing.assert_close(layer.weight_hat.flatten(1), W / sigma, atol=1e-6, rtol=1e-5)
        # from here on nothing iterates: our own file gives the same Ŵ
        twin = type(loaded)(**loaded.kwargs)
        twin.load_state_dict(loaded.state_dict())
        spectral.refresh(twin, iterations=0)
        for (_, a), (_, b) in zip(spectral.spectral_layers(loaded), spectral.spectral_layers(twin)):
            assert torch.equal(a.weight_hat, b.weight_hat)


def test_attention_of_the_32_px_discriminator_stands_after_every_block_as_published() -> None:
    D = built(CONFIG)[1]
    assert [f"blocks.{i}.1.gamma" in D.state_dict() for i in range(4)] == [True] * 4
    assert "blocks.0.1.gamma" not in built({**CONFIG, "D_attn": "0"})[1].state_dict()


def test_tensors_without_a_place_are_listed(tmp_path: Path) -> None:
    author_file(tmp_path / "G.pth", built(CONFIG)[0], **{"encoder.weight": torch.zeros(2)})
    assert "encoder.weight" in read_generator(tmp_path / "G.pth", CONFIG)[1]


def test_files_that_do_not_fit_their_config_are_refused_with_the_first_differences(tmp_path: Path) -> None:
    G = built(CONFIG)[0]
    author_file(tmp_path / "G.pth", G)
    with pytest.raises(
        UserError, match=r"G\.pth: does not fit .* linear\.weight is \(128, 2\), expected \(256, 2\)"
    ):
        read_generator(tmp_path / "G.pth", {**CONFIG, "G_ch": 4})
    with pytest.raises(UserError, match=r"blocks\.0\.0\.bn1\.gain\.weight is"):
        read_generator(tmp_path / "G.pth", {**CONFIG, "shared_dim": 6})
    with pytest.raises(UserError, match=r"model 'BigVAE' is unknown; BigGAN-PyTorch has BigGAN, BigGANdeep"):
        read_generator(tmp_path / "G.pth", {**CONFIG, "model": "BigVAE"})
