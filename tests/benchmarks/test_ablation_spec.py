"""A spec's mistakes are told together, before anything runs; the specs of the repository have none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ablation import spec as specs
from ablation.subsets import Images, kept

from gansmith.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
SOUND: dict[str, Any] = {
    "name": "sound",
    "data": "builtin:digits",
    "preset": "digits",
    "set": {"model.ch": 4},
    "budget": {"images": "12k"},
    "seeds": [0, 1, 2],
    "score": {"metrics": ["frechet", "variety"]},
    "variants": {"baseline": {}, "wide": {"model.ch": 8}},
}


def read(folder: Path, **changes: Any) -> specs.Spec:
    words = {key: value for key, value in (SOUND | changes).items() if value is not None}
    (folder / "spec.yaml").write_text(yaml.safe_dump(words))
    return specs.read(folder / "spec.yaml")


def variant(settings: dict[str, Any]) -> dict[str, Any]:
    """A change of SOUND: a variant of these settings beside the baseline."""
    return {"variants": {"baseline": {}, "x": settings}}


def test_spec_says_what_each_run_is_told(tmp_path: Path) -> None:
    spec = read(tmp_path, variants={"baseline": {}, "few": {"data": {"of": "builtin:digits", "share": 0.1}}})
    baseline, few = spec.variants
    told = {"model.ch": 4, "train.threads": 1, "train.seed": 2, "train.duration": "12k"}
    assert spec.settings(few, 2) == told
    assert baseline.images == Images("builtin:digits")
    assert few.images == Images("builtin:digits", share=0.1)
    assert spec.score.metrics == ("variety", "frechet")
    assert spec.score.truncation == (None,)


def test_budget_of_seconds_leaves_the_duration_to_the_recipe(tmp_path: Path) -> None:
    spec = read(tmp_path, budget={"seconds": 90})
    assert spec.seconds == 90
    assert "train.duration" not in spec.settings(spec.variants[0], 0)


def test_keys_of_another_file_are_defaults_and_settings_are_merged(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(SOUND))
    (tmp_path / "spec.yaml").write_text("like: base.yaml\nname: other\nset: {optim.d_steps: 1}\n")
    spec = specs.read(tmp_path / "spec.yaml")
    assert spec.name == "other"
    assert spec.variants[0].settings == {"model.ch": 4, "optim.d_steps": 1}


def test_runs_are_the_same_where_everything_that_decides_them_is(tmp_path: Path) -> None:
    """A setting at its default is as good as none; the other variants do not matter."""
    spec = read(tmp_path, variants={"baseline": {"model.init": "ortho"}, "wide": {"model.ch": 8}})
    other = read(tmp_path, variants={"baseline": {}, "deep": {"model.family": "biggan-deep"}})
    first, again = specs.identity(spec, spec.variants[0], 1), specs.identity(other, other.variants[0], 1)
    assert first == again
    assert specs.identity(spec, spec.variants[0], 2) != first
    assert specs.identity(spec, spec.variants[1], 1) != first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variant": {}}, "variant: is unknown (did you mean variants?)"),
        ({"budget": None}, "budget: is missing"),
        ({"budget": {"hours": 1}}, "budget: write {images: 12k} or {seconds: 90}"),
        ({"seeds": [0]}, "seeds: 1 tells nothing of the spread"),
        ({"seeds": [0, 0, 1]}, "seeds: one is named twice"),
        ({"baseline": "plain"}, "variants: there is no plain"),
        ({"variants": {"baseline": {}}}, "variants: name two or more"),
        (variant({"optim.lr": 1}), "variants.x: optim.lr is unknown (did you mean optim.lr_g"),
        (variant({"optim": {"lr_g": 1}}), "variants.x: write it as section.field: value"),
        (variant({"optim.lr_g": -1}), "variants.x: optim.lr_g: Input should be greater than 0"),
        (variant({"model.dim_z": 18}), "variants.x: model.dim_z: 18 cannot be cut"),
        (variant({"train.seed": 1}), "variants.x.train.seed: is what `seeds` says"),
        (variant({"train.duration": 9}), "variants.x: train.duration is what `budget` says"),
        (variant({"model.ch": 4}), "variants.x: is the same run as baseline"),
        (variant({"data": {"of": "a", "part": 1}}), "variants.x.part: is unknown"),
        (variant({"data": {"of": "a", "share": 2}}), "variants.x.share: is above 0 and at most 1"),
        (variant({"data": {"of": "a", "share": "half"}}), "variants.x.share: is a number, not 'half'"),
        (variant({"data": {"of": "a", "border": 1.5}}), "variants.x.border: is a whole number, not 1.5"),
        (variant({"data": {"of": 3}}), "variants.x: give a path, or a mapping"),
        ({"score": {"metrics": ["fidd"]}}, "score: score.metrics 'fidd' is unknown; did you mean fid"),
        ({"score": {"metrics": ["leakage"]}, "set": {"model.conditional": False}}, "leakage needs classes"),
        ({"budget": {"seconds": 9}, "set": {"optim.schedule": "linear"}}, "optim.schedule_end is needed"),
    ],
)  # fmt: skip
def test_mistake_is_named(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, **changes)
    assert said in str(caught.value)


def test_mistakes_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, seeds=[1], name="a b", **variant({"optim.lr": 1}))
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "benchmarks/specs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_specs_of_the_repository_are_ready(path: Path) -> None:
    spec = specs.read(path)
    assert spec.name == path.stem
    assert len(spec.seeds) >= 3
    assert spec.about


def test_classes_fall_in_equal_steps_of_ratio() -> None:
    labels = np.arange(300) % 3
    rows = kept(labels, Images("", imbalance=4))
    assert np.bincount(labels[rows]).tolist() == [100, 50, 25]
    assert np.array_equal(rows, kept(labels, Images("", imbalance=4)))
    assert not np.array_equal(rows, kept(labels, Images("", imbalance=4, seed=1)))


def test_share_is_one_of_every_class() -> None:
    labels = np.repeat([0, 1], [90, 10])
    rows = kept(labels, Images("", share=0.1))
    assert np.bincount(labels[rows]).tolist() == [9, 1]
    assert np.array_equal(rows, np.sort(rows))


def test_a_wrong_preset_and_missing_images_are_told_with_the_rest(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        read(tmp_path, preset="digit", data=str(tmp_path / "nowhere"), seeds=[0])
    for said in ("preset: 'digit' is unknown; there are", "data: there is no", "seeds: 1 tells nothing"):
        assert said in str(told.value)
