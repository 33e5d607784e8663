"""Which fakes G learns from and D is shown: the best of a group, and older ones that were kept."""

import numpy as np
import pytest
import torch

from gansmith.config import Config
from gansmith.errors import UserError
from gansmith.models import normalization
from gansmith.models.normalization import AffineBatchNorm
from gansmith.training import objectives
from gansmith.training.draws import Draws
from gansmith.training.objectives import MicroBatch, topk
from gansmith.training.objectives.replay import Replay

CPU = torch.device("cpu")


def generator(group):
    net = torch.nn.Sequential(AffineBatchNorm(1, 1e-5))
    normalization.set_batch_norm_group(net, group)
    return net


def test_the_share_falls_by_a_factor_per_period_down_to_the_least():
    assert [topk.share(0.5, 0.9, t) for t in (0, 1, 2.5, 100)] == [1, 0.9, 0.9**2.5, 0.5]


def test_the_largest_are_kept_and_of_equal_ones_the_first():
    scores = torch.tensor([[0.1, 3.0, -1.0, 2.0], [5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 2.0, 0.0]])
    expected = [[0, 1, 0, 1], [1, 1, 0, 0], [0, 1, 1, 0]]
    assert topk.kept(scores, 2).int().tolist() == expected


@pytest.mark.parametrize(("part", "count"), [(1.0, 4), (0.7, 3), (0.5, 2), (0.01, 1)])
def test_the_loss_is_the_mean_over_the_best_of_each_group_and_only_they_get_a_gradient(part, count):
    scores = torch.randn(12, requires_grad=True)
    loss, kept = topk.mean_of_best(-scores, scores, part, generator(4))
    assert kept == count / 4
    best = scores.detach().view(3, 4).topk(count, 1)
    assert loss.item() == pytest.approx(-best.values.mean().item(), rel=1e-6)
    loss.backward()
    expected = torch.zeros(3, 4).scatter(1, best.indices, -1 / (3 * count))
    assert torch.allclose(scores.grad.view(3, 4), expected, rtol=1e-6)


def phase(replay, begun, batch, micro, seed=0):
    """A D phase: every fake has one grey value, its position. Positions that D was shown, and classes."""
    shown, classes = [], []
    for start in range(begun, begun + batch, micro):
        positions = np.arange(start, start + micro)
        fake = (torch.from_numpy(positions).float() / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        draws = Draws(seed, "d", positions, CPU)
        y = torch.from_numpy(positions % 7)
        x, y, _ = replay.mixed(fake, y, MicroBatch(fake, y, fake, y, draws, 0, begun))
        shown.append(((x[:, 0, 0, 0] + 1) * 127.5).round().long())
        classes.append(y)
    replay.settle(batch)
    return torch.cat(shown).numpy(), torch.cat(classes).numpy()


def test_older_fakes_come_back_with_their_classes_at_their_share():
    replay = Replay(0.25, 8, 32, (1, 2, 2), CPU)  # every 4th is kept, for 32 images
    older = []
    for begun in range(0, 240, 16):
        shown, classes = phase(replay, begun, 16, 16)
        here = np.arange(begun, begun + 16)
        replaced = shown != here
        assert (classes == shown % 7).all()
        assert (shown[replaced] % 4 == 0).all()
        assert ((shown[replaced] < begun) & (shown[replaced] >= begun - 32)).all()
        older.append(replaced.mean())
    assert older[0] == 0
    assert np.mean(older[1:]) == pytest.approx(0.25, abs=0.09)  # 3 standard errors of 224 coins
    assert sorted(replay.positions.tolist()) == list(range(208, 240, 4))


@pytest.mark.parametrize("every", [1, 3, 5])
def test_micro_batches_and_resuming_do_not_change_what_comes_back(every):
    whole, parts = (Replay(0.5, 6, 6 * every, (1, 2, 2), CPU) for _ in range(2))
    for begun in range(0, 96, 24):
        if begun == 48:
            again = Replay(0.5, 6, 6 * every, (1, 2, 2), CPU)
            for name, value in again.memory.items():
                value.copy_(parts.memory[name])
            parts = again
        one, other = phase(whole, begun, 24, 24), phase(parts, begun, 24, 4)
        assert all((a == b).all() for a, b in zip(one, other))
    assert all(torch.equal(whole.memory[name], value) for name, value in parts.memory.items())


def test_a_rehearsal_leaves_no_trace():
    replay = Replay(0.5, 6, 6, (1, 2, 2), CPU)
    fake = torch.rand(4, 1, 2, 2)
    assert replay.mixed(fake, None, MicroBatch(fake, None, fake, None))[0] is fake
    assert replay.fresh == []


@pytest.mark.parametrize(
    ("settings", "epoch", "said"),
    [
        (
            {"replay_images": 10**12},
            100,
            "replay_images 1,000,000,000,000: they take 45,776,367.2 GiB in every",
        ),
        (
            {"replay_images": 64, "replay_span": 63},
            100,
            "63 fakes are fewer than the 64 of stabilise.replay_im",
        ),
        (
            {"replay_images": 64, "replay_span": "0.5ep"},
            100,
            "replay_span 0.5ep: 50 fakes are fewer than the 64",
        ),
    ],
)
def test_more_fakes_than_there_is_room_for_or_than_are_made_are_refused(settings, epoch, said):
    config = Config(stabilise={"replay": 0.5} | settings)
    with pytest.raises(UserError, match=said):
        objectives.build(config, CPU, epoch)


def test_what_cannot_be_built_is_known_before_memory_is_taken(monkeypatch):
    made = []
    monkeypatch.setattr(
        objectives.replay.Replay,
        "__init__",
        lambda self, *a: made.append(a[-1]) or setattr(self, "memory", {}),
    )
    objectives.check(Config(stabilise={"replay": 0.5, "replay_span": "1ep"}), CPU)
    assert made == [torch.device("meta")]
    with pytest.raises(UserError, match="GiB"):
        objectives.check(Config(stabilise={"replay": 0.5, "replay_images": 10**12}), CPU)


def test_less_than_an_image_between_changes_of_the_share_is_one():
    config = Config(stabilise={"top_k": 0.5, "top_k_every": "0.0001ep"})
    assert objectives.build(config, CPU, 100).top_k_every == 1
