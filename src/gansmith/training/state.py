"""Everything a run is: networks, optimizers, the moving average, counters, and the order of the data.

`build` makes it from a configuration; `tensors` and `record` are all a checkpoint has to hold.
"""

import hashlib
from collections.abc import Set
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from gansmith.config import Config
from gansmith.data.order import Order
from gansmith.errors import UserError
from gansmith.guard.detector import Detector
from gansmith.models import families, layers, normalization, spectral
from gansmith.training import freezing, optimizers
from gansmith.training.distributed import World
from gansmith.training.gradients import FlatGradients
from gansmith.training.growth import Growth
from gansmith.training.objectives import import_function
from gansmith.training.precision import LossScale
from gansmith.training.release import Release, holds_at_start, pretrains_d

CONTRAST = 128  # numbers that D's contrast head makes of an image


@dataclass
class Player:
    """One of the two networks with all that trains it."""

    net: Any  # a Generator, or D: ours or the user's own module
    optimizer: torch.optim.Optimizer
    gradients: FlatGradients
    scale: LossScale
    kind: optimizers.Kind
    frozen: tuple[torch.Tensor, ...] = ()  # take no gradient, ever
    turn: int = 0  # optimizer steps taken, those left out included


@dataclass
class State:
    """A run at one moment. The three counters are its whole clockwork; noise and data order follow from
    them.
    """

    G: Player
    D: Player
    G_ema: Any  # a generator like G's
    order: Order
    images_seen: int = 0  # real images shown to D: the clock
    fakes_seen: int = 0  # fakes made for G phases: position in G's noise stream
    step: int = 0  # G steps
    seconds: float = 0.0  # spent in the loop, over all restarts
    release: Release = field(default_factory=Release)  # whether G stands still
    growth: Growth = field(default_factory=Growth)  # of the batch
    guard: Detector = field(default_factory=lambda: Detector(0))  # what it remembers of the rows before
    memory: dict[str, torch.Tensor] = field(default_factory=dict)  # what losses remember


def generator_kwargs(config: Config, num_classes: int) -> dict[str, Any]:
    """Arguments of the family's generator; settings that it does not have are left out."""
    model = config.model
    settings = _common_kwargs(config, num_classes) | {
        "ch": model.ch,
        "dim_z": model.dim_z,
        "shared_dim": model.shared_dim,
        "skip_z": model.skip_z,
        "attention": tuple(model.attention_g),
        "spectral": model.spectral_g,
        **_given(table=model.table_g, noise=model.noise_g or None, **_fading(config)),
        **config.init.generator,
    }
    return families.known(families.GENERATORS, settings)


def discriminator_kwargs(config: Config, num_classes: int) -> dict[str, Any]:
    """Arguments of the family's discriminator, likewise."""
    model = config.model
    settings = _common_kwargs(config, num_classes) | {
        "ch": model.ch_d or model.ch,
        "attention": tuple(model.attention_d),
        "wide": model.wide_d,
        "spectral": model.spectral_d,
        **_given(table=model.table_d, last_map=model.last_map_d, **_fading(config)),
        **_given(heads=heads(config, num_classes), projection=None if config.head.projection else False),
        **_given(dropout=model.dropout_d or None),
        **config.init.discriminator,
    }
    return families.known(families.DISCRIMINATORS, settings)


def heads(config: Config, num_classes: int) -> dict[str, int] | None:
    """What D is to say beside its logits: name → numbers; None: nothing."""
    head = config.head
    asked = {
        "class": (num_classes, (head.classify_d, head.classify_g)),
        "rotation": (4, (head.rotate_d, head.rotate_g)),
        "contrast": (CONTRAST, (head.contrast_d,)),
    }
    return {name: n for name, (n, terms) in asked.items() if any(t is not None for t in terms)} or None


def _given(**kwargs: Any) -> dict[str, Any]:
    """What only some networks have; a user's own D need not know these arguments."""
    return {name: value for name, value in kwargs.items() if value is not None}


def _fading(config: Config) -> dict[str, Any]:
    # The loop sets alpha by the images seen; what is drawn before it turns is the beginning.
    return {} if config.model.fade is None else {"fade": config.model.fade, "alpha": 0.0}


def _common_kwargs(config: Config, num_classes: int) -> dict[str, Any]:
    model = config.model
    return {
        "family": model.family,
        "resolution": model.resolution,
        "num_classes": num_classes,
        "channels": model.channels,
        "depth": model.depth,
        "init": model.init,
        "sn_eps": model.sn_eps,
        "bn_eps": model.bn_eps,
    }


def networks(config: Config, num_classes: int) -> tuple[Any, nn.Module]:
    """G and D on the current default device, untrained. Raises UserError where the settings do not fit
    together.
    """
    try:
        G = families.make_generator(**generator_kwargs(config, num_classes))
    except ValueError as error:
        raise UserError(f"model: {error}") from None
    return G, discriminator(config, num_classes)


def discriminator(config: Config, num_classes: int) -> nn.Module:
    """D alone, likewise."""
    make_d: Any = families.make_discriminator
    if config.model.discriminator is not None:
        make_d = import_function(config.model.discriminator, "model.discriminator")
    try:
        return make_d(**discriminator_kwargs(config, num_classes))
    except ValueError as error:
        raise UserError(f"model: {error}") from None


@dataclass
class Given:
    """Networks that a run starts from instead of random ones: on the CPU, u and v as they are to be used.

    D is None where the run makes its own.
    """

    G: Any
    G_ema: Any
    D: nn.Module | None


def build(
    config: Config,
    num_classes: int,
    bn_group: int,
    order: Order,
    world: World,
    dtype: torch.dtype,
    given: Given | None = None,
) -> State:
    """A run at its beginning: seeded weights, converged spectral norms, the average a copy of G.

    Networks that are given come in as they are: nothing iterates on their singular vectors.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(config.train.seed, "weights"))
        if given is None:
            G, D = networks(config, num_classes)
        else:
            G, D = given.G, given.D or discriminator(config, num_classes)
    if given is not None and given.D is D:
        _check_heads(D, config, num_classes)
    for net in (G, D, *((given.G_ema,) if given else ())):
        net.to(world.device)
        # One node's orthogonal factors need not be the other's.
        world.copy_from_main(net.state_dict().values())
        if config.train.channels_last:
            layers.set_channels_last(net)
        if given is None or net not in (given.G, given.G_ema, given.D):
            spectral.converge(net)
        else:
            spectral.refresh(net.train().requires_grad_(True), iterations=0)
    normalization.set_batch_norm_group(G, bn_group)
    if families.is_ours(D):
        normalization.set_batch_norm_group(D, bn_group)
    scaled = dtype == torch.float16
    frozen = freezing.names(D, config.init.freeze_d)
    new_d = given is not None and given.D is None
    return State(
        G=_player(G, optimizers.kind(config.optim, "g"), scaled),
        D=_player(D, optimizers.kind(config.optim, "d"), scaled, frozen),
        G_ema=replica(given.G_ema if given else G),
        order=order,
        release=Release(holds=pretrains_d(config) or (given is not None and holds_at_start(config, new_d))),
    )


def _check_heads(D: nn.Module, config: Config, num_classes: int) -> None:
    """Refuses a D that says other things than it is asked for."""
    kwargs = getattr(D, "kwargs", {})
    has, asked = kwargs.get("heads"), heads(config, num_classes)
    if has != asked or kwargs.get("projection", True) != config.head.projection:
        raise UserError(
            f"--init-from: its D has {', '.join(has or ()) or 'no'} heads, and head.* asks for "
            f"{', '.join(asked or ()) or 'none'}, projection {config.head.projection}. Set head.* as it was "
            "trained, or leave D out (give a snapshot of G alone)."
        )


def replica(G: Any) -> Any:
    """A copy of G for averaging and drawing: its weights and Ŵ as they are, in eval mode, no gradients."""
    device = next(G.parameters()).device
    with torch.device("meta"):
        copy = families.make_generator(**G.kwargs)
    copy.to_empty(device=device).load_state_dict(G.state_dict())
    copy.requires_grad_(False)
    if G.channels_last:
        layers.set_channels_last(copy)
    spectral.refresh(copy, iterations=0)
    return copy.eval()


def _player(net: nn.Module, kind: optimizers.Kind, scaled: bool, frozen: Set[str] = frozenset()) -> Player:
    trained = [parameter for name, parameter in net.named_parameters() if name not in frozen]
    optimizer = optimizers.make(trained, kind)
    gradients = FlatGradients(net)
    return Player(
        net,
        optimizer,
        gradients,
        LossScale(scaled, gradients.flat.device),
        kind,
        freezing.tensors(net, frozen),
    )


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def tensors(state: State) -> dict[str, dict[str, torch.Tensor]]:
    """All tensors of a run by file: networks (weights and singular vectors), average, moments."""
    average = {f"G_ema.{name}": value.data for name, value in state.G_ema.named_parameters()}
    files: dict[str, dict[str, torch.Tensor]] = {"networks": average, "optimizers": {}}
    for letter, player in (("G", state.G), ("D", state.D)):
        files["networks"] |= {f"{letter}.{name}": value for name, value in player.net.state_dict().items()}
        for name, parameter in player.net.named_parameters():
            for key, value in player.optimizer.state[parameter].items():
                files["optimizers"][f"{letter}.{name}.{key}"] = value
    return files | ({"memory": state.memory} if state.memory else {})


@torch.no_grad()
def restore(state: State, files: dict[str, dict[str, torch.Tensor]]) -> None:
    """Puts a checkpoint's tensors in place. Spectral norms come from the stored vectors; nothing iterates.

    Raises UserError when a tensor is missing, left over, or of another shape.
    """
    here = tensors(state)["networks"]
    there = files["networks"]
    missing, extra = here.keys() - there.keys(), there.keys() - here.keys()
    wrong = [name for name in here.keys() & there.keys() if here[name].shape != there[name].shape]
    if missing or extra or wrong:
        raise UserError(
            "the checkpoint's networks are not those of this configuration: "
            f"missing {sorted(missing)[:3]}, left over {sorted(extra)[:3]}, other shape {sorted(wrong)[:3]}."
        )
    for name, value in here.items():
        value.copy_(there[name])
    for letter, player in (("G", state.G), ("D", state.D)):
        for name, parameter in player.net.named_parameters():
            kept = {key: f"{letter}.{name}.{key}" for key in player.kind.saved}
            # What another optimizer kept, or a promotion added, begins anew.
            if kept and files["optimizers"].keys() >= set(kept.values()):
                player.optimizer.state[parameter] = {
                    key: _like(files["optimizers"][kept[key]], parameter, key) for key in kept
                }
            else:
                player.optimizer.state.pop(parameter, None)
        spectral.refresh(player.net, iterations=0)
    # What was switched on since starts as it is; what was switched off is forgotten.
    for name, value in state.memory.items():
        if name in (saved := files.get("memory", {})):
            value.copy_(saved[name])


def _like(value: torch.Tensor, parameter: torch.Tensor, key: str) -> torch.Tensor:
    # Adam's fused kernel wants its step counters on the parameters' device, in float32.
    return value.to(parameter.device, torch.float32 if key == "step" else parameter.dtype).clone()


def record(state: State) -> dict[str, Any]:
    """The counters and scales of a run, JSON-able."""
    return {
        "images_seen": state.images_seen,
        "fakes_seen": state.fakes_seen,
        "step": state.step,
        "turn_g": state.G.turn,
        "turn_d": state.D.turn,
        "seconds": state.seconds,
        "scale_g": state.G.scale.state(),
        "scale_d": state.D.scale.state(),
        "order": state.order.to_json(),
        "release": asdict(state.release),
        "growth": asdict(state.growth),
        "guard": state.guard.to_json(),
    }


def restore_record(state: State, saved: dict[str, Any]) -> None:
    state.images_seen = int(saved["images_seen"])
    state.fakes_seen = int(saved["fakes_seen"])
    state.step = int(saved["step"])
    state.seconds = float(saved["seconds"])
    state.G.turn = int(saved.get("turn_g", state.step))
    state.D.turn = int(saved.get("turn_d", state.step))
    state.G.scale.restore(saved["scale_g"])
    state.D.scale.restore(saved["scale_d"])
    state.release = Release(**saved.get("release", {}))
    state.growth = Growth(**saved.get("growth", {}))
