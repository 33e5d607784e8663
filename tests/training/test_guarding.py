"""The guard in training: what it does on collapse, under every policy; going back, once and often.

The detector is made to see a collapse: what it sees by itself is tests/guard's business.
"""

import json
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gansmith.config import Config
from gansmith.errors import Diverged, Stopped, UserError
from gansmith.guard.detector import Detector, Verdict, Vote
from gansmith.training import checkpoint, guarding, lineage, objectives
from gansmith.training import state as states
from gansmith.training.distributed import World
from gansmith.training.release import Release
from tests.training import ranks
from tests.training.reading import events, networks, newest

SETTINGS = {
    "model.spectral_g": False,  # whose average takes long to be brought into use
    "train.duration": 48, "optim.d_steps": 1, "train.micro_batch": 8, "loss.ortho_g": 0, "watch.every": None,
    "log.status_every": 8, "log.checkpoint_every": 8, "log.snapshot_every": 32, "guard.back": 0.1,
}  # fmt: skip


class Seen(Detector):
    """Collapses at 40 images of the first `times` branches, as usual until `well`."""

    times, well, at = 1, 24, 40

    def observe(self, position, row):
        self.rows = [{"lineage": float(row.get("lineage", 0))}]  # memory that a checkpoint has to keep
        if position < self.at or row.get("lineage", 0) >= self.times:
            return Verdict(position)
        vote = Vote("diversity", "falls", "images become alike", 4, "diversity", 0.1, 0.9, 9.0, self.well)
        return Verdict(position, "collapsed", "mode collapse", self.well, (vote,), True)


def sees(monkeypatch, **changes):
    monkeypatch.setattr(Detector, "observe", Seen.observe)
    for name in ("times", "well", "at"):
        monkeypatch.setattr(Detector, name, changes.get(name, getattr(Seen, name)), raising=False)


STILL_THERE: list[list[bool]] = []  # of the states built before, when `back` built another


def build_and_note(*arguments, made=[], build=states.build):  # noqa: B006
    STILL_THERE.append([reference() is not None for reference in made])
    state = build(*arguments)
    made.append(weakref.ref(state))
    return state


@pytest.fixture(scope="module")
def back(images, tmp_path_factory):
    """A run that collapsed at 40 images and went back to 16."""
    from gansmith.training.run import train
    from tests.training.conftest import TINY

    with pytest.MonkeyPatch.context() as patched:
        sees(patched)
        patched.setattr(states, "build", build_and_note)
        return train(str(images), None, tmp_path_factory.mktemp("back") / "run", settings=TINY | SETTINGS)


def test_on_collapse_the_run_goes_back_far_enough_and_on_with_other_data_noise_and_rates(back):
    record = checkpoint.read_record(newest(back))
    assert record["images_seen"] == 48
    assert [b["origin"] for b in record["lineage"]] == [checkpoint.name(16)]  # 24 is nearer than a tenth
    assert [s.get("lineage", 0) for s in record["order"]["segments"]] == [0, 1]
    assert record["order"]["segments"][1]["start"] == 16
    rows = {(row["images_seen"], row.get("lineage", 0)): row for row in events(back, "status")}
    assert list(rows) == [(n, 0) for n in (8, 16, 24, 32, 40)] + [(n, 1) for n in (24, 32, 40, 48)]
    assert rows[24, 1]["lr_g"] == 0.5 * rows[24, 0]["lr_g"]
    assert rows[24, 1]["lr_d"] == 0.5 * rows[24, 0]["lr_d"]
    assert rows[24, 1]["d_real"] != rows[24, 0]["d_real"]
    (went,) = events(back, "rollback")
    assert (went["images_seen"], went["collapsed"], went["lineage"]) == (16, 40, 1)
    (collapsed,) = events(back, "collapsed")
    assert (collapsed["what"], collapsed["votes"][0]["signal"]) == ("mode collapse", "diversity")


def test_the_old_networks_are_gone_before_new_ones_are_built(back):
    assert STILL_THERE == [[], [False]]


def test_what_was_abandoned_is_set_aside_and_names_carry_the_branch(back):
    assert [path.name for path in checkpoint.listed(back / "checkpoints")] == [
        checkpoint.name(8), checkpoint.name(16),
        *(checkpoint.name(images, 1) for images in (24, 32, 40, 48)),
    ]  # fmt: skip
    aside = sorted(path.name for path in back.glob("*/*.abandoned"))
    assert aside == [f"{checkpoint.name(32)}.safetensors.abandoned"]  # checkpoints go
    kept = sorted(path.name for path in (back / "snapshots").glob("*.safetensors"))
    assert kept == [f"{checkpoint.name(*m)}.safetensors" for m in ((32, 1), (48, 1))]
    from gansmith.weights import snapshot

    assert snapshot.find(back).stem == checkpoint.name(48, 1)
    assert snapshot.describe(snapshot.find(back))["lineage"] == 1


def test_the_last_line_and_the_report_say_so(back):
    log = (back / "log.txt").read_text()
    assert "guard: collapsed at 40 images: mode collapse: images become alike (0.1 instead of 0.9)" in log
    assert "guard: going back to 16 images" in log
    assert log.splitlines()[-1].startswith("finished: 48 images (it went back 1 time (lineage.json))")
    from gansmith import report

    page = report.write(back).read_text()
    assert "to checkpoint 000000000016, from 40 images (mode collapse), learning rates × 0.5" in page


def test_killed_right_after_the_branch_was_written_the_run_is_the_one_that_was_not(
    back, tiny, tmp_path, monkeypatch
):
    class Killed(BaseException):
        """What the run ends with where it should have gone back."""

    branched = guarding._branch_off
    sees(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(guarding, "_branch_off", lambda *them: branched(*them) and Killed())
        with pytest.raises(Killed):
            tiny("run", SETTINGS)
    assert lineage.read(tmp_path / "run").number == 1
    assert checkpoint.listed(tmp_path / "run" / "checkpoints")[-1].name == checkpoint.name(32)
    run = tiny("run", SETTINGS)
    left, right = networks(back), networks(run)
    assert [key for key in left if not torch.equal(left[key], right[key])] == []
    assert checkpoint.read_record(newest(run))["guard"] == checkpoint.read_record(newest(back))["guard"]


def test_it_goes_back_across_changes_that_were_allowed_and_says_them_again(
    tiny, other, tmp_path, monkeypatch
):
    class Killed(BaseException):
        """What the run ends with where it should have gone back."""

    from gansmith.training.run import train

    sees(monkeypatch)
    tiny("run", SETTINGS | {"train.duration": 24})
    sets = [tmp_path / "two", tmp_path / "three"]
    for folder, names in zip(sets, (("bar", "ring", "star"), ("bar", "cross", "star"))):
        folder.mkdir()
        for name in names:
            (folder / name).symlink_to(other / name)
    run, changed = tmp_path / "run", {"train.duration": 32, "optim.lr_g": 5e-4}
    train(str(sets[0]), out=run, settings=changed, allow_change=["optim.lr_g", "data"])
    branched = guarding._branch_off
    with monkeypatch.context() as patched:
        patched.setattr(guarding, "_branch_off", lambda *them: branched(*them) and Killed())
        with pytest.raises(Killed):
            train(out=run, settings={"train.duration": 48})
    (only,) = lineage.read(run).branches
    assert (only.origin, only.accepted["optim.lr_g"]) == (checkpoint.name(16), 5e-4)
    for again in ({"optim.lr_g": 2e-4}, {"data.path": str(sets[1])}):  # never allowed
        with pytest.raises(UserError, match="--allow-change"):
            train(out=run, settings=again)
    train(out=run)
    record = checkpoint.read_record(newest(run))
    assert (record["images_seen"], record["config"]["optim.lr_g"]) == (48, 5e-4)
    segments = record["order"]["segments"]
    assert [(each["start"], each["sets"][0]["size"]) for each in segments] == [(0, 21), (16, 12)]
    with pytest.raises(UserError, match=r"optim\.lr_g: 0\.0005 → 0\.001"):
        train(out=run, settings={"optim.lr_g": 1e-3})


def test_stopped_on_the_new_branch_it_goes_on_there(back, tiny, monkeypatch):
    sees(monkeypatch)
    tiny("run", SETTINGS | {"train.duration": 40})
    run = tiny("run", SETTINGS)
    left, right = networks(back), networks(run)
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


def test_a_branch_that_cannot_be_written_stops_the_run_on_the_old_one(tiny, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    sees(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(lineage, "write", full)
        with pytest.raises(Stopped, match=r"No space left .*; free space"):
            tiny("run", SETTINGS)
    assert lineage.read(tmp_path / "run").number == 0
    assert checkpoint.listed(tmp_path / "run" / "checkpoints")[-1].name == checkpoint.name(32)


def test_collapsing_again_it_goes_back_further_and_gives_up_with_the_best_snapshot(
    tiny, tmp_path, monkeypatch
):
    sees(monkeypatch, times=9, well=30)
    settings = SETTINGS | {"guard.retries": 2, "guard.back": 0.3}
    settings |= {"log.snapshot_every": 16}
    with pytest.raises(Diverged, match=r"going back 2 times .*retries 2.*newest snapshot .*0{10}16-2\.safet"):
        tiny("run", settings)
    branches = lineage.read(tmp_path / "run").branches
    assert [b.origin for b in branches] == [checkpoint.name(16), checkpoint.name(8)]  # 0.7 · 30, 0.49 · 30
    with pytest.raises(Diverged):  # and it stays so, until something is changed
        tiny("run", settings)


def test_without_a_checkpoint_from_before_it_begins_anew(tiny, tmp_path, monkeypatch):
    sees(monkeypatch, well=5, at=16)
    run = tiny("run", SETTINGS | {"train.duration": 24})
    (only,) = lineage.read(run).branches
    assert (only.origin, only.images_seen) == (None, 0)
    assert [path.name for path in checkpoint.listed(run / "checkpoints")] == [
        checkpoint.name(images, 1) for images in (8, 16, 24)
    ]
    (segment,) = checkpoint.read_record(newest(run))["order"]["segments"]
    assert (segment["start"], segment["lineage"]) == (0, 1)


@pytest.mark.parametrize("policy", ["stop", "warn", "off"])
def test_other_policies_never_go_back(tiny, tmp_path, monkeypatch, policy):
    sees(monkeypatch)
    settings = SETTINGS | {"guard.policy": policy, "log.checkpoint_every": 48}
    if policy == "stop":
        with pytest.raises(Diverged, match=r"collapsed at 40 images \(mode collapse: .*policy stop"):
            tiny("run", settings)
    else:
        run = tiny("run", settings)
        assert checkpoint.read_record(newest(run))["images_seen"] == 48
        assert len(events(run, "collapsed")) == (2 if policy == "warn" else 0)
    assert lineage.read(tmp_path / "run").number == 0


def not_finite(start):
    """The hinge loss, on the first branch NaN from D's turn `start` on."""

    def objective(phase, G, D, micro):
        loss, scalars = objectives.hinge(phase, G, D, micro)
        first = micro.draws.stream == "d"
        return (loss * float("nan") if first and micro.turn >= start else loss), scalars

    return objective


def test_steps_that_are_no_numbers_any_more_make_it_go_back_too(tiny, monkeypatch):
    monkeypatch.setattr(objectives, "build", lambda *_: not_finite(2))
    run = tiny("run", SETTINGS | {"train.max_skipped": 1, "train.duration": 32})
    (went,) = events(run, "rollback")
    assert (went["what"], went["images_seen"]) == ("diverged", 8)
    assert checkpoint.read_record(newest(run))["images_seen"] == 32


def test_steps_that_never_were_numbers_end_it_with_one_message(tiny, monkeypatch):
    monkeypatch.setattr(objectives, "build", lambda *_: not_finite(0))
    with pytest.raises(Diverged, match=r"all . D steps so far had non-finite gradients: not one was taken"):
        tiny("run", SETTINGS | {"train.max_skipped": 2})


def test_too_few_rows_and_checkpoints_are_said_at_the_start(tiny, capsys):
    tiny("run", SETTINGS | {"log.keep_spaced": 0, "train.duration": 16})
    said = capsys.readouterr().out
    assert "guard: 2 status rows in the whole run are few" in said
    assert "guard: log.keep_spaced 0 leaves no older checkpoints, so on collapse the run would begin" in said


def test_what_is_advised_is_possible():
    config = Config(train={"batch": 8}, log={"keep_spaced": 4})
    said = guarding.notes(config, {"status": 16, "checkpoint": 64}, 100)
    assert "log.status_every to 8 images or fewer" in said[0]
    assert "log.checkpoint_every to 20 images or fewer" in said[1]
    assert guarding.notes(config, {"status": 8, "checkpoint": 8}, 100) == [
        "guard: 12 status rows in the whole run are few to see a collapse by"
    ]


def test_one_process_of_several_says_how_the_run_ended():
    verdict = Verdict(8.0, "collapsed", "mode collapse", 4.0, (), True)
    said = []
    for rank in (0, 1):
        world = SimpleNamespace(is_main=rank == 0, share=lambda _: verdict)
        config = SimpleNamespace(guard=SimpleNamespace(policy="stop"))
        run = SimpleNamespace(config=config, world=world, log=Written(), out=Path("nowhere"))
        with pytest.raises(Diverged) as ended:
            guarding._act(run, SimpleNamespace(images_seen=8), None)
        said.append(str(ended.value)[:18])
    assert said == ["training collapsed", ""]


class Written:
    """A log that remembers what was said."""

    def __init__(self):
        self.said, self.events = [], []

    def say(self, text):
        self.said.append(text)

    def event(self, kind, **fields):
        self.events.append((kind, fields["images_seen"]))


def scored(value):
    return [
        SimpleNamespace(metric="is", value=3.0),
        SimpleNamespace(metric="frechet", value=value, protocol_id="p"),
    ]


def test_scores_vote_too():
    config = SimpleNamespace(guard=SimpleNamespace(policy="warn"))
    world = World(0, 1, torch.device("cpu"))
    run = SimpleNamespace(config=config, world=world, log=Written(), alone_until=5)
    state = SimpleNamespace(images_seen=0, guard=Detector(100), release=Release())
    for seen, results in (
        (5, scored(1.0)),  # of G alone
        (10, scored(20.0)),
        (20, None),
        (30, scored(30.0)),
        (40, scored(50.0)),
        (50, scored(19.0)),
    ):
        state.images_seen = seen
        guarding.watch_score(run, state, results)
    assert run.log.events == [("suspect", 30), ("collapsed", 40), ("recovered", 50)]
    assert "far above its best (50 instead of 20); as usual until 10" in run.log.said[1]


def test_scores_that_came_after_a_checkpoint_are_remembered_on_going_on(tmp_path):
    def row(name, value):
        results = [{"metric": "frechet", "value": value, "protocol_id": "p"}]
        return json.dumps({"type": "evaluation", "snapshot": name, "results": results}) + "\n"

    before = Detector(1000)
    before.observe_score(10, 20.0, "p")
    went = lineage.Lineage((lineage.Branch(1, checkpoint.name(20), 20, 50, 40, "", "", 0.5),))
    rows = [(checkpoint.name(10), 20.0), (checkpoint.name(20), 15.0), (checkpoint.name(30), 1.0)]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(row(*each) for each in [*rows, (checkpoint.name(40, 1), 14.0)])
    )
    record = {"images_seen": 40, "guard": before.to_json()}
    detector = guarding.begin(record, 2000, tmp_path, went)
    found = detector.best_score, detector.scored, detector.duration
    assert found == (14.0, 40, 2000)  # 1.0 was left behind
    for alone in (
        guarding.begin(record, 2000, tmp_path, went, alone_until=40),
        guarding.begin(record | {"release": {"holds": True}}, 2000, tmp_path, went),
    ):
        assert alone.best_score == 20.0
    released = {"release": {"released_at": 40}}
    assert guarding.begin(record | released, 2000, tmp_path, went).best_score == 14.0


def test_rows_of_a_network_that_learns_alone_are_not_looked_at():
    config = SimpleNamespace(guard=SimpleNamespace(policy="warn"))
    world = World(0, 1, torch.device("cpu"))
    run = SimpleNamespace(config=config, world=world, log=Written(), alone_until=16)
    for seen, holds, rows in ((16, False, 0), (24, True, 0), (24, False, 1)):
        state = SimpleNamespace(images_seen=seen, guard=Detector(100), release=Release(holds=holds))
        guarding.watch(run, state, {"loss_d": 1.0})
        assert len(state.guard.rows + state.guard.bins) == rows


def make_see():
    """In a process of several: as `sees`."""
    Detector.observe, Detector.times, Detector.well, Detector.at = Seen.observe, 1, 24, 40


def test_processes_go_back_together(images, tmp_path):
    settings = SETTINGS | {"loss.objective": "hinge", "train.micro_batch": 4}
    run = ranks.train(tmp_path, images, 2, "two", settings, prepare=make_see)
    record, _ = ranks.newest(run)
    assert (record["images_seen"], [b["origin"] for b in record["lineage"]]) == (48, [checkpoint.name(16)])
    assert len(events(run, "rollback")) == 1
    assert json.loads((run / "lineage.json").read_text())["branches"][0]["collapsed"] == 40
