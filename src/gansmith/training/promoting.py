"""Runs and snapshots of twice the resolution, made from trained ones (`weights.promotion` does the surgery).

A checkpoint becomes the checkpoint of a new run, with D, the average, and Adam's moments for all that is old;
`gansmith train --out` goes on with it on images of the new size. A snapshot becomes a snapshot.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from gansmith import config as configuration
from gansmith import files
from gansmith.config import Config, images
from gansmith.config.contradictions import contradictions
from gansmith.errors import UserError
from gansmith.models.biggan import Discriminator, Generator
from gansmith.sampling import statistics
from gansmith.training import checkpoint as checkpoints
from gansmith.training import sources
from gansmith.weights import promotion, snapshot
from gansmith.weights.imported import Imported

DEFAULT_FADE = "500k"


@dataclass
class Promoted:
    """What was written: a run's folder or a snapshot, and sentences about it."""

    path: Path
    is_run: bool
    images_seen: int
    notes: list[str] = field(default_factory=list)


def promote(
    source: str | Path,
    dest: str | Path,
    resolution: int,
    *,
    how: str = "append",
    fade: str | int = DEFAULT_FADE,
    dry_run: bool = False,
) -> Promoted:
    """Writes a network of twice the resolution to `dest`, which must not exist.

    source: a run or checkpoint (gives a run that trains on; its snapshot alone if dest ends in .safetensors),
    a snapshot, or published weights (give a snapshot). how: `append` or `insert`, see `weights.promotion`.
    fade: images over which what is added comes in, such as 500k; 0 has it whole at once. dry_run: only checks
    and says. Raises UserError, with nothing written.
    """
    source, dest = Path(source), Path(dest)
    if dest.exists():
        raise UserError(f"{dest} exists and is never overwritten; give another name or delete it.")
    try:
        imported = sources.read(source)
    except UserError as error:
        raise UserError(str(error).removeprefix("--init-from ")) from None
    G = imported.G
    if G is None:
        raise UserError(f"{source}: there is no generator in it, and nothing is promoted without one.")
    promotion.check(G.kwargs, resolution, how)
    record = _record(imported.source)
    fade_images = _amount(fade, record)
    alpha = 0.0 if fade_images else 1.0
    notes = list(imported.notes)
    if dry_run:
        trains_on = record is not None and imported.D is not None and dest.suffix != ".safetensors"
        return Promoted(dest, trains_on, imported.images_seen or 0, notes)
    new_G = promotion.promote_generator(G, how=how, alpha=alpha)
    new_D = _promoted_d(imported, record, how, alpha, notes)
    if G.statistics_table is not None:
        notes.append("its statistics by truncation do not fit the new network; they are estimated instead")
    described = _estimate_statistics(G, new_G, imported.info, how)
    config = _config(
        imported.info.get("config") or {}, new_G, new_D, how, imported.images_seen or 0, fade_images
    )
    info = imported.info | {
        "config": config,
        "statistics": described,
        "promoted": {"from": G.kwargs["resolution"], "how": how, "fade_images": fade_images},
    }
    name = checkpoints.name(imported.images_seen or 0)
    is_run = record is not None and new_D is not None and dest.suffix != ".safetensors"
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        if dest.suffix == ".safetensors":
            snapshot.save(dest, new_G, D=new_D, info=info)
            return Promoted(dest, False, imported.images_seen or 0, notes)
        with files.replacing_folder(dest) as temporary:
            (temporary / "snapshots").mkdir()
            snapshot.save(temporary / "snapshots" / f"{name}.safetensors", new_G, D=new_D, info=info)
            if record is not None and is_run:
                _write_run(temporary, imported, record, new_G, new_D, info, how, alpha)
    except OSError as error:
        raise UserError(
            f"{dest} could not be written ({error.strerror or error}); nothing was kept."
        ) from error
    return Promoted(dest, is_run, imported.images_seen or 0, notes)


def _record(folder: Path) -> dict[str, Any] | None:
    return checkpoints.read_record(folder) if (folder / "state.json").is_file() else None


def _amount(fade: str | int, record: dict[str, Any] | None) -> int:
    epoch = record["data"]["images"] if record else 0
    try:
        amount = images(fade, epoch)
    except ValueError as error:
        raise UserError(f"--fade: {error}.") from None
    if str(fade).endswith("ep") and not epoch:
        raise UserError(
            f"--fade {fade}: a snapshot does not say how long an epoch is; write images, e.g. 500k."
        )
    return amount


def _promoted_d(
    imported: Imported, record: dict[str, Any] | None, how: str, alpha: float, notes: list[str]
) -> Discriminator | None:
    if imported.D is None:
        if record is not None:
            raise UserError(
                f"{imported.source}: its D is of the user's own making and cannot be promoted; promote a "
                "snapshot instead, and train it on with --init-from."
            )
        notes.append("there is no D: training on needs --init-from, which makes a new one")
        return None
    D, G = imported.D, imported.G
    assert G is not None
    D.set_alpha(G.alpha)  # a checkpoint says alpha once
    return promotion.promote_discriminator(D, how=how, alpha=alpha)


def _estimate_statistics(old: Generator, new: Generator, info: dict[str, Any], how: str) -> dict[str, Any]:
    """Standing statistics for the new network. Appended stages leave those of the older layers right."""
    _, rename = promotion.generator_growth(old.kwargs, how)
    kept = {
        new_name: buffer
        for name, buffer in old.named_buffers()
        if "stored_" in name and (new_name := rename(name)) is not None
    }
    described = statistics.estimate(
        new,
        info["latent"],
        new.num_classes,
        group=statistics.default_group(info, new.kwargs["resolution"]),
    )
    # A checkpoint's average has none of its own yet.
    if how == "append" and (info.get("statistics") or {}).get("truncation") == 1.0:
        buffers = dict(new.named_buffers())
        for name, value in kept.items():
            buffers[name].copy_(value)
    return described


def _config(
    old: dict[str, Any],
    G: Generator,
    D: Discriminator | None,
    how: str,
    images_seen: int,
    fade_images: int,
) -> dict[str, Any]:
    """The configuration with the new networks in it; {} of an imported network stays without sections."""
    model = {
        "resolution": G.kwargs["resolution"],
        "dim_z": G.kwargs["dim_z"],
        "attention_g": list(G.kwargs["attention"]),
        "table_g": G.kwargs["table"],
        "fade": how,
        "fade_start": images_seen,
        "fade_images": fade_images,
    }
    if D is not None:
        model |= {
            "attention_d": list(D.kwargs["attention"]),
            "table_d": D.kwargs["table"],
            "last_map_d": D.kwargs["last_map"],
        }
    started = dict(old.get("init") or {})
    for letter, net in (("generator", G), ("discriminator", D)):
        if net is not None and started.get(letter):  # arguments that no setting says
            started[letter] = {key: net.kwargs[key] for key in started[letter]}
    return {**old, "model": {**(old.get("model") or {}), **model}, **({"init": started} if started else {})}


def _write_run(
    folder: Path,
    imported: Imported,
    record: dict[str, Any],
    G_ema: Generator,
    D: Discriminator | None,
    info: dict[str, Any],
    how: str,
    alpha: float,
) -> None:
    """config.yaml and the one checkpoint of a run that goes on from here."""
    assert imported.G_raw is not None
    assert imported.D is not None
    assert D is not None
    G = promotion.promote_generator(imported.G_raw, how=how, alpha=alpha)
    config = _validated(info["config"] | {"bn": _bn(record)})
    networks = {f"G_ema.{name}": value.data for name, value in G_ema.named_parameters()}
    for letter, net in (("G", G), ("D", D)):
        networks |= {f"{letter}.{name}": value for name, value in net.state_dict().items()}
    moments = _moments(
        load_file(imported.source / "optimizers.safetensors"),
        {
            "G": promotion.generator_growth(imported.G_raw.kwargs, how)[1],
            "D": promotion.discriminator_growth(imported.D.kwargs, how)[1],
        },
    )
    record = record | {
        "config": configuration.flat(config),
        "discriminator": D.kwargs,
        "data": record["data"] | {"content_hash": None},  # images of the new size, whichever come
        "promoted": info["promoted"],
    }
    checkpoints.save(
        folder / "checkpoints",
        {"networks": networks, "optimizers": moments},
        record,
        lambda file: snapshot.save(file, G_ema, info=info),
    )
    label = f"promoted from {imported.source.name}"
    changed = ("resolution", "dim_z", "table_g", "table_d", "fade", "fade_start", "fade_images")
    origins = {f"model.{name}": label for name in changed}
    (folder / "config.yaml").write_text(configuration.to_yaml(config, origins))


def _bn(record: dict[str, Any]) -> dict[str, Any]:
    """The group as the run's configuration has it (a snapshot's description has what was made of `auto`)."""
    return {"group": record["config"].get("bn.group", "auto")}


def _validated(values: dict[str, Any]) -> Config:
    config = Config.model_validate(values)
    if problems := [f"{path}: {message}" for path, message in contradictions(config)]:
        raise UserError(
            "the promoted configuration would not do:\n" + "\n".join(f"  - {p}" for p in problems)
        )
    return config


def _moments(saved: dict[str, torch.Tensor], renames: dict[str, promotion.Rename]) -> dict[str, torch.Tensor]:
    """Adam's moments under the parameters' new names; new parameters have none and begin with zeros."""
    kept = {}
    for key, value in saved.items():
        letter, _, rest = key.partition(".")
        parameter, _, moment = rest.rpartition(".")
        if (name := renames[letter](parameter)) is not None:
            kept[f"{letter}.{name}.{moment}"] = value
    return kept
