"""A run's folder as training leaves it: with a resume that went back, scores and pictures."""

from pathlib import Path

import pytest

from tests.report.writing import CONFIG, evaluation, picture, result, status, write_rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """1,000 to 10,000 images, back to 6,000 with another learning rate, on to 12,000."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "environment.json").write_text('{"device": "cpu", "precision": "fp32", "cpu": {"model": "X"}}')
    first = [status(n) for n in range(1000, 11000, 1000)]
    second = [status(n, loss_d=0.125) for n in range(7000, 13000, 1000)]
    scores = [
        evaluation(4000, result("FID", 80.0, "aaa", n_fake=5000), result("IS", 2.0, "ccc", n_fake=5000)),
        evaluation(8000, result("FID", 60.0, "aaa", n_fake=5000), result("FID", 55.0, "bbb", n_fake=50000)),
        evaluation(12000, result("FID", 70.0, "aaa", n_fake=5000), result("IS", None, "ccc", n_fake=5000)),
    ]
    rows = [{"type": "start", "time": 1.8e9, "images_seen": 0}, *first]
    rows.append({"type": "warning", "time": 1.8e9, "text": "D wins </script><script>alert(1)</script>"})
    changes = [["optim.lr_g", 2e-4, 1e-4]]
    rows.append({"type": "resume", "time": 1.8e9, "images_seen": 6000, "changes": changes})
    rows += [*second, *scores, {"type": "checkpoint", "time": 1.8e9, "images_seen": 12000, "path": "x"}]
    write_rows(folder, rows)
    for seed, name in enumerate(("init", "000000004000", "000000008000", "000000008000-raw")):
        picture(folder / "samples" / f"{name}.png", seed=seed)
    picture(folder / "reals.png")
    picture(folder / "evaluation" / "000000004000-neighbours.png")
    picture(folder / "evaluation" / "000000008000-neighbours.png", side=32)
    return folder
