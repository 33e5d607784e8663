"""Reads what BigGAN-PyTorch saved: a folder of `G.pth`, `G_ema.pth`, `D.pth`, `G_optim.pth`, `D_optim.pth`
and `state_dict.pth`, or one of them.

The author evaluates with one power step from the stored u, without saving it. That step is taken once here
and its (u, v) stored, so that Ŵ = W/(uᵀWv) is the author's from then on and nothing iterates on load. It is
also the step that the author's training takes first when it goes on.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gansmith.errors import UserError
from gansmith.models import spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.weights import author_config, layout, pickles
from gansmith.weights.imported import AdamState, Imported, check_finite, listed, new_info

FORMAT = "BigGAN-PyTorch"
ROLES = ("G", "G_ema", "D", "G_optim", "D_optim", "state_dict")
NAME = re.compile(r"(G_ema|G_optim|D_optim|state_dict|G|D)(?:_(\w+))?\.pth")
LATEST = "latest"  # how the files without a suffix are called
REASONS = (
    (re.compile(r"\.sv\d+$"), "the author's log of singular values"),
    (re.compile(r"\.u[1-9]\d*$"), "vector of a further singular value, kept for logging only"),
    (re.compile(r"\.num_batches_tracked$"), "a counter without effect"),
    (re.compile(r"\.accumulation_counter$"), "count of accumulated statistics, applied to them"),
)


def files_in(folder: Path) -> dict[str, dict[str, Path]]:
    """The author's files of a folder: suffix (`best0`, …, or `latest` for none) → role → file."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.pth")):
        if match := NAME.fullmatch(path.name):
            found.setdefault(match[2] or LATEST, {})[match[1]] = path
    return found


def read(
    path: str | Path, *, which: str | None = None, config: Mapping[str, Any] | None = None, raw: bool = False
) -> Imported:
    """Everything in a weights folder, or in one file of it.

    which: the suffix to read where a folder holds several. config: the author's keyword arguments, over those
    of state_dict.pth and config.json; what none of them says is inferred from the tensors, and noted. raw:
    draw with G.pth where there is a G_ema.pth too. Raises UserError for anything that does not fit.
    """
    path = Path(path)
    files = _chosen(path, which)
    states = {role: _network_state(files[role]) for role in ("G", "G_ema", "D") if role in files}
    if path.is_file() and not states:
        raise UserError(f"{path} holds no network; give its folder, {path.parent}.")
    beside = files if path.is_dir() else _siblings(path)
    record = _record(beside.get("state_dict"), must=path.is_dir())
    complete, notes = author_config.complete(
        _given_config(beside, path, record, config),
        states.get("G_ema", states.get("G")),
        states.get("D"),
        path,
    )
    imported = Imported("", FORMAT, path, notes=notes)
    for role, state in states.items():
        kwargs = author_config.discriminator_kwargs if role == "D" else author_config.generator_kwargs
        kind: Any = Discriminator if role == "D" else Generator
        net = _build(kind, kwargs(complete), files[role])
        imported.unused += [(f"{files[role].name}: {key}", why) for key, why in fill(net, state, files[role])]
        setattr(imported, {"G": "G_raw", "G_ema": "G", "D": "D"}[role], net)
    ema = imported.G is not None and not (raw and imported.G_raw is not None)
    if not ema:
        imported.G, imported.G_raw = imported.G_raw, imported.G
    imported.family = author_config.FAMILIES[complete["model"]]
    for letter, owner in (("G", imported.G_raw or imported.G), ("D", imported.D)):
        if (file := files.get(f"{letter}_optim")) is not None:
            _add_optimizer(imported, letter, owner, file)
    imported.recipe = author_config.recipe(complete, record)
    _add_progress(imported, record, complete)
    scores = {key: record[key] for key in ("best_IS", "best_FID") if isinstance(record.get(key), int | float)}
    info = new_info(FORMAT, path, ema=ema, images_seen=imported.images_seen or 0)
    info["imported"] |= {
        "files": sorted(file.name for file in files.values()),
        "step": imported.step,
        **scores,
    }
    imported.info = info
    return imported


def read_generator(path: str | Path, config: Mapping[str, Any]) -> tuple[Generator, list[tuple[str, str]]]:
    """The generator in `path` in eval mode with Ŵ ready, and the tensors that were not used, with reasons.

    config: the author's keyword arguments, complete.
    """
    G = _build(Generator, author_config.generator_kwargs(config), Path(path))
    return G, fill(G, _network_state(Path(path)), Path(path))


def read_discriminator(
    path: str | Path, config: Mapping[str, Any]
) -> tuple[Discriminator, list[tuple[str, str]]]:
    """The discriminator in `path`; otherwise as `read_generator`."""
    D = _build(Discriminator, author_config.discriminator_kwargs(config), Path(path))
    return D, fill(D, _network_state(Path(path)), Path(path))


@torch.no_grad()
def fill(net: nn.Module, saved: Mapping[str, Tensor], source: Path) -> list[tuple[str, str]]:
    """Copies every tensor into the net by name, and takes the author's power step. Returns what is not used.

    Raises UserError where a tensor is missing, left over without a reason, of another shape, or not finite.
    """
    ours = net.state_dict()
    layers = dict(spectral.spectral_layers(net))
    wanted = {f"{name}.u0" if part == "u" and name in layers else key: key for key in ours
              for name, _, part in [key.rpartition(".")] if not (part == "v" and name in layers)}  # fmt: skip
    problems = [f"{theirs} is missing" for theirs in wanted if theirs not in saved]
    for theirs, key in wanted.items():
        if theirs in saved:
            value = saved[theirs].reshape(-1) if theirs.endswith(".u0") else saved[theirs]
            if value.shape != ours[key].shape:
                problems.append(f"{theirs} is {tuple(value.shape)}, expected {tuple(ours[key].shape)}")
    unused, extra = [], []
    for name in saved.keys() - wanted.keys():
        reason = next((why for pattern, why in REASONS if pattern.search(name)), None)
        unused.append((name, reason or "")) if reason else extra.append(name)
    problems += [f"{name} has no place in it" for name in sorted(extra)]
    if problems:
        raise UserError(
            f"{source}: does not fit the network that its configuration or the other tensors describe: "
            f"{listed(problems)}. If the configuration is another, give it with --config FILE."
        )
    check_finite(source, {name: saved[name] for name in wanted})
    for theirs, key in wanted.items():
        ours[key].copy_(saved[theirs].reshape(ours[key].shape))
    spectral.refresh(net, iterations=1)  # the author's evaluation step
    net.eval()
    return sorted(unused)


def _build(kind: Any, kwargs: dict[str, Any], source: Path) -> Any:
    try:
        with torch.device("meta"):
            net = kind(**kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: its network cannot be built here: {error}.") from None
    return net.to_empty(device="cpu")


def _network_state(file: Path) -> dict[str, Tensor]:
    """A network's tensors by the plain names: without `module.`, and all kinds of BatchNorm alike."""
    saved = pickles.read_tensors(file)
    if not isinstance(saved, dict) or not saved or not all(isinstance(v, Tensor) for v in saved.values()):
        raise UserError(
            f"{file} is no dict of a network's tensors; expected what torch.save(net.state_dict()) writes."
        )
    state: dict[str, Tensor] = {}
    for name, value in saved.items():
        plain = str(name).removeprefix("module.")
        plain = re.sub(r"\.bn\.(?:stored|running)_(mean|var)$", r".stored_\1", plain)
        plain = re.sub(r"\.running_(mean|var)$", r".stored_\1", plain)
        if plain in state:
            raise UserError(
                f"{file}: {name} is there twice, with and without a prefix; give an unaltered file."
            )
        state[plain] = value.float() if value.is_floating_point() else value
    for name, counter in state.items():
        # --mybn leaves sums behind when it accumulates standing statistics; they count their terms.
        if name.endswith(".bn.accumulation_counter") and float(counter.reshape(-1)[0]) > 0:
            for kind in ("mean", "var"):
                sums = name.replace(".bn.accumulation_counter", f".stored_{kind}")
                state[sums] = state[sums] / float(counter.reshape(-1)[0])
    return state


def _chosen(path: Path, which: str | None) -> dict[str, Path]:
    """Role → file."""
    if path.is_file():
        state = _network_state(path) if _role(path) not in ("G_optim", "D_optim", "state_dict") else {}
        if layout.is_discriminator(state):
            return {"D": path}
        if layout.is_generator(state):
            return {"G" if _role(path) == "G" else "G_ema": path}
        if state:
            raise UserError(f"{path}: its tensors are not those of a BigGAN or BigGAN-deep network.")
        return {_role(path) or "state_dict": path}
    found = files_in(path)
    if which is not None and which not in found:
        raise UserError(f"--which {which}: {path} has {', '.join(found) or 'no weights'}.")
    found = {which: found[which]} if which is not None else found
    networks = [suffix for suffix, roles in found.items() if {"G", "G_ema", "D"} & roles.keys()]
    if not networks:
        raise UserError(f"{path} holds no G.pth, G_ema.pth or D.pth; it has {_names(path)}.")
    if len(networks) > 1:
        raise UserError(
            f"{path} holds several saved states: {', '.join(networks)}; choose one, as with "
            f"--which {networks[0]}."
        )
    return found[networks[0]]


def _role(path: Path) -> str | None:
    match = NAME.fullmatch(path.name)
    return match[1] if match else None


def _names(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "") if names else "nothing"


def _siblings(path: Path) -> dict[str, Path]:
    match = NAME.fullmatch(path.name)
    found = files_in(path.parent)
    return found.get((match[2] if match else None) or LATEST, {})


def _record(file: Path | None, *, must: bool) -> dict[str, Any]:
    """state_dict.pth; a damaged one beside a single file that was asked for is not needed."""
    if file is None:
        return {}
    try:
        record = pickles.read_description(file)
    except UserError:
        if must:
            raise
        return {}
    if not isinstance(record, dict) or not isinstance(record.get("config", {}), dict):
        raise UserError(f"{file} is no state_dict.pth of BigGAN-PyTorch (itr, epoch, …, config).")
    return record


def _given_config(
    beside: Mapping[str, Path], path: Path, record: Mapping[str, Any], config: Mapping[str, Any] | None
) -> dict[str, Any]:
    folder = path if path.is_dir() else path.parent
    file = folder / "config.json"
    own = author_config.from_json(file) if file.is_file() else {}
    return own | dict(record.get("config") or {}) | dict(config or {})


def _add_optimizer(imported: Imported, letter: str, net: nn.Module | None, file: Path) -> None:
    if net is None:
        imported.unused.append((file.name, f"{letter}'s optimizer, without the {letter} it trained"))
        return
    saved = pickles.read_tensors(file)
    try:
        group = saved["param_groups"][0]
        order, states = [n for g in saved["param_groups"] for n in g["params"]], dict(saved["state"])
    except (KeyError, IndexError, TypeError):
        raise UserError(f"{file} is no state of torch.optim.Adam.") from None
    parameters = list(net.named_parameters())
    if len(order) != len(parameters):
        raise UserError(
            f"{file} holds {len(order)} parameters, {letter} has {len(parameters)}; not its optimizer."
        )
    moments: dict[str, dict[str, Tensor]] = {}
    for index, (name, parameter) in zip(order, parameters):
        if (state := states.pop(index, None)) is None:
            imported.unfilled.append((f"{letter} Adam moments of {name}", f"{file.name} has none"))
            continue
        if not {"step", "exp_avg", "exp_avg_sq"} <= state.keys():
            raise UserError(f"{file}: parameter {index} has {', '.join(state)}; Adam's moments are expected.")
        shapes = {tuple(torch.as_tensor(state[key]).shape) for key in ("exp_avg", "exp_avg_sq")}
        if shapes != {tuple(parameter.shape)}:
            raise UserError(f"{file}: moments of {name} are {shapes}, expected {tuple(parameter.shape)}.")
        moments[name] = {
            key: torch.as_tensor(state[key]).float() for key in ("step", "exp_avg", "exp_avg_sq")
        }
        imported.unused += [
            (f"{file.name}: {key} of {name}", "no part of the Adam used here")
            for key in state.keys() - moments[name].keys()
        ]
    if states:
        raise UserError(f"{file} holds moments of {len(states)} parameters that it does not list.")
    check_finite(file, {f"{n}.{k}": v for n, values in moments.items() for k, v in values.items()})
    betas = group.get("betas", (None, None))
    imported.optimizers[letter] = AdamState(moments, group.get("lr"), betas[0], betas[1], group.get("eps"))


def _add_progress(imported: Imported, record: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Steps and images, from state_dict.pth; D's steps per G's from the optimizers where nobody says."""
    if isinstance(record.get("itr"), int):
        imported.step = record["itr"]
    steps = {
        letter: max((int(m["step"]) for m in adam.moments.values()), default=0)
        for letter, adam in imported.optimizers.items()
    }
    if imported.step is None:
        imported.step = steps.get("G") or None
    if imported.step is None:
        return
    d_steps = config.get("num_D_steps")
    counted = steps.get("D", 0) / imported.step if imported.step else 0
    if d_steps is None and counted >= 1:
        d_steps = round(counted)
        imported.recipe["optim.d_steps"] = d_steps
        imported.notes.append(
            f"D took {d_steps} step{'s' if d_steps > 1 else ''} per step of G, by its optimizer."
        )
    elif d_steps is not None and counted and round(counted) != d_steps:
        imported.notes.append(
            f"D's optimizer counts {steps['D']:,} steps, not {d_steps} × {imported.step:,}; "
            "its count is kept."
        )
    if (batch := imported.recipe.get("train.batch")) is not None and d_steps is not None:
        imported.images_seen = imported.step * batch * int(d_steps)
