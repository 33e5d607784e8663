"""Runs that start from given weights: what is taken over, what is said, what is refused."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from gansmith import config as configuration
from gansmith.errors import UserError
from gansmith.training import checkpoint, initial
from gansmith.training.run import train
from gansmith.weights import snapshot
from tests.training.conftest import PLAIN, TINY
from tests.training.reading import networks, newest


def started(run_folder, monkeypatch, tune, **options):
    """The state a run begins with, as tensors, before a step is made."""
    from gansmith.training import loop, state

    seen = {}
    monkeypatch.setattr(
        loop, "train", lambda run, begun: seen.update(state.tensors(begun)["networks"], release=begun.release)
    )
    tune(run_folder, **options)
    return {key: value.clone() if hasattr(value, "clone") else value for key, value in seen.items()}


def test_same_classes_start_as_the_very_networks(tune, source, images, monkeypatch):
    begun = started("same", monkeypatch, tune, data=images)
    saved = networks(source)
    assert begun.pop("release").holds is False
    assert begun.keys() == saved.keys()
    assert [key for key in saved if not torch.equal(saved[key], begun[key])] == []
    assert any(not torch.equal(saved[f"G.{k[6:]}"], saved[k]) for k in saved if k.startswith("G_ema."))


def test_other_classes_keep_all_but_the_class_vectors(tune, source, monkeypatch):
    begun, saved = started("other", monkeypatch, tune), networks(source)
    changed = {key for key in saved if not torch.equal(saved[key], begun[key])}
    assert changed == {"G.shared.weight", "G_ema.shared.weight", "D.embed.weight", "D.embed.u", "D.embed.v"}
    old, new = saved["G.shared.weight"], begun["G.shared.weight"]
    # bar, cross, ring, star: cross is known by name, the others are the mean.
    torch.testing.assert_close(new[1], old[1], rtol=0, atol=0)
    torch.testing.assert_close(new[[0, 2, 3]], old.mean(0).expand(3, -1), rtol=0, atol=1e-7)


def test_named_classes_start_as_asked(tune, source, monkeypatch):
    settings = {"init.map": {"star": "dot", "bar": "0"}}
    begun, saved = started("named", monkeypatch, tune, settings=settings), networks(source)
    assert torch.equal(begun["G.shared.weight"][[3, 0]], saved["G.shared.weight"][[2, 0]])
    assert torch.equal(begun["D.embed.weight"][[3, 0]], saved["D.embed.weight"][[2, 0]])


def test_nearest_classes_are_found_by_their_looks(tune, source, images, tmp_path, monkeypatch):
    """The source's images under other names, beside a G that draws them: D's features tell them apart."""
    from gansmith.training import nearest

    renamed = tmp_path / "renamed"
    for new, old in (("a", "dot"), ("b", "circle"), ("c", "cross")):
        shutil.copytree(images / old, renamed / new)

    def draws_the_data(G, D, latent):
        stacks = []
        for name in ("circle", "cross", "dot"):
            pixels = np.stack([np.asarray(Image.open(f)) for f in sorted((images / name).iterdir())])
            stacks.append(nearest._features(torch.from_numpy(pixels)[:, None] / 127.5 - 1, D))
        everything = torch.cat(stacks)
        spread = everything.mean(0), everything.std(0)
        return torch.stack([((s - spread[0]) / spread[1]).mean(0) for s in stacks]), spread

    monkeypatch.setattr(nearest, "_drawn_classes", draws_the_data)
    begun = started("near", monkeypatch, tune, data=renamed, settings={"init.new_classes": "nearest"})
    old = networks(source)["G.shared.weight"]
    assert torch.equal(begun["G.shared.weight"], old[[2, 0, 1]])


def test_the_architecture_is_the_sources_and_is_recorded_with_its_hash(tune, source):
    run = tune()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["model"]["ch"], config["model"]["channels"], config["model"]["dim_z"]) == (2, 1, 8)
    assert config["init"]["source"] == str(source)
    assert len(config["init"]["sha256"]) == 64
    assert config["init"]["generator"] == config["init"]["discriminator"] == {}
    assert "ch: 2  # init from" in (run / "config.yaml").read_text()


def test_a_preset_gives_way_and_the_command_line_is_refused(tune, tmp_path, other, source):
    settings = PLAIN | {"init.source": str(source), "train.batch": 8, "bn.group": 4}
    run = train(str(other), "digits", tmp_path / "preset", settings=settings)
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["ch"] == 2
    with pytest.raises(UserError, match=r"model\.ch: 4 asked for, 2 in the source"):
        tune("refused", {"model.ch": 4})
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model.resolution": 64, "model.attention_g": [], "model.attention_d": []},
            r"is a 32 px network, .*gansmith convert .* --resolution 64",
        ),
        ({"model.channels": 3}, r"model\.channels: 3 asked for, 1 in the source"),
        ({"model.conditional": False}, r"model\.conditional: False asked for, True in the source"),
        ({"init.map": {"sta": "dot"}}, r"no class 'sta' \(did you mean star\?\)"),
        ({"init.map": {"star": "dott"}}, r"no class 'dott' \(did you mean dot\?\)"),
        ({"init.freeze_d": 5}, "D has 4 blocks"),
        ({"init.freeze_d": ("blocks.9",)}, r"no layer 'blocks\.9'; it has blocks\.0, "),
        ({"init.sha256": "0" * 64}, "not the weights that this run was started from"),
        ({"init.release": "soon"}, "write auto, plateau, or an amount"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_left(tune, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        tune("bad", settings)
    assert not (tmp_path / "bad").exists()


def test_missing_and_damaged_sources_are_refused(tune, source, tmp_path):
    with pytest.raises(UserError, match="does not exist; give a run"):
        tune(init=tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(newest(source), broken)
    with (broken / "networks.safetensors").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(UserError, match=r"damaged: networks\.safetensors has 2000 bytes"):
        tune(init=broken)
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(UserError, match="damaged or cut short"):
        tune(init=tmp_path / "text.safetensors")


def test_settings_of_a_start_need_a_source(tune):
    with pytest.raises(UserError, match=r"init\.freeze_d: .*needs --init-from"):
        tune(init=None, settings=TINY | {"init.freeze_d": 1})


def test_going_on_needs_the_source_no_more(tune, source, other, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    whole = tune("whole", {"train.duration": 32, "ema.half_life": 32}, init=copy)
    run = tune("parts", {"train.duration": 16, "ema.half_life": 32}, init=copy)
    shutil.rmtree(copy)
    # The same command, and one that does not say where the run came from.
    tune("parts", {"train.duration": 24, "ema.half_life": 32}, init=copy)
    train(str(other), None, run, settings=PLAIN | {"train.duration": 32})
    left, right = networks(whole), networks(run)
    assert [key for key in left if not torch.equal(left[key], right[key])] == []
    assert checkpoint.read_record(newest(run))["images_seen"] == 32


def test_the_average_leaves_the_source_behind_within_a_short_run():
    """cifar10's half-life of 2.2M images would show the source's images for as long as 256k last."""
    for preset, duration, half_life in (("cifar10", "256k", 12_800), ("cifar10", "80M", "2218k")):
        config, origins = configuration.load(preset, None, {"train.duration": duration})
        assert initial._average(config, origins)["ema.half_life"] == half_life
    config, origins = configuration.load("cifar10", None, {"ema.half_life": "1M"})
    assert "ema.half_life" not in initial._average(config, origins)


def test_an_existing_run_takes_no_other_start(tune, source, tmp_path):
    tune()
    with pytest.raises(UserError, match=r"was started from .*leave the flag out"):
        tune(init=tmp_path / "elsewhere")
    with pytest.raises(UserError, match="was not started from weights"):
        train(out=source, settings={"init.source": str(tmp_path / "elsewhere")})


def test_frozen_blocks_of_d_stay_bit_for_bit(tune, source):
    run = tune(settings={"init.freeze_d": 2, "loss.ortho_d": 1e-2})
    before, after = networks(source), networks(run)
    held = [
        k for k in before if k.startswith(("D.blocks.0.", "D.blocks.1.")) and not k.endswith((".u", ".v"))
    ]
    assert len(held) > 8
    assert all(torch.equal(before[key], after[key]) for key in held)
    learned = [k for k in before if k.startswith("D.blocks.2.") and k.endswith("weight")]
    assert all(not torch.equal(before[key], after[key]) for key in learned)
    assert not any(k.startswith("D.blocks.0") for k in checkpoint.read_tensors(newest(run))["optimizers"])


def test_a_random_block_is_not_frozen(tune, source):
    with pytest.raises(UserError, match="D is new in this run"):
        tune(init=next((source / "snapshots").iterdir()), settings={"init.freeze_d": 1})


def test_a_d_that_lies_beside_and_is_not_used_is_warned_of(tune, source, capsys):
    tune(init=sorted((source / "snapshots").iterdir())[-1], settings={"init.release": 8})
    warning = capsys.readouterr().err
    assert "has no D, but the run it belongs to has" in warning
    assert str(newest(source)) in warning


def test_images_without_classes_take_random_ones(tune, source, images, monkeypatch):
    with pytest.raises(UserError, match=r"data\.labels=random"):
        tune("refused", {"model.conditional": False}, data=images / "dot")
    settings = {"data.labels": "random", "data.random_classes": 5}
    begun = started("random", monkeypatch, tune, data=images / "dot", settings=settings)
    assert torch.equal(begun["G.shared.weight"], networks(source)["G.shared.weight"][[0, 1, 2, 0, 1]])


def test_a_network_without_classes_goes_on_without(tune, images, tmp_path):
    plain = train(
        str(images), None, tmp_path / "plain",
        settings=TINY | {"train.duration": 16, "model.conditional": False},
    )  # fmt: skip
    run = tune(init=plain)
    assert "D.embed.weight" not in networks(run)
    assert "it has no classes" in (run / "log.txt").read_text()
    with pytest.raises(UserError, match=r"model\.conditional: True asked for, False in the source"):
        tune("other", {"model.conditional": True}, init=plain)


def test_the_flags_are_the_settings(other, source, tmp_path):
    from gansmith.cli.train import train as command

    mapping = tmp_path / "map.yaml"
    mapping.write_text("star: dot\n")
    flags = ["--data", str(other), "--init-from", str(source), "--out", str(tmp_path / "cli"), "--dry-run"]
    words = [w for path, value in PLAIN.items() for w in ("--set", f"{path}={value}")]
    result = CliRunner().invoke(command, [*flags, *words, "--map", "bar=cross", "--map", str(mapping)])
    assert result.exit_code == 0, result.output
    assert "2 classes by map: bar ← cross, star ← dot" in result.output
    assert "1 class by same name: cross ← cross" in result.output
    assert not (tmp_path / "cli").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("a=b", "a=c"), "class 'a' is mapped twice, to 'b' and 'c'"),
        (("a",), "no such file, and no NEW=OLD"),
        (("=b",), "one side is empty"),
    ],
)
def test_maps_that_say_nothing_or_two_things_are_refused(given, message):
    from gansmith.cli.train import class_map

    with pytest.raises(UserError, match=message):
        class_map(given)


def test_the_snapshot_of_a_tuned_run_draws_alone(tune):
    run = tune()
    G, _, info = snapshot.load(run)
    assert [entry["name"] for entry in info["classes"]] == ["bar", "cross", "ring", "star"]
    assert G.num_classes == 4
