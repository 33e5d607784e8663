"""Settings of stabilisers that contradict each other, or the loss, are refused with the reason."""

import pytest

from gansmith import config as configuration
from gansmith.config.stability import level
from gansmith.errors import UserError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flood_d": 0.2, "stop_d": 0.2}, "stop_d: 0.2 is never reached: flooded at 0.2, L_D does not come"),
        ({"flood_d": "0.5x", "stop_d": "0.4x"}, "stop_d: 0.4x is never reached"),
        ({"flood_d": 1.5, "stop_g": 1.5}, "L_D flooded at that lies above it always, and G is never trained"),
        ({"stop_d": 0.5, "stop_g": 0.5}, "between the two neither network is trained"),
        ({"flood_d": "1x"}, "1x reverses the gradient at the loss's own mean"),
        ({"flood_g": "0.5x"}, "multiple of L_G's running mean, which hinge lets lie on either side of 0"),
        ({"flood_d": "half"}, "write a number such as 0.2, or a multiple such as 0.5x"),
        ({"stop_g": "nan"}, "write a number such as 0.2, or a multiple such as 0.5x"),
        ({"baseline": 0}, "must be at least one image"),
        ({"gate_d": 0.4}, "guessing is right half of the time: D would never learn"),
        ({"gate_d": 1.0}, "1: nothing is above; give 0.5 or more and less than 1"),
        ({"gate_g": 0}, "0: nothing is below"),
        ({"gate_g": 1}, "G would wait for a D that is never wrong"),
        ({"gate_g": 0.9, "gate_d": 0.8}, "gate_g: 0.9 with stabilise.gate_d 0.8: between the two neither"),
        ({"clip_weights": 0.01}, "set model.spectral_d false"),
        ({"clip_weights": 0.01, "clamp_d": 1.0}, "clamp_d: D's weights are clipped already"),
        ({"critic_plateau": 0.1, "optim.d_steps": 1}, "no loss to fall from: set optim.d_steps to the most"),
        ({"critic_plateau": 0.1, "penalty.r1": 1.0, "penalty.r1_every": 16}, "set penalty.r1_every to 1"),
        ({"critic_plateau": 0.1, "penalty.r2": 1.0, "penalty.r2_every": 2}, "which is no plateau: set "),
        ({"critic_plateau": 0.1, "guard.penalty_r1": 1.0, "penalty.r1_every": 4}, "penalty.r1_every 4 makes"),
        ({"stop_g": 0}, "stop_g: 0.0: L_D of hinge does not come below 0, so that G is always left out"),
        ({"stop_g": "0x"}, "stop_g: 0x: L_D of hinge does not come below 0, so that G is always left out"),
        ({"stop_d": -1}, "stop_d: -1.0: L_D of hinge does not come below 0, so that this never acts"),
        ({"flood_d": -1}, "flood_d: -1.0: L_D of hinge does not come below 0, so that this never acts"),
        ({"loss.objective": "non_saturating", "flood_g": -0.05}, "L_G of non_saturating does not come below"),
        ({"clamp_g": "0x"}, "a singular value is clamped to more than 0"),
        ({"clip_weights": 0}, "Input should be greater than 0"),
        ({"loss.objective": "wasserstein", "flood_d": 0.2}, "flooded at 0.2 it never learns"),
        ({"loss.objective": "wasserstein", "stop_d": "2x"}, "which wasserstein lets lie on either side of 0"),
        ({"loss.objective": "wasserstein", "gate_d": 0.8}, "wasserstein does not tell real from fake by the"),
        ({"loss.objective": "relativistic", "gate_g": 0.8}, "so that D has no accuracy"),
        ({"loss.objective": "wasserstein", "top_k": 0.5}, "of the best fakes alone it is no distance"),
        ({"bn.group": 1, "top_k": 0.5}, "chooses within BatchNorm groups, and bn.group is 1"),
        ({"loss.objective": "mine:loss", "top_k": 0.5}, "gansmith's own losses; mine:loss chooses its fakes"),
        ({"loss.objective": "relativistic", "replay": 0.5}, "compares a real with the fake of its own class"),
        ({"replay": 1.0}, "Input should be less than 1"),
        ({"head.rotate_d": 1.0, "model.discriminator": "mine:D"}, "needs gansmith's own D, and model.discr"),
        ({"head.contrast_d": 1.0, "loss.objective": "mine:loss"}, "is part of gansmith's own losses"),
        ({"model.dropout_d": 0.5, "model.discriminator": "mine:D"}, "is built into gansmith's own D"),
        ({"model.noise_g": True, "model.family": "dcgan", "model.resolution": 64}, "not dcgan"),
        ({"pretrain.generator": "1M", "init.source": "x"}, "has been trained already (--init-from)"),
        ({"pretrain.generator": "0.5ep", "init.source": "x"}, "has been trained already (--init-from)"),
        ({"pretrain.generator": "0k", "pretrain.pixels": 2.0}, "is of G's pretraining: it needs"),
        ({"pretrain.generator": "1M", "data.random_crop": True}, "random_crop shows another part each time"),
        ({"pretrain.features": "pixels"}, "is of G's pretraining: it needs pretrain.generator"),
        ({"pretrain.generator": 9, "pretrain.discriminator": "2M", "train.duration": "2M"}, "nothing of"),
        ({"pretrain.discriminator": "soon"}, "'soon' is not an amount of images"),
        ({"head.rotate_g": 0.2}, "G would learn from a head that D does not train: set head.rotate_d"),
        ({"head.classify_d": 1.0, "model.conditional": False}, "there are no classes to tell"),
        ({"head.classify_d": 1.0, "data.labels": "random"}, "labels are drawn at random"),
        ({"head.projection": False}, "then nothing tells G what a class is: leave it true, or"),
        ({"head.projection": False, "model.conditional": False}, "head.projection: there are no classes"),
        ({"head.rotate_d": 1.0, "augment.ada_target": 0.6}, "blit turns images too"),
        ({"head.contrast_d": 1.0, "head.contrast_transforms": []}, "both views are the same image"),
        ({"head.contrast_d": 1.0, "bn.group": 1}, "tells images within BatchNorm groups apart"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_the_reason(settings, message):
    overrides = {name if "." in name else f"stabilise.{name}": value for name, value in settings.items()}
    with pytest.raises(UserError) as caught:
        configuration.load(overrides=overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"flood_d": 0.2, "stop_d": 0.25, "stop_g": 1.5, "flood_g": -0.05},
        {"flood_d": "0.5x", "stop_d": 0.2},  # of two kinds: nobody can tell
        {"gate_d": 0.5, "gate_g": 0.5},
        {"flood_d": 0.0, "stop_d": 0.1},  # 0 is a value
        {"stop_g": "0.9x"},
        {"stop_d": "1.1x"},  # losses lie on either side of their mean
    ],
)
def test_what_goes_together_is_allowed(settings):
    config, _ = configuration.load(overrides={f"stabilise.{name}": value for name, value in settings.items()})
    assert {name: getattr(config.stabilise, name) for name in settings} == settings


def test_a_level_is_a_number_or_a_multiple():
    assert level("0.5x") == (0.5, True)
    assert level(" 2 x") == (2.0, True)
    assert level("-1e-1") == (-0.1, False)
    config, _ = configuration.load(overrides={"stabilise.flood_d": "2e-1"})
    assert config.stabilise.flood_d == 0.2
