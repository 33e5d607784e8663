"""Checkpoints as files: whole or not there, verified, thinned."""

import itertools
import json
import os

import pytest
import torch

from gansmith.errors import UserError
from gansmith.training import checkpoint


def save(folder, images, value=0.0):
    tensors = {"networks": {"w": torch.full((64,), value)}, "optimizers": {}}
    record = {"images_seen": images, "gansmith_version": "0"}
    return checkpoint.save(folder, tensors, record, lambda path: path.write_bytes(b"snapshot"))


def test_what_is_saved_is_found_and_whole(tmp_path):
    save(tmp_path, 10)
    path = save(tmp_path, 20, 0.5)
    assert checkpoint.problem(path) is None
    assert checkpoint.latest(tmp_path, pytest.fail) == path
    assert torch.equal(checkpoint.read_tensors(path)["networks"]["w"], torch.full((64,), 0.5))
    assert checkpoint.read_record(path)["images_seen"] == 20


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
        (lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]), "SHA-256"),
        (lambda path: path.unlink(), "missing"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(tmp_path, damage, words):
    before, newest, warnings = save(tmp_path, 10), save(tmp_path, 20), []
    damage(newest / "networks.safetensors")
    assert checkpoint.latest(tmp_path, warnings.append) == before
    assert len(warnings) == 1
    assert words in warnings[0]
    assert newest.name in warnings[0]


def test_sizes_alone_find_what_is_cut_or_gone(tmp_path):
    path = save(tmp_path, 10)
    data = bytearray((path / "networks.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "networks.safetensors").write_bytes(data)
    assert checkpoint.problem(path, hashes=False) is None
    (path / "networks.safetensors").write_bytes(b"")
    assert "networks.safetensors has 0 bytes instead of" in checkpoint.problem(path, hashes=False)


def test_damaged_checkpoints_alone_are_an_error_not_a_fresh_start(tmp_path):
    (save(tmp_path, 10) / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="no checkpoint of this run is whole"):
        checkpoint.latest(tmp_path, lambda text: None)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.latest(tmp_path / "nowhere", pytest.fail) is None


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    save(tmp_path, 10)

    def full(path):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, {"networks": {}, "optimizers": {}}, {"images_seen": 20}, full)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name(10)]


def test_what_a_killed_save_left_is_removed(tmp_path):
    save(tmp_path, 10)
    (tmp_path / ".000000000020.99.tmp").mkdir()
    (tmp_path / ".000000000020.99.tmp" / "networks.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path, pytest.fail).name == checkpoint.name(10)
    checkpoint.remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name(10)]


def test_a_kill_between_taking_away_and_putting_in_place_loses_nothing(tmp_path):
    only = save(tmp_path, 10)
    only.rename(tmp_path / ".000000000010.99.old")
    checkpoint.remove_leftovers(tmp_path)
    assert checkpoint.latest(tmp_path, pytest.fail) == only


def test_a_newer_format_is_refused(tmp_path):
    path = save(tmp_path, 10)
    record = json.loads((path / "state.json").read_text()) | {"version": 99, "gansmith_version": "9.9"}
    (path / "state.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"newer gansmith \(9.9\)"):
        checkpoint.read_record(path)


def test_thinning_a_growing_sequence_stays_log_spaced():
    kept: list[int] = []
    for age in range(100, 102_500, 100):
        kept = sorted(checkpoint.thin([*kept, age], 8))
    assert len(kept) == 8
    assert kept[0] == 100
    assert kept[-1] == 102_400
    ratios = [b / a for a, b in itertools.pairwise(kept)]
    assert max(ratios) < 8  # even spacing would be 1024 ** (1/7) = 2.7


def test_counted_from_now_back_too_there_is_one_from_a_little_while_ago():
    kept: list[int] = []
    shares = []
    for age in range(1, 401):
        older, new = sorted(kept)[:-1], sorted(kept)[-1:]
        kept = [*checkpoint.thin(older, 6, now=age), *new, age]
        shares.append(max((each for each in kept if each <= 0.9 * age), default=0) / age)
    assert min(kept) == 1
    assert len(kept) == 8
    assert sorted(shares[20:])[len(shares) // 2] > 0.75


def test_retention_keeps_the_newest_the_spaced_and_the_protected(tmp_path):
    for images in (1, 2, 4, 8, 16, 32):
        save(tmp_path, images)
    rules = {"newest": 2, "spaced": 1, "gigabytes": None, "protected": {checkpoint.name(4)}}
    checkpoint.prune(checkpoint.listed(tmp_path), pytest.fail, **rules)
    assert [int(path.name) for path in checkpoint.listed(tmp_path)] == [4, 8, 16, 32]


def test_retention_by_bytes_spares_the_newest(tmp_path):
    for images in (1, 2, 3):
        save(tmp_path, images)
    rules = {"newest": 3, "spaced": 0, "gigabytes": 1e-9, "protected": set()}
    checkpoint.prune(checkpoint.listed(tmp_path), pytest.fail, **rules)
    assert [int(path.name) for path in checkpoint.listed(tmp_path)] == [3]


def test_a_failed_deletion_is_a_warning(tmp_path, monkeypatch):
    for images in (1, 2):
        save(tmp_path, images)
    warnings = []

    def refuse(path):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(checkpoint.shutil, "rmtree", refuse)
    rules = {"newest": 1, "spaced": 0, "gigabytes": None, "protected": set()}
    checkpoint.prune(checkpoint.listed(tmp_path), warnings.append, **rules)
    assert len(warnings) == 1
    assert "Operation not permitted" in warnings[0]


def test_a_checkpoint_of_the_same_age_is_replaced(tmp_path):
    save(tmp_path, 10, 1.0)
    path = save(tmp_path, 10, 2.0)
    assert checkpoint.read_tensors(path)["networks"]["w"][0] == 2.0
    assert os.listdir(tmp_path) == [path.name]


def test_damaged_a_second_time_the_newer_one_is_set_aside_in_place_of_the_older(tmp_path):
    for images, aside in ((8, ""), (16, ""), (16, checkpoint.DAMAGED)):
        folder = tmp_path / f"{checkpoint.name(images)}{aside}"
        folder.mkdir()
        (folder / "state.json").write_text(aside)
    checkpoint.set_aside(tmp_path, tmp_path / checkpoint.name(8))
    assert [path.name for path in checkpoint.listed(tmp_path)] == [checkpoint.name(8)]
    assert (tmp_path / f"{checkpoint.name(16)}.damaged" / "state.json").read_text() == ""


def test_of_what_was_abandoned_what_can_be_deleted_is(tmp_path, monkeypatch):
    for name in ("000000000008", "000000000016.abandoned", "000000000024-1.abandoned"):
        (tmp_path / name).mkdir()
    (tmp_path / "000000000024-1.abandoned" / "state.json").touch()  # the rest went before a kill
    warnings, rmtree = [], checkpoint.shutil.rmtree

    def refuses(path):
        if path.name.startswith("000000000016"):
            raise PermissionError(13, "Permission denied")
        rmtree(path)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", refuses)
    checkpoint.delete_abandoned(tmp_path, warnings.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000008", "000000000016.abandoned"]
    assert len(warnings) == 1
    assert "could not be deleted (Permission denied)" in warnings[0]
