"""The configuration of a run: merging, origins, problems reported together, comparison, round trips."""

from pathlib import Path

import pytest
import yaml

from gansmith import config as configuration
from gansmith.config import Config, describe, fields, images, parse_overrides
from gansmith.errors import UserError


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("preset: biggan-128\noptim:\n  lr_g: 3e-5\n  lr_d: 1e-4\ntrain: {batch: 512}\n")
    return path


def test_command_line_beats_file_beats_preset(recipe: Path) -> None:
    config, origins = configuration.load(file=recipe, overrides={"optim.lr_d": "7e-5"})
    preset, _ = configuration.load("biggan-128")

    assert config.preset == "biggan-128"
    assert (config.optim.lr_g, config.optim.lr_d, config.train.batch) == (3e-5, 7e-5, 512)
    assert config.optim.d_steps == preset.optim.d_steps == 2
    assert config.train.seed == Config().train.seed

    assert origins["optim.lr_d"] == "command line"
    assert origins["optim.lr_g"] == f"file {recipe}"
    assert origins["optim.d_steps"] == "preset biggan-128"
    assert "train.seed" not in origins


def test_preset_argument_beats_the_one_named_in_the_file(recipe: Path) -> None:
    config, _ = configuration.load("biggan-128-ajbrock", recipe)
    assert config.preset == "biggan-128-ajbrock"
    assert (config.optim.d_steps, config.optim.lr_g) == (1, 3e-5)


def test_scientific_notation_is_a_number_though_yaml_reads_text() -> None:
    assert yaml.safe_load("1e-4") == "1e-4"
    values = parse_overrides(
        ("optim.lr_g=1e-4", "ema.ramp=null", "model.attention_g=[32, 64]", "data.flip=no")
    )
    config, _ = configuration.load(overrides=values)
    assert config.optim.lr_g == 1e-4
    assert config.ema.ramp is None
    assert config.model.attention_g == (32, 64)
    assert config.data.flip is False


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (5000, 5000), ("5000", 5000), ("128k", 128_000), ("1.5M", 1_500_000), ("20M", 20_000_000),
        ("0.3G", 300_000_000), ("3ep", 150_000), ("0.5ep", 25_000), (" 2 k ", 2000), (0, 0),
    ],
)  # fmt: skip
def test_amounts_of_images(amount: str | int, expected: int) -> None:
    assert images(amount, epoch=50_000) == expected


@pytest.mark.parametrize("amount", ["", "many", "-5k", "3 epochs", "1e6", "5K", "10m", None])
def test_what_is_no_amount_is_refused_with_examples(amount: str) -> None:
    with pytest.raises(ValueError, match="write 5000, 128k, 20M or 3ep"):
        images(amount, 1)


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("optim.lr", "optim.lr_g"),
        ("optim.lrg", "optim.lr_g"),
        ("train.batchsize", "train.batch"),
        ("batch", "train.batch"),
        ("resolution", "model.resolution"),
        ("model.attention", "model.attention_g"),
    ],
)
def test_unknown_key_gets_the_nearest_right_ones(key: str, suggestion: str) -> None:
    with pytest.raises(UserError) as caught:
        configuration.load(overrides={key: 1})
    line = next(line for line in str(caught.value).splitlines() if key in line)
    assert line.startswith(f"  - command line: {key} is unknown (did you mean ")
    assert line.endswith("?).")
    assert suggestion in line


def test_unknown_key_like_nothing_points_to_the_list() -> None:
    with pytest.raises(UserError, match=r"xyzzy is unknown \(.* shows all\)\."):
        configuration.load(overrides={"xyzzy": 1})


def test_all_problems_are_reported_together_with_where_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("model: {ch: none}\noptim: {d_step: 2}\n")
    overrides = {"train.batch": 0, "train.duration": "a while", "optim.beta1": 1, "data.crop": "middle"}
    with pytest.raises(UserError) as caught:
        configuration.load(file=file, overrides=overrides)
    message = str(caught.value)
    problems = [line for line in message.splitlines() if line.startswith("  - ")]
    assert len(problems) == 6, message
    assert f"file {file}: optim.d_step is unknown (did you mean optim.d_steps" in message
    assert f"unable to parse string as an integer, not 'none' (from file {file})" in message
    assert "train.batch: Input should be greater than or equal to 1, not 0 (from command line)" in message
    assert "'a while' is not an amount of images; write 5000, 128k, 20M or 3ep (from" in message
    assert "optim.beta1: Input should be less than 1, not 1 (from command line)" in message
    assert (
        "data.crop: Input should be 'center', 'top', 'pad' or 'none', not 'middle' (from command line)"
        in message
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model.resolution": 100}, "100 is not built; choose 32, 64, 128, 256, 512 or 1024"),
        ({"model.dim_z": 121}, "121 cannot be cut into 6 equal chunks (skip_z); nearest: 120 or 126"),
        ({"model.dim_z": 3}, "model.dim_z: 3 cannot be cut into 6 equal chunks (skip_z); nearest: 6"),
        ({"model.attention_g": [128]}, "model.attention_g: 128 is no inner resolution of a 128 px network"),
        ({"model.attention_d": [48]}, "model.attention_d: 48 is no inner resolution of a 128 px network"),
        ({"model.ch": 33}, "model.ch: must be even"),
        ({"model.conditional": False, "data.labels": "random"}, "random labels need model.conditional"),
        ({"data.balanced": True, "data.labels": "random"}, "balanced classes and random labels"),
        ({"loss.objective": "hing"}, "loss.objective: 'hing' is unknown; did you mean hinge"),
        ({"optim.schedule": "steps"}, "schedule: steps needs schedule_steps, e.g. {10M: 0.5, 15M: 0.25}"),
        ({"train.micro_batch": 0}, "train.micro_batch: must be at least 1 or auto, not 0"),
        ({"log.status_every": 0}, "log.status_every: must be at least one image"),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(overrides: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        configuration.load(overrides=overrides)
    assert message in str(caught.value)


def test_deep_networks_take_any_length_of_z() -> None:
    config, _ = configuration.load(overrides={"model.family": "biggan-deep", "model.dim_z": 121})
    assert config.model.dim_z == 121


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b\n", "must hold sections"),
        ("optim: [\n", "is not valid YAML: line 2, column 1: "),
        ("a: \x07\n", "is not valid YAML: special characters are not allowed"),
        ("optim:\n  lr_g: {a: 1}\n", "optim.lr_g: Input should be a valid number"),
    ],
)
def test_unreadable_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as caught:
        configuration.load(file=file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "unicode string" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--config \S*absent\.yaml cannot be read: No such file or directory\.$"
    ):
        configuration.load(file=tmp_path / "absent.yaml")


def test_unknown_preset_gets_the_nearest_one() -> None:
    with pytest.raises(
        UserError, match=r"--preset 'bigan-128' is unknown; did you mean biggan-128\? There are:"
    ):
        configuration.load("bigan-128")


@pytest.mark.parametrize("assignment", ["optim.lr_g", "optim.lr_g:1e-4"])
def test_set_without_equals_sign_is_refused(assignment: str) -> None:
    with pytest.raises(UserError, match=r"has no '='; write --set section\.field=value"):
        parse_overrides((assignment,))


def test_set_with_unreadable_value_is_refused() -> None:
    with pytest.raises(UserError, match="the value is not readable"):
        parse_overrides(("model.attention_g=[32",))


def test_a_value_may_contain_equals_signs() -> None:
    assert parse_overrides(("data.path=s3://a?b=c",)) == {"data.path": "s3://a?b=c"}


def test_diff_names_exactly_what_changed() -> None:
    old, _ = configuration.load("biggan-128")
    new, _ = configuration.load(
        "biggan-128", overrides={"train.batch": 256, "model.attention_g": [32], "optim.lr_g": old.optim.lr_g}
    )
    assert configuration.diff(old, old) == []
    assert configuration.diff(old, new) == [
        ("model.attention_g", [64], [32]),
        ("train.batch", 2048, 256),
    ]


def test_flat_and_back_is_the_same_configuration() -> None:
    config, _ = configuration.load("tensorfork-256", overrides={"optim.schedule_steps": {"10M": 0.5}})
    assert configuration.from_flat(configuration.flat(config)) == config


def test_written_yaml_reads_back_the_same_and_names_origins(tmp_path: Path) -> None:
    overrides = parse_overrides(
        ("optim.lr_g=1e-4", "optim.schedule=steps", "optim.schedule_steps={10M: 0.5}")
    )
    overrides["data.path"] = "a: b # c"
    config, origins = configuration.load("cifar10", overrides=overrides)
    text = configuration.to_yaml(config, origins)
    assert "lr_g: 0.0001  # command line" in text
    assert f"d_steps: {config.optim.d_steps}  # preset cifar10" in text
    assert yaml.safe_load(text)["data"]["path"] == "a: b # c"

    saved = tmp_path / "config.yaml"
    saved.write_text(text)
    again, _ = configuration.load(file=saved)
    assert again == config


def test_every_field_is_free_or_identity_and_described() -> None:
    kinds = fields()
    assert set(kinds.values()) == {"free", "identity"}
    for path, kind, _, description in describe():
        assert kinds[path] == kind
        assert len(description) > 5, path


def test_what_may_change_at_a_restart_is_free_and_what_a_run_is_is_not() -> None:
    kinds = fields()
    for path in ("train.batch", "train.micro_batch", "train.duration", "train.precision", "log.status_every"):
        assert kinds[path] == "free", path
    for path in (
        "model.ch",
        "model.latent",
        "train.seed",
        "optim.lr_g",
        "loss.objective",
        "bn.group",
        "data.flip",
    ):
        assert kinds[path] == "identity", path


def test_yaml_reads_a_bare_off_as_false_and_the_guard_takes_it():
    overrides = parse_overrides(("guard.policy=off",))
    assert configuration.load(overrides=overrides)[0].guard.policy == "off"
