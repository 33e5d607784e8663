"""One pass over shared features: equal numbers every time, a whole protocol, clear refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import gansmith
from gansmith.data import open_dataset
from gansmith.errors import Stopped, UserError
from gansmith.evaluation import costs, frechet, metrics, neighbours, protocol
from gansmith.evaluation.cas import Budget
from gansmith.evaluation.evaluate import Manner, prepare
from gansmith.evaluation.featureset import FeatureSet
from gansmith.evaluation.targets import Chunk, NetworkTarget
from tests.evaluation.networks import Colour

QUICK: dict[str, Any] = {"features": "pixels", "num": 96}
PLAIN = ("frechet", "kid", "precision-recall", "density-coverage")

pytestmark = pytest.mark.filterwarnings("ignore:.*covariance is singular", "ignore:.*no standing statistics")


def values(results: list[protocol.Result]) -> dict[str, float | None]:
    return {result.name: result.value for result in results}


def test_repeated_calls_give_equal_numbers_and_another_seed_others(fake_run: Path, reals: Path) -> None:
    first, again, other = (
        gansmith.evaluate(fake_run, reals, metrics=PLAIN, seed=seed, **QUICK) for seed in (0, 0, 1)
    )
    assert first == again
    assert {name.split("-")[0] for name in values(first)} == {
        "FD", "KD", "precision", "recall", "density", "coverage",
    }  # fmt: skip
    assert values(first)["FD-pixels"] != values(other)["FD-pixels"]
    assert [r.protocol_id for r in first] == [r.protocol_id for r in other]


def test_the_score_is_that_of_the_features(fake_run: Path, reals: Path) -> None:
    network = Colour()
    evaluation = prepare(fake_run, reals, metrics=["fid"], features=[network], num=50)
    result = evaluation.run()[0]
    images = [evaluation.target.chunk(0, seed=0, num=50).images]
    real = torch.from_numpy(evaluation.dataset.read(np.arange(60))).permute(0, 3, 1, 2)
    moments = [frechet.moments(network(part).features.numpy()) for part in (torch.cat(images), real)]
    assert result.value == pytest.approx(frechet.frechet_distance(*moments), rel=1e-9)
    assert result.name == "FD-colour"


def test_every_image_is_made_and_seen_once_for_all_scores(fake_run: Path, reals: Path) -> None:
    network = Colour()
    names = [*PLAIN, "frechet-infinity", "is", "per-class", "leakage", "duplicates", "memorisation"]
    evaluation = prepare(fake_run, reals, metrics=names, features=[network], num=70)
    evaluation.once(0)
    assert network.seen == 70 + 60
    evaluation.once(1)  # the reals are known
    assert network.seen == 2 * 70 + 60


def test_several_networks_share_the_images(fake_run: Path, reals: Path) -> None:
    found = gansmith.evaluate(fake_run, reals, metrics=["fid"], features="pixels", num=64)
    both = prepare(fake_run, reals, metrics=["fid"], features=[Colour(), Colour()], num=64)
    drawn = []
    original = both.target.chunk
    both.target.chunk = lambda *a, **k: drawn.append(a) or original(*a, **k)  # type: ignore[method-assign, func-returns-value]
    assert len(both.once(0)) == 2
    assert drawn == [(0,)]
    assert len(found) == 1


def test_scores_share_the_searches_for_neighbours(
    fake_run: Path, reals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[tuple[int, int]] = []
    original = neighbours._search

    def counted(query: np.ndarray, base: np.ndarray, *rest: Any) -> neighbours.Neighbours:
        searched.append((len(query), len(base)))
        return original(query, base, *rest)

    monkeypatch.setattr(neighbours, "_search", counted)
    names = ["precision-recall", "density-coverage", "duplicates", "memorisation"]
    evaluation = prepare(fake_run, reals, metrics=names, features=[Colour()], num=70)
    evaluation.once(0)
    assert sorted(searched) == [(60, 60), (70, 60), (70, 70)]
    evaluation.once(1)
    assert sorted(searched[3:]) == [(70, 60), (70, 70)]  # those of the reals are kept


def test_everything_at_once_draws_every_image_once_and_is_json(
    fake_run: Path, reals: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where a class has no fakes: what is not a number is null."""
    said: list[str] = []
    manner = Manner(pictures=tmp_path, say=said.append)
    dataset = open_dataset(str(reals), resolution=32)
    lonely = [replace(info, count=0 if info.name == "ant" else 30) for info in dataset.classes]
    budget = Budget(steps=2)
    it = prepare(fake_run, dataset, metrics=["all"], features=[Colour()], num=70, manner=manner, cas=budget)
    it.target.follow(lonely)  # draws no ants
    drawn: list[int] = []
    original = NetworkTarget.pick

    def counted(self: NetworkTarget, places: np.ndarray, **options: int) -> Chunk:
        drawn.append(len(places))
        return original(self, places, **options)

    monkeypatch.setattr(NetworkTarget, "pick", counted)
    scores = it.once(0)
    assert sum(drawn) < 70 + 16 + 80 + 1  # the images, those of one picture and of the other
    text = json.dumps([r.as_json() for r in protocol.results([scores], it.protocol(0, 1))], allow_nan=False)
    rows = {row["metric"]: row for row in json.loads(text)}
    assert len(rows) == 14
    assert rows["class-accuracy"]["details"]["class_accuracy"]["ant"] is None
    assert rows["per-class-frechet"]["details"]["classes"][0]["frechet"] is None
    assert rows["cas"]["protocol"]["settings"]["steps"] == 2
    assert rows["duplicates"]["details"]["exact"] == 0
    assert any("left out: d-gap" in line for line in said)


def test_only_fid_s_own_network_goes_without_a_name(fake_run: Path, reals: Path) -> None:
    network = Colour()
    network.frechet_name = "FD-FID"  # what a function called FID is called
    results = gansmith.evaluate(fake_run, reals, metrics=["fid", "recall"], features=[network], num=70)
    assert [result.name for result in results] == ["FD-FID", "precision-FID", "recall-FID"]


def test_a_class_s_halves_are_of_equal_size_whatever_the_order() -> None:
    """Leakage by a fitted classifier: reals whose classes alternate are no reason to learn only one."""
    labels = np.arange(40) % 2
    features = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    features[:, 0] += 20 * labels
    found = FeatureSet(features, labels=labels, num_classes=2, class_names=["a", "b"])
    subjects: Any = SimpleNamespace(
        real=found,
        fake=found,
        network=SimpleNamespace(class_names=None),
        images=SimpleNamespace(pictures=None),
        score=lambda metric, value, better, **more: (value, more["details"]["real_accuracy"]),
    )
    assert metrics._leakage(subjects) == [(1.0, 1.0)]


def test_held_out_reals_are_seen_only_where_a_score_wants_them(fake_run: Path, reals: Path) -> None:
    new = open_dataset(str(reals / "cat"), resolution=32, unconditional=True)
    for name, count in (("fid", 0), ("memorisation", 20)):
        network = Colour()
        options = {"metrics": [name], "features": [network], "num": 70, "held_out": new.path}
        it = prepare(fake_run, reals, **options)
        it.once(0)
        assert network.seen == 70 + 60 + count
        it.once(1)
        assert network.seen == 2 * 70 + 60 + count


def test_held_out_reals_are_other_ones(fake_run: Path, reals: Path) -> None:
    with pytest.raises(UserError, match="the very images of --data"):
        prepare(fake_run, reals, metrics=["memorisation"], held_out=reals, **QUICK)


def test_the_expected_time_counts_the_scores() -> None:
    one = costs.seconds(["frechet"], [100], num_fake=10, num_real=10, classes=1, known=True, rate=1e6)
    assert one == pytest.approx(6.2)  # 2 · 10 · 100² + 6 · 100³ operations
    two = costs.seconds(["frechet"], [100, 100], num_fake=10, num_real=10, classes=1, repeats=3, rate=1e6)
    assert two == pytest.approx(2 * (3 * 6.2 + 5.2))
    assert costs.seconds(["d-gap", "cas"], [100], num_fake=10, num_real=10, classes=1) == 0


def test_repeats_give_mean_and_deviation_over_seeds(fake_run: Path, reals: Path) -> None:
    together = gansmith.evaluate(fake_run, reals, metrics=["fid"], repeats=3, seed=4, **QUICK)[0]
    alone = [gansmith.evaluate(fake_run, reals, metrics=["fid"], seed=s, **QUICK)[0].value for s in (4, 5, 6)]
    assert together.details["values"] == alone
    assert together.value == pytest.approx(np.mean(alone), rel=1e-12)  # type: ignore[arg-type]
    assert together.sd == pytest.approx(np.std(alone, ddof=1), rel=1e-9)  # type: ignore[arg-type]
    assert together.protocol["repeats"] == 3


def test_a_result_is_json_and_carries_its_whole_protocol(fake_run: Path, reals: Path) -> None:
    names = ["fid", "kid", "per-class", "leakage", "memorisation"]
    results = gansmith.evaluate(fake_run, reals, metrics=names, truncation=0.7, **QUICK)
    for result in results:
        row = json.loads(json.dumps(result.as_json(), allow_nan=False))
        assert protocol.Result.from_json(row) == result
        said = row["protocol"]
        assert (said["n_real"], said["n_fake"], said["split"], said["seed"]) == (60, 96, "train", 0)
        assert (said["truncation"], said["truncation_kind"], said["ema"]) == (0.7, "resample", True)
        assert (said["batchnorm"], said["labels"]) == ("standing statistics", "proportional")
        assert said["reference"] == open_dataset(str(reals), resolution=32).content_hash
        assert len(said["target_sha256"]) == 64
        assert said["code_version"] == gansmith.__version__
        assert row["protocol_id"] == protocol.identity(said)
    assert results[0].protocol["features"]["resizer"] == "area"


def test_real_images_score_best_against_themselves(reals: Path) -> None:
    dataset = open_dataset(str(reals), resolution=32)
    found = values(gansmith.evaluate(dataset.path, dataset, features="pixels", metrics=PLAIN))
    assert found["FD-pixels"] == pytest.approx(0, abs=1e-6)
    assert (found["precision-pixels"], found["recall-pixels"], found["coverage-pixels"]) == (1, 1, 1)


def test_pictures_are_written_where_asked(fake_run: Path, reals: Path, tmp_path: Path) -> None:
    manner = Manner(pictures=tmp_path / "seen")
    results = gansmith.evaluate(fake_run, reals, metrics=["memorisation", "leakage"], manner=manner, **QUICK)
    files = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert files == ["000000002000-leakage-pixels.png", "000000002000-neighbours-pixels.png"]
    assert all(Path(result.details["picture"]).is_file() for result in results)
    assert not (fake_run / "metrics.jsonl").exists()


def test_memorised_images_and_held_out_reals_are_told_apart(reals: Path) -> None:
    dataset = open_dataset(str(reals), resolution=32)
    copied = gansmith.evaluate(dataset.path, dataset, features="pixels", metrics=["memorisation"])[0]
    assert copied.value == 1.0  # every fake is its training image
    assert copied.details["authenticity"] == 0.0


def test_a_stop_ends_it_and_the_next_call_finds_the_reals(fake_run: Path, reals: Path) -> None:
    asked = iter([False, False, True])
    network = Colour()
    evaluation = prepare(
        fake_run, reals, metrics=["fid"], features=[network], num=500, manner=Manner(stop=lambda: next(asked))
    )
    with pytest.raises(Stopped):
        evaluation.run()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metrics": ["freshet"]}, "did you mean frechet"),
        ({"features": "pixles"}, "did you mean pixels"),
        ({"num": 1}, "give at least 2"),
        ({"metrics": ["is"]}, "no classifier"),
        ({"metrics": ["kid"], "num_real": 0}, "--num-real 0"),
        ({"metrics": ["kid"], "num_real": 61}, "has 60 images; choose 1 to 60"),
        ({"metrics": ["precision-recall"], "num": 5}, "at least 6"),
        ({"metrics": ["frechet-infinity"], "num": 8}, "at least 20"),
        ({"metrics": ["d-gap"]}, "--held-out"),
        ({"truncation_kind": "magic", "truncation": 1.0}, "truncation-kind"),
        ({"features": "inception", "weights": "/nowhere/w.pth"}, "/nowhere/w.pth"),
        ({"repeats": 0}, "--repeats 0"),
        ({"precision": "fp8"}, "--precision"),
        ({"data": "/nowhere/at/all"}, "does not exist"),
        ({"target": "/nowhere/run"}, "does not exist"),
    ],
)
def test_mistakes_are_told_before_an_image_is_made(
    fake_run: Path, reals: Path, changed: dict[str, Any], message: str
) -> None:
    arguments = {"target": fake_run, "data": reals, "metrics": ["fid"], **QUICK, **changed}
    with pytest.raises(UserError, match=message):
        gansmith.evaluate(**arguments)


def test_unknown_metrics_name_what_was_written_and_all_there_are() -> None:
    with pytest.raises(UserError, match=r"^--metrics 'nonsense' is unknown; there are: frechet, "):
        metrics.find(["nonsense"])
    with pytest.raises(
        UserError, match=r"^eval\.metrics 'lekage' is unknown; did you mean leakage.*\? There"
    ):
        metrics.find(["lekage"], "eval.metrics")
    with pytest.raises(UserError, match=r"^eval\.best_by 'nonsense' is unknown; there are"):
        metrics.product("nonsense", ["frechet"], "eval.best_by")


@pytest.mark.parametrize("depth", [0, 1])
def test_images_of_one_class_are_scored_without_labels(
    reals: Path, tmp_path: Path, depth: int, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(reals / "cat", tmp_path / "one" / "/".join(["cat"] * depth), dirs_exist_ok=True)
    folder = tmp_path / "one"
    (result,) = gansmith.evaluate(folder, folder, metrics=["frechet"], features="pixels", num=20)
    assert result.value == pytest.approx(0.0, abs=1e-6)
    said = capsys.readouterr().out
    assert said.startswith(f"data: {folder} has no two classes; its images are taken without labels\n")
    assert "--unconditional" not in said
    with pytest.raises(UserError, match="leakage: it needs two classes or more"):
        gansmith.evaluate(folder, folder, metrics=["leakage"], features="pixels", num=20)


def test_reals_of_another_size_or_without_classes_are_refused(
    fake_run: Path, reals: Path, tmp_path: Path
) -> None:
    other = open_dataset(str(reals), resolution=16)
    with pytest.raises(UserError, match=r"prepared at 16×16 px .* 32×32 px"):
        gansmith.evaluate(fake_run, other.path, **QUICK)
    single = open_dataset(str(reals / "cat"), resolution=32, unconditional=True)
    with pytest.raises(UserError, match="two classes or more"):
        gansmith.evaluate(fake_run, single, metrics=["per-class"], **QUICK)
    np.savez(tmp_path / "few.npz", images=np.zeros((5, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="holds 5 images"):
        gansmith.evaluate(tmp_path / "few.npz", reals, **QUICK)
    with pytest.raises(UserError, match="does not say what it was made from"):
        gansmith.evaluate(tmp_path / "few.npz", features="pixels")
