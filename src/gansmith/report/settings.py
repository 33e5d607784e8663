"""A run's config.yaml with the origin of each value, what differs from its preset, and its surroundings.

The preset's values are handed in: this room reads files of runs and knows no schema.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

_LINE = re.compile(r"^(?P<indent> *)(?P<name>[A-Za-z_]\w*): ?(?P<rest>.*)$")
PresetValues = Callable[[str | None], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Setting:
    """One value: dotted path, value, where it came from (`default`, `preset NAME`, `command line`, …),
    whether it differs from the preset, and if that is known (compared), from what.
    """

    path: str
    value: Any
    origin: str
    changed: bool
    compared: bool
    preset_value: Any = None


@dataclass
class Settings:
    """values: every setting in file order. environment: what environment.json says, {} without. data: content
    hash of the images it is trained on, as scores name it; None where the run does not tell.
    """

    values: list[Setting] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    data: str | None = None

    def get(self, path: str) -> Any:
        return next((setting.value for setting in self.values if setting.path == path), None)


def read(run: Path, preset_values: PresetValues) -> Settings:
    """Reads config.yaml and environment.json; what is missing or damaged becomes a problem in words.

    preset_values: name of a preset, or None for the defaults → dotted path → value; None if it is unknown.
    """
    settings = Settings()
    try:
        text = (run / "config.yaml").read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        if not isinstance(values, dict):
            raise ValueError("it holds no sections")
    except FileNotFoundError:
        settings.problems.append("config.yaml is missing: the configuration cannot be shown")
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        settings.problems.append(f"config.yaml is damaged and cannot be shown ({reason})")
    else:
        preset = values.get("preset")
        before = preset_values(preset if isinstance(preset, str) else None)
        origins = origins_of(text)
        for path, value in _flatten(values, before or {}):
            origin = origins.get(path, "default")
            compared = before is not None and path in before
            old = before[path] if before is not None and compared else None
            changed = _plain(old) != _plain(value) if compared else _overrules(origin)
            settings.values.append(Setting(path, value, origin, changed and path != "preset", compared, old))
    try:
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        settings.environment = environment if isinstance(environment, dict) else {}
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        settings.problems.append("environment.json is damaged and was left out")
    if not settings.get("data.random_crop"):  # which keeps larger images than those that scores are against
        settings.data = _trained_on(run)
    return settings


def _trained_on(run: Path) -> str | None:
    """The content hash of the data of the newest checkpoint that tells one."""
    for file in sorted(run.glob("checkpoints/*/state.json"), reverse=True):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))["data"]["content_hash"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(found, str):
            return found
    return None


def origins_of(text: str) -> dict[str, str]:
    """Dotted path → the comment behind its value: `batch: 64  # command line`."""
    origins, section = {}, ""
    for line in text.splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        if not match["indent"]:
            section = match["name"]
        value, mark, origin = match["rest"].rpartition("  # ")
        # A '#' inside a quoted value is no comment: then what is left of it is not the same value.
        if mark and _same(value, match["rest"]):
            path = f"{section}.{match['name']}" if match["indent"] else match["name"]
            origins[path] = origin.strip()
    return origins


def duration(settings: Settings, images_per_epoch: float | None) -> float | None:
    """train.duration in images, or None where it cannot be told (epochs of unknown length)."""
    match = re.match(r"^\s*(\d+(?:\.\d+)?)\s*(k|M|G|ep|)\s*$", str(settings.get("train.duration")))
    if not match:
        return None
    if match[2] == "ep":
        return float(match[1]) * images_per_epoch if images_per_epoch else None
    return float(match[1]) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]]


def show(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, float):
        return f"{value:g}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("...").strip()


def _flatten(values: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and path not in known and not prefix:
            rows += _flatten(value, known, f"{path}.")
        else:
            rows.append((path, value))
    return rows


def _overrules(origin: str) -> bool:
    return origin != "default" and not origin.startswith("preset ")


def _same(left: str, whole: str) -> bool:
    try:
        return bool(yaml.safe_load(left) == yaml.safe_load(whole))
    except yaml.YAMLError:
        return False


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
