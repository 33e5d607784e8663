"""Every recipe that ships: it validates, its networks are the published ones, its batch fits any machine."""

import importlib.resources
import math

import pytest
import torch

from gansmith import config as configuration
from gansmith.config import Config, images
from gansmith.errors import UserError
from gansmith.models.families import BATCH_NORM_IN_D
from gansmith.training import batching, ema, state

PRESETS = configuration.preset_names()
PUBLISHED_IMAGES = {  # real images in all: steps × D phases × batch
    "biggan-128": 165_000 * 2 * 2048,
    "biggan-128-ajbrock": 150_000 * 2048,
    "biggan-64": 100_000 * 1024,
    "cifar10": 100_000 * 5 * 64,
    "sagan-128": 100 * 1_281_167,
    "sngan-128": 100 * 1_281_167,
    "sngan-32": 50_000 * 5 * 64,
    "sngan-64": 100_000 * 5 * 64,
    "tensorfork-256": 607_250 * 2 * 2048,
    "wgan-gp": 100_000 * 5 * 64,
}
OWN = ("mnist", *(preset for preset in PRESETS if preset.startswith("digits")))
# What is drawn there is G itself.
WITHOUT_AVERAGE = ("dcgan", "lsgan", "sngan-128", "sngan-32", "sngan-64", "wgan", "wgan-gp")
# at 1,000 classes; reference: the counts published with BigGAN, BigGAN-PyTorch and compare_gan
PARAMETERS = {
    "biggan-128": (70_433_988, 87_982_370),
    "biggan-128-ajbrock": (70_433_988, 87_982_370),
    "biggan-256": (82_097_604, None),
    "biggan-512": (82_296_804, None),
    "tensorfork-256": (82_097_604, None),
    "biggan-deep-128": (50_244_484, 34_590_210),
    "biggan-deep-256": (55_736_708, 38_247_426),
}


def load(preset: str) -> Config:
    return configuration.load(preset)[0]


def test_the_recipes_are_all_there() -> None:
    assert set(PRESETS) == {
        "digits", "mnist", "cifar10", "biggan-64", "biggan-128", "biggan-128-ajbrock", "biggan-256",
        "biggan-512", "biggan-deep-128", "biggan-deep-256", "biggan-deep-512", "tensorfork-256",
        "dcgan", "lsgan", "wgan", "wgan-gp", "sngan-32", "sngan-64", "sngan-128", "sagan-128",
        "digits-dcgan", "digits-lsgan", "digits-wgan-gp", "digits-sngan", "digits-sagan",
    }  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_validates_and_its_networks_build(preset: str) -> None:
    """On the meta device: shapes only, whatever the size."""
    config = load(preset)
    model = config.model
    with torch.device("meta"):
        G, D = state.networks(config, 1000)
    assert G.kwargs["resolution"] == D.kwargs["resolution"] == model.resolution  # type: ignore[index]
    counts = tuple(sum(p.numel() for p in net.parameters()) for net in (G, D))
    for count, published in zip(counts, PARAMETERS.get(preset, (None, None))):
        assert published in (None, count)


@pytest.mark.parametrize("world", [1, 2, 8])
@pytest.mark.parametrize("preset", PRESETS)
def test_preset_runs_on_one_device_and_on_several(preset: str, world: int) -> None:
    """The batch divides into BatchNorm groups and micro-batches, and one micro-batch fits a small device."""
    config = load(preset)
    group = batching.bn_group(config)
    if config.model.family in BATCH_NORM_IN_D and config.train.batch < world * group:
        with pytest.raises(UserError, match=r"bn.group .* cannot be shared by processes"):
            batching.resolve(config, group, world)
        return
    sizes = batching.resolve(config, group, world)
    for batch, micro in ((sizes.batch, sizes.micro_batch), (sizes.batch_g, sizes.micro_batch_g)):
        assert batch % group == 0
        assert batch % (micro * world) == 0
        assert micro <= 64
    assert group <= 64


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_names_where_its_numbers_come_from(preset: str) -> None:
    text = (importlib.resources.files("gansmith") / "presets" / f"{preset}.yaml").read_text()
    notes = [line for line in text.splitlines() if line.startswith("#")]
    assert notes[0].startswith(f"# {preset}: ")
    for word in ("# from ", "# expected ", "# memory "):
        assert any(note.startswith(word) for note in notes), word


@pytest.mark.parametrize("preset", PUBLISHED_IMAGES)
def test_duration_is_the_published_number_of_steps(preset: str) -> None:
    """In images shown to D: steps × D phases × batch, to the rounding of the file."""
    assert images(load(preset).train.duration, 1) == pytest.approx(PUBLISHED_IMAGES[preset], rel=0.005)


@pytest.mark.parametrize("preset", [p for p in PRESETS if p not in (*OWN, *WITHOUT_AVERAGE)])
def test_ema_half_life_is_the_published_decay(preset: str) -> None:
    """0.9999 per G step: half of it is forgotten after ln 0.5 / ln 0.9999 = 6,931 G steps."""
    config = load(preset)
    per_step = config.train.batch * config.optim.d_steps
    assert images(config.ema.half_life, 1) == pytest.approx(
        per_step * math.log(0.5) / math.log(0.9999), rel=0.001
    )
    assert config.ema.ramp is None
    assert images(config.ema.start, 1) % per_step == 0


@pytest.mark.parametrize("preset", WITHOUT_AVERAGE)
def test_a_recipe_without_an_average_draws_from_g_itself(preset: str) -> None:
    config = load(preset)
    kept = ema.decay(config.train.batch * config.optim.d_steps, 10**6, half_life=1, ramp=None, start=0)
    assert (config.ema.half_life, config.ema.ramp) == (1, None)
    assert kept < 1e-19
