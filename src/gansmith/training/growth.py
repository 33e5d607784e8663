"""The batch as a function of the run: fixed, growing by a table of images, or as the gradient noise asks.

Growth adds micro-batches to a phase. The stream goes on where it is, shapes stay, and everything with a
memory counts images, so nothing else changes. `auto` only grows: a batch that has paid for a while is not
given back for one quiet moment. Decisions fall at multiples of an amount of images from numbers that every
rank has and every checkpoint holds, so a run that is stopped anywhere grows at the same image.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from gansmith.config import Config, images
from gansmith.errors import UserError
from gansmith.training import batching, noise_scale

if TYPE_CHECKING:
    from gansmith.training.loop import Run
    from gansmith.training.state import State

LOOKS = 4  # at the noise per dwell
FEWEST = 8  # measurements before the first growth
LETTERS = ("d", "g")


@dataclass(frozen=True)
class Rule:
    """`batch.*` in images. table: (from, batch), ascending; empty where the noise decides or nothing does."""

    start: int
    start_g: int
    table: tuple[tuple[int, int], ...]
    auto: bool
    apart: bool
    maximum: int
    share: float
    hysteresis: float
    dwell: int
    half_life: int
    every: int | None  # optimizer steps between measurements; None: never
    lr_power: float

    @property
    def measures(self) -> bool:
        return self.every is not None


@dataclass
class Growth:
    """Where the growth of a run stands: part of every checkpoint. Batches of D and of G phases, None where
    they are as at the start; grown_at: images seen when each last grew.
    """

    batch: dict[str, int] = field(default_factory=dict)
    grown_at: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LETTERS, 0))
    measured: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LETTERS, 0))


def rule(config: Config, epoch: int) -> Rule:
    """epoch: images per epoch. Raises UserError for a growth beyond the data set."""
    batch, start = config.batch, config.train.batch
    start_g = config.train.batch_g or start
    duration = images(config.train.duration, epoch)
    auto = batch.schedule == "auto"
    table = steps(batch.schedule, epoch)
    fitting = max(epoch // start, 1) * start
    maximum = batch.maximum or (min(MOST_BY_ITSELF * start, fitting) if auto else start)
    largest = max([batch.maximum or 0, *(size for _, size in table)])
    if largest > epoch:
        asked = "batch.maximum" if auto else "batch.schedule"
        most = epoch // start * start
        way_out = (
            f"the largest that makes sense here is {most:,}"
            if most
            else f"so is train.batch, {start:,}: begin with {epoch:,} or fewer"
        )
        raise UserError(
            f"{asked}: a batch of {largest:,} is more than the {epoch:,} images there are; {way_out}."
        )
    return Rule(
        start=start,
        start_g=start_g,
        table=table,
        auto=auto,
        apart=batch.apart,
        maximum=maximum,
        share=batch.share,
        hysteresis=batch.hysteresis,
        dwell=max(1, round(batch.dwell * duration)),
        half_life=max(1, round(batch.noise_half_life * duration)),
        every=batch.noise_every or (NOISE_EVERY if auto else None),
        lr_power=batch.lr_power,
    )


MOST_BY_ITSELF = 16  # times the batch it starts with
NOISE_EVERY = 32  # steps


def steps(schedule: str | dict[str, int], epoch: int) -> tuple[tuple[int, int], ...]:
    """A table of images → batch as ascending pairs; empty for `fixed` and `auto`."""
    if isinstance(schedule, str):
        return ()
    return tuple(sorted((images(at, epoch), size) for at, size in schedule.items()))


def num_steps(rule: Rule, duration: int, d_steps: int) -> int:
    """Steps of G in a whole run of `duration` images, each showing `d_steps` batches; the most there can be
    where the noise decides.
    """
    table = rule.table or ((0, rule.start),)
    seen = taken = 0
    for (_, batch), (end, _) in zip(table, (*table[1:], (duration, 0))):
        now = max(0, -(-(min(end, duration) - seen) // (d_steps * batch)))
        taken, seen = taken + now, seen + now * d_steps * batch
    return taken


def counted(rule: Rule, duration: int, d_steps: int) -> str:
    """The same in words: 30 steps of 64 to 512 images."""
    smallest, largest = d_steps * rule.start, d_steps * (rule.table[-1][1] if rule.table else rule.maximum)
    span = f"{smallest:,} to {largest:,}" if largest > smallest else f"{smallest:,}"
    steps = num_steps(rule, duration, d_steps)
    return f"{'at most ' if rule.auto else ''}{steps:,} step{'' if steps == 1 else 's'} of {span} images"


def plan(rule: Rule) -> list[str]:
    """What the batch is going to do, in words; nothing where it stays."""
    if rule.table:
        steps = ", ".join(f"{size:,} from {at:,} images" for at, size in rule.table)
        return [f"the batch grows by batch.schedule: {steps}"]
    if rule.auto and rule.maximum > rule.start:
        return [
            f"the batch grows as the gradient noise asks (batch.schedule auto): from {rule.start:,} to at "
            f"most {rule.maximum:,}, at most doubled every {rule.dwell:,} images, after {FEWEST} "
            f"measurements, one every {rule.every} steps"
        ]
    return []


def notes(rule: Rule, epoch: int, duration: int, d_steps: int) -> list[str]:
    """What keeps the batch from doing what it should, in words. epoch, duration: images."""
    said = []
    if rule.start > epoch:
        said.append(
            f"batch: {rule.start:,} images are more than the {epoch:,} there are, so every step shows images "
            f"more than once; train.batch {epoch:,} or less would not"
        )
    if not rule.auto:
        return said
    if rule.maximum <= rule.start:
        said.append(f"batch.schedule auto: {rule.start:,} is already the largest batch, it cannot grow")
    elif rule.every and (found := num_steps(rule, duration, d_steps) // rule.every) < FEWEST:
        often = num_steps(rule, duration, d_steps) // (2 * FEWEST)  # the second half of the run then profits
        way_out = f"set batch.noise_every to {often} or less" if often >= 2 else "the run is too short for it"
        said.append(
            f"batch.schedule auto: {found} measurement{'' if found == 1 else 's'} of the gradient noise in "
            f"the whole run (batch.noise_every {rule.every}), and {FEWEST} are needed before the batch can "
            f"grow; {way_out}"
        )
    return said


def sizes(rule: Rule, growth: Growth, images_seen: int) -> tuple[int, int]:
    """The batches of D and of G phases for the step that begins at `images_seen`."""
    if rule.table:
        batch = [size for at, size in rule.table if at <= images_seen][-1]
        return batch, rule.start_g * batch // rule.start
    # A run that goes on with another train.batch keeps at least what it had grown to, while it grows.
    grown = [growth.batch.get(letter, 0) if rule.auto else 0 for letter in LETTERS]
    starts = (rule.start, rule.start_g)
    batch, batch_g = (max(-(-had // start), 1) * start for had, start in zip(grown, starts))
    return batch, batch_g


def factor(rule: Rule, batch: int, start: int) -> float:
    """What a learning rate is multiplied by: (B / B at the start) to the power `batch.lr_power`."""
    return (batch / start) ** rule.lr_power


def decide(rule: Rule, growth: Growth, noise: dict[str, float | None], images_seen: int) -> dict[str, int]:
    """The batches that grow now, by letter: B ← round_up(clip(share · noise, B, maximum)), at most doubled.

    noise: the noise scale in images by letter, None where unknown. Records what it decides in `growth`.
    """
    now = dict(zip(LETTERS, sizes(rule, growth, images_seen)))
    grown: dict[str, int] = {}
    for letter in LETTERS if rule.apart else LETTERS[:1]:
        known = [noise[letter]] if rule.apart else [noise[each] for each in LETTERS]
        wanted = rule.share * max((scale for scale in known if scale is not None), default=0.0)
        rested = images_seen - growth.grown_at[letter] >= rule.dwell
        seen = min(growth.measured[each] for each in ([letter] if rule.apart else LETTERS)) >= FEWEST
        if not (rested and seen and wanted >= (1 + rule.hysteresis) * now[letter]):
            continue
        start = rule.start if letter == "d" else rule.start_g
        most = rule.maximum * start // rule.start
        new = min(-(-min(wanted, 2 * now[letter]) // start) * start, most)
        if new > now[letter]:
            grown[letter] = int(new)
            growth.grown_at[letter] = images_seen
    if not rule.apart and "d" in grown:
        grown["g"] = rule.start_g * grown["d"] // rule.start
    growth.batch |= grown
    return grown


def memory(rule: Rule, device: torch.device) -> dict[str, torch.Tensor]:
    """What the estimates remember, for the checkpoint: see `noise_scale.remember`."""
    if not rule.measures:
        return {}
    return {f"noise_{letter}": torch.zeros(3, device=device) for letter in LETTERS}


def due(rule: Rule, turn: int) -> bool:
    """Whether this step of a network is measured: never one at which lazy penalties with the same period
    act."""
    return rule.every is not None and turn % rule.every == rule.every - 1


def note(run: "Run", state: "State", letter: str, now: torch.Tensor) -> None:
    """Takes an estimate into the memory; its weight is in images."""
    assert run.growth.every is not None
    passed = run.growth.every * run.batch * (1 if letter == "d" else run.config.optim.d_steps)
    # Fewer measurements than this say little, however short the run.
    half_life = max(run.growth.half_life, FEWEST * passed)
    noise_scale.remember(state.memory[f"noise_{letter}"], now, 0.5 ** (passed / half_life))
    state.growth.measured[letter] += 1


def shown(run: "Run", state: "State") -> dict[str, float | None]:
    """What a status row says: both noise scales in images."""
    if not run.growth.measures:
        return {}
    return {f"noise_scale_{letter}": value for letter, value in noise(state).items()}


def noise(state: "State") -> dict[str, float | None]:
    """Both noise scales in images. Reads from the device."""
    return {letter: noise_scale.scale(state.memory[f"noise_{letter}"]) for letter in LETTERS}


def grow(run: "Run", state: "State", before: int) -> bool:
    """Sets the batches of the steps from here on; says so where they are new. before: images seen when the
    last step began. Returns whether D's batch changed: what was read ahead is then cut wrongly.

    Comes before a checkpoint of the same moment, which thereby holds what was decided.
    """
    rule = run.growth
    interval = max(1, rule.dwell // LOOKS)
    if rule.auto and state.images_seen // interval != before // interval:
        # Ranks on unlike devices may differ in the last bit; one of them decides.
        decide(rule, state.growth, run.world.share(noise(state)), state.images_seen)
    was = run.batch, run.batch_g
    run.batch, run.batch_g = sizes(rule, state.growth, state.images_seen)
    if (run.batch, run.batch_g) == was:
        return False
    why = noise(state) if rule.auto else {}
    scales = {f"noise_scale_{letter}": value for letter, value in why.items()}
    sizes_now = {"batch": run.batch, "batch_g": run.batch_g, "was": list(was)}
    run.log.event("growth", images_seen=state.images_seen, **sizes_now, **scales)
    asked = "".join(f", noise scale of {letter.upper()} {_amount(value)}" for letter, value in why.items())
    run.log.say(
        f"batch {was[0]} → {run.batch} (G: {was[1]} → {run.batch_g}) at {state.images_seen:,} images{asked}"
    )
    return run.batch != was[0]


def _amount(scale: float | None) -> str:
    return "unknown" if scale is None else f"{scale:,.0f}"


def check(run: "Run") -> None:
    """Raises UserError where gradient noise is to be measured and a batch holds fewer than two BatchNorm
    groups, as that of a run begun without, or no process a whole one.
    """
    if not run.growth.measures:
        return
    micro, group = min(run.micro_batch, run.micro_batch_g), run.bn_group
    if min(run.batch, run.batch_g) < 2 * group:
        enough = f"--batch {2 * group}" if run.batch <= run.batch_g else f"train.batch_g={2 * group}"
        smaller = batching.bn_group(run.config)
        way_out = f", or bn.group={smaller} with --allow-change bn.group" if smaller < group else ""
        raise UserError(
            f"gradient noise is measured between BatchNorm groups, and a batch of "
            f"{min(run.batch, run.batch_g)} holds fewer than two of this run's {group} (bn.group); give "
            f"{enough}{way_out}."
        )
    if micro % group:
        raise UserError(
            f"gradient noise is measured between BatchNorm groups, and here {group // micro} processes share "
            f"one of {group} (bn.group) in micro-batches of {micro}; set bn.group={micro} for a new run, or "
            "batch.schedule=fixed."
        )
