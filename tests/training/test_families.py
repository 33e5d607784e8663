"""Runs of the GANs before BigGAN: trained, resumed, drawn from, judged, started from, like any other."""

from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gansmith import config as configuration
from gansmith.cli.export import export
from gansmith.cli.info import info
from gansmith.config import contradictions
from gansmith.errors import UserError
from gansmith.evaluation import critic
from gansmith.models import families, normalization
from gansmith.planning import work
from gansmith.sampling import sampler
from gansmith.training import batching, checkpoint, state
from gansmith.training.objectives import MicroBatch, hinge
from gansmith.training.promoting import promote
from gansmith.training.run import train
from tests.training.conftest import TINY
from tests.training.reading import newest

SETTINGS: dict[str, dict[str, Any]] = {
    "dcgan": {"model.family": "dcgan", "model.attention_g": [], "model.attention_d": []},
    "sngan": {
        "model.family": "sngan",
        "model.attention_g": [],
        "model.attention_d": [],
        "model.shared_dim": 0,
    },
    "sagan": {"model.family": "sagan", "model.shared_dim": 0},
    "wgan-gp": {"model.family": "wgan-gp", "model.attention_g": [], "model.attention_d": []},
}
SHORT = {"train.duration": 32, "log.snapshot_every": 32, "log.checkpoint_every": 16}


@pytest.fixture(scope="module")
def dcgan(images, tmp_path_factory):
    settings = TINY | SETTINGS["dcgan"] | SHORT | {"train.duration": 16, "log.snapshot_every": 16}
    return train(str(images), None, tmp_path_factory.mktemp("dcgan") / "run", settings=settings)


# SNGAN and SAGAN are BigGAN's classes.
@pytest.mark.parametrize("family", ["dcgan", "wgan-gp"])
def test_a_run_of_every_family_resumes_is_drawn_from_and_judged(family, tiny):
    settings = SETTINGS[family] | SHORT
    whole = tiny("whole", settings)
    tiny("parts", settings | {"train.duration": 16})
    parts = tiny("parts", settings)
    for stem in ("networks", "optimizers"):
        a, b = (checkpoint.read_tensors(newest(run))[stem] for run in (whole, parts))
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []
    drawn = sampler.load(whole).sample(2)
    assert drawn.shape == (6, 32, 32, 1)
    assert not np.array_equal(drawn[0], drawn[2])
    D = critic.open_discriminator(newest(whole) / "G_ema.safetensors")
    assert type(D) is families.DISCRIMINATORS[family]
    assert D(torch.zeros(4, 1, 32, 32), torch.zeros(4, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize("family", ["dcgan", "wgan-gp"])
@pytest.mark.parametrize("phase", ["d", "g"])
def test_micro_batches_do_not_change_the_gradient(family, phase):
    kwargs = {"family": family, "resolution": 32, "num_classes": 3, "ch": 2, "channels": 1}
    G = families.make_generator(dim_z=4, **kwargs).double()
    D = families.make_discriminator(**kwargs).double()
    for net in (G, D):
        normalization.set_batch_norm_group(net, 4)
    z, x = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 1, 32, 32, dtype=torch.float64)
    y = torch.arange(8) % 3
    found = []
    for micro in (8, 4):
        parts = zip(*(tensor.split(micro) for tensor in (z, y, x, y)))
        losses = [hinge(phase, G, D, MicroBatch(*part))[0] for part in parts]
        parameters = list((D if phase == "d" else G).parameters())
        found.append(torch.autograd.grad(torch.stack(losses).mean(), parameters))
    for whole, cut in zip(*found):
        torch.testing.assert_close(whole, cut)


def test_a_dcgan_is_the_beginning_of_another(dcgan, tune, tmp_path):
    tuned = tune("tuned", init=dcgan)
    kwargs = sampler.load(tuned).G.kwargs
    assert (kwargs["family"], kwargs["num_classes"]) == ("dcgan", 4)
    with pytest.raises(UserError, match="only biggan and biggan-deep networks can be promoted"):
        promote(dcgan, tmp_path / "larger", resolution=64)


def test_files_of_an_older_family_are_described_and_exported(dcgan, tmp_path):
    said = CliRunner().invoke(info, [str(dcgan)])
    assert "family=dcgan" in said.output
    done = CliRunner().invoke(export, [str(dcgan), str(tmp_path / "hub")])
    assert done.exit_code == 0, done.output
    assert "Generator of a DCGAN for images of 3 classes" in (tmp_path / "hub" / "README.md").read_text()
    refused = CliRunner().invoke(export, [str(dcgan), str(tmp_path / "b"), "--format", "biggan-pytorch"])
    assert isinstance(refused.exception, UserError)
    assert "that program has no dcgan" in str(refused.exception)


def test_settings_that_a_family_has_not_are_left_out_or_refused():
    config, _ = configuration.load(overrides={"model.family": "dcgan", "model.resolution": 64})
    assert "attention" not in state.generator_kwargs(config, 3)  # the default of BigGANs
    for settings, message in [
        ({"model.family": "dcgan", "model.resolution": 256}, "dcgan is built for 32, 64, 128 px"),
        ({"model.family": "sngan", "model.attention_g": [32]}, "family sagan is sngan with it"),
        (
            {"model.family": "wgan-gp", "model.resolution": 32, "model.table_g": [1, 1, 1, 1]},
            "one table only",
        ),
        ({"model.family": "sagan", "model.fade": "append"}, "only BigGANs are promoted, not sagan"),
    ]:
        with pytest.raises(UserError, match=message):
            configuration.load(overrides=settings)
    assert set(contradictions.OLDER) == families.GENERATORS.keys() - {"biggan", "biggan-deep"}


def test_groups_of_a_dcgan_stay_on_one_process():
    settings = {"model.family": "dcgan", "model.resolution": 64, "train.batch": 64, "bn.group": 64}
    config, _ = configuration.load(overrides=settings)
    assert batching.resolve(config, 64, 1).micro_batch == 64
    with pytest.raises(UserError, match=r"BatchNorm in D, .* shared by processes; .* bn.group=16"):
        batching.resolve(config, 64, 4)


@pytest.mark.parametrize("family", SETTINGS)
def test_every_family_can_be_planned(family):
    overrides = SETTINGS[family] | {"model.resolution": 32, "model.attention_g": [], "model.attention_d": []}
    config, _ = configuration.load(overrides=overrides)
    counted = work.count(config, 10, batching.resolve(config, 64, 1))
    assert counted.forward_d > counted.parameters_d
