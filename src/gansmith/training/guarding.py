"""The guard in training: asks the detector at every status row and score, says what it found, and acts.

Going back is written down (lineage.json) and then done as after a kill: the run is left, and begun again from
the checkpoint that the file names. Process 0 decides for all. Must not know how a step is made.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gansmith.config import Config
from gansmith.errors import Diverged, Stopped
from gansmith.evaluation import best
from gansmith.evaluation.protocol import Result
from gansmith.guard import tables
from gansmith.guard.detector import Detector, Verdict
from gansmith.guard.tables import FEWEST_ROWS
from gansmith.training import checkpoint as checkpoints
from gansmith.training import lineage as lineages
from gansmith.training import resuming
from gansmith.training.lineage import Branch, Lineage
from gansmith.training.release import Release

if TYPE_CHECKING:
    from gansmith.training.loop import Run
    from gansmith.training.state import State

FEWEST_CHECKPOINTS = 5  # of a run, for the guard to go back a little


class WentBack(Exception):
    """The run has a new branch in its lineage: it is to be begun again from there."""


def notes(config: Config, every: dict[str, int], duration: int) -> list[str]:
    """What keeps the guard from doing its work well, in words."""
    guard, said = config.guard, []
    if guard.policy == "off":
        return []
    if (rows := duration // every["status"]) < FEWEST_ROWS:
        way_out = _oftener("log.status_every", every["status"], duration // FEWEST_ROWS, config)
        said.append(f"guard: {rows} status rows in the whole run are few to see a collapse by{way_out}")
    if guard.policy == "rollback":
        if not config.log.keep_spaced:
            said.append(
                "guard: log.keep_spaced 0 leaves no older checkpoints, so on collapse the run would begin "
                "anew; set it to 2 or more"
            )
        elif (saved := duration // every["checkpoint"]) < FEWEST_CHECKPOINTS:
            way_out = _oftener(
                "log.checkpoint_every", every["checkpoint"], duration // FEWEST_CHECKPOINTS, config
            )
            said.append(f"guard: {saved} checkpoints in the whole run make going back costly{way_out}")
    return said


def _oftener(setting: str, now: int, wanted: int, config: Config) -> str:
    least = max(wanted, config.train.batch)  # nothing comes oftener than steps
    return f"; set {setting} to {least:,} images or fewer" if least < now else ""


def watch(run: "Run", state: "State", row: dict[str, Any]) -> None:
    """Shows the detector a status row; all processes call it. Raises WentBack, Stopped or Diverged."""
    if _looks(run, state):
        _act(run, state, state.guard.observe(state.images_seen, row) if run.world.is_main else None)


def watch_score(run: "Run", state: "State", results: list[Result] | None) -> None:
    """Likewise with what an evaluation found; None where there was none."""
    distance = next(
        (r for r in results or () if r.metric.startswith("frechet") and r.value is not None), None
    )
    if _looks(run, state) and run.world.share(distance is not None):
        verdict = None
        if distance is not None and distance.value is not None:
            verdict = state.guard.observe_score(state.images_seen, distance.value, distance.protocol_id)
        _act(run, state, verdict)


def _looks(run: "Run", state: "State") -> bool:
    # While G is trained alone, or stands still under a D that learns, nothing is as it will be.
    alone = state.images_seen <= run.alone_until or state.release.holds
    return run.config.guard.policy != "off" and not alone


def stuck(run: "Run", state: "State", letter: str, skipped: int) -> None:
    """What follows when a network's steps were left out `skipped` times in a row: Diverged, or WentBack."""
    player = state.D if letter == "d" else state.G
    guard, optim = run.config.guard, run.config.optim
    run.log.event("diverged", images_seen=state.images_seen, phase=letter)
    if int(player.scale.skipped) >= player.turn:
        raise _diverged(
            run,
            f"all {skipped} {letter.upper()} steps so far had non-finite gradients: not one was taken since "
            "the start, so there is nothing to go back to. Look at the images (gansmith data inspect), at an "
            "own loss or network, and at train.precision; lower learning rates help where the first explode.",
        )
    what = f"{skipped} {letter.upper()} steps in a row had non-finite gradients"
    if guard.policy != "rollback":
        raise _diverged(
            run,
            f"{what} (train.max_skipped {run.config.train.max_skipped}) at {state.images_seen:,} images. The "
            f"checkpoints below {run.checkpoints} are from before; go on with lower learning rates, e.g. "
            f"--set optim.lr_g={optim.lr_g / 2:g} --set optim.lr_d={optim.lr_d / 2:g} "
            "--allow-change optim.lr_g --allow-change optim.lr_d.",
        )
    lost = skipped * run.batch * (optim.d_steps if letter == "g" else 1)
    since = min(state.guard.since or state.images_seen, state.images_seen - lost)
    _go_back(run, state, "diverged", what, max(int(since), 0))


def _act(run: "Run", state: "State", found: Verdict | None) -> None:
    verdict = run.world.share(found)
    assert verdict is not None
    policy, seen = run.config.guard.policy, state.images_seen
    if verdict.changed:
        state_now = "recovered" if verdict.state == "ok" else verdict.state
        run.log.say(f"guard: {state_now} at {seen:,} images: {verdict.describe()}{_since(verdict)}")
        run.log.event(
            state_now,
            images_seen=seen,
            what=verdict.kind,
            since=verdict.since,
            why=verdict.describe(),
            votes=[asdict(vote) for vote in verdict.votes],
        )
    if verdict.state != "collapsed" or policy == "warn":
        return
    since = seen if verdict.since is None else int(verdict.since)
    if policy == "stop":
        raise _diverged(
            run,
            f"training collapsed at {seen:,} images ({verdict.describe()}; guard.policy stop). "
            f"{_best(run, since)}",
        )
    _go_back(run, state, verdict.kind or "collapsed", verdict.describe(), since)


def _since(verdict: Verdict) -> str:
    return "" if verdict.since is None else f"; as usual until {verdict.since:,.0f}"


def _go_back(run: "Run", state: "State", kind: str, why: str, since: int) -> None:
    """Writes a new branch down and raises WentBack; Diverged where there is none to be had, Stopped where it
    cannot be written. The same on all processes."""
    outcome = run.world.share(_branch_off(run, state, kind, why, since) if run.world.is_main else None)
    assert outcome is not None
    raise outcome if run.world.is_main else type(outcome)("")


def _diverged(run: "Run", why: str) -> Diverged:
    return Diverged(why if run.world.is_main else "")  # one of several processes says it


def _branch_off(run: "Run", state: "State", kind: str, why: str, since: int) -> Exception:
    guard, seen, lineage = run.config.guard, state.images_seen, run.lineage
    collapsed = f"training collapsed at {seen:,} images ({why})"
    if lineage.number >= guard.retries:
        tried = f"after going back {lineage.number} times" if lineage.number else "and may not go back"
        return Diverged(f"{collapsed}, {tried} (guard.retries {guard.retries}). {_best(run, since)}")
    target = since * (1 - guard.back) ** (lineage.number + 1)
    origin = _origin(run, target, since)
    if origin is None and not run.from_seed:
        return Diverged(f"{collapsed}, and no whole checkpoint is from before. {_best(run, since)}")
    images = (checkpoints.parse(origin.name) or (0, 0))[0] if origin else 0
    accepted = {}
    if origin:
        record = checkpoints.read_record(origin)
        accepted = resuming.accepted(record, run.config, run.dataset.content_hash)
    branch = Branch(
        number=lineage.number + 1,
        origin=origin.name if origin else None,
        images_seen=images,
        collapsed=seen,
        since=since,
        kind=kind,
        why=why,
        lr_factor=guard.lr_factor,
        r1=guard.penalty_r1,
        accepted=accepted,
    )
    grown = Lineage((*lineage.branches, branch))
    try:
        lineages.write(run.out, grown)
    except OSError as error:
        return Stopped(
            f"{collapsed}, and {run.out / lineages.FILE} could not be written ({error}); free space, and the "
            "same command goes on and goes back"
        )
    where = f"to {images:,} images ({origin})" if origin else "to the beginning"
    run.log.say(
        f"guard: going back {where}, the {_ordinal(branch.number)} of at most {guard.retries} times: "
        f"other data and noise, learning rates × {grown.lr_factor:g}"
        + (f", R1 {branch.r1:g}" if branch.r1 is not None else "")
    )
    run.log.event(
        "rollback",
        images_seen=images,
        collapsed=seen,
        since=since,
        what=kind,
        origin=branch.origin,
        lineage=branch.number,
        lr_factor=grown.lr_factor,
    )
    return WentBack()


def _origin(run: "Run", target: float, since: int) -> Path | None:
    """The newest whole checkpoint of the run from before `target`; None for the beginning. A run that cannot
    be begun anew takes its oldest from before `since`."""
    whole = [
        (moment[0], path)
        for path in checkpoints.listed(run.checkpoints)
        if (moment := checkpoints.parse(path.name)) and moment[0] <= since and run.lineage.keeps(*moment)
    ]
    far = [path for images, path in reversed(whole) if images <= target]
    near = [] if run.from_seed else [path for _, path in whole]
    return next((path for path in [*far, *near] if checkpoints.problem(path) is None), None)


def _best(run: "Run", since: int) -> str:
    """A sentence that names what is left to use."""
    link = run.out / "best"
    if link.exists():
        return f"The best snapshot is {link.resolve()}."
    kept = [
        path
        for path in sorted((run.out / "snapshots").glob("[0-9]*.safetensors"))
        if (moment := checkpoints.parse(path.name)) and moment[0] <= since and run.lineage.keeps(*moment)
    ]
    if kept:
        return f"The newest snapshot from before is {kept[-1]}."
    return "There is no snapshot from before."


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def helped(config: Config, lineage: Lineage) -> Config:
    """The settings that a loss is built of: with the penalty that was switched on at going back."""
    if lineage.r1 is None or lineage.r1 <= (config.penalty.r1 or 0):
        return config
    return config.model_copy(update={"penalty": config.penalty.model_copy(update={"r1": lineage.r1})})


def ending(run: "Run", state: "State") -> str:
    """What the last line of a run says of it, if anything."""
    said = []
    if number := run.lineage.number:
        said.append(f"it went back {number} time{'s' if number > 1 else ''} ({lineages.FILE})")
    if state.guard.state != "ok":
        said.append(f"the guard calls it {state.guard.state}")
    return f" ({'; '.join(said)})" if said else ""


def begin(
    record: dict[str, Any] | None, duration: int, out: Path, lineage: Lineage, alone_until: int = 0
) -> Detector:
    """The detector of a new run, or as a checkpoint's record remembers it, with the scores since then: those
    of a moment come after its checkpoint. alone_until: images for which G was trained alone."""
    if record is None:
        return Detector(duration)
    detector = Detector.from_json(record["guard"]) if "guard" in record else Detector(duration)
    detector.duration = duration
    release = Release(**record.get("release", {}))
    if release.holds:
        return detector
    start = max(alone_until, (release.released_at or 0) - 1)  # `_looks` from there on
    for row in best.read(out):
        moment, score = checkpoints.parse(str(row.get("snapshot"))), tables.distance(row)
        if moment is None or score is None or not lineage.keeps(*moment):
            continue
        if max(start, detector.scored) < moment[0] <= record["images_seen"]:
            detector.observe_score(moment[0], *score)
    return detector
