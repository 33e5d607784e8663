"""The training loop, top to bottom: status → snapshot → checkpoint → evaluation → done? → step → average.

A step is `d_steps` phases of D, then one of G. A phase loops over micro-batches, accumulates, reduces once
over the ranks, pulls the spectral norm back, checks finiteness, and steps. One clock, `images_seen`, drives
everything.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gansmith import hardware
from gansmith.config import Config
from gansmith.data.feed import Feed
from gansmith.data.shards import Dataset
from gansmith.errors import Stopped
from gansmith.hardware import peak_memory_gib
from gansmith.models import dropout, spectral
from gansmith.training import ema, growth, guarding, memory, saving, schedule, scoring, stabilising, watching
from gansmith.training.distributed import World
from gansmith.training.lineage import Lineage
from gansmith.training.micro_batches import Reals, of_d, of_g, of_images
from gansmith.training.noise_scale import Measured, Parts
from gansmith.training.objectives import Objective, add_orthogonal_gradient, add_weight_gradients
from gansmith.training.precision import Precision
from gansmith.training.profiling import Mark, unmarked
from gansmith.training.release import Rule
from gansmith.training.runlog import Averages, RunLog
from gansmith.training.stabilising import Stabiliser
from gansmith.training.state import State
from gansmith.training.stopping import StopRequest


@dataclass
class Run:
    """A run that is ready to train: what was decided before the loop, all of it fixed while it turns."""

    config: Config
    world: World
    precision: Precision
    dataset: Dataset
    feed: Feed
    objective: Objective
    log: RunLog
    stop: StopRequest
    out: Path
    checkpoints: Path
    num_classes: int  # of the networks; 0 without classes
    drawn_classes: torch.Tensor  # ids that fakes are drawn of: classes without images are left out
    bn_group: int
    batch: int  # images per D phase, now
    batch_g: int
    micro_batch: int
    micro_batch_g: int
    every: dict[str, int]  # images between status, snapshot, checkpoint
    duration: int
    ema_half_life: int
    ema_start: int
    release: Rule
    growth: growth.Rule
    lineage: Lineage  # where the run went back
    from_seed: bool  # whether it can be begun anew: its beginning is nothing but settings
    alone_until: int = 0  # images that G is first trained on without D …
    pretraining: Objective | None = None  # … and the loss that it then has
    stabiliser: Stabiliser | None = None  # what stabilise.* asks for
    scores: scoring.Scoring | None = None  # what eval.* asks for
    watch: watching.Watch | None = None  # what watch.* asks for
    averages: Averages = field(default_factory=Averages)
    mark: Mark = unmarked  # told which part of a step begins, when a step is profiled


def train(run: Run, state: State) -> None:
    """Trains until `duration`. Raises Stopped (resumable: asked to, or the end could not be saved), Diverged,
    or guarding.WentBack.
    """
    before = state.images_seen
    seen_at_status, last_status = before, (turned := time.monotonic())
    saved, safe = "", True
    reals = Reals(run, before)
    try:
        while True:
            now = time.monotonic()
            state.seconds += now - turned
            turned = now
            _fade_in(run, state)
            if growth.grow(run, state, before):
                reals.begin(state.images_seen)
            done = state.images_seen >= run.duration
            stopping = run.world.any(run.stop.asked())
            # Due is what the last step passed a multiple of; at the end everything. No memory is needed.
            end = done and state.images_seen > before
            due = {kind: end or before // n != state.images_seen // n for kind, n in run.every.items()}
            if any(due.values()) or stopping:
                _check(run, state)
            run.mark("logging")
            if due["status"]:
                rate = (state.images_seen - seen_at_status) / max(now - last_status, 1e-9)
                guarding.watch(run, state, _status(run, state, rate, before))
                seen_at_status, last_status = state.images_seen, now
            if due["snapshot"] or due.get("evaluation"):
                saving.snapshot(run, state)
            if due["checkpoint"] or (stopping and not done):
                saved, safe = saving.checkpoint(run, state)
            if due.get("evaluation") and not stopping:
                guarding.watch_score(run, state, scoring.score(run, state.images_seen))
            if done and safe:
                return
            if done or stopping:
                why = "NOT finished: the end is" if done else f"stopped {run.stop.why()}"
                where = f"{why} at {state.images_seen:,} images; {saved}"
                where += "" if safe else ". Free space; the same command then trains the rest"
                raise Stopped(where if run.world.is_main else "")

            run.mark("step")
            before = state.images_seen
            _set_learning_rates(run, state)
            if state.images_seen < run.alone_until:
                _phase(run, "g", state, reals, alone=True)
                state.images_seen += run.batch
                if state.images_seen >= run.alone_until:
                    run.log.event("pretrained", images_seen=state.images_seen)
            else:
                _phases_of_d(run, state, reals)
                if (
                    state.release.holds
                ):  # a new D first learns to judge a G that stands still, average and all
                    continue
                _phase(run, "g", state, reals)
                state.fakes_seen += run.batch_g
            state.step += 1

            run.mark("EMA")
            keep = ema.decay(
                state.images_seen - before,
                state.images_seen,
                half_life=run.ema_half_life,
                ramp=run.config.ema.ramp,
                start=run.ema_start,
            )
            ema.update(state.G_ema, state.G.net, keep)
            run.mark("other")
    finally:
        reals.close()


def _phases_of_d(run: Run, state: State, reals: Reals) -> None:
    """`d_steps` of them; fewer where D's loss is to stop falling, and has: the host then waits for it."""
    losses: list[float] = []
    tolerance = run.config.stabilise.critic_plateau
    for _ in range(run.config.optim.d_steps):
        loss = _phase(run, "d", state, reals)
        state.images_seen += run.batch
        _release(run, state, loss)
        if tolerance is not None:
            losses.append(_over_ranks(run.world, {"loss": loss})["loss"].item())
            if stabilising.settled(losses, tolerance):
                break
    if losses:
        run.averages.add({"d_phases": loss.new_full((), len(losses))})


def _phase(run: Run, letter: str, state: State, reals: Reals, alone: bool = False) -> torch.Tensor:
    """One optimizer step of one network, the other one frozen. Returns this rank's mean loss. alone: G learns
    from reals, batch and micro-batch are D's, and what looks at the game is left out.
    """
    player, other = (state.D, state.G) if letter == "d" else (state.G, state.D)
    spectral.set_trainable(player.net, True)
    spectral.set_trainable(other.net, False)
    for tensor in player.frozen:
        tensor.requires_grad_(False)

    while (seen := _accumulated(run, letter, state, reals, alone)) is None:
        memory.shrink(run, "d" if alone else letter)
        reals.begin(state.images_seen)
    loss, scalars, parts = seen
    player.gradients.finish(run.world, player.scale)
    if parts is not None:
        now = parts.estimate(run.world, player.gradients.flat, player.scale.scale)
        growth.note(run, state, letter, now)
    settle, take = getattr(run.objective, "settle", None), None
    size = run.batch if letter == "d" else run.batch_g
    if not alone and (settle or run.stabiliser):
        means = _over_ranks(run.world, scalars | {"loss": loss.float()})
        if settle:
            settle(letter, means, size)
        if run.stabiliser:
            take = run.stabiliser.act(letter, player.gradients.flat, means, size, run.averages)

    run.mark("regularisation")
    strength = run.config.loss.ortho_d if letter == "d" else run.config.loss.ortho_g
    if strength:
        add_orthogonal_gradient(player.net, strength)
    run.averages.add(add_weight_gradients(player.net, letter, run.config))
    run.mark("optimizer")
    norm = player.gradients.norm()  # of the reduced sum: finite on one rank means finite on all
    finite = norm.isfinite()
    player.scale.update(finite)
    # The device itself leaves out a step that is not finite, or not to be; the host learns of it in `_check`.
    left_out = ~finite if take is None else ~(finite & take)
    player.optimizer.found_inf = left_out.float()  # type: ignore[attr-defined]
    player.optimizer.step()
    if run.stabiliser:
        run.stabiliser.after_step(letter, player.net, run.averages)
    run.mark("spectral norm")
    spectral.refresh(player.net, run.config.spectral.iterations)
    run.mark("logging")
    run.averages.add({f"gradient_norm_{letter}": norm}, where=finite)
    player.turn += 1
    return loss


# A phase's loss and scalars, means of this rank; where its gradient noise is measured, what that left.
Seen = tuple[torch.Tensor, dict[str, torch.Tensor], Measured | None]


def _accumulated(run: Run, letter: str, state: State, reals: Reals, alone: bool) -> Seen | None:
    """Adds up a phase's gradients over its micro-batches. Returns what this rank saw, or None where some
    rank ran out of memory: then nothing has happened but that gradients are to be made anew.
    """
    trouble = False
    try:
        seen = _accumulate(run, letter, state, reals, alone)
    except Exception as error:
        if not hardware.is_out_of_memory(error):
            raise
        if memory.groups_are_shared(run, letter):  # the others wait inside a forward: only a restart helps
            raise memory.ended(run, letter, "while other processes wait for their part of it") from None
        trouble = True  # and not the error itself: its traceback holds what fills the memory
    if run.world.any(trouble):
        return None
    run.mark("logging")
    run.averages.add(seen[1])
    return seen


def _accumulate(run: Run, letter: str, state: State, reals: Reals, alone: bool) -> Seen:
    player = state.D if letter == "d" else state.G
    of_reals = letter == "d" or alone
    micro = run.micro_batch if of_reals else run.micro_batch_g
    count = (run.batch if of_reals else run.batch_g) // micro  # over all ranks
    objective, micro_batches = run.objective, of_d(run, state, reals) if of_reals else of_g(run, state)
    if alone:
        assert run.pretraining is not None
        objective, micro_batches = run.pretraining, of_images(run, state, reals)
    player.gradients.zero()
    losses, noted = [], []
    parts = Parts(player.gradients) if growth.due(run.growth, player.turn) and not alone else None
    if parts:
        count = count * micro // run.bn_group
    run.mark("data")
    for micro_batch in micro_batches:
        for each in micro_batch.split(run.bn_group) if parts else [micro_batch]:
            run.mark("loss")
            keys = each.draws.keys("dropout") if run.config.model.dropout_d and each.draws else None
            with run.precision.autocast(), dropout.masked(state.D.net, keys):
                loss, scalars = objective(letter, state.G.net, state.D.net, each)
            run.mark("D backward")
            (loss * player.scale.share(count)).backward()
            losses.append(loss.detach())
            noted.append(scalars)
            if parts:
                parts.note()
        run.mark("data")
    measured = parts.measured(count, run.bn_group) if parts else None
    # Every micro-batch says the same things.
    scalars = {key: torch.stack([each[key].float() for each in noted]).mean(0) for key in noted[0]}
    return torch.stack(losses).mean(), scalars, measured


def _over_ranks(world: World, scalars: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Means over the whole batch of what each rank saw of it; nothing waits for them."""
    if world.size == 1:
        return scalars
    keys = sorted(scalars)
    means = torch.stack([scalars[key] for key in keys]) / world.size
    world.sum(means)
    return dict(zip(keys, means.unbind()))


def _release(run: Run, state: State, loss_d: torch.Tensor) -> None:
    """Lets G go when D has seen enough of it (release.py); does nothing in any other run."""
    released = state.release.observe(run.release, run.world, loss_d, run.batch, state.images_seen)
    if released:
        run.log.say(f"G is released at {state.images_seen:,} images: {released['reason']}")
        run.log.event("released", **released)


def _check(run: Run, state: State) -> None:
    """Ends a run that is stuck, or lets it go back, before anything of it is written. The only place where a
    step's fate is asked."""
    for letter, player in (("d", state.D), ("g", state.G)):
        skipped = int(player.scale.skipped_in_a_row)
        if skipped > run.config.train.max_skipped:
            guarding.stuck(run, state, letter, skipped)


def _set_learning_rates(run: Run, state: State) -> None:
    factor = run.lineage.lr_factor * schedule.factor(run.config, state.images_seen, len(run.dataset))
    rule = run.growth
    lr_g = run.config.optim.lr_g
    if state.images_seen >= run.alone_until:
        lr_g *= state.release.factor(run.release, state.images_seen)
    lr_g *= growth.factor(rule, run.batch_g, rule.start_g)
    lr_d = run.config.optim.lr_d * growth.factor(rule, run.batch, rule.start)
    for player, lr in ((state.G, lr_g), (state.D, lr_d)):
        for group in player.optimizer.param_groups:
            group["lr"] = lr * factor


def _fade_in(run: Run, state: State) -> None:
    """A promoted network's new stage, at the share that the images seen give it."""
    if run.config.model.fade is not None:
        for net in (state.G.net, state.D.net, state.G_ema):
            net.set_alpha(schedule.alpha(run.config, state.images_seen))


def _status(run: Run, state: State, rate: float, before: int) -> dict[str, Any]:
    """Logs a row of numbers, the same on all processes, and returns it."""
    means = run.averages.take(run.world)
    sigmas = {"g": spectral.singular_values(state.G.net), "d": spectral.singular_values(state.D.net)}
    skipped = int(state.G.scale.skipped + state.D.scale.skipped)
    row: dict[str, Any] = {
        "images_seen": state.images_seen,
        "epoch": state.order.epochs(state.images_seen),
        "step": state.step,
        "seconds": state.seconds,
        "eta_seconds": max(run.duration - state.images_seen, 0) / rate if rate else None,
        "images_per_second": rate,
        **means,
        "sigma0_g": max(sigmas["g"].values(), default=None),
        "sigma0_d": max(sigmas["d"].values(), default=None),
        "lr_g": state.G.optimizer.param_groups[0]["lr"],
        "lr_d": state.D.optimizer.param_groups[0]["lr"],
        "skipped": skipped or None,
        "batch": run.batch,
        **({"batch_g": run.batch_g} if run.batch_g != run.batch else {}),
        **growth.shown(run, state),
        **({"lineage": run.lineage.number} if run.lineage.number else {}),
        **({"fade_alpha": state.G.net.alpha} if run.config.model.fade is not None else {}),
        "peak_gib": peak_memory_gib(run.world.device),
        "sigma0": {
            f"{net.upper()}.{name}": value for net, layers in sigmas.items() for name, value in layers.items()
        },
    }
    if run.precision.dtype == torch.float16:
        row |= {"scale_g": float(state.G.scale.scale), "scale_d": float(state.D.scale.scale)}
    if run.watch is not None and run.watch.due(before, state.images_seen):
        row |= watching.look(run, state)
    run.log.status(row)
    return row
