"""G alone on a perceptual loss, then D alone, then both: what moves when, and nothing is lost between."""

import numpy as np
import pytest
import torch

from gansmith.config import Config
from gansmith.errors import Stopped, UserError
from gansmith.evaluation import features
from gansmith.training import checkpoint, pretraining, stopping
from tests.training.ranks import train
from tests.training.reading import events
from tests.training.test_ranks import save_first_gradients

CPU = torch.device("cpu")
PRETRAINED = {
    "pretrain.generator": 20, "pretrain.discriminator": 16, "pretrain.features": "pixels", "optim.d_steps": 1,
    "train.duration": 56, "log.checkpoint_every": 8, "log.status_every": 8, "log.snapshot_every": 10**6,
    "watch.every": None,
}  # fmt: skip


@pytest.mark.parametrize("spec", ["pixels", "effnet-lite0"])
def test_features_of_floats_are_those_of_bytes_with_a_gradient(spec):
    if spec != "pixels":
        pytest.importorskip("efficientnet_lite_pytorch")
    network = features.find(spec, device="cpu")
    pixels = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    floats = pixels.float().requires_grad_(True)
    found = network.differentiable(floats)
    assert torch.allclose(found, network(pixels).features, rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    assert floats.grad.abs().max() > 0


def test_the_distance_is_relative_to_the_reals_features():
    made, real = (
        torch.tensor([[1.0, 2.0], [3.0, 0.0]], requires_grad=True),
        torch.tensor([[1.0, 1.0], [0, 4]]),
    )
    apart = pretraining.relative_distances(made, real)
    assert torch.allclose(apart, torch.tensor([1 / 2, 25 / 16]))
    apart.sum().backward()
    assert torch.allclose(made.grad, torch.tensor([[0.0, 1.0], [6 / 16, -8 / 16]]))


def test_the_loss_adds_the_mean_difference_of_pixels():
    real = torch.rand(3, 1, 32, 32) * 2 - 1

    class G(torch.nn.Module):
        def forward(self, z, y):
            return real + 0.1

    objective = pretraining.Pretraining(features.find("pixels", device="cpu"), 2.0)
    micro = pretraining.MicroBatch(torch.zeros(3, 2), None, real, None)
    loss, scalars = objective("g", G(), None, micro)
    wanted = torch.nn.functional.adaptive_avg_pool2d((real + 1) / 2, 16).expand(-1, 3, -1, -1).flatten(1)
    apart = 768 * 0.05**2 / wanted.square().sum(1)
    assert scalars["pretrain_pixels"].item() == pytest.approx(0.1, rel=1e-5)
    assert scalars["pretrain_features"].item() == pytest.approx(apart.mean().item(), rel=1e-4)
    assert loss.item() == pytest.approx(apart.mean().item() + 0.2, rel=1e-4)


def test_an_image_keeps_its_latent_and_its_mirror_image_has_another():
    class Located:
        sample, flip = np.array([3, 5, 3, 3]), np.array([False, True, True, False])

    class Feed:
        flip = True

        class order:
            locate = staticmethod(lambda positions: Located)

    z = pretraining.own_latents(Config(), Feed, np.arange(4))
    assert torch.equal(z[0], z[3])
    assert not torch.equal(z[0], z[2])
    assert not torch.equal(z[1], z[2])
    Feed.flip = False
    assert torch.equal(pretraining.own_latents(Config(), Feed, np.arange(4))[2], z[0])


def test_features_that_give_no_gradient_are_refused(monkeypatch, tmp_path):
    (tmp_path / "mine.py").write_text("def features(x):\n    return x.float().mean((2, 3))\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = Config(pretrain={"generator": 100, "features": "mine:features"})
    with pytest.raises(UserError, match="mine:features: takes whole pixel values only"):
        pretraining.ready(config, CPU)


def test_part_of_an_epoch_is_some_of_g_s_pretraining():
    parts = [
        pretraining.ready(Config(pretrain={"generator": amount, "features": "pixels"}), CPU)
        for amount in ("0.4ep", "0k")
    ]
    assert [part is not None for part in parts] == [True, False]


def at(run, images_seen):
    return checkpoint.read_tensors(run / "checkpoints" / checkpoint.name(images_seen))


def moved(run, before, after, letter):
    left, right = at(run, before)["networks"], at(run, after)["networks"]
    names = [key for key in left if key.startswith(letter) and key.endswith("weight")]
    return any(not torch.equal(left[key], right[key]) for key in names)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    from gansmith.training.run import train as train_here
    from tests.training.conftest import TINY

    out = tmp_path_factory.mktemp("pretrained") / "whole"
    return train_here(str(images), None, out, settings=TINY | PRETRAINED)


def test_g_learns_alone_then_d_then_both(whole):
    # 20 images are 3 batches of 8; D's 16 count from there, and the batch that reaches 36 ends with G's step.
    assert [moved(whole, 8, 24, letter) for letter in "GD"] == [True, False]
    assert [moved(whole, 24, 32, letter) for letter in "GD"] == [False, True]
    assert [moved(whole, 32, 56, letter) for letter in "GD"] == [True, True]
    rows = {row["images_seen"]: row for row in events(whole, "status")}
    assert [images for images, row in rows.items() if "loss_pretrain" in row] == [8, 16, 24]
    assert [images for images, row in rows.items() if "loss_d" in row] == [32, 40, 48, 56]
    assert [images for images, row in rows.items() if "loss_g" in row] == [40, 48, 56]
    assert [event["images_seen"] for event in events(whole, "pretrained")] == [24]
    assert [event["images_seen"] for event in events(whole, "released")] == [40]
    assert "G is trained alone until 20 images" in (whole / "log.txt").read_text()


def test_a_run_stopped_in_every_part_goes_on_bit_for_bit(whole, tiny, monkeypatch):
    asked = iter([False, True, False, False, False, True])  # at 8 and 32 images
    monkeypatch.setattr(stopping.StopRequest, "asked", lambda self: next(asked, False))
    for _ in range(2):
        with pytest.raises(Stopped):
            tiny("parts", PRETRAINED)
    parts = tiny("parts", PRETRAINED)
    assert [event["images_seen"] for event in events(parts, "resume")] == [8, 32]
    left, right = at(whole, 56), at(parts, 56)
    for file, tensors in left.items():
        assert [key for key, value in tensors.items() if not torch.equal(value, right[file][key])] == []


def test_ranks_learn_from_the_images_that_one_process_does(images, tmp_path):
    settings = PRETRAINED | {"pretrain.generator": 8, "pretrain.discriminator": 0, "bn.group": 8}
    settings |= {"train.duration": 16, "log.checkpoint_every": 16}
    gradients = []
    for world in (1, 2):
        train(tmp_path, images, world, f"run{world}", settings, f"r{world}", save_first_gradients)
        gradients.append(torch.load(tmp_path / f"r{world}.gradient.Generator", weights_only=True))
    assert gradients[0].norm() > 1e-3
    # Rounding, and the sign of pixel differences near 0.
    assert (gradients[1] - gradients[0]).norm() < 1e-4 * gradients[0].norm()
