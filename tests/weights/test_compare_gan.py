"""compare_gan's and Tensorfork's checkpoints against a plain rendering of their published formulas.

There is no published checkpoint here: variables are drawn, and what the sources say is computed from them
directly, beside the reader and our networks.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from compare_gan_formulas import CHUNK, Drawn, Plain, drawn
from tensorflow_files import write_bundle

from gansmith.errors import UserError
from gansmith.weights import compare_gan


def written(v: Drawn, folder: Path, step: int = 77) -> Path:
    write_bundle(folder / f"model.ckpt-{step}", {n: a for n, a in v.items() if n != "z_dim"}, shards=2)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "gs://runs/model.ckpt-{step}"\n')
    return folder


SIZES = [(False, 32, 4, None), (False, 64, 4, 32), (False, 128, 4, 64), (True, 64, 4, 32), (True, 128, 4, 64)]


@pytest.mark.parametrize(("deep", "resolution", "ch", "attention"), SIZES)
def test_images_and_logits_are_those_of_the_published_formulas(
    tmp_path: Path, deep: bool, resolution: int, ch: int, attention: int | None
) -> None:
    """Images to 5e-5 absolute, logits to 1e-4 of their size: both compute in float32, in another order."""
    v = drawn(deep, resolution, ch, attention, side="auto")
    found = compare_gan.read(written(v, tmp_path))
    assert found.G is not None
    assert found.G_raw is not None
    assert found.D is not None
    assert found.family == ("biggan-deep" if deep else "biggan")
    assert found.step == 77
    z, y = torch.randn(2, int(v["z_dim"])), torch.tensor([1, 4])
    x = torch.rand(2, 3, resolution, resolution)
    with torch.no_grad():
        for G, averaged in ((found.G, True), (found.G_raw, False)):
            expected = Plain(v, averaged).generator(z, y, deep, attention)
            assert expected.std() > 0.05
            torch.testing.assert_close((G(z, y) + 1) / 2, expected, atol=5e-5, rtol=0)
        logits = Plain(v).discriminator(x, y, deep, attention)
        torch.testing.assert_close(
            found.D(x * 2 - 1, y), logits, atol=1e-4 * float(logits.abs().max()), rtol=1e-4
        )
    assert found.unfilled == []
    reasons = dict(found.unused)
    assert "not recognised" not in reasons.values()
    assert reasons["discriminator/final_fc/kernel/d_"].startswith("Adam's state")


@pytest.mark.parametrize("side", ["left", "right"])
def test_either_singular_vector_may_be_stored(tmp_path: Path, side: str) -> None:
    v = drawn(False, 32, 2, None, side=side)
    found = compare_gan.read(written(v, tmp_path))
    z, y = torch.randn(2, int(v["z_dim"])), torch.tensor([0, 3])
    with torch.no_grad():
        images = found.G(z, y)  # type: ignore[misc]
        torch.testing.assert_close((images + 1) / 2, Plain(v).generator(z, y, False, None), atol=5e-5, rtol=0)
        x = torch.rand(2, 3, 32, 32)
        logits = Plain(v).discriminator(x, y, False, None)
        torch.testing.assert_close(found.D(x * 2 - 1, y), logits, rtol=1e-4, atol=1e-3)  # type: ignore[misc]


def test_512_px_is_recognised(tmp_path: Path) -> None:
    found = compare_gan.read(written(drawn(False, 512, 1, None), tmp_path))
    assert found.G is not None
    assert found.D is not None
    assert found.G.kwargs["resolution"] == found.D.kwargs["resolution"] == 512
    assert found.G.kwargs["dim_z"] == CHUNK * 8


def test_the_configuration_beside_a_checkpoint_is_followed(tmp_path: Path) -> None:
    v = drawn(False, 64, 4, 32)
    folder = written(v, tmp_path)
    (folder / "operative_config-77.gin").write_text(
        "# Parameters for standardize_batch:\nstandardize_batch.epsilon = 1e-05\n"
        "conditional_batch_norm.scale_start = 1.0\nG.spectral_norm = True\nD.spectral_norm = True\n"
        "resnet_biggan.Generator.blocks_with_attention = '32'\noptions.plain_tanh = True  # [-1, 1]\n"
        "resnet_biggan.Discriminator.blocks_with_attention = 'B1'\n"
    )
    found = compare_gan.read(folder)
    assert found.G is not None
    assert found.D is not None
    assert found.G.kwargs["attention"] == [32]
    assert (found.G.kwargs["bn_eps"], found.G.kwargs["gain_offset"]) == (1e-5, 1)
    assert found.D.kwargs["unit_range"] is False
    assert len(found.notes) == 1
    z, y, x = torch.randn(1, int(v["z_dim"])), torch.tensor([2]), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = Plain(v, gain=1).generator(z, y, False, 32)
        torch.testing.assert_close((found.G(z, y) + 1) / 2, expected, atol=5e-5, rtol=0)
        logits = Plain(v).discriminator(x, y, False, 32)
        torch.testing.assert_close(found.D(x, y), logits, rtol=1e-4, atol=1e-2)


def test_what_a_checkpoint_does_not_hold_is_listed_and_made_anew(tmp_path: Path) -> None:
    """Tensorfork saves no singular vectors; training leaves the pooled statistics empty."""
    found = compare_gan.read(written(drawn(False, 32, 2, None, save_u=False, count=1e-12), tmp_path))
    assert found.info["statistics"] is None
    listed = dict(found.unfilled)
    assert listed["G: stored_mean, stored_var of every BatchNorm"] == "not in the file; estimated"
    assert listed["D.embed.u"] == "not in the file; converged here"
    layer = found.G.blocks[0][0].conv1  # type: ignore[union-attr,index]
    exact = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
    torch.testing.assert_close(layer.sigma, exact, rtol=1e-4, atol=0)


def test_raw_weights_come_first_when_asked_for(tmp_path: Path) -> None:
    v = drawn(False, 32, 2, None)
    found = compare_gan.read(written(v, tmp_path), averaged=False)
    assert found.G_raw is None
    np.testing.assert_array_equal(found.G.shared.weight.numpy(), v["generator/embed_y/kernel"])  # type: ignore[union-attr]


def test_a_d_that_is_not_built_here_is_left_out_with_its_reason(tmp_path: Path) -> None:
    v = drawn(False, 32, 2, None)
    v.draw("discriminator/B2/same_conv1/kernel", 3, 3, 5, 4)
    found = compare_gan.read(written(v, tmp_path))
    assert found.D is None
    assert any(note.startswith("D is left out: ") and "does not fit" in note for note in found.notes)
    assert dict(found.unused)["discriminator/final_fc/kernel"] == "D is left out; see the notes"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("generator/embed_z/kernel", "an embedding of z"),
        ("generator/B1/bn1/sbn/hidden/kernel", "self-modulated BatchNorm"),
        ("discriminator/B1/ln1/gamma", "layer normalisation"),
        ("generator/B1/bn1/condition/gamma/bias", "a bias in the conditional gain"),
    ],
)
def test_layers_that_are_not_built_here_are_refused_by_name(tmp_path: Path, name: str, what: str) -> None:
    v = drawn(False, 32, 2, None)
    v.draw(name, 3)
    with pytest.raises(UserError, match=rf"its network has {what} \({name}\), which is not built here"):
        compare_gan.read(written(v, tmp_path))


def test_foreign_and_broken_checkpoints_are_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a" / "m", {"dense/kernel": np.zeros(3, np.float32)})
    assert not compare_gan.is_checkpoint(tmp_path / "a")
    with pytest.raises(UserError, match="these are not the variables of compare_gan"):
        compare_gan.read(tmp_path / "a")
    with pytest.raises(UserError, match="holds no TensorFlow checkpoint"):
        compare_gan.read(tmp_path)
    v = drawn(False, 32, 2, None)
    del v["generator/B2/bn1/condition/beta/kernel"]
    del v["generator/B2/bn1/condition/beta/kernel/ExponentialMovingAverage"]
    folder = written(v, tmp_path / "b")
    assert compare_gan.is_checkpoint(folder)
    with pytest.raises(UserError, match="variable generator/B2/bn1/condition/beta/kernel is missing"):
        compare_gan.read(folder)
    (folder / "operative_config-1.gin").write_text("standardize_batch.epsilon = @eps\n")
    with pytest.raises(UserError, match=r"standardize_batch\.epsilon is '@eps', not a number"):
        compare_gan.read(folder)
