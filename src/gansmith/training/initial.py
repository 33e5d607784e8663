"""Starting a run from given weights: what they are, whose architecture counts, and which class becomes which.

The source is read once, before the data; its architecture becomes part of the configuration. A run that has a
checkpoint goes on from that and needs its source no more.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gansmith import config as configuration
from gansmith.config import Config
from gansmith.data.shards import Dataset
from gansmith.errors import UserError
from gansmith.training import announce, freezing, nearest, release, sources
from gansmith.training import checkpoint as checkpoints
from gansmith.training import state as states
from gansmith.training.distributed import World
from gansmith.training.runlog import RunLog
from gansmith.weights import convert, surgery
from gansmith.weights.imported import Imported
from gansmith.weights.snapshot import fingerprint

# What a run that was started from weights keeps, whatever preset is given when it goes on.
KEPT = ("model.", "init.", "ema.")
# Arguments of networks → the settings below model. that say them.
OF_G = {
    name: name
    for name in ("family", "resolution", "channels", "ch", "dim_z", "shared_dim", "skip_z", "depth", "bn_eps",
                 "sn_eps", "fade")
} | {name: f"{name}_g" for name in ("attention", "spectral", "table", "noise")}  # fmt: skip
OF_D = {
    "attention": "attention_d",
    "wide": "wide_d",
    "spectral": "spectral_d",
    "table": "table_d",
    "last_map": "last_map_d",
    "fade": "fade",
    "dropout": "dropout_d",
}
SHARE = 0.05  # of the duration: the longest half-life where the recipe has no ramp


@dataclass
class Source:
    """What --init-from names, read. adopted: settings that follow from it. class_names: by id."""

    path: str
    imported: Imported
    sha256: str
    class_names: list[str]
    adopted: dict[str, Any] = field(default_factory=dict)

    @property
    def G(self) -> Any:
        assert self.imported.G is not None
        return self.imported.G


def settle(
    config: Config, origins: dict[str, str], folder: Path, world: World
) -> tuple[Config, dict[str, str], Source | None]:
    """The configuration with what the source decides, and the source, read if the run is new.

    folder: where the run's checkpoints are. Raises UserError for a source that cannot be used, or settings
    that contradict it.
    """
    recorded = world.share(_recorded(folder) if world.is_main else None)
    if recorded is not None:
        return (*_go_on(config, origins, recorded), None)
    if config.init.source is None:
        return config, origins, None
    source = _open(config)
    source.adopted = architecture(config, origins, source)
    _check_agreement(config, origins, source)
    source.adopted |= _average(config, origins) | {"init.sha256": source.sha256}
    changed = {path: value for path, value in source.adopted.items() if _value(config, path) != value}
    label = f"init from {config.init.source}"
    return (
        configuration.from_flat(configuration.flat(config) | source.adopted),
        origins | dict.fromkeys(changed, label),
        source,
    )


def _recorded(folder: Path) -> dict[str, Any] | None:
    """Settings of the newest checkpoint that says them. Whether it is whole is found out later."""
    for path in reversed(checkpoints.listed(folder)):
        try:
            return dict(checkpoints.read_record(path)["config"])
        except (OSError, ValueError, KeyError, UserError):
            continue
    return None


def _go_on(config: Config, origins: dict[str, str], recorded: Mapping[str, Any]) -> Any:
    """A run that exists: its own start counts, unless another one is asked for, which is refused later."""
    begun = recorded.get("init.source")
    asked = config.init.source
    if begun is None:
        if asked is not None:
            raise UserError(
                f"--init-from {asked}: this run exists already and was not started from weights; leave the "
                "flag out to go on with it, or give a new --out."
            )
        return config, origins
    if asked is not None and begun not in (asked, str(Path(asked).resolve())):
        raise UserError(
            f"--init-from {asked}: this run exists already and was started from {begun}; leave the flag out "
            "to go on with it, or give a new --out."
        )
    known = configuration.fields()
    kept = {
        path: value
        for path, value in recorded.items()
        if path in known and path.startswith(KEPT) and origins.get(path) != "command line"
    } | {"init.source": begun}
    label = f"init from {begun}"
    here = configuration.flat(config)
    changed = [path for path, value in kept.items() if here[path] != value]
    return configuration.from_flat(here | kept), origins | dict.fromkeys(changed, label)


def _open(config: Config) -> Source:
    path = config.init.source
    assert path is not None
    imported = sources.read(Path(path))
    if imported.G is None:
        raise UserError(
            f"--init-from {path}: there is no generator in it ({imported.source_format}); "
            "give one with a generator, or the folder in which it lies."
        )
    tensors = {
        f"{letter}.{key}": value.detach().cpu()
        for letter, net in (("G", imported.G), ("G_raw", imported.G_raw), ("D", imported.D))
        if net is not None
        for key, value in net.state_dict().items()
    }
    sha256 = fingerprint(tensors)
    if config.init.sha256 not in (None, sha256):
        raise UserError(
            f"--init-from {path}: not the weights that this run was started from (SHA-256 "
            f"{sha256[:12]}…, not {str(config.init.sha256)[:12]}…, init.sha256); give those, or a new "
            "--out."
        )
    count = imported.G.num_classes
    named = {entry["id"]: str(entry["name"]) for entry in imported.info.get("classes") or []}
    names = [named.get(i, str(i)) for i in range(count)]
    return Source(path, imported, sha256, names)


def architecture(config: Config, origins: Mapping[str, str], source: Source) -> dict[str, Any]:
    """Settings that say what the source's networks are, with what has no setting in init.generator and
    init.discriminator.
    """
    G, D = source.G.kwargs, source.imported.D
    values: dict[str, Any] = {
        "model.latent": source.imported.info.get("latent", "normal"),
        "model.conditional": G["num_classes"] > 0,
        **_settings(G, OF_G),
    }
    if D is not None and config.model.discriminator is None:
        values["model.ch_d"] = D.kwargs["ch"] if D.kwargs["ch"] != G["ch"] else None
        values |= _settings(D.kwargs, OF_D)
    elif any(
        _value(config, path) != values[path] for path in ("model.family", "model.resolution", "model.ch")
    ):
        # The preset's D was made for another G.
        standard = {
            "model.ch_d": None,
            "model.attention_d": values.get("model.attention_g", []),
            "model.wide_d": True,
            "model.spectral_d": True,
        }
        values |= {path: value for path, value in standard.items() if origins.get(path) != "command line"}
    values |= _fading(config, source)
    values |= {"init.generator": {}, "init.discriminator": {}}
    described = configuration.from_flat(configuration.flat(config) | values)
    values["init.generator"] = _beyond(source.G, states.generator_kwargs(described, 0))
    if D is not None and config.model.discriminator is None:
        values["init.discriminator"] = _beyond(D, states.discriminator_kwargs(described, 0))
    return values


def _settings(kwargs: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Settings of model.* that say these arguments of a network; other families have others."""
    values = {f"model.{names[name]}": value for name, value in kwargs.items() if name in names}
    for path in values.keys() & {"model.attention_g", "model.attention_d"}:
        # Published settings also name resolutions that the network does not have.
        values[path] = [at for at in values[path] if 8 <= at < kwargs["resolution"]]
    return values


def _fading(config: Config, source: Source) -> dict[str, Any]:
    """How what a promotion added comes in here: not again if it has, from the beginning if it has not."""
    G = source.G.kwargs
    if G.get("fade") is None or G["alpha"] == 1:
        return {"model.fade_start": 0, "model.fade_images": 0}
    if G["alpha"] > 0:
        raise UserError(
            f"--init-from {source.path} is still taking in its promotion (alpha {G['alpha']:.3g}); train it "
            "on until alpha is 1, then start from it."
        )
    begun = source.imported.info.get("config", {}).get("model", {}).get("fade_images", 0)
    if not (amount := config.model.fade_images or begun):
        raise UserError(
            f"--init-from {source.path} was promoted and not trained since; say over how many images what "
            "was added comes in, e.g. --set model.fade_images=500000."
        )
    return {"model.fade_start": 0, "model.fade_images": amount}


def _beyond(net: Any, described: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a network that its description by model.* does not give back."""
    arguments = inspect.signature(type(net)).parameters
    return {
        name: value
        for name, value in net.kwargs.items()
        if name not in ("num_classes", "init", "alpha", "heads", "projection")
        and value != _listed(described.get(name, arguments[name].default))
    }


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_agreement(config: Config, origins: Mapping[str, str], source: Source) -> None:
    """Refuses what the user asks for and the source is not; a preset's other settings just give way."""
    path, G = source.path, source.G.kwargs
    wanted, resolution = config.model.resolution, G["resolution"]
    if "model.resolution" in origins and wanted != resolution:
        way = (
            f"promote it first, `gansmith convert {path} PROMOTED --resolution {wanted}`, and start from that"
            if wanted > resolution
            else f"choose a preset of {resolution} px: networks cannot be made smaller"
        )
        raise UserError(
            f"--init-from {path} is a {resolution} px network, but {origins['model.resolution']} asks for "
            f"{wanted} px; {way}."
        )
    refused = [
        f"  - {name}: {_value(config, name)} asked for, {value} in the source\n"
        for name, value in source.adopted.items()
        if origins.get(name) == "command line" and _value(config, name) != value
    ]
    if refused:
        hint = (
            " Images without classes go with it by --set data.labels=random --set data.random_classes=100."
            if source.G.num_classes and not config.model.conditional
            else ""
        )
        raise UserError(
            f"--init-from {path}: the architecture comes from there, and the command line wants another:\n"
            f"{''.join(refused)}Leave these settings out, or start without --init-from.{hint}"
        )


def _value(config: Config, path: str) -> Any:
    return configuration.flat(config)[path]


def _average(config: Config, origins: Mapping[str, str]) -> dict[str, Any]:
    """EMA settings for an average that starts good: no ramp and no late start, which would throw it away.

    The ramp's other use, that short runs get a short average, is kept, and given to recipes without a ramp:
    theirs is made for so long a run that a short one would show the source's images to its end.
    """
    ema = config.ema
    share = ema.ramp if ema.ramp is not None else SHARE
    kept = {
        "ema.ramp": None,
        "ema.start": 0,
        "ema.half_life": _shorter(ema.half_life, config.train.duration, share),
    }
    return {path: value for path, value in kept.items() if origins.get(path) != "command line"}


def _shorter(half_life: str | int, duration: str | int, share: float) -> str | int:
    if str(duration).strip().endswith("ep"):
        return f"{float(str(duration).strip()[:-2]) * share:g}ep"
    longest = max(1, round(configuration.images(duration, 1) * share))
    if str(half_life).strip().endswith("ep"):
        return longest
    return half_life if configuration.images(half_life, 1) <= longest else longest


def check(source: Source, config: Config, data: announce.DataSummary) -> None:
    """Raises UserError for classes that are not there, and for blocks of D that cannot be frozen."""
    if source.G.num_classes:
        classes_of(source, config, [info.name for info in data.classes])
    if not _makes_d(source, config):
        freezing.names(source.imported.D, config.init.freeze_d)
    elif config.init.freeze_d:
        raise UserError(
            "init.freeze_d: D is new in this run, and a random block is nothing to keep; leave it out."
        )


# Said before the start
# ---------------------------------------------------------------------------------------------------------


def introduce(log: RunLog, source: Source, config: Config, data: announce.DataSummary) -> None:
    """What the source is, which class becomes which, and what is lost of it."""
    imported, G = source.imported, source.G
    held = ["G", *(["G as trained"] if imported.G_raw is not None else []), *(["D"] if imported.D else [])]
    log.say(
        f"weights from {source.path}: {imported.source_format}, {G.kwargs['family']} "
        f"{G.kwargs['resolution']} px, ch {G.kwargs['ch']}, {G.num_classes} classes; {', '.join(held)}; "
        f"SHA-256 {source.sha256[:12]}…"
    )
    for what, text in convert.describe(imported):
        if what in ("note", "not used", "not filled"):
            log.say(f"  {what}: {text}")
    if G.num_classes:
        origins = classes_of(source, config, [info.name for info in data.classes])
        for line in surgery.describe(origins, source.class_names):
            if config.init.new_classes == "nearest":
                line = line.replace("by mean", "by nearest look").split(" ← the mean")[0]
            log.say(f"  {line}")
    else:
        log.say("  it has no classes, so this run has none; those of the data do not matter")
    if imported.D is None or config.model.discriminator is not None:
        lost = sources.idle_discriminator(source.path, imported)
        if lost:
            log.warn(lost)


def _makes_d(source: Source, config: Config) -> bool:
    return source.imported.D is None or config.model.discriminator is not None


def classes_of(source: Source, config: Config, names: Sequence[str]) -> list[surgery.Origin]:
    """Where each of the run's classes comes from. names: of the data, empty where labels are random."""
    old = source.class_names
    if config.data.labels == "random":
        return [
            surgery.Origin(str(i), i % len(old), "same number") for i in range(config.data.random_classes)
        ]
    unnamed = not source.imported.info.get("classes")
    if unnamed and len(names) == len(old) and not config.init.map and list(names) != old:
        return [surgery.Origin(name, i, "same number") for i, name in enumerate(names)]
    return surgery.match(names, old, config.init.map, f"--init-from {source.path}")


# The networks
# ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def networks(source: Source, config: Config, dataset: Dataset, world: World, log: RunLog) -> states.Given:
    """The source's networks with this run's classes, on the CPU."""
    G, imported = source.G, source.imported
    raw = imported.G_raw if imported.G_raw is not None else G
    D = None if _makes_d(source, config) else imported.D
    if G.num_classes:
        names = [info.name for info in dataset.classes]
        origins = classes_of(source, config, names)
        if config.init.new_classes == "nearest" and any(origin.old is None for origin in origins):
            origins = world.share(
                nearest.choose(G, imported.D, source.imported.info, dataset, origins) if world.is_main else []
            )
            for line in surgery.describe(origins, source.class_names):
                log.say(f"  {line}")
        if [origin.old for origin in origins] != list(range(G.num_classes)):
            mix = surgery.rows(origins, G.num_classes)
            same = raw is G
            G = surgery.with_classes(G, mix)
            raw = G if same else surgery.with_classes(raw, mix)
            D = None if D is None else surgery.with_classes(D, mix, seed=config.train.seed)
    new_d = D is None
    if held := freezing.names(D, config.init.freeze_d) if D is not None else ():
        layers = dict.fromkeys(name.rpartition(".")[0] for name in sorted(held))
        log.say(f"of D stay as they are: {', '.join(layers)}")
    trained = states.replica(raw) if raw is G else raw
    _say_release(log, config, len(dataset), new_d)
    return states.Given(G=trained, G_ema=G, D=D)


def _say_release(log: RunLog, config: Config, epoch: int, new_d: bool) -> None:
    if new_d:
        log.say("D is new: it knows nothing of these images yet")
    if release.holds_at_start(config, new_d):
        log.say(f"G stands still {release.rule(config, epoch)}")
    elif new_d:
        log.warn(
            "G learns from a D that knows nothing yet (init.release 0), and soon forgets what it could; "
            "leave init.release at auto to let D learn first (docs/finetuning.md)"
        )
