"""The detector: what it finds, when, under which name, and what it leaves alone."""

import json
from typing import Any

import pytest

from gansmith.guard.detector import Detector, Verdict
from tests.guard import logs


def watched(rows: list[dict[str, Any]]) -> list[Verdict]:
    """The changes of state."""
    detector = Detector(logs.DURATION)
    return [v for row in rows if (v := detector.observe(row["images_seen"], row)).changed]


@pytest.mark.parametrize("seed", range(3))
def test_healthy_run_with_spikes_and_a_d_that_wins_raises_no_suspicion(seed: int) -> None:
    assert watched(logs.rows(seed=seed)) == []


def test_d_loss_near_zero_alone_is_no_alarm() -> None:
    def wins(at: float, row: dict[str, Any]) -> None:
        row["loss_d"] *= 0.001 if at > 0.5 else 1

    assert watched(logs.rows(wins)) == []


def test_jump_that_heals_within_a_hundredth_of_the_run_so_far_is_no_alarm() -> None:
    def spikes(at: float, row: dict[str, Any]) -> None:
        if 0.5 < at < 0.504:
            row |= {"loss_d": 30.0, "gradient_norm_d": 1e5, "gradient_norm_g": 1e5, "sigma0_d": 50.0}

    assert watched(logs.rows(spikes)) == []


def test_growing_first_layer_is_suspect_before_the_images_go_and_collapsed_after() -> None:
    suspect, collapsed = watched(logs.rows(logs.grows, until=0.65))
    assert (suspect.state, suspect.votes[0].signal) == ("suspect", "sigma0/G.linear")
    assert 0.6 < suspect.position / logs.DURATION < 0.615
    assert (collapsed.state, collapsed.kind) == ("collapsed", "mode collapse")
    assert collapsed.position / logs.DURATION < 0.63
    assert 0.59 < collapsed.since / logs.DURATION <= 0.605  # before any of it
    assert {"sigma0/G.linear", "diversity"} <= {vote.signal for vote in collapsed.votes}


@pytest.mark.parametrize(
    ("change", "kind"),
    [(logs.vanishes, "vanishing"), (logs.breaks, "diverged"), (logs.alike, "mode collapse")],
)
def test_what_goes_wrong_is_named_apart(change: logs.Change, kind: str) -> None:
    last = watched(logs.rows(change, until=0.55))[-1]
    assert (last.state, last.kind) == ("collapsed", kind)
    assert last.position / logs.DURATION < 0.52


def test_d_that_tells_nothing_any_more_is_called_dead() -> None:
    def dies(at: float, row: dict[str, Any]) -> None:
        if at > 0.5:
            row |= {"loss_d": 2.0, "d_real": 0.0, "d_fake": 0.0, "sigma0_d": 20.0}
            row |= {"gradient_norm_g": 0.01, "gradient_norm_d": 0.1}

    last = watched(logs.rows(dies, until=0.55))[-1]
    assert (last.state, last.kind) == ("collapsed", "dead D")


def test_d_that_was_dead_before_anything_was_usual_is_found_too() -> None:
    def never_lived(at: float, row: dict[str, Any]) -> None:
        if at > 0.02:
            row |= {"loss_d": 2.0, "d_real": -0.0951, "d_fake": -0.09511}
            row |= {"gradient_norm_g": 1e-3, "gradient_norm_d": 2e-3}

    (found,) = watched(logs.rows(never_lived, until=0.05))
    assert (found.state, found.kind) == ("collapsed", "dead D")
    assert found.position / logs.DURATION < 0.03
    assert "neither network has a gradient" in found.describe()


@pytest.mark.parametrize("lives", ["gradient_norm_g", "gradient_norm_d", "d_fake"])
def test_d_is_not_dead_while_anything_moves(lives: str) -> None:
    def nearly(at: float, row: dict[str, Any]) -> None:
        was = row[lives]
        row |= {"d_real": -0.0951, "d_fake": -0.09511, "gradient_norm_g": 1e-3, "gradient_norm_d": 2e-3}
        row[lives] = was

    assert watched(logs.rows(nearly, until=0.09)) == []


def test_a_critic_far_from_zero_after_a_spike_is_not_dead() -> None:
    def wanders(at: float, row: dict[str, Any]) -> None:
        row |= {"d_real": 3000.0, "d_fake": 2998.0, "gradient_norm_g": 0.5, "gradient_norm_d": 1.5}
        if at < 0.003:
            row |= {"d_fake": -3000.0, "gradient_norm_g": 2000.0, "gradient_norm_d": 5000.0}

    assert watched(logs.rows(wanders, until=0.09)) == []


def test_gradient_of_ten_times_its_size_is_diverging() -> None:
    def explodes(at: float, row: dict[str, Any]) -> None:
        row["gradient_norm_g"] *= 30 if at > 0.5 else 1

    (suspect,) = watched(logs.rows(explodes, until=0.53))
    assert (suspect.state, suspect.kind) == ("suspect", "diverged")


def test_single_broken_rows_and_nan_losses_of_steps_left_out_are_none() -> None:
    def sometimes(at: float, row: dict[str, Any]) -> None:
        step = round(at * 400)
        row["skipped"] = step
        if step % 2:
            row |= {"loss_d": None, "d_real": None}
        if step % 10 == 0:
            row["gradient_norm_d"] = None

    assert watched(logs.rows(sometimes)) == []


def test_steps_left_out_all_the_time_are_suspect() -> None:
    def half(at: float, row: dict[str, Any]) -> None:
        row["skipped"] = max(0, round((at - 0.5) * 400 * 12)) or None

    (suspect,) = watched(logs.rows(half, until=0.55))
    assert (suspect.state, suspect.kind) == ("suspect", "diverged")


def test_slow_loss_of_variety_is_found_too() -> None:
    def fades(at: float, row: dict[str, Any]) -> None:
        row["diversity"] *= max(1 - max(at - 0.3, 0) * 1.6, 0.05)
        row["diversity_class_min"] *= max(1 - max(at - 0.3, 0) * 2, 0.05)

    changes = watched(logs.rows(fades))
    assert changes[0].state == "suspect"
    assert changes[0].position / logs.DURATION < 0.75


def test_what_lasts_without_getting_worse_is_how_the_run_is_now() -> None:
    def other(at: float, row: dict[str, Any]) -> None:  # such as another batch or learning rate
        row["sigma0_d"] *= 3 if at > 0.3 else 1

    suspect, healed = watched(logs.rows(other))
    assert (suspect.state, healed.state) == ("suspect", "ok")
    assert healed.position / logs.DURATION < 0.45


@pytest.mark.parametrize(("every", "again"), [(50_000, 0.27), (2_000, 0.24)])
def test_what_has_become_usual_is_what_comes_next_is_held_against(every: int, again: float) -> None:
    def other(at: float, row: dict[str, Any]) -> None:
        row["sigma0_d"] *= 3 if at > 0.2 else 1
        row["sigma0_d"] *= 3 if at > again else 1

    changes = watched(logs.rows(other, every=every, until=again + 0.02))
    assert [change.state for change in changes] == ["suspect", "ok", "suspect"]
    assert changes[1].position / logs.DURATION < again


def test_a_score_that_stays_worse_becomes_usual_and_hides_nothing() -> None:
    def fades(at: float, row: dict[str, Any]) -> None:
        row["diversity"] *= 0.1 if at > 0.8 else 1

    detector, verdicts = Detector(logs.DURATION), []
    for row in logs.rows(fades, every=10_000, until=0.82):
        at = row["images_seen"] / logs.DURATION
        verdicts.append(detector.observe(row["images_seen"], row))
        if row["images_seen"] % 200_000 == 0:
            verdicts.append(detector.observe_score(row["images_seen"], 20 if at < 0.4 else 30))
    changes = [(v.state, round(v.position / logs.DURATION, 1)) for v in verdicts if v.changed]
    assert changes == [("suspect", 0.4), ("ok", 0.5), ("suspect", 0.8)]


def test_scores_count_after_the_warm_up_only() -> None:
    detector = Detector(1000)
    assert [detector.observe_score(at, 10.0 * at).state for at in (1, 50, 99)] == ["ok"] * 3
    assert detector.observe_score(150, 21.0).state == "collapsed"


@pytest.mark.parametrize("rows", [[{"loss_d": None}] * 5, [{"step": 1}] * 5, [{"diversity": "?"}] * 300])
def test_rows_that_hold_nothing_usable_are_taken_in_too(rows: list[dict[str, Any]]) -> None:
    detector = Detector(1000)
    last = [detector.observe(at, row) for at, row in enumerate(rows)][-1]
    assert last.state == ("collapsed" if "loss_d" in rows[0] else "ok")


def test_rows_ten_times_as_often_change_little_of_when_it_is_found() -> None:
    rare, often = (
        watched(logs.rows(logs.grows, every=every, until=0.65))[-1].position for every in (100_000, 10_000)
    )
    assert abs(rare - often) <= 0.01 * logs.DURATION


def test_memory_is_small_and_taking_it_up_again_anywhere_changes_nothing() -> None:
    rows = logs.rows(logs.grows, every=20_000, until=0.65)
    straight, stopped = Detector(logs.DURATION), Detector(logs.DURATION)
    for at, row in enumerate(rows):
        if at % 7 == 0:
            text = json.dumps(stopped.to_json())
            assert len(text) < 60_000
            stopped = Detector.from_json(json.loads(text))
        assert straight.observe(row["images_seen"], row) == stopped.observe(row["images_seen"], row)


def test_any_signal_may_be_missing() -> None:
    only = [{"images_seen": r["images_seen"], "loss_d": r["loss_d"]} for r in logs.rows(logs.grows)]
    assert watched(only) == []  # one vote is no suspicion
    bare = [{"images_seen": row["images_seen"], "sigma0": row["sigma0"]} for row in logs.rows(logs.grows)]
    assert next(v.state for v in watched(bare)) == "suspect"


def test_score_above_its_best_is_suspect_and_twice_its_best_is_collapsed() -> None:
    detector = Detector(10)
    states = [
        detector.observe_score(at, value, "FID").state
        for at, value in enumerate([80, 20, 25, 27, 22, 41, 19, float("nan")])
    ]
    assert states == ["ok", "ok", "ok", "suspect", "ok", "collapsed", "ok", "ok"]
    assert detector.observe_score(8, 50, "FID").state == "collapsed"
    assert detector.observe_score(8, float("nan"), "FID").state == "collapsed"  # says nothing, mends nothing
    assert detector.observe_score(9, 60, "another network's").state == "ok"


def test_score_says_since_when() -> None:
    detector = Detector(100)
    for at, value in ((10, 30.0), (20, 20.0)):
        detector.observe_score(at, value)
    verdict = detector.observe_score(30, 50.0)
    assert (verdict.since, verdict.votes[0].value, verdict.votes[0].usual) == (20, 50.0, 20.0)
