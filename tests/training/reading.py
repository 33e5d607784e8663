"""What a run has written, for tests to look at."""

import json
from pathlib import Path

import pytest

from gansmith.training import checkpoint


def newest(run: Path) -> Path:
    return checkpoint.latest(run / "checkpoints", pytest.fail)


def networks(run: Path) -> dict:
    return checkpoint.read_tensors(newest(run))["networks"]


def events(run: Path, kind: str) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["type"] == kind]
