"""How a configuration comes about: preset < file < command line; merged, validated, compared, written."""

import difflib
import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gansmith.config.contradictions import contradictions
from gansmith.config.schema import Config, fields
from gansmith.errors import UserError


def preset_names() -> list[str]:
    """Names of the recipes that come with gansmith."""
    folder = importlib.resources.files("gansmith") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load(
    preset: str | None = None, file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[Config, dict[str, str]]:
    """Merges preset < file < overrides and validates the result at once.

    overrides: dotted path → value. Returns the configuration and the origin of each value that is not a
    default (`preset NAME`, `file PATH`, `command line`). Raises UserError naming every problem together.
    """
    problems: list[str] = []
    layers: list[tuple[str, dict[str, Any]]] = []
    file_values = _read_yaml(file) if file else {}
    preset = preset or file_values.pop("preset", None)
    if preset:
        layers.append((f"preset {preset}", _flatten(_read_preset(preset))))
    if file:
        layers.append((f"file {file}", _flatten(file_values)))
    layers.append(("command line", dict(overrides or {})))

    known = fields()
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for path, value in layer.items():
            if path not in known:
                problems.append(f"{origin}: {unknown_key(path)}.")
            else:
                merged[path], origins[path] = value, origin
    try:
        config = Config.model_validate(_nest(merged) | {"preset": preset})
    except ValidationError as error:
        for problem in error.errors():
            path = ".".join(str(part) for part in problem["loc"][:2])
            message = problem["msg"].removeprefix("Value error, ")
            value = problem["input"]
            said = isinstance(value, dict) or (isinstance(value, str) and repr(value) in message)
            given = "" if said else f", not {value!r}"
            problems.append(f"{path}: {message}{given} (from {origins.get(path, 'the defaults')})")
            merged = {key: value for key, value in merged.items() if not f"{key}.".startswith(f"{path}.")}
        config = Config.model_validate(_nest(merged))  # what is left, to report its contradictions too
    problems += [f"{path}: {message}" for path, message in contradictions(config)]
    if problems:
        # A union field reports once per alternative; once is enough for a person.
        raise UserError(
            "the configuration has problems:\n" + "\n".join(f"  - {p}" for p in dict.fromkeys(problems))
        )
    return config, origins


def given(file: Path) -> dict[str, Any]:
    """Dotted path → value of what a file says, unchecked. Raises UserError for one that is not readable."""
    return _flatten(_read_yaml(file))


def unknown_key(path: str) -> str:
    """`optim.lr` is unknown (did you mean optim.lr_g?), to be followed by a full stop."""
    known = list(fields())
    near = difflib.get_close_matches(path, known, n=3, cutoff=0.6)
    near += [k for k in known if k.rsplit(".", 1)[-1] == path.rsplit(".", 1)[-1] and k not in near]
    hint = f"did you mean {', '.join(near[:3])}?" if near else "`gansmith train --list-settings` shows all"
    return f"{path} is unknown ({hint})"


def parse_overrides(assignments: tuple[str, ...]) -> dict[str, Any]:
    """`("optim.lr_g=1e-4", …)` → {"optim.lr_g": "1e-4"}, values read as YAML."""
    values = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment!r} has no '='; write --set section.field=value.")
        try:
            values[path.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"--set {assignment!r}: the value is not readable ({_yaml_problem(error)})."
            ) from None
    return values


def diff(old: Config, new: Config) -> list[tuple[str, Any, Any]]:
    """The fields whose values differ: (path, old value, new value)."""
    before, after = flat(old), flat(new)
    return [(path, before[path], after[path]) for path in before if before[path] != after[path]]


def flat(config: Config) -> dict[str, Any]:
    """Dotted path → value, JSON-able."""
    values = config.model_dump(mode="json")
    return {path: _dig(values, path) for path in fields()}


def from_flat(values: Mapping[str, Any]) -> Config:
    """The inverse of `flat`."""
    return Config.model_validate(_nest(dict(values)))


def to_yaml(config: Config, origins: Mapping[str, str]) -> str:
    """The whole configuration as YAML, each value that is not a default with its origin as a comment."""
    lines, section = [], ""
    for path, value in flat(config).items():
        head, _, name = path.rpartition(".")
        if head != section:
            lines.append(f"{head}:")
            section = head
        text = (
            yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("\n...").strip()
        )
        comment = f"  # {origins[path]}" if path in origins else ""
        lines.append(f"{'  ' if head else ''}{name or head}: {text}{comment}")
    return "\n".join(lines) + "\n"


def _read_preset(name: str) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? There" if near else "there"
        raise UserError(f"--preset {name!r} is unknown; {hint} are: {', '.join(names)}.")
    return _parse_yaml((importlib.resources.files("gansmith") / "presets" / f"{name}.yaml").read_text(), name)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return _parse_yaml(path.read_text(encoding="utf-8"), f"--config {path}")
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise UserError(f"--config {path} cannot be read: it is not text in UTF-8.") from None


def _parse_yaml(text: str, name: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not valid YAML: {_yaml_problem(error)}.") from None
    if not isinstance(values, dict):
        raise UserError(f"{name} must hold sections such as `optim:` with fields below them.")
    return values


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Place and problem in one line; YAML's own text has four, with the name of its stream."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    return str(getattr(error, "reason", None) or error).splitlines()[0]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    known = fields()
    result: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if value is None and any(field.startswith(f"{path}.") for field in known):
            continue  # a section without a field
        if isinstance(value, dict) and path not in known:
            result |= _flatten(value, f"{path}.")
        else:
            result[path] = value
    return result


def _nest(values: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for path, value in values.items():
        *heads, name = path.split(".")
        place = nested
        for head in heads:
            place = place.setdefault(head, {})
        place[name] = value
    return nested


def _dig(values: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        values = values[part]
    return values
