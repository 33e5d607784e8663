"""An ablation from the command line: stopped, gone on with, its finished runs left alone."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from ablation import one_run
from PIL import Image

from gansmith.errors import EXIT_STOPPED, EXIT_USAGE, Diverged

NET = {
    "model.resolution": 32, "model.channels": 1, "model.ch": 2, "model.dim_z": 4, "model.shared_dim": 4,
    "model.attention_g": [], "model.attention_d": [], "train.batch": 8, "bn.group": 8,
    "log.statistics_images": 16, "log.grid_columns": 1, "log.status_every": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
        for i in range(12):
            pixels = random.integers(0, 256, (32, 32), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def program() -> ModuleType:
    import ablate

    return ablate


def write_spec(folder: Path, images: Path, **changes: object) -> Path:
    words = {
        "name": "tiny", "data": str(images), "set": NET, "budget": {"images": 640}, "seeds": [0, 1],
        "score": {"metrics": ["precision-recall"], "features": "pixels", "num": 12},
        "variants": {"baseline": {}, "fast": {"optim.lr_g": 1e-3}},
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(words | changes))
    return path


def pretend(task: object, precision: float) -> None:
    """A run that was finished before."""
    scores = {"precision": precision, "recall": 0.5}
    task.place.mkdir(parents=True)  # type: ignore[attr-defined]
    task.result.write_text(  # type: ignore[attr-defined]
        json.dumps({
            "end": "finished", "images_seen": 640, "seconds": 1.0, "processor_seconds": 1.0,
            "scores": {name: {"value": value, "better": "higher"} for name, value in scores.items()},
        })
    )  # fmt: skip


def test_stopped_run_goes_on_and_finished_ones_are_left_alone(
    tmp_path: Path, images: Path, program: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    path, out = write_spec(tmp_path, images), tmp_path / "out"
    spec = program.specs.read(path)
    first, *others = program.tasks_of(spec, out)
    for task, precision in zip(others, (0.5, 0.25, 0.75)):
        pretend(task, precision)

    process = program.start(spec, first, out)
    log = first.place / "run/metrics.jsonl"
    while process.poll() is None and not (log.exists() and "status" in log.read_text()):
        time.sleep(0.02)
    process.stdin.close()  # as if whoever started it had been killed
    assert process.wait() == EXIT_STOPPED
    assert not first.done()

    assert program.main([str(path), "--out", str(out)]) == 0
    assert "going on at" in (first.place / "log.txt").read_text()
    assert [task.place for task in others if (task.place / "run").exists()] == []
    assert "| fast | 2 |" in capsys.readouterr().out
    rows = (out / "tiny.csv").read_text().splitlines()
    assert rows[0].endswith("folder,precision,recall")
    assert [row.split(",")[:4] for row in rows[1:]] == [
        [variant, str(seed), "finished", "640"] for seed in (0, 1) for variant in ("baseline", "fast")
    ]
    found = json.loads((out / "tiny.json").read_text())
    assert [run["values"]["precision"] for run in found["runs"]][1:] == [0.5, 0.25, 0.75]
    assert Image.open(out / "tiny.png").width > 300


def test_mistake_ends_with_2_before_anything_is_written(
    tmp_path: Path, images: Path, program: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    """Of the spec itself, and what only a rehearsal with the data finds."""
    for changes, said in (
        ({"seeds": [0]}, "seeds: 1 tells nothing"),
        ({"data": str(tmp_path / "nowhere")}, "variant baseline:"),
        ({"set": {**NET, "bn.group": 3}}, "variant baseline:"),
        ({"score": {"metrics": ["frechet"], "features": "pixel"}}, "did you mean pixels?"),
    ):
        path = write_spec(tmp_path, images, **changes)
        assert program.main([str(path), "--out", str(tmp_path / "out")]) == EXIT_USAGE
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mistakes_of_features_data_and_variants_are_told_together(
    tmp_path: Path, images: Path, program: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    variants = {"baseline": {}, "odd": {"data": str(tmp_path / "nowhere")}, "uneven": {"bn.group": 3}}
    score = {"metrics": ["frechet"], "features": "pixel"}
    path = write_spec(tmp_path, images, variants=variants, score=score)
    assert program.main([str(path), "--out", str(tmp_path / "out"), "--check"]) == EXIT_USAGE
    told = capsys.readouterr().err
    for said in ("score.features: ", "variant odd: ", "variant uneven: "):
        assert said in told


def test_without_matplotlib_nothing_is_begun(
    tmp_path: Path, images: Path, program: ModuleType, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    import growth

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = write_spec(tmp_path, images)
    assert program.main([str(path), "--out", str(tmp_path / "out"), "--check"]) == EXIT_USAGE
    assert "pip install -e '.[plots]'" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["growth.py", "--out", str(tmp_path / "growth")])
    with pytest.raises(SystemExit, match=str(EXIT_USAGE)):
        growth.main()
    assert "pip install -e '.[plots]'" in capsys.readouterr().err
    assert not (tmp_path / "growth").exists()


def test_budget_of_seconds_is_one_over_all_restarts(tmp_path: Path, images: Path) -> None:
    job = one_run.Job(
        data=str(images), reference=str(images), preset=None, settings=NET | {"train.threads": 1},
        seconds=1.0, run=str(tmp_path / "run"), result=str(tmp_path / "result.json"), score={},
    )  # fmt: skip
    assert one_run.train(job) == "finished"
    trained = one_run._clock(tmp_path / "run")
    assert 0 < trained["seconds"] < 60  # it ends after the step in which the second is over
    used_up = replace(job, seconds=trained["seconds"])
    assert one_run.train(used_up) == "finished"
    assert one_run._clock(tmp_path / "run") == trained
    assert one_run._trained(used_up).name == f"{trained['images_seen']:012d}"


def test_run_that_diverged_before_it_saved_anything_is_a_result_without_scores(
    tmp_path: Path, images: Path, program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*arguments: object, **settings: object) -> None:
        raise Diverged("at once")

    monkeypatch.setattr(one_run, "_stop_when_left_alone", lambda: None)
    monkeypatch.setattr(one_run.gansmith, "train", diverge)
    spec = program.specs.read(write_spec(tmp_path, images))
    first, second, *_ = tasks = program.tasks_of(spec, tmp_path)
    first.place.mkdir(parents=True)
    job = one_run.Job(
        data=str(images), reference=str(images), preset=None, settings=NET, seconds=None,
        run=str(first.place / "run"), result=str(first.result), score={},
    )  # fmt: skip
    job.write(first.place / "job.json")
    assert one_run.main(str(first.place / "job.json")) == 0
    assert "(1 diverged)" in program.write(spec, tasks, tmp_path)
    pretend(second, 0.5)
    rows, _ = program.collect(tasks)
    assert (rows[0].end, rows[0].values) == ("diverged", {"precision": None, "recall": None})


def test_score_of_exactly_zero_is_told(
    tmp_path: Path,
    images: Path,
    program: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    spec = program.specs.read(write_spec(tmp_path, images))
    first, *_ = program.tasks_of(spec, tmp_path)
    pretend(first, 0.0)
    monkeypatch.setattr(program, "run_all", lambda *arguments: [(first, 0)])
    program.ablate(spec, tmp_path, 1)
    assert "precision 0, recall 0.5" in capsys.readouterr().out
