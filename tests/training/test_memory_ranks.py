"""Memory over two processes: one that runs out takes both to a smaller micro-batch, or ends the run clearly;
recomputed blocks take part in shared BatchNorm groups again.
"""

import json

import pytest
import torch

from tests.training.ranks import Ranks, newest, train

SETTINGS = {
    "train.batch": 16,
    "bn.group": 4,  # within a process
    "train.micro_batch": 8,
    "train.duration": 32,
    "log.status_every": 16,
    "log.checkpoint_every": 32,
}


def same_weights(one, other):
    one, other = newest(one)[1], newest(other)[1]
    return all(torch.equal(other[file][key], value) for file in one for key, value in one[file].items())


@pytest.mark.parametrize("phase", ["d", "g"])
def test_where_one_process_runs_out_of_memory_both_repeat_the_phase_with_half(images, tmp_path, phase):
    tight = {"loss.objective": "recording:tight"}
    bumpy = train(tmp_path, images, 2, "bumpy", SETTINGS | tight, ROOM="4", PHASES=phase)
    halved = {"train.micro_batch": 4 if phase == "d" else 8, "train.micro_batch_g": 4 if phase == "g" else 8}
    smooth = train(tmp_path, images, 2, "smooth", SETTINGS | halved)
    assert {k: newest(bumpy)[0]["micro_batch"][k] for k in "dg"} == {
        "d": halved["train.micro_batch"], "g": halved["train.micro_batch_g"]
    }  # fmt: skip
    # It happens in the first phase of its kind and is repeated with the same images, so every bit agrees.
    assert same_weights(smooth, bumpy)
    rows = [json.loads(line) for line in (bumpy / "metrics.jsonl").read_text().splitlines()]
    events = [(row["phase"], row["micro_batch"]) for row in rows if row["type"] == "out_of_memory"]
    assert events == [(phase, 8)]


def test_where_processes_share_groups_the_one_without_memory_says_what_helps(images, tmp_path):
    settings = SETTINGS | {"bn.group": 16, "loss.objective": "recording:tight"}
    ranks = Ranks(tmp_path, images, 2, "run", settings, ROOM="4", PHASES="g")
    assert ranks.end() == [5, 2]
    said = ranks.said(1)
    assert (
        "out of memory in a G phase with micro-batches of 8 and BatchNorm groups of 16 (bn.group) on" in said
    )
    assert "2 processes, while other processes wait for their part of it. The run goes on from its" in said
    assert "Traceback" not in said
    assert "process 0 of 2 stops: process 1 ended (UserError: out of memory in a G phase" in ranks.said(0)


def test_blocks_recomputed_over_two_processes_give_the_same_bits(images, tmp_path):
    settings = SETTINGS | {"bn.group": 16}
    kept = train(tmp_path, images, 2, "kept", settings)
    recomputed = train(tmp_path, images, 2, "recomputed", settings | {"train.checkpoint_from": 16})
    assert "blocks from 16 px on are computed again" in (recomputed / "log.txt").read_text()
    assert same_weights(kept, recomputed)
