"""Rows, scores and pictures as training writes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONFIG = """\
preset: digits
data:
  path: "photos  # not a comment"  # command line
  flip: false  # preset digits
train:
  duration: 20k  # command line
  batch: 64  # preset digits
optim:
  schedule_steps: {}
  d_steps: 1
"""


def status(images: int, **more: Any) -> dict[str, Any]:
    row = {"type": "status", "time": 1.8e9 + images, "images_seen": images, "epoch": images / 1000}
    row |= {"step": images // 64, "seconds": images / 100, "images_per_second": 100.0, "eta_seconds": 1.0}
    row |= {"loss_d": 2000 / images, "loss_g": -0.5, "d_real": 1.0, "d_fake": -1.0, "skipped": None}
    sigma = {f"{net}.layer{k}": 1.0 + k * images / 1e5 for net in "GD" for k in range(9)}
    return row | {"sigma0": sigma, "lr_g": 2e-4, "lr_d": 2e-4, "batch": 64} | more


def result(name: str, value: float | None, protocol_id: str, **protocol: Any) -> dict[str, Any]:
    better = "higher" if name in ("IS", "precision") else "lower"
    return {"metric": name, "name": name, "value": value, "sd": None, "better": better, "details": {},
            "protocol": protocol, "protocol_id": protocol_id}  # fmt: skip


def evaluation(images: int, *results: dict[str, Any]) -> dict[str, Any]:
    return {"type": "evaluation", "time": 1.8e9 + images, "images_seen": images, "results": list(results)}


def picture(path: Path, side: int = 48, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def write_rows(run: Path, rows: list[dict[str, Any]], tail: str = "") -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
