"""Where a run went back: names, which files are its own still, and being stopped anywhere on the way."""

import json
import os

import pytest

from gansmith.errors import UserError
from gansmith.training import checkpoint, lineage
from gansmith.training.lineage import Branch, Lineage


def branch(number, origin, collapsed=100):
    images = checkpoint.parse(origin)[0] if origin else 0
    return Branch(number, origin, images, collapsed, collapsed - 10, "mode collapse", "why", 0.5, time=0.0)


def test_names_carry_the_branch_and_are_read_back():
    assert checkpoint.name(12) == "000000000012"
    assert checkpoint.name(12, 3) == "000000000012-3"
    assert checkpoint.parse("000000000012-3") == (12, 3)
    assert checkpoint.parse("000000000012.safetensors") == (12, 0)
    for other in ("best", "000000000012.abandoned", "000000000012-1.damaged", "000000000012-raw.png", ".12"):
        assert checkpoint.parse(other) is None


def test_a_run_that_never_went_back_keeps_everything_and_nothing_has_another_name():
    assert Lineage().keeps(0, 0)
    assert Lineage().keeps(10**9, 0)
    assert not Lineage().keeps(5, 1)
    assert (Lineage().number, Lineage().lr_factor, Lineage().stream("d")) == (0, 1.0, "d")


def test_what_lies_on_the_way_from_the_beginning_to_now_is_kept():
    one = Lineage((branch(1, checkpoint.name(50)),))
    kept = [(images, number) for images in (0, 50, 60, 100) for number in (0, 1) if one.keeps(images, number)]
    assert kept == [(0, 0), (50, 0), (60, 1), (100, 1)]
    # Back again, to the branch before the last.
    two = Lineage((*one.branches, branch(2, checkpoint.name(30))))
    kept = [(i, n) for i in (0, 30, 40, 60) for n in (0, 1, 2) if two.keeps(i, n)]
    assert kept == [(0, 0), (30, 0), (40, 2), (60, 2)]
    # And once on from the second branch itself.
    three = Lineage((*two.branches, branch(3, checkpoint.name(40, 2))))
    kept = [(i, n) for i in (30, 35, 40, 45) for n in (0, 1, 2, 3) if three.keeps(i, n)]
    assert kept == [(30, 0), (35, 2), (40, 2), (45, 3)]
    assert three.lr_factor == 0.125
    assert three.stream("g") == "g-3"


def test_a_run_begun_anew_keeps_nothing_of_before():
    anew = Lineage((branch(1, None),))
    assert not anew.keeps(50, 0)
    assert anew.keeps(50, 1)


def test_it_is_written_and_read_whole(tmp_path):
    assert lineage.read(tmp_path) == Lineage()
    two = Lineage((branch(1, checkpoint.name(50)), branch(2, None)))
    lineage.write(tmp_path, two)
    assert lineage.read(tmp_path) == two
    (tmp_path / lineage.FILE).write_text("{")
    with pytest.raises(UserError, match=r"lineage\.json is damaged .* restore it from a copy"):
        lineage.read(tmp_path)


def a_run(folder):
    """Checkpoints and snapshots at 20 … 100, `best` at 80."""
    for images in (20, 40, 60, 80, 100):
        (folder / "checkpoints" / checkpoint.name(images)).mkdir(parents=True)
        (folder / "snapshots").mkdir(exist_ok=True)
        (folder / "snapshots" / f"{checkpoint.name(images)}.safetensors").write_text("x")
    (folder / "best").symlink_to(f"snapshots/{checkpoint.name(80)}.safetensors")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("how", [OSError(28, "No space left on device"), Killed()])
def test_stopped_between_any_two_file_operations_the_run_is_on_the_old_branch_or_on_the_new(
    tmp_path, monkeypatch, how
):
    new = Lineage((branch(1, checkpoint.name(50)),))
    operations = ("rename", "replace", "fsync", "symlink", "unlink")
    real = {name: getattr(os, name) for name in operations}
    old_or_new = set()
    for stop_at in range(200):
        run = tmp_path / str(stop_at)
        a_run(run)
        done = 0

        def counted(name):
            def operation(*arguments, **named):
                nonlocal done
                done += 1
                if done == stop_at + 1:  # noqa: B023
                    raise how
                return real[name](*arguments, **named)

            return operation

        with monkeypatch.context() as patched:
            for name in operations:
                patched.setattr(os, name, counted(name))
            try:
                lineage.write(run, new)
                lineage.set_aside(run, lambda *moment: not new.keeps(*moment), "left", print)
                stopped = False
            except (OSError, Killed):
                stopped = True
        found = lineage.read(run)
        old_or_new.add(found.number)
        assert found in (Lineage(), new)
        if found == Lineage():  # nothing was touched
            assert len(checkpoint.listed(run / "checkpoints")) == 5
            assert (run / "best").resolve().name == f"{checkpoint.name(80)}.safetensors"
            continue
        lineage.set_aside(run, lambda *moment: not new.keeps(*moment), "left", print)  # as when it goes on
        kept = [path.name for path in checkpoint.listed(run / "checkpoints")]
        assert kept == [checkpoint.name(20), checkpoint.name(40)]
        assert len(list((run / "snapshots").glob("*.safetensors.abandoned"))) == 3
        assert (run / "best").resolve() == run / "snapshots" / f"{checkpoint.name(80)}.safetensors.abandoned"
        assert (run / "best").exists()
        if not stopped:
            break
    assert stop_at >= 10
    assert old_or_new == {0, 1}


def test_the_file_says_what_happened_in_plain_words(tmp_path):
    lineage.write(tmp_path, Lineage((branch(1, checkpoint.name(50)),)))
    (only,) = json.loads((tmp_path / lineage.FILE).read_text())["branches"]
    assert (only["origin"], only["collapsed"], only["since"]) == (checkpoint.name(50), 100, 90)
    assert (only["kind"], only["lr_factor"]) == ("mode collapse", 0.5)
