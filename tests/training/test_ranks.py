"""Several gloo processes against one: the same images, noise, gradients and weights."""

import os
from functools import partial

import pytest
import torch

from gansmith.training.distributed import World
from tests.training.ranks import Ranks, newest, shown, train

KINDS = ("d real", "d noise", "g noise")


@pytest.fixture
def on(images, tmp_path):
    """on(world, name, settings): trains on that many processes, returns the folder."""
    return partial(train, tmp_path, images)


def save_first_gradients():
    """Writes down what every finished phase summed over the ranks: RECORD.gradient.D and .G of step 1."""
    from gansmith.training.gradients import FlatGradients

    finish = FlatGradients.finish

    def finish_and_save(self, world, scale):
        finish(self, world, scale)
        path = f"{os.environ['RECORD']}.gradient.{type(self.net).__name__}"
        if world.is_main and not os.path.exists(path):
            torch.save(self.flat.clone(), path)

    FlatGradients.finish = finish_and_save


def in_float64():
    """Networks, Adam, average and collectives in double precision: what comes in is made wide, and the
    program nowhere narrows what is."""
    from gansmith.sampling import latents
    from gansmith.training import grids, micro_batches

    torch.set_default_dtype(torch.float64)
    stream, from_seeds, to_device = latents.stream, latents.from_seeds, micro_batches.to_device

    def wide_stream(*arguments, **settings):
        z, y = stream(*arguments, **settings)
        return z.double(), y

    latents.stream = wide_stream
    latents.from_seeds = lambda *arguments, **settings: from_seeds(*arguments, **settings).double()
    micro_batches.to_device = lambda images, device: to_device(images, device).double()
    grids.draw_interpolation = lambda *arguments: None


@pytest.mark.parametrize(("group", "worlds"), [(8, (2, 4)), (4, (4,))])
def test_more_ranks_see_and_compute_what_one_does(on, tmp_path, group, worlds):
    # D stands still, or Adam's first step (of size lr whatever the gradient) would show D's rounding in G.
    settings = {"bn.group": group, "train.micro_batch": "auto", "optim.lr_d": 1e-12}
    for world in (1, *worlds):
        on(world, f"run{world}", settings, f"r{world}", save_first_gradients)
    for kind in KINDS:
        single = shown(tmp_path, "r1", 1, kind)
        assert len(single) == 2
        assert all(single == shown(tmp_path, f"r{world}", world, kind) for world in worlds)
    for net in ("Discriminator", "Generator"):
        one = torch.load(tmp_path / f"r1.gradient.{net}", weights_only=True)
        assert one.norm() > 1e-3
        for world in worlds:
            other = torch.load(tmp_path / f"r{world}.gradient.{net}", weights_only=True)
            assert (other - one).norm() < 1e-5 * one.norm()


def test_after_20_steps_in_float64_the_checkpoint_is_that_of_one_process(on):
    settings = {"train.duration": 160, "log.checkpoint_every": 160, "log.status_every": 160}
    (record, one), *others = [
        newest(on(world, f"run{world}", settings, f"r{world}", in_float64)) for world in (1, 2, 4)
    ]
    assert record["step"] == 20
    differing = {"world", "seconds", "micro_batch", "guard"}
    for world, (their_record, tensors) in zip((2, 4), others):
        assert their_record["world"] == world
        assert {k: v for k, v in record.items() if k not in differing} == {
            k: v for k, v in their_record.items() if k not in differing
        }
        seen, theirs = (each["guard"]["bins"]["values"] for each in (record, their_record))
        assert seen["loss_d"] == pytest.approx(theirs["loss_d"], rel=1e-5)  # logged in float32
        for file, here in one.items():
            there = tensors[file]
            assert {key: (v.shape, v.dtype) for key, v in here.items()} == {
                key: (v.shape, v.dtype) for key, v in there.items()
            }
        weights = {key: value for key, value in one["networks"].items() if value.is_floating_point()}
        assert all(value.dtype == torch.float64 for value in weights.values())
        assert max((tensors["networks"][key] - value).abs().max() for key, value in weights.items()) < 1e-8


def test_a_run_goes_on_with_another_number_of_ranks(on, tmp_path):
    on(1, "whole", {"train.duration": 48}, "a")
    on(1, "parts", {"train.duration": 16}, "b")
    on(4, "parts", {"train.duration": 32}, "c")
    on(2, "parts", {"train.duration": 48}, "d")
    for kind in KINDS:
        parts = [shown(tmp_path, record, world, kind) for record, world in (("b", 1), ("c", 4), ("d", 2))]
        assert shown(tmp_path, "a", 1, kind) == [batch for part in parts for batch in part]


def weights_of_one_process():
    """G and its average become those of a fixed seed before a snapshot, so that several processes draw with
    the bits that one has."""
    from gansmith.models.biggan import Generator
    from gansmith.training import saving

    snapshot = saving.snapshot

    def same(run, state):
        torch.manual_seed(0)
        fixed = Generator(**state.G.net.kwargs).state_dict()
        state.G.net.load_state_dict(fixed)
        state.G_ema.load_state_dict(fixed)
        snapshot(run, state)

    saving.snapshot = same


def test_statistics_and_grids_drawn_by_three_ranks_have_the_bits_of_one(on):
    settings = {"train.batch": 12, "bn.group": 4, "train.duration": 12}
    settings |= {"log.statistics_images": 40, "log.grid_columns": 5}
    one, three = (on(world, f"run{world}", settings, f"r{world}", weights_of_one_process) for world in (1, 3))
    for name in (
        "samples/000000000012.png",
        "samples/000000000012-raw.png",
        "snapshots/000000000012.safetensors",
    ):
        assert (one / name).read_bytes() == (three / name).read_bytes(), name


# Only rank 0 writes
# -------------------------------------------------------------------------------------------------------


def forbid_writing():
    """Every process but rank 0 fails as soon as it opens a file of the run for writing, or makes a folder."""
    import sys

    if os.environ["RANK"] == "0":
        return
    out = os.environ["OUT"]

    def watch(event, arguments):
        path = str(arguments[0]) if arguments else ""
        writes = event == "open" and (arguments[1] or "r")[0] in "wax+"
        if path.startswith(out) and (writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")):
            print(f"FORBIDDEN {event} {path}")
            os._exit(77)

    sys.addaudithook(watch)


def local_rank_0_everywhere():
    """As on nodes of one process each: global ranks differ, local ranks are all 0."""
    os.environ["LOCAL_RANK"] = "0"
    forbid_writing()


@pytest.mark.parametrize("prepare", [forbid_writing, local_rank_0_everywhere])
def test_only_global_rank_0_writes(on, tmp_path, prepare):
    settings = {"log.snapshot_every": 8}
    out = on(2, "run", settings, prepare=prepare, OUT=str(tmp_path / "run"))
    assert len(list((out / "snapshots").glob("*.safetensors"))) == 2
    assert newest(out)[0]["images_seen"] == 16


def test_local_rank_chooses_the_device_and_nothing_else(monkeypatch):
    from gansmith import hardware

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    # Process 6 of 8 on two nodes of four is the third of its node.
    assert hardware.choose_device(None, 2) == torch.device("cuda", 2)
    assert hardware.choose_device("cuda", 2) == torch.device("cuda", 2)


# A slow or failing rank
# -------------------------------------------------------------------------------------------------------


def fail_while_rank_0_saves():
    """Rank 1 raises where rank 0 writes its second checkpoint, which takes a while."""
    import time

    from gansmith.training import checkpoint as checkpoints
    from gansmith.training import saving

    if os.environ["RANK"] == "1":
        save = saving.checkpoint

        def fail(run, state):
            if state.images_seen == 16:
                raise ValueError("a disk of node 1 broke")
            return save(run, state)

        saving.checkpoint = fail
    else:
        write = checkpoints.save

        def write_slowly(folder, *arguments):
            time.sleep(0.5)
            return write(folder, *arguments)

        checkpoints.save = write_slowly


def test_a_rank_that_fails_during_a_save_spoils_nothing_and_is_named(on, images, tmp_path):
    settings = {"train.duration": 32}
    ranks = Ranks(tmp_path, images, 2, "run", settings, fail_while_rank_0_saves)
    assert ranks.end() == [5, 1]
    assert "process 0 of 2 stops: process 1 ended (ValueError: a disk of node 1 broke)" in ranks.said(0)
    assert "type the same command again" in ranks.said(0)
    assert "Traceback" not in ranks.said(0)
    left = [int(path.name) for path in sorted((ranks.out / "checkpoints").glob("0*"))]
    assert left in ([8], [8, 16])
    on(2, "run", settings, "again")
    on(2, "whole", settings, "whole")
    again, whole = newest(ranks.out)[1], newest(tmp_path / "whole")[1]
    for file in whole:
        assert all(torch.equal(again[file][key], value) for key, value in whole[file].items())


def dawdle():
    """Rank 1 takes its time before every phase."""
    import time

    from gansmith.training import objectives

    hinge = objectives.hinge

    def slow(*arguments):
        time.sleep(0.2 if os.environ["RANK"] == "1" else 0)
        return hinge(*arguments)

    objectives.hinge = slow


def test_a_slow_rank_changes_nothing(on):
    quick, slow = newest(on(2, "quick", {}))[1], newest(on(2, "slow", {}, prepare=dawdle))[1]
    for file in quick:
        assert all(torch.equal(slow[file][key], value) for key, value in quick[file].items())


def test_votes_objects_and_barriers_never_touch_the_device(monkeypatch):
    """World(…, meta): a vote on that device could not even be read."""
    votes, shared = [], []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor, op=None: votes.append(tensor))
    monkeypatch.setattr(
        torch.distributed, "broadcast_object_list", lambda values, src, device: shared.append(device)
    )
    world = World(0, 2, torch.device("meta"))
    assert world.any(True) is True
    assert world.any(False) is False
    world.barrier()
    assert world.share("path") == "path"
    assert [tensor.device.type for tensor in votes] == ["cpu"] * 3
    assert shared == [torch.device("cpu")]
