"""Where a run went back, how often and why: RUN/lineage.json, and which files belong to the run still.

After going back `images_seen` repeats, so a branch has a number, and names of its files end in it. The file
is the point of no return: before it is written the run is on the old branch, after it on the new one,
whatever else had been done when it was stopped.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gansmith import files
from gansmith.errors import UserError
from gansmith.training.checkpoint import ABANDONED, parse

FILE = "lineage.json"
FORMAT, VERSION = "gansmith-lineage", 1


@dataclass(frozen=True)
class Branch:
    """One going back. number: 1 for the first. origin: the checkpoint it goes on from, None: the beginning;
    images_seen: of that. collapsed: images seen on the branch before, since: when that was last as usual.
    lr_factor: of the learning rates before. r1: strength of a penalty switched on, or None. accepted: what
    the run has by now and its origin had not, see resuming.accepted.
    """

    number: int
    origin: str | None
    images_seen: int
    collapsed: int
    since: int
    kind: str
    why: str
    lr_factor: float
    r1: float | None = None
    accepted: dict[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    @property
    def before(self) -> int:
        """The branch that the checkpoint was made on."""
        found = parse(self.origin) if self.origin else None
        return found[1] if found else 0


@dataclass(frozen=True)
class Lineage:
    """All branches, oldest first; none for a run that never went back."""

    branches: tuple[Branch, ...] = ()

    @property
    def number(self) -> int:
        return len(self.branches)

    @property
    def last(self) -> Branch | None:
        return self.branches[-1] if self.branches else None

    @property
    def lr_factor(self) -> float:
        """Of both learning rates, all branches together."""
        factor = 1.0
        for branch in self.branches:
            factor *= branch.lr_factor
        return factor

    @property
    def r1(self) -> float | None:
        return self.last.r1 if self.last else None

    def line(self) -> Iterator[tuple[int, int, float]]:
        """The run from its end to its beginning: (branch, images above which, images up to which)."""
        number, end = self.number, float("inf")
        while number > 0:
            branch = self.branches[number - 1]
            yield number, branch.images_seen, end
            number, end = (branch.before, branch.images_seen) if branch.origin else (-1, 0)
        if number == 0:
            yield 0, -1, end

    def keeps(self, images_seen: int, lineage: int) -> bool:
        """Whether what was made then, on that branch, is part of the run still."""
        return any(lineage == number and low < images_seen <= high for number, low, high in self.line())

    def stream(self, name: str) -> str:
        """The name of a stream of noise: another on every branch."""
        return f"{name}-{self.number}" if self.number else name

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, "branches": [asdict(each) for each in self.branches]}

    @staticmethod
    def from_json(data: dict[str, Any]) -> "Lineage":
        return Lineage(tuple(Branch(**each) for each in data["branches"]))


def read(out: Path) -> Lineage:
    """The lineage of the run in `out`; an empty one where it never went back. Raises UserError for a damaged
    file: without it nobody knows which checkpoints are the run's."""
    try:
        return Lineage.from_json(json.loads((out / FILE).read_text()))
    except FileNotFoundError:
        return Lineage()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{out / FILE} is damaged ({error}), and tells which checkpoints are the run's; restore it from "
            "a copy, or start from one of them anew: gansmith train --init-from CHECKPOINT --out ANOTHER."
        ) from None


def write(out: Path, lineage: Lineage) -> None:
    """Raises OSError, leaving the old one."""
    files.write_text(out / FILE, json.dumps(lineage.to_json(), indent=1))


def set_aside(
    out: Path,
    beyond: Callable[[int, int], bool],
    why: str,
    say: Callable[[str], None],
    kinds: Sequence[str] = ("snapshots", "checkpoints"),
) -> None:
    """Renames snapshots and checkpoints of which `beyond` (images seen, branch) is true to NAME.abandoned:
    the run that goes on makes others, and the newest by number would not be its own. RUN/best follows its
    snapshot. May be stopped anywhere and repeated.
    """
    for kind in kinds:
        for path in sorted((out / kind).glob("[0-9]*")):
            moment = parse(path.name)
            if moment is None or not beyond(*moment):
                continue
            target, best = path.with_name(f"{path.name}{ABANDONED}"), out / "best"
            if best.is_symlink() and best.readlink().name in (path.name, target.name):
                _point(best, target.relative_to(out))
            if target.is_dir():
                shutil.rmtree(target)
            path.rename(target)
            say(f"  set aside, as it is {why}: {target}")


def _point(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)
