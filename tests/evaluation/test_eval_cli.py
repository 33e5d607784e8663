"""`gansmith eval` as it is typed."""

import csv
import errno
import json
import os
import shutil
import signal
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from gansmith import data, files
from gansmith.cli import gansmith_command
from gansmith.errors import Stopped, UserError
from gansmith.evaluation import best, classifier, pictures

QUICK = ["--features", "pixels", "--num", "80", "--metrics", "fid"]
pytestmark = pytest.mark.filterwarnings("ignore:.*covariance is singular", "ignore:.*no standing statistics")


def run(*words: object) -> Result:
    return CliRunner().invoke(gansmith_command, [str(word) for word in words], catch_exceptions=True)


def text(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def mistake(*words: object) -> str:
    result = run(*words)
    if isinstance(result.exception, UserError):
        return str(result.exception)
    assert isinstance(result.exception, SystemExit | click.ClickException), result.exception
    assert result.exit_code == 2
    return result.output


@pytest.fixture
def own(fake_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to write into."""
    return Path(shutil.copytree(fake_run, tmp_path / "own"))


def test_a_run_is_scored_into_its_own_log(own: Path, reals: Path, tmp_path: Path) -> None:
    said = text("eval", own, "--data", reals, *QUICK, "--out", tmp_path / "r.json")
    assert said.index("expected ") < said.index("FD-pixels")
    rows = best.read(own)
    assert [row["snapshot"] for row in rows] == ["000000002000"]
    assert rows[0]["results"] == json.loads((tmp_path / "r.json").read_text())["results"]
    assert rows[0]["seconds"] > 0
    # flags first, or a snapshot, mean the same
    text("eval", "--data", reals, *QUICK, own / "snapshots" / "000000002000.safetensors")
    first, second = best.read(own)
    assert first["results"][0]["value"] == second["results"][0]["value"]


def test_images_outside_of_a_run_leave_no_file(reals: Path, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "drawn.npz", arr_0=np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), np.uint8)
    )
    said = text("eval", tmp_path / "drawn.npz", "--data", reals, "--features", "pixels", "--metrics", "kid")
    assert "KD-pixels" in said
    assert [path.name for path in tmp_path.iterdir()] == ["drawn.npz"]


def test_compare_ranks_like_and_refuses_unlike(own: Path, reals: Path, tmp_path: Path) -> None:
    for name, flags in (("a", ["--num", "80"]), ("b", ["--num", "60"])):
        text("eval", own, "--data", reals, *QUICK, *flags, "--out", tmp_path / f"{name}.json")
    said = text("eval", "compare", tmp_path / "a.json", tmp_path / "b.json")
    assert "not ranked, protocols differ: n_fake 80 / 60" in said
    said = text("eval", "compare", tmp_path / "a.json", tmp_path / "a.json")
    assert "no winner: the difference 0 is within" in said
    assert "two or more" in mistake("eval", "compare", tmp_path / "a.json")


def test_truncation_sweep_writes_curve_and_table(own: Path, reals: Path) -> None:
    levels = ["--thresholds", "none,1,0.5"]
    said = text("eval", "truncation", own, "--data", reals, "--features", "pixels", "--num", "64", *levels)
    stem = own / "evaluation" / "000000002000-truncation-pixels"
    with stem.with_name(f"{stem.name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["truncation"] for row in rows if not row["point"]] == ["none", "1.0", "0.5"]
    assert [row["point"] for row in rows if row["point"]] == [
        "best Fréchet distance", "best precision", "best recall",
    ]  # fmt: skip
    distances = [float(row["frechet"]) for row in rows if not row["point"]]
    assert len(set(distances)) == 3
    assert float(next(row["frechet"] for row in rows if row["point"])) == min(distances)
    assert "best precision" in said
    with Image.open(stem.with_name(f"{stem.name}.png")) as picture:
        assert picture.size[0] > 500


def test_watch_scores_every_snapshot_once_and_keeps_the_best(own: Path, reals: Path) -> None:
    (own / "metrics.jsonl").write_text('{"type": "start"}\n{"type": "finished"}\n')
    watch = ["eval", "watch", own, "--data", reals, *QUICK, "--until-finished", "--pause", "0.1"]
    said = text(*watch, "--best-by", "fid")
    assert "2 snapshots were scored" in said
    rows = best.read(own)
    assert [row["snapshot"] for row in rows] == ["000000001000", "000000002000"]
    values = [row["results"][0]["value"] for row in rows]
    assert (own / "best").resolve().stem == rows[int(np.argmin(values))]["snapshot"]
    assert "0 snapshots were scored" in text(*watch)  # it goes on where it stopped
    assert "2 snapshots were scored" in text(*watch, "--num", "70")  # another protocol is another question


def test_watch_passes_over_a_snapshot_that_goes_and_one_that_is_damaged(
    own: Path, reals: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gansmith.evaluation.evaluate import Evaluation

    (own / "metrics.jsonl").write_text('{"type": "finished"}\n')
    damaged = own / "snapshots" / "000000000500.safetensors"
    damaged.write_bytes(b"cut short")
    original = Evaluation.retargeted

    def pruned(self: Evaluation, file: Path) -> Evaluation:
        if file.stem == "000000001000":
            file.unlink()
        return original(self, file)

    monkeypatch.setattr(Evaluation, "retargeted", pruned)
    said = text("eval", "watch", own, "--data", reals, *QUICK, "--until-finished", "--pause", "0.1")
    assert "000000000500.safetensors: passed over" in said
    assert "000000001000.safetensors: the run deleted it meanwhile" in said
    assert [row["snapshot"] for row in best.read(own)] == ["000000002000"]


def test_watch_stops_when_asked(own: Path, reals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gansmith.training.stopping import StopRequest

    scored: list[Path] = []
    monkeypatch.setattr(StopRequest, "asked", lambda self: len(best.read(own)) > 0 or bool(scored))
    result = run("eval", "watch", own, "--data", reals, *QUICK, "--pause", "0.1")
    assert isinstance(result.exception, Stopped)  # exit code 3
    assert len(best.read(own)) == 1


def test_watch_stops_while_it_waits_for_the_first_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gansmith.training.stopping import StopRequest

    (tmp_path / "config.yaml").write_text("preset: null\n")
    monkeypatch.setattr(StopRequest, "asked", lambda self: True)
    assert isinstance(run("eval", "watch", tmp_path, *QUICK).exception, Stopped)


def test_scores_beyond_the_place_that_a_run_went_back_to_are_void(own: Path, reals: Path) -> None:
    """It makes those snapshots anew: the old ones choose no best, and watch scores the new ones."""
    (own / "metrics.jsonl").write_text('{"type": "start", "images_seen": 0}\n')
    watch = ["eval", "watch", own, "--data", reals, *QUICK, "--until-finished", "--pause", "0.1"]
    with (own / "metrics.jsonl").open("a") as log:
        log.write('{"type": "finished"}\n')
    assert "2 snapshots were scored" in text(*watch)
    with (own / "metrics.jsonl").open("a") as log:
        log.write('{"type": "evaluation", "images_seen": 1000, "snapshot": "0000')  # a kill
        log.write('\n{"type": "resume", "images_seen": 1000}\n{"type": "finished"}\n')
    assert [row["snapshot"] for row in best.read(own)] == ["000000001000"]
    assert "1 snapshots were scored" in text(*watch)


def test_the_budget_of_cas_is_part_of_its_protocol(own: Path, reals: Path) -> None:
    flags = ["--data", reals, "--features", "pixels", "--num", "40", "--metrics", "cas"]
    text("eval", own, *flags, "--cas-budget", "3")
    text("eval", own, *flags, "--cas-budget", "0.2s")
    settings = [row["results"][0]["protocol"]["settings"] for row in best.read(own)]
    assert settings[0]["steps"] == 3
    assert settings[1]["seconds"] == 0.2
    assert "--cas-budget 'soon'" in mistake("eval", own, *flags, "--cas-budget", "soon")
    assert "--cas-budget '0'" in mistake("eval", own, *flags, "--cas-budget", "0")


def test_pictures_of_deleted_snapshots_go_and_others_stay(own: Path) -> None:
    (own / "evaluation").mkdir()
    stay = ["000000001000-neighbours-pixels.png", "000000003000-leakage-x.png", "mine.png"]
    stay += ["000000000500-truncation-pixels.png"]
    for name in [*stay, "000000000500-neighbours-pixels.png"]:
        (own / "evaluation" / name).touch()
    pictures.prune(own)
    assert sorted(path.name for path in (own / "evaluation").iterdir()) == sorted(stay)


def test_mistakes_are_one_message(own: Path, reals: Path, tmp_path: Path) -> None:
    assert "is missing" in mistake("eval", "--data", reals)
    assert "does not exist" in mistake("eval", tmp_path / "nothing", "--data", reals)
    assert "write 5000, 10k" in mistake("eval", own, "--data", reals, "--num", "many")
    assert "no such option" in mistake("eval", own, "--dota", reals).lower()
    assert "there is no folder" in mistake("eval", own, "--data", reals, "--out", tmp_path / "a" / "b.json")
    assert "is no run" in mistake("eval", "watch", tmp_path, "--data", reals)
    assert "did you mean" in mistake("eval", own, "--data", reals, "--metrics", "percision")
    assert not (own / "metrics.jsonl").exists()


def test_a_warning_is_said_once_however_many_seeds(own: Path, reals: Path) -> None:
    said = text("eval", own, "--data", reals, *QUICK, "--repeats", 2)
    assert said.count("note: the fakes: 80 images for 768 features") == 1
    assert said.count("note: the reals: 60 images for 768 features") == 1
    assert "second set" not in said


def test_a_result_file_is_never_overwritten(own: Path, reals: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    out.write_text("earlier results")
    assert "exists and is never overwritten" in mistake("eval", own, "--data", reals, *QUICK, "--out", out)
    assert out.read_text() == "earlier results"
    assert not (own / "metrics.jsonl").exists()


@pytest.mark.parametrize("in_log", [True, False])
def test_results_that_cannot_be_written_are_one_message(
    own: Path, reals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_log: bool
) -> None:
    out, write = tmp_path / "r.json", files.write_text

    def full(path: Path, content: str) -> None:
        if path == out:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(files, "write_text", full)
    if not in_log:
        (own / "metrics.jsonl").mkdir()
    said = mistake("eval", own, "--data", reals, *QUICK, "--out", out)
    also = f"above and in {own / 'metrics.jsonl'}" if in_log else "above"
    assert f"--out {out} could not be written (No space left on device)" in said
    assert f"take the scores from {also}." in said


def test_train_classifier_ends_at_sigterm_before_and_while_it_trains(
    reals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "own.safetensors"
    words = ["eval", "train-classifier", "--data", reals, "--resolution", 32, "--steps", 2, "--out", out]
    for place in (data, classifier):
        name = "open_dataset" if place is data else "train_classifier"
        with monkeypatch.context() as patched:
            patched.setattr(place, name, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
            stopped = run(*words).exception
        assert isinstance(stopped, Stopped), stopped
        assert str(stopped) == f"stopped; {out} was not written: the same command starts again."
        assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_classifier_needs_two_classes(reals: Path, tmp_path: Path) -> None:
    shutil.copytree(reals / "cat", tmp_path / "one" / "cat")
    for source in (tmp_path / "one", tmp_path / "one" / "cat"):
        out = tmp_path / "own.safetensors"
        said = mistake("eval", "train-classifier", "--data", source, "--resolution", 32, "--out", out)
        assert said.startswith(f"--data {source} has fewer than two classes, and a classifier tells")
        assert "--unconditional" not in said


def test_a_classifier_of_own_data_scores_by_its_own_name(own: Path, reals: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.safetensors"
    said = text("eval", "train-classifier", "--data", reals, "--resolution", 32, "--steps", 2, "--out", out)
    assert "accuracy" in said
    assert "never overwritten" in mistake("eval", "train-classifier", "--data", reals, "--out", out)
    flags = ["--features", f"classifier:{out}", "--num", "40", "--metrics", "is,fid,leakage,memorisation"]
    said = text("eval", own, "--data", reals, *flags)
    assert all(":" not in path.name for path in (own / "evaluation").iterdir())
    assert list((own / "evaluation").glob("*-neighbours-classifier-own*.png"))
    assert "IS-classifier" in said
    row = next(r for r in best.read(own)[0]["results"] if r["metric"] == "class-accuracy")
    assert row["protocol"]["settings"] == {"classifier": "feature network"}
