"""Snapshots: one safetensors file that holds a generator and everything needed to draw from it.

Tensors are named `G.<state key>` (and `D.<state key>` where D is kept, `T.<buffer>` for standing statistics
by truncation, a row each, where the weights were published with them); the metadata entry "gansmith" is a
JSON object with the networks' arguments, the latent, the classes, the images seen and the configuration. A
checkpoint's `G_ema.safetensors` is such a file too. Nothing here executes what it reads, and nothing knows
how runs are trained.
"""

import hashlib
import json
import re
import warnings
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

import gansmith
from gansmith import files
from gansmith.errors import UserError
from gansmith.models import families, spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.models.statistics_table import StatisticsTable

FORMAT = "gansmith-snapshot"
VERSION = 2  # 1 had no tables of statistics
NAMES = {"G": "weights of G", "D": "weights of D", "T": "tables of statistics"}
CHECKPOINT_FILE = "G_ema.safetensors"
HUB_FILE = "model.safetensors"  # of a folder made by `gansmith export`
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
NUMBERED = re.compile(r"\d[\w.-]*")  # 000012345678…: temporary names start with a dot


def save(path: str | Path, G: Generator, *, D: Discriminator | None = None, info: dict[str, Any]) -> None:
    """Writes a snapshot atomically: a kill at any moment leaves the old file, the new file or none.

    info: JSON-able; needs `latent`, `classes` [{id, name, count}], `images_seen`, `lineage`, `ema`,
    `statistics` (None, or what `sampling.statistics.estimate` returned for G's standing statistics) and
    `config`. The networks' arguments, their hashes and the versions are added here. G and D are not changed:
    their u and v must be converged for their weights before, since nothing iterates on load. An OSError (disk
    full) passes through.
    """
    missing = {"latent", "classes", "images_seen", "lineage", "ema", "statistics", "config"} - info.keys()
    assert not missing, f"snapshot info lacks {sorted(missing)}"
    described = {
        **info,
        "format": FORMAT,
        "version": VERSION,
        "generator": G.kwargs,
        "discriminator": D.kwargs if D is not None else None,
        "statistics_table": None,
        "gansmith_version": gansmith.__version__,
    }
    states = {"G": _state(G)} | ({"D": _state(D)} if D is not None else {})
    if (table := G.statistics_table) is not None:
        described["statistics_table"] = {"rows": table.size, "hugging_face": table.hugging_face}
        states["T"] = {key: value.detach().cpu().contiguous() for key, value in table.rows.items()}
    described["sha256"] = {prefix: fingerprint(state) for prefix, state in states.items()}
    tensors = {f"{prefix}.{key}": value for prefix, state in states.items() for key, value in state.items()}
    with files.replacing(Path(path)) as temporary:
        write_tensors(tensors, temporary, {"gansmith": json.dumps(described)})


def write_tensors(
    tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file with the permissions any new file has. Raises OSError when the disk is full."""
    path.touch()
    mode = path.stat().st_mode  # the library writes files that only their owner can read
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # and reports a full disk in its own way
        raise OSError(f"{path.name}: {error}") from error
    path.chmod(mode)


def _state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}


def fingerprint(state: dict[str, torch.Tensor]) -> str:
    """Hex SHA-256 of a network's tensors (on the CPU): names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load(
    path: str | Path, *, discriminator: bool = False
) -> tuple[Generator, Discriminator | None, dict[str, Any]]:
    """Rebuilds the networks of a snapshot, a checkpoint's or a run's newest one, on the CPU.

    Returns (G, D, info): G in eval mode with its normalised weights ready (from the stored u and v: nothing
    iterates); D only when asked for and in the file. Raises UserError for a file that is missing, damaged
    (by the SHA-256 it carries; files of before it had one carry none), foreign, written by a newer version,
    that does not fit its networks tensor by tensor, or that holds NaN or infinity.
    """
    file = find(path)
    info = describe(file)
    prefixes = {"G": info["generator"], "D": info["discriminator"], "T": info.get("statistics_table")}
    wanted = ["G", *(["D"] if discriminator and prefixes["D"] else []), *(["T"] if prefixes["T"] else [])]
    states: dict[str, dict[str, torch.Tensor]] = {"G": {}, "D": {}, "T": {}}
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            for key in opened.keys():  # noqa: SIM118 (not a dict)
                prefix, _, name = key.partition(".")
                if prefixes.get(prefix) is None:
                    raise UserError(
                        f"{file}: tensor {key} belongs to no network of this snapshot; it was altered."
                    )
                if prefix in wanted:
                    states[prefix][name] = opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise UserError(_damaged(file, error)) from None
    for prefix in wanted:
        if info.get("sha256", {}).get(prefix, "") not in ("", fingerprint(states[prefix])):
            raise UserError(
                f"{file} is damaged: the {NAMES[prefix]} are not what was written (SHA-256 differs); "
                "use another snapshot of the run."
            )
    G = _rebuild(families.make_generator, info["generator"], states["G"], file)
    if "T" in wanted:
        G.statistics_table = _rebuild_table(G, states["T"], info["statistics_table"], file)
    D = None
    if "D" in wanted:
        D = _rebuild(families.make_discriminator, info["discriminator"], states["D"], file)
    return G, D, info


def _rebuild(make: Any, kwargs: dict[str, Any], state: dict[str, torch.Tensor], file: Path) -> Any:
    what = "Generator" if make is families.make_generator else "Discriminator"
    try:
        with torch.device("meta"):  # no memory and no time for an initialisation that is overwritten
            net = make(**kwargs)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: its {what} cannot be built here: {error}") from None
    expected = net.state_dict()
    problems = [f"{name} is missing" for name in expected.keys() - state.keys()]
    problems += [f"{name} is not part of the network" for name in state.keys() - expected.keys()]
    for name in expected.keys() & state.keys():
        found, right = state[name], expected[name]
        if found.shape != right.shape or found.dtype != right.dtype:
            problems.append(
                f"{name} is {found.dtype} {tuple(found.shape)}, not {right.dtype} {tuple(right.shape)}"
            )
        elif not found.isfinite().all():
            problems.append(f"{name} holds NaN or infinity (a diverged network: use an earlier snapshot)")
    if problems:
        shown = "; ".join(sorted(problems)[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{file}: its tensors do not make a {what}: {shown}{more}.")
    net.to_empty(device="cpu")
    net.load_state_dict(state)
    net.eval().requires_grad_(False)
    spectral.refresh(net, iterations=0)
    return net


def _rebuild_table(
    G: Generator, rows: dict[str, torch.Tensor], described: dict[str, Any], file: Path
) -> StatisticsTable:
    buffers = {
        name: len(value)
        for name, value in G.named_buffers()
        if name.endswith((".stored_mean", ".stored_var"))
    }
    shapes = {name: tuple(values.shape) for name, values in rows.items()}
    if shapes != {name: (described["rows"], channels) for name, channels in buffers.items()}:
        raise UserError(f"{file}: its tables of statistics are not those of its generator; it was altered.")
    return StatisticsTable(rows, hugging_face=bool(described["hugging_face"]))


def describe(path: str | Path) -> dict[str, Any]:
    """The metadata of a snapshot, without reading its tensors. Raises UserError as `load` does."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(_damaged(path, error)) from None
    try:
        info = json.loads(metadata["gansmith"])
        if info["format"] != FORMAT:
            raise KeyError
        version = int(info["version"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{path} is a safetensors file, but not a gansmith snapshot; give a run, snapshot or "
            "checkpoint of gansmith."
        ) from None
    if version > VERSION:
        raise UserError(
            f"{path} has snapshot format {version}, written by gansmith "
            f"{info.get('gansmith_version', '?')}; this "
            f"gansmith {gansmith.__version__} reads up to {VERSION}: upgrade it with `pip install -U "
            "gansmith`."
        )
    missing = {"generator", "discriminator", "latent", "classes", "images_seen", "statistics"} - info.keys()
    if missing:
        raise UserError(f"{path}: its description lacks {', '.join(sorted(missing))}; the file was altered.")
    return info


def _damaged(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path} cannot be read: {error.strerror or error}."
    if path.suffix != ".safetensors":
        return f"{path} is not a gansmith snapshot (a .safetensors file); give a run, snapshot or checkpoint."
    return f"{path} is damaged or cut short ({error}); use another snapshot of the run."


def find(path: str | Path) -> Path:
    """The snapshot file that a path stands for.

    A file is itself; a checkpoint folder is its G_ema.safetensors, an exported one its model.safetensors; a
    run is its newest snapshot, or its newest checkpoint while there is no snapshot; `RUN/best` may be a link
    or a text file with the name.
    Newest is the highest (lineage, images seen); unreadable files are skipped with a warning. Raises
    UserError when there is nothing.
    """
    path = Path(path)
    if path.name == "best" and path.is_file() and not path.is_symlink():
        path = _follow(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(
            f"{path} does not exist; give a run folder, a snapshot (.safetensors) or a checkpoint folder."
        )
    for name in (CHECKPOINT_FILE, HUB_FILE):
        if (path / name).is_file():
            return path / name
    for candidates in (
        [*path.glob("snapshots/*.safetensors"), *path.glob("*.safetensors")],
        [*path.glob(f"checkpoints/*/{CHECKPOINT_FILE}"), *path.glob(f"*/{CHECKPOINT_FILE}")],
    ):
        if newest := _newest(candidates):
            return newest
    if _holds_images(path):
        raise UserError(
            f"{path} holds images, no network; see them with `gansmith data inspect {path}`, or give a run, "
            "snapshot or checkpoint."
        )
    raise UserError(
        f"{path} holds no snapshot and no checkpoint; a run writes its first one when it has trained "
        "for a while: "
        "give another folder, or train on."
    )


def _holds_images(path: Path) -> bool:
    """Whether a folder without networks is a prepared set or has images near its top; a run's are grids."""
    near = list(islice(chain(path.glob("*"), path.glob("*/*")), 1000))
    if any(file.name == "config.yaml" for file in near):
        return False
    return any(file.name == "dataset.json" or file.suffix.lower() in IMAGE_SUFFIXES for file in near)


def _newest(candidates: list[Path]) -> Path | None:
    ages = []
    for file in candidates:
        named = file.parent if file.name == CHECKPOINT_FILE else file
        if not NUMBERED.fullmatch(named.name) or named.suffix not in ("", ".safetensors"):
            continue
        try:
            info = describe(file)
        except UserError as error:
            warnings.warn(f"skipped: {error}", stacklevel=3)
            continue
        ages.append((info.get("lineage", 0), info["images_seen"], file))
    return max(ages)[-1] if ages else None


def _follow(pointer: Path) -> Path:
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except (UnicodeDecodeError, OSError):
        return pointer
    target = (pointer.parent / name).resolve()
    if not name or not target.exists():
        raise UserError(
            f"{pointer} names {name!r}, which does not exist; give a snapshot of the run by its path."
        )
    return target
