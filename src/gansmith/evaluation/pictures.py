"""What a score found, for the eye: fakes beside their nearest training images, and classes that leak.

Fakes are made again from their numbers, so no image has to be kept for it. Must not know how scores are
computed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gansmith import files
from gansmith.data.shards import Dataset
from gansmith.evaluation.leakage import LeakingPair
from gansmith.evaluation.neighbours import Neighbours
from gansmith.evaluation.targets import Target
from gansmith.sampling import grids

ROWS = 16
NAME = re.compile(r"(\d{12})-(neighbours|leakage)-.*\.png")


def prune(run: Path) -> None:
    """Deletes the pictures of snapshots that the run has deleted: as many remain as there are snapshots."""
    there = {
        path.name.split(".")[0] for name in ("snapshots", "checkpoints") for path in (run / name).glob("*")
    }
    for path in (run / "evaluation").glob("*.png"):
        if (match := NAME.fullmatch(path.name)) and match[1] not in there:
            path.unlink(missing_ok=True)


def portable(name: str) -> str:
    """A network's name as part of a file's: `classifier:mine` → `classifier-mine`."""
    return re.sub(r"[:/\\]", "-", name)


@dataclass(frozen=True)
class Pictures:
    """Where pictures go and what they are made of. rows: index in the data set of each real's features."""

    folder: Path
    stem: str
    target: Target
    dataset: Dataset
    rows: np.ndarray
    seed: int
    num: int

    def neighbours(self, found: Neighbours, network: str) -> Path:
        """A row per fake, the most suspicious first: the fake, then its nearest training images."""
        chosen = np.argsort(found.distances[:, 0], kind="stable")[:ROWS]
        fakes, columns = self._fakes(chosen), 1 + found.indices.shape[1]
        pictures = [
            np.concatenate([fake[None], self.dataset.read(self.rows[found.indices[index]])])
            for fake, index in zip(fakes, chosen)
        ]
        titles = [f"{found.distances[index, 0]:.3g}" for index in chosen]
        return self._save(f"neighbours-{network}", np.concatenate(pictures), columns, titles)

    def leakage(self, pairs: Sequence[LeakingPair], names: Sequence[str], network: str) -> Path | None:
        """A row per pair: fakes asked for as one class and seen as another, the most certain first."""
        if not pairs:
            return None
        columns = max(len(pair.examples) for pair in pairs)
        rows = [np.resize(pair.examples, columns) for pair in pairs]  # few examples repeat
        titles = [f"{names[p.asked]} -> {names[p.seen]} {100 * p.rate:.0f} %" for p in pairs]
        return self._save(f"leakage-{network}", self._fakes(np.concatenate(rows)), columns, titles)

    def _fakes(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (n, h, w, c) of the fakes with these numbers."""
        parts = [
            self.target.pick(indices[at : at + ROWS], seed=self.seed, num=self.num).images.cpu().numpy()
            for at in range(0, len(indices), ROWS)
        ]
        return np.concatenate(parts).transpose(0, 2, 3, 1)

    def _save(self, name: str, images: np.ndarray, columns: int, titles: list[str]) -> Path:
        path = self.folder / f"{self.stem}-{portable(name)}.png"
        self.folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as temporary:
            grids.tile(images, columns, titles).save(temporary, format="PNG")
        return path
