"""BigGAN-PyTorch's files: parity with the author's outputs, every tensor used or listed, broken files
refused.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.weights import author_config, biggan_pytorch, layout
from gansmith.weights.biggan_pytorch import read, read_discriminator, read_generator

GOLDEN = ["biggan-32-unshared", "biggan-64", "biggan-128", "biggan-256", "biggan-deep-64", "biggan-deep-128"]
CONFIG = {
    "model": "BigGAN", "resolution": 32, "G_ch": 2, "D_ch": 2, "n_classes": 3, "dim_z": 8, "G_shared": True,
    "shared_dim": 4, "hier": True, "G_attn": "16", "D_attn": "16", "G_depth": 1, "D_depth": 1, "G_init":
    "N02", "D_init": "N02", "SN_eps": 1e-6, "BN_eps": 1e-5, "D_wide": True,
}  # fmt: skip
LOGGED = "the author's log of singular values"


@pytest.mark.parametrize("name", GOLDEN)
def test_published_networks_give_the_authors_images_and_logits(shared_dir: Path, name: str) -> None:
    """Images to 5e-5 absolute, logits to 1e-4 relative: two runs of the original differ by up to 1.5e-5."""
    folder = shared_dir / "golden" / name
    io = load_file(folder / "io.safetensors")
    imported = read(folder)
    assert {reason for _, reason in imported.unused} == {LOGGED}
    assert imported.unfilled == []
    assert imported.D is not None
    with torch.no_grad():
        for G, key in ((imported.G, "G_ema_images"), (imported.G_raw, "G_images")):
            if key not in io or G is None:
                continue
            count = len(io[key])
            torch.testing.assert_close(G(io["z"][:count], io["y"][:count]), io[key], atol=5e-5, rtol=0)
        for images, logits in (("x", "D_logits_on_x"), ("G_ema_images", "D_logits_on_G_ema_images")):
            count = len(io[images])
            got = imported.D(io[images], io["y"][:count])
            torch.testing.assert_close(got, io[logits][:count], atol=0, rtol=1e-4)


@pytest.mark.parametrize("name", GOLDEN)
def test_shapes_alone_say_what_the_configuration_says(shared_dir: Path, name: str, tmp_path: Path) -> None:
    folder = shared_dir / "golden" / name
    for file in ("G_ema.pth", "D.pth"):
        shutil.copy(folder / file, tmp_path)
    told, inferred = read(folder), read(tmp_path)
    for net, twin in ((told.G, inferred.G), (told.D, inferred.D)):
        assert net is not None
        assert twin is not None
        mine, other = net.state_dict(), twin.state_dict()
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine)
        assert net.kwargs["family"] == twin.kwargs["family"]
    assert any("inferred from the tensors: model" in note for note in inferred.notes)
    assert any("assumed, since nothing says: BN_eps 1e-05" in note for note in inferred.notes)


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


def built(config: dict[str, Any]) -> tuple[Generator, Discriminator]:
    G = Generator(**author_config.generator_kwargs(config))
    for name, buffer in G.named_buffers():
        if "stored_" in name:
            buffer.uniform_(0.5, 1.5)
    return G, Discriminator(**author_config.discriminator_kwargs(config))


@pytest.mark.parametrize("model", ["BigGAN", "BigGANdeep"])
def test_one_power_step_from_the_stored_u_is_what_stays(tmp_path: Path, model: str) -> None:
    config = {**CONFIG, "model": model}
    for net, reader in zip(built(config), (read_generator, read_discriminator)):
        saved = author_file(tmp_path / "net.pth", net)
        loaded, unused = reader(tmp_path / "net.pth", config)
        assert dict(unused) == {key: LOGGED for key in saved if key.endswith(".sv0")}
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


def images(G: torch.nn.Module) -> torch.Tensor:
    z = torch.linspace(-1, 1, 2 * G.kwargs["dim_z"]).view(2, -1)
    with torch.no_grad():
        return G(z, torch.tensor([0, 2]))


@pytest.mark.parametrize("model", ["BigGAN", "BigGANdeep"])
@pytest.mark.parametrize(
    "kind", ["mybn", "accumulated mybn", "cross_replica", "module.", "more vectors", "no sv0"]
)
def test_files_in_other_dress_are_the_same_network(tmp_path: Path, model: str, kind: str) -> None:
    config = {**CONFIG, "model": model}
    saved = author_file(tmp_path / "G.pth", built(config)[0])
    plain = images(read_generator(tmp_path / "G.pth", config)[0])
    dressed: dict[str, torch.Tensor] = {}
    for name, value in saved.items():
        layer, _, part = name.rpartition(".")
        if part.startswith("stored_") and kind == "cross_replica":
            dressed[f"{layer}.bn.{part.replace('stored', 'running')}"] = value
            dressed[f"{layer}.bn.num_batches_tracked"] = torch.tensor(7)
        elif part.startswith("stored_") and "mybn" in kind:
            counter = 4.0 if "accumulated" in kind else 0.0  # standing statistics are kept as sums
            dressed[f"{layer}.bn.{part}"] = value * (counter or 1)
            dressed[f"{layer}.bn.accumulation_counter"] = torch.tensor([counter])
        elif kind == "module.":
            dressed[f"module.{name}"] = value
        elif not (part == "sv0" and kind == "no sv0"):
            dressed[name] = value
        if part == "u0" and kind == "more vectors":
            dressed |= {f"{layer}.u1": value.clone(), f"{layer}.sv1": torch.ones(1)}
    torch.save(dressed, tmp_path / "other.pth")
    G, unused = read_generator(tmp_path / "other.pth", config)
    torch.testing.assert_close(images(G), plain, atol=1e-6, rtol=0)
    explained = {name.rpartition(".")[2] for name, _ in unused}
    assert explained == {
        "mybn": {"sv0", "accumulation_counter"}, "accumulated mybn": {"sv0", "accumulation_counter"},
        "cross_replica": {"sv0", "num_batches_tracked"}, "module.": {"sv0"},
        "more vectors": {"sv0", "sv1", "u1"}, "no sv0": set(),
    }[kind]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"G_shared": False, "hier": False},
        {"hier": False},
        {"D_wide": False, "G_attn": "0", "D_attn": "0"},
        # its first block is as wide as a thin one: both have the 3 channels of the image
        {"D_wide": False, "D_ch": 3, "resolution": 64, "dim_z": 10, "G_attn": "0", "D_attn": "0"},
        {"resolution": 64, "D_attn": "32", "G_attn": "32_64", "dim_z": 10},
        {"resolution": 64, "model": "BigGANdeep", "G_depth": 3, "D_depth": 2, "D_attn": "32_16"},
        {"resolution": 512, "G_ch": 1, "D_ch": 1, "G_attn": "64", "D_attn": "64", "dim_z": 8},
        {"G_param": "none", "D_param": "none"},
    ],
)  # fmt: skip
def test_any_settings_are_read_with_and_without_the_configuration(tmp_path: Path, changes: dict) -> None:
    config = CONFIG | changes
    for net, file in zip(built(config), ("G.pth", "D.pth")):
        author_file(tmp_path / file, net)
    (tmp_path / "config.json").write_text(json.dumps(config))
    told = read(tmp_path)
    (tmp_path / "config.json").unlink()
    inferred = read(tmp_path)
    for net, twin in ((told.G, inferred.G), (told.D, inferred.D)):
        assert net is not None
        assert twin is not None
        assert {k: v.shape for k, v in net.state_dict().items()} == {
            k: v.shape for k, v in twin.state_dict().items()
        }
        for key in ("family", "resolution", "num_classes", "ch", "attention", "spectral"):
            assert net.kwargs[key] == twin.kwargs[key], key
    assert told.info["ema"] is False


def test_config_json_says_what_state_dict_does_not(tmp_path: Path) -> None:
    author_file(tmp_path / "G.pth", built(CONFIG)[0])
    torch.save({"itr": 1, "config": {"BN_eps": 1e-3, "resolution": 32}}, tmp_path / "state_dict.pth")
    (tmp_path / "config.json").write_text(json.dumps({"BN_eps": 1e-4, "SN_eps": 1e-3}))
    G = read(tmp_path).G
    assert G is not None
    assert (G.kwargs["bn_eps"], G.kwargs["sn_eps"]) == (1e-3, 1e-3)


def test_lengths_follow_the_authors_rules() -> None:
    """A shared_dim of 0 is dim_z, and z is cut down to whole chunks for skip-z."""
    config = CONFIG | {"shared_dim": 0, "dim_z": 11}
    kwargs = author_config.generator_kwargs(config)
    assert (kwargs["shared_dim"], kwargs["dim_z"]) == (11, 8)
    assert author_config.generator_kwargs(config | {"model": "BigGANdeep"})["dim_z"] == 11


def test_attention_of_the_32_px_discriminator_stands_after_every_block_as_published() -> None:
    D = built(CONFIG)[1]
    assert [f"blocks.{i}.1.gamma" in D.state_dict() for i in range(4)] == [True] * 4
    assert "blocks.0.1.gamma" not in built({**CONFIG, "D_attn": "0"})[1].state_dict()


def test_one_of_several_saved_states_has_to_be_chosen(tmp_path: Path) -> None:
    first, second = built(CONFIG)[0], built(CONFIG)[0]
    author_file(tmp_path / "G.pth", first)
    author_file(tmp_path / "G_best0.pth", second)
    torch.save({"itr": 9, "config": CONFIG}, tmp_path / "state_dict_best0.pth")
    with pytest.raises(
        UserError, match="several saved states: latest, best0; choose one, as with --which latest"
    ):
        read(tmp_path)
    with pytest.raises(UserError, match=r"--which best1: .* has latest, best0"):
        read(tmp_path, which="best1")
    chosen = read(tmp_path, which="best0")
    assert chosen.step == 9
    assert chosen.G is not None
    assert torch.equal(chosen.G.linear.weight, second.linear.weight)
    alone = read(tmp_path / "G_best0.pth")
    assert alone.G is not None
    assert torch.equal(alone.G.linear.weight, second.linear.weight)


def test_two_models_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    author_file(tmp_path / "G.pth", built(CONFIG)[0])
    author_file(tmp_path / "D.pth", built(CONFIG | {"model": "BigGANdeep"})[1])
    with pytest.raises(UserError, match="two models: the family of its G is biggan, of its D biggan-deep"):
        read(tmp_path)
    author_file(tmp_path / "D.pth", built(CONFIG | {"n_classes": 5})[1])
    with pytest.raises(UserError, match="the number of classes of its G is 3, of its D 5"):
        read(tmp_path)


def test_progress_is_counted_in_images(tmp_path: Path) -> None:
    author_file(tmp_path / "G.pth", built(CONFIG)[0])
    config = CONFIG | {
        "batch_size": 8, "num_D_steps": 2, "num_D_accumulations": 3, "G_batch_size": 16, "ema": True,
        "ema_decay": 0.999, "ema_start": 100, "G_nl": "inplace_relu", "G_B1": 0.0, "G_B2": 0.9,
    }  # fmt: skip
    config["G_activation"] = torch.nn.ReLU(inplace=True)
    record = {"itr": 10, "epoch": 1, "best_IS": 5.5, "best_FID": torch.tensor(20.5), "config": config}
    torch.save(record, tmp_path / "state_dict.pth")
    imported = read(tmp_path)
    assert imported.images_seen == 10 * 8 * 2 * 3
    assert imported.recipe["train.batch"] == 24
    assert imported.recipe["train.batch_g"] == 16
    assert imported.recipe["ema.start"] == 100 * 48
    # 0.999 a step of 48 images: half after 692.8 steps
    assert imported.recipe["ema.half_life"] == pytest.approx(692.8 * 48, rel=1e-3)
    assert imported.info["imported"]["best_FID"] == 20.5


def nan_file(path: Path, G: Generator) -> None:
    with torch.no_grad():
        G.blocks[1][0].conv2.weight[0, 0, 0, 0] = float("nan")  # type: ignore[index, union-attr]
    author_file(path, G)


def test_files_that_do_not_fit_are_refused_with_the_first_differences(tmp_path: Path) -> None:
    G = built(CONFIG)[0]
    file = tmp_path / "G.pth"
    saved = author_file(file, G)
    with pytest.raises(
        UserError, match=r"G\.pth: does not fit .* linear\.weight is \(128, 2\), expected \(256, 2\)"
    ):
        read_generator(file, {**CONFIG, "G_ch": 4})
    with pytest.raises(UserError, match=r"blocks\.0\.0\.bn1\.gain\.weight is"):
        read_generator(file, {**CONFIG, "shared_dim": 6})
    with pytest.raises(UserError, match=r"model 'BigVAE' is unknown; BigGAN-PyTorch has BigGAN, BigGANdeep"):
        read_generator(file, {**CONFIG, "model": "BigVAE"})
    with pytest.raises(UserError, match="norm_style 'in' has no counterpart"):
        read_generator(file, {**CONFIG, "norm_style": "in"})
    with pytest.raises(UserError, match=r"the configuration of G is not readable: .*'many'"):
        read_generator(file, {**CONFIG, "dim_z": "many"})
    assert images(read_generator(file, {**CONFIG, "dim_z": "8", "BN_eps": "1e-5"})[0]).isfinite().all()
    with pytest.raises(UserError, match="the configuration lacks G_ch"):
        read_generator(file, {key: value for key, value in CONFIG.items() if key != "G_ch"})
    author_file(file, G, **{"encoder.weight": torch.zeros(2)})
    with pytest.raises(UserError, match=r"encoder\.weight has no place in it"):
        read(file, config=CONFIG)
    torch.save({key: value for key, value in saved.items() if key != "output_layer.2.bias"}, file)
    with pytest.raises(UserError, match=r"output_layer\.2\.bias is missing"):
        read(file, config=CONFIG)
    torch.save({3: torch.ones(1)}, file)
    with pytest.raises(UserError, match="its tensors are not those of a BigGAN"):
        read(file)
    torch.save(saved | {"output_layer.0.stored_var": -saved["output_layer.0.stored_var"]}, file)
    with pytest.raises(UserError, match=r"output_layer\.0\.stored_var below 0, which no variance is"):
        read(file, config=CONFIG)
    nan_file(file, built(CONFIG)[0])
    with pytest.raises(UserError, match=r"blocks\.1\.0\.conv2\.weight holds NaN or infinity"):
        read(file, config=CONFIG)


def test_optimizers_that_are_not_this_networks_are_refused(tmp_path: Path) -> None:
    G, D = built(CONFIG)
    author_file(tmp_path / "G.pth", G)
    torch.save(torch.optim.Adam(D.parameters()).state_dict(), tmp_path / "G_optim.pth")
    with pytest.raises(UserError, match=r"G_optim\.pth holds \d+ parameters, G has \d+; not its optimizer"):
        read(tmp_path)
    state = torch.optim.Adam(G.parameters()).state_dict()
    state["state"] = {0: {"step": 1, "exp_avg": 0.5, "exp_avg_sq": 0.5}}
    torch.save(state, tmp_path / "G_optim.pth")
    with pytest.raises(UserError, match=r"moments of shared\.weight are \{\(\)\}, expected \(3, 4\)"):
        read(tmp_path)
    torch.save({"weights": 3}, tmp_path / "G_optim.pth")
    with pytest.raises(UserError, match=r"is no state of torch\.optim\.Adam"):
        read(tmp_path)


def test_moments_go_to_the_parameters_by_their_order(shared_dir: Path) -> None:
    folder = shared_dir / "golden" / "biggan-deep-64"
    imported = read(folder)
    for letter, net in (("G", imported.G_raw), ("D", imported.D)):
        saved = torch.load(folder / f"{letter}_optim.pth", weights_only=True)["state"]
        assert net is not None
        names = [name for name, _ in net.named_parameters()]
        moments = imported.optimizers[letter].moments
        assert list(moments) == names
        for position, name in enumerate(names):
            for key in ("step", "exp_avg", "exp_avg_sq"):
                assert torch.equal(moments[name][key], saved[position][key])
    assert (imported.step, imported.recipe["optim.d_steps"]) == (3, 1)


def test_layout_knows_own_channel_tables() -> None:
    G = Generator(
        resolution=64, num_classes=2, ch=2, dim_z=10, shared_dim=4, attention=[], table=[8, 8, 4, 4, 2]
    )
    found = layout.generator(G.state_dict())
    assert [m * found["ch"] for m in found["table"]] == [16, 16, 8, 8, 4]
    assert found["resolution"] == 64
    assert biggan_pytorch.LATEST == "latest"
