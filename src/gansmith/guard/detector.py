"""The detector: rows in the order of their positions → a verdict after each. Small state, no chance.

Each signal is held against its own trailing median and spread. All windows are shares of the run so far, so
that a row every 5k of 20M images and one every 256 of 20k are judged alike: rows are gathered in bins of a
200th of the run so far, and a signal votes by the median of its last three bins, so that a spike that heals
is none. Votes are weighed, not counted: signals of one family go together. Must not know runs or files.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gansmith.guard import signals
from gansmith.guard.signals import RULES, Rule

BIN = 1 / 200  # of the positions since the first row; at least one row
RECENT = 3  # bins whose median is what a signal is now
WINDOW = 1 / 2  # of the positions since the first row: what it was
LEAST = 8  # bins to know what was
WARM_UP = 0.1  # of the duration, before which only broken numbers and a dead D count
SUSPECT, GRAVE, COLLAPSED = 2, 3, 4  # weights of votes together
LASTING = 6  # bins: what is grave for so long is a collapse
ABSORBED = 0.15, 24  # of the positions so far, and bins: a light suspicion this long is how things are now
LOW_LOSS = 0.05  # of D: it has won
BROKEN_ROWS = 3  # in a row without a finite gradient, or with nothing left to learn from
FADED = 1e-2  # of the second largest that a gradient or D's gap ever was
ALIKE = 1e-3  # of D's outputs: their gap
SCORE_SUSPECT, SCORE_COLLAPSED = 1.3, 2.0  # times the best


@dataclass(frozen=True)
class Vote:
    """signal, way: what votes, by rising or falling. value: what it is, usual: what it was, spreads: how many
    of its trailing spreads lie between. since: the last position at which it was as usual."""

    signal: str
    way: str
    says: str
    weight: int
    family: str
    value: float | None
    usual: float | None
    spreads: float | None
    since: float


@dataclass(frozen=True)
class Verdict:
    """state: ok, suspect or collapsed. kind: mode collapse, vanishing, dead D or diverged; None while ok.

    since: position of the first vote of this suspicion. changed: whether the state is another than before.
    """

    position: float
    state: str = "ok"
    kind: str | None = None
    since: float | None = None
    votes: tuple[Vote, ...] = ()
    changed: bool = False

    @property
    def weight(self) -> int:
        return weigh(self.votes)

    def describe(self) -> str:
        """One sentence: `mode collapse: σ0 of G's first layers grows at once (2.1 instead of 1.1), …`."""
        said = [f"{vote.says}{_compared(vote)}" for vote in self.votes]
        return f"{self.kind}: {', '.join(said)}" if self.votes else "nothing unusual any more"


@dataclass
class Bin:
    """A stretch of rows as one: medians of what was finite. quiet: nothing voted then."""

    position: float
    values: dict[str, float]
    quiet: bool = True


@dataclass
class Detector:
    """duration: positions in all, that the warm-up is a share of. The rest is its memory."""

    duration: float
    start: float | None = None
    bins: list[Bin] = field(default_factory=list)
    rows: list[dict[str, float]] = field(default_factory=list)  # of the bin that is still open
    best: dict[str, float] = field(default_factory=dict)  # the best that a signal of a slow rule ever held
    broken: int = 0  # rows in a row without a finite gradient
    counted: dict[str, float] = field(default_factory=dict)  # of the newest row
    broken_since: float | None = None
    largest: dict[str, list[float]] = field(default_factory=dict)  # two, of gradients and D's gap
    lifeless: int = 0  # rows in a row without any gradient to speak of
    lifeless_since: float = 0.0
    votes: dict[str, Vote] = field(default_factory=dict)
    since: float | None = None
    bins_suspect: int = 0  # in a row
    bins_grave: int = 0
    state: str = "ok"
    best_score: float | None = None
    score_at: float | None = None  # of the newest that was well
    score_of: str | None = None
    scored: float = -1.0  # position of the newest

    def observe(self, position: float, row: Mapping[str, Any]) -> Verdict:
        """Takes in a status row. Positions must ascend."""
        found = signals.of_row(row)
        self._begin(position)
        self._note_broken(position, found)
        self._note_lifeless(position, found)
        counted: dict[str, float] = {n: found.pop(n) for n in ("skipped", "step") if n in found}
        found |= signals.per_step(self.counted, counted)
        self.counted = counted
        self.rows.append({name: value for name, value in found.items() if value == value})
        if not self.bins or position - self.bins[-1].position >= BIN * self._elapsed(position):
            self._close(position)
        return self._verdict(position)

    def observe_score(self, position: float, value: float, protocol: str = "") -> Verdict:
        """Takes in a distance such as FID; of another protocol it begins anew, and one that is no number says
        nothing."""
        self._begin(position)
        self.scored = max(self.scored, position)
        if not math.isfinite(value):
            return self._verdict(position)
        if self.score_of != protocol:
            self.best_score, self.score_of = None, protocol
        times = value / self.best_score if self.best_score else 0.0
        if times > SCORE_SUSPECT and self._is_warm(position):
            weight = COLLAPSED if times > SCORE_COLLAPSED else SUSPECT
            known = self.score_at if self.score_at is not None else position
            says = "the score is far above its best"
            self._vote(Vote("score", "rises", says, weight, "score", value, self.best_score, None, known))
        else:
            self.votes.pop("score rises", None)
            self.score_at = position
            if value > 0:
                self.best_score = min(value, self.best_score or value)
        return self._verdict(position)

    def to_json(self) -> dict[str, Any]:
        """Everything it remembers, JSON-able."""
        names = sorted({name for each in self.bins for name in each.values})
        columns = {
            "position": [each.position for each in self.bins],
            "quiet": [each.quiet for each in self.bins],
            "values": {name: [each.values.get(name) for each in self.bins] for name in names},
        }
        return asdict(self) | {"bins": columns}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Detector":
        """The detector that `to_json` described."""
        columns = data["bins"]
        bins = [
            Bin(
                position,
                {name: column[at] for name, column in columns["values"].items() if column[at] is not None},
                columns["quiet"][at],
            )
            for at, position in enumerate(columns["position"])
        ]
        votes = {name: Vote(**vote) for name, vote in data["votes"].items()}
        return Detector(**dict(data) | {"bins": bins, "votes": votes})

    def _begin(self, position: float) -> None:
        if self.start is None:
            self.start = position

    def _elapsed(self, position: float) -> float:
        return position - (position if self.start is None else self.start)

    def _is_warm(self, position: float) -> bool:
        """Whether what votes counts: only broken numbers do before."""
        return self._elapsed(position) >= WARM_UP * self.duration

    def _note_broken(self, position: float, found: Mapping[str, float]) -> None:
        """Counts rows in which nothing was learnt: every step left out, or, where no gradient is logged, a
        loss that is no number."""
        asked = [found[name] for name in signals.GRADIENTS if name in found]
        asked = asked or [found[name] for name in signals.LOSSES if name in found]
        self.broken = self.broken + 1 if any(value != value for value in asked) else 0
        if self.broken == 1:
            self.broken_since = self.bins[-1].position if self.bins else position
        if self.broken >= BROKEN_ROWS:
            since = self.broken_since if self.broken_since is not None else position
            says = "gradients are not finite"
            self._vote(Vote("finite", "falls", says, COLLAPSED, "finite", None, None, None, since))
        else:
            self.votes.pop("finite falls", None)

    def _note_lifeless(self, position: float, found: Mapping[str, float]) -> None:
        """Counts rows in which D says the same of everything and neither network has a gradient: it needs no
        memory of better days to be seen, so a D that died at once is found too. Sizes are held against the
        second largest there were, so that no single spike makes all that follows look small.
        """
        sizes = {name: abs(found.get(name, math.nan)) for name in (*signals.GRADIENTS, "gap")}
        known = {name: size for name, size in sizes.items() if size == size}
        self.largest |= {
            name: sorted([*self.largest.get(name, []), size])[-2:] for name, size in known.items()
        }
        said = max(abs(found.get(name, math.nan)) for name in ("d_real", "d_fake"))
        lifeless = (
            len(known) == len(sizes)
            and all(size <= FADED * self.largest[name][0] for name, size in known.items())
            and known["gap"] <= ALIKE * said
        )
        if self.lifeless == 0:
            self.lifeless_since = self.bins[-1].position if self.bins else position
        self.lifeless = self.lifeless + 1 if lifeless else 0
        if self.lifeless >= BROKEN_ROWS:
            says = "D says the same of everything, and neither network has a gradient"
            self._vote(
                Vote("lifeless", "falls", says, COLLAPSED, "life", None, None, None, self.lifeless_since)
            )
        else:
            self.votes.pop("lifeless falls", None)

    def _close(self, position: float) -> None:
        """Makes the open rows a bin, and lets every rule look at it."""
        names = {name for row in self.rows for name in row}
        values = {name: statistics.median(row[name] for row in self.rows if name in row) for name in names}
        self.rows = []
        self.bins.append(Bin(position, values))
        if not weigh(self.votes.values()):  # in the midst of trouble must not be forgotten what was usual
            self._forget(position - WINDOW * self._elapsed(position))
        if not self._is_warm(position):
            return
        for rule in RULES:
            for name in sorted(values):
                if name == rule.signal or (rule.signal == signals.LAYER and name.startswith(signals.LAYER)):
                    self._apply(rule, name)
        self._look_for_vanishing()
        weight = weigh(self.votes.values())
        self.bins[-1].quiet = not weight
        self.bins_suspect = self.bins_suspect + 1 if weight >= SUSPECT else 0
        self.bins_grave = self.bins_grave + 1 if weight >= GRAVE else 0

    def _forget(self, oldest: float) -> None:
        """Drops values from before `oldest`, but for signals that are seldom looked at: they keep enough."""
        later: Counter[str] = Counter()
        kept: list[Bin] = []
        for each in reversed(self.bins):
            values = each.values
            if each.position < oldest:
                values = {name: value for name, value in values.items() if later[name] < LEAST + RECENT}
            later.update(values.keys())
            if values or each is self.bins[-1]:
                kept.append(Bin(each.position, values, each.quiet))
        self.bins = kept[::-1]

    def _look_for_vanishing(self) -> None:
        """A G whose gradient dies under a D that has won learns nothing more; either alone is no alarm."""
        dying, recent = self.votes.get("gradient_norm_g falls"), self._recent("loss_d")
        if dying and recent and 0 <= statistics.median(recent) < LOW_LOSS:
            says = "G's gradient dies as D's loss does"
            self.votes["gradient_norm_g falls"] = replace(dying, weight=COLLAPSED, says=says)

    def _recent(self, name: str) -> list[float]:
        return [each.values[name] for each in self.bins if name in each.values][-RECENT:]

    def _apply(self, rule: Rule, name: str) -> None:
        known = [each for each in self.bins if name in each.values]
        recent = self._recent(name)
        before = [each.values[name] for each in known[:-RECENT] if each.quiet]
        key = f"{name} {rule.way}"
        if len(recent) < RECENT or len(before) < LEAST:
            self.votes.pop(key, None)
            return
        value, usual = statistics.median(recent), statistics.median(before)
        if rule.way == "rises":
            far = value > rule.ratio * abs(usual) + rule.margin
        else:
            far = value < rule.ratio * usual
        far = far and away(value, before) > rule.spreads
        if rule.slow:
            held = min(usual, 1.0)
            self.best[name] = max(self.best.get(name, 0.0), held)
            far = value < 1 and (far or value < rule.slow * self.best[name])
        if far:
            since = known[-RECENT - 1].position
            spreads = away(value, before)
            self._vote(
                Vote(name, rule.way, rule.says, rule.weight, rule.family, value, usual, spreads, since)
            )
        else:
            self.votes.pop(key, None)

    def _vote(self, vote: Vote) -> None:
        """Keeps it, since when it votes without a break."""
        key = f"{vote.signal} {vote.way}"
        since = self.votes[key].since if key in self.votes else vote.since
        self.votes[key] = replace(vote, since=since)

    def _verdict(self, position: float) -> Verdict:
        votes = tuple(sorted(self.votes.values(), key=lambda vote: (-vote.weight, vote.since, vote.signal)))
        weight = weigh(votes)
        before = self.state
        collapsed = weight >= COLLAPSED or (weight >= GRAVE and self.bins_grave >= LASTING)
        collapsed |= before == "collapsed" and weight >= SUSPECT
        self.state = "collapsed" if collapsed else "suspect" if weight >= SUSPECT else "ok"
        if not weight:
            self.since = None
        elif self.since is None:
            self.since = min(vote.since for vote in votes if vote.weight)
        if self.state == "ok":
            return Verdict(position, changed=before != "ok")
        verdict = Verdict(position, self.state, kind_of(votes), self.since, votes, before != self.state)
        self._absorb(position)
        return verdict

    def _absorb(self, position: float) -> None:
        """A light suspicion that lasts is how the run is now: forgets what came before, once, so that what
        comes next is held against it."""
        share, bins = ABSORBED
        if self.since is None or self.state != "suspect" or self.bins_suspect < bins:
            return
        if position - self.since <= share * self._elapsed(position):
            return
        self.bins = [Bin(each.position, each.values) for each in self.bins if not each.quiet]
        self.votes = {name: vote for name, vote in self.votes.items() if vote.family == "finite"}
        self.best, self.best_score, self.since, self.bins_suspect = {}, None, None, 0


def away(value: float, before: Sequence[float]) -> float:
    """How many spreads (1.48 · MAD) a value is from the median; in the logarithm where all are above 0."""
    if min(before) > 0:
        before, value = [math.log(each) for each in before], math.log(max(value, 1e-300))
    usual = statistics.median(before)
    spread = 1.4826 * statistics.median(abs(each - usual) for each in before)
    return abs(value - usual) / max(spread, 1e-12)


def weigh(votes: Iterable[Vote]) -> int:
    """The sum over families of their heaviest vote."""
    heaviest: dict[str, int] = {}
    for vote in votes:
        heaviest[vote.family] = max(heaviest.get(vote.family, 0), vote.weight)
    return sum(heaviest.values())


def kind_of(votes: tuple[Vote, ...]) -> str:
    """What it is called: by the votes, the gravest first."""
    said = {(vote.signal, vote.way) for vote in votes}
    if said & {
        ("finite", "falls"),
        ("skipped_per_step", "rises"),
        *((name, "rises") for name in signals.GRADIENTS),
    }:
        return "diverged"
    if ("lifeless", "falls") in said:
        return "dead D"
    dying = [vote for vote in votes if vote.signal in signals.GRADIENTS]
    if any(vote.weight == COLLAPSED for vote in dying):
        return "vanishing"
    return "dead D" if len(dying) == 2 else "mode collapse"


def _compared(vote: Vote) -> str:
    if vote.value is None or vote.usual is None:
        return ""
    return f" ({vote.value:.3g} instead of {vote.usual:.3g})"
