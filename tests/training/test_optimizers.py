"""Adam, RMSprop and SGD: the textbook's steps, bad steps left out, resumed bit for bit, apart for D and G."""

import pytest
import torch

from gansmith import config as configuration
from gansmith.errors import UserError
from gansmith.training import checkpoint, loop, objectives, optimizers, state
from tests.training.reading import newest

KINDS = [("adam", 0.0), ("rmsprop", 0.0), ("rmsprop", 0.5), ("sgd", 0.0), ("sgd", 0.9)]
SHORT = {"train.duration": 32, "log.snapshot_every": 10**6, "log.checkpoint_every": 16}


def kind(name: str, momentum: float) -> optimizers.Kind:
    return optimizers.Kind(name, 0.1, (0.5, 0.9), 0.9, momentum, 1e-6)


def textbook(name: str, momentum: float, weights: list[torch.Tensor]) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam(weights, lr=0.1, betas=(0.5, 0.9), eps=1e-6)
    if name == "sgd":
        return torch.optim.SGD(weights, lr=0.1, momentum=momentum)
    return torch.optim.RMSprop(weights, lr=0.1, alpha=0.9, eps=1e-6, momentum=momentum)


@pytest.mark.parametrize(("name", "momentum"), KINDS)
def test_steps_are_the_textbooks_and_bad_ones_are_left_out(name, momentum):
    """Against PyTorch's own, which never sees the bad ones: the first, and two in a row."""
    ours = [torch.randn(3, 4), torch.randn(5)]
    theirs = [w.clone() for w in ours]
    mine, other = optimizers.make(ours, kind(name, momentum)), textbook(name, momentum, theirs)
    for step in range(8):
        bad = step in (0, 4, 5)
        gradients = [torch.randn_like(w) for w in ours]
        for own, their, gradient in zip(ours, theirs, gradients):
            own.grad = gradient * float("nan") if bad else gradient
            their.grad = gradient
        mine.found_inf = torch.tensor(float(bad))
        mine.step()
        if not bad:
            other.step()
        for own, their in zip(ours, theirs):
            torch.testing.assert_close(own, their, rtol=1e-6, atol=1e-6)  # float32, another order of terms
    assert set(kind(name, momentum).saved) == mine.state[ours[0]].keys()


def test_a_bad_step_of_a_run_changes_nothing(tiny, monkeypatch):
    seen = []
    phase = loop._phase

    def look(run, letter, run_state, reals):
        player = run_state.D if letter == "d" else run_state.G

        def now():
            moments = [v for values in player.optimizer.state.values() for v in values.values()]
            return [t.detach().clone() for t in (*player.net.parameters(), *moments)]

        before = now()
        result = phase(run, letter, run_state, reals)
        seen.append((letter, all(torch.equal(a, b) for a, b in zip(before, now()))))
        return result

    def nan_in_the_second_phase_of_d(phase, G, D, micro):
        loss, scalars = objectives.hinge(phase, G, D, micro)
        return loss * (float("nan") if phase == "d" and len(seen) == 2 else 1.0), scalars

    monkeypatch.setattr(loop, "_phase", look)
    monkeypatch.setattr(objectives, "find", lambda _: nan_in_the_second_phase_of_d)
    tiny("run", {"optim.kind_d": "rmsprop", "optim.momentum_d": 0.5, "optim.d_steps": 1} | SHORT)
    assert seen == [("d", False), ("g", False), ("d", True), ("g", False), *[("d", False), ("g", False)] * 2]


def test_every_optimizer_resumes_bit_for_bit(tiny):
    """Each of D and G its own: their moments lie in the checkpoint by name."""
    settings = SHORT | {"optim.kind_g": "sgd", "optim.momentum_g": 0.9, "optim.kind_d": "rmsprop",
                        "optim.momentum_d": 0.0}  # fmt: skip
    whole = tiny("whole", settings)
    tiny("parts", settings | {"train.duration": 16})
    parts = tiny("parts", settings)
    for stem in ("networks", "optimizers"):
        a, b = (checkpoint.read_tensors(newest(run))[stem] for run in (whole, parts))
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert {(key[0], key.rpartition(".")[2]) for key in a} == {("G", "momentum"), ("D", "square_avg")}


def test_another_optimizer_begins_with_its_own_moments(tiny):
    tiny("run", SHORT | {"train.duration": 16})
    change = {"optim.kind_g": "rmsprop", "optim.kind_d": "sgd"}
    run = tiny("run", SHORT | change, allow_change=tuple(change))
    moments = checkpoint.read_tensors(newest(run))["optimizers"]
    assert {(key[0], key.rpartition(".")[2]) for key in moments} == {("G", "square_avg")}


def test_settings_of_d_are_those_of_g_unless_given():
    config, _ = configuration.load(overrides={"optim.kind_g": "sgd", "optim.momentum_g": 0.5})
    assert optimizers.kind(config.optim, "d").moments == ("momentum",)
    config, _ = configuration.load(overrides={"optim.beta1": 0.3, "optim.beta2_d": 0.9})
    assert optimizers.kind(config.optim, "g").betas == (0.3, 0.999)
    assert optimizers.kind(config.optim, "d").betas == (0.3, 0.9)
    with torch.device("meta"):
        G, _ = state.networks(config, 3)
    adam = optimizers.make(G.parameters(), optimizers.kind(config.optim, "g"))
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["fused"]
    with pytest.raises(UserError, match=r"optim.momentum_d: Adam has optim.beta1 for it"):
        configuration.load(overrides={"optim.kind_g": "sgd", "optim.kind_d": "adam", "optim.momentum_d": 0.5})
