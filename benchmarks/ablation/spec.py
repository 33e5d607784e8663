"""The file that says what is compared: read, completed, and checked as a whole before anything runs.

A spec in full:

    name: flood
    about: one sentence, printed above the table
    like: base/digits.yaml          # optional; its keys are this file's defaults, `set` is merged
    data: builtin:digits            # any source of docs/data.md, or a mapping of subsets.Images
    preset: digits
    set: {model.ch: 6}              # of every run, as `gansmith train --set`
    budget: {images: 12k}           # or {seconds: 90}: then train.duration is the limit as well
    seeds: [0, 1, 2]
    baseline: plain                 # optional; [baseline]
    score:
      metrics: [read-as-asked, variety, frechet]   # of scoring.OWN, or of `gansmith eval --metrics`
      features: ablation.digits:blocks             # as `gansmith eval --features`
      num: 1000
      truncation: [none, 0.5]       # optional; every score at each of them
    variants:
      plain: {}
      flooded: {stabilise.flood_d: 0.2}
      a tenth: {data: {of: builtin:digits, share: 0.1}}
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ablation import scoring
from ablation.subsets import Images
from gansmith import config as configuration
from gansmith.config import images as amount
from gansmith.config.merge import unknown_key
from gansmith.errors import UserError
from gansmith.evaluation import metrics as table

KEYS = ("name", "about", "like", "data", "preset", "set", "budget", "seeds", "baseline", "score", "variants")
NEEDED = ("name", "data", "budget", "seeds", "score", "variants")
SCORE_KEYS = ("metrics", "features", "num", "truncation")
# The runner gives these to every run.
OWN_SETTINGS = {"data.path": "data", "train.seed": "seeds"}


@dataclass(frozen=True)
class Score:
    """metrics: names of scoring.OWN and of gansmith's table. num: fakes. truncation: thresholds, None for
    none."""

    metrics: tuple[str, ...]
    features: str
    num: int
    truncation: tuple[float | None, ...]


@dataclass(frozen=True)
class Variant:
    """settings: dotted path → value, the common ones included."""

    name: str
    images: Images
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Spec:
    """images: what every variant trains on but those that say otherwise, and what all are scored against.
    duration: of a run, as train.duration, or None where seconds are its budget.
    """

    name: str
    about: str
    images: Images
    preset: str | None
    duration: str | None
    seconds: float | None
    seeds: tuple[int, ...]
    baseline: str
    score: Score
    variants: tuple[Variant, ...]

    def settings(self, variant: Variant, seed: int) -> dict[str, Any]:
        """All that a run of a variant is told, but where its images are."""
        duration = {} if self.duration is None else {"train.duration": self.duration}
        return {"train.threads": 1} | dict(variant.settings) | duration | {"train.seed": seed}


def read(path: Path) -> Spec:
    """The spec in a file. Raises UserError naming every mistake in it."""
    given = _merged(path)
    problems = list(_wrong_keys(given, KEYS, ""))
    problems += [f"{key}: is missing" for key in NEEDED if key not in given]
    parts: dict[str, Any] = {}
    for key, parse in _PARSERS.items():
        try:
            parts[key] = parse(given.get(key))
        except ValueError as error:
            if key in given or key not in NEEDED:
                problems.append(f"{key}{error}")
    if (preset := given.get("preset")) is not None and preset not in configuration.preset_names():
        problems.append(f"preset: {preset!r} is unknown; there are {', '.join(configuration.preset_names())}")
    variants = []
    for name, words in (parts.get("variants") or {}).items():
        try:
            variants.append(_variant(name, words, parts))
        except ValueError as error:
            problems.append(f"variants.{name}{error}")
    if not problems:
        duration, seconds = parts["budget"]
        spec = Spec(
            name=parts["name"], about=parts["about"], images=parts["data"], preset=given.get("preset"),
            duration=duration, seconds=seconds, seeds=parts["seeds"], baseline=parts["baseline"],
            score=parts["score"], variants=tuple(variants),
        )  # fmt: skip
        problems = list(_contradictions(spec))
    if problems:
        problems += _absent(parts.get("data"))
        raise UserError(f"{path} has problems:\n" + "\n".join(f"  - {p}" for p in dict.fromkeys(problems)))
    return spec


def _absent(images: Images | None) -> list[str]:
    """What the rehearsal would say of the images, where other mistakes keep it from coming to that."""
    if images is None or ":" in images.of or Path(images.of).expanduser().exists():
        return []
    return [f"data: there is no {images.of}"]


def _merged(path: Path) -> dict[str, Any]:
    given = _yaml(path)
    if "like" not in given:
        return given
    base = _yaml(path.parent / str(given["like"]))
    if "like" in base:
        raise UserError(f"{path}: like: {given['like']} has a `like` of its own; one is enough.")
    both = {"set": _mapping(base.get("set")) | _mapping(given.get("set"))}
    return base | given | both


def _yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is not readable as YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold keys: {', '.join(NEEDED)}.")
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _wrong_keys(given: Iterable[Any], known: Iterable[str], where: str) -> Iterable[str]:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), list(known), 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            yield f"{where}{key}: is unknown ({hint})"


# Each takes what the file says, None where it says nothing, and raises ValueError with what follows the key.


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value or set(value) & set("/\\ "):
        raise ValueError(f": must be a word that can name a file, not {value!r}")
    return value


def _images(value: Any) -> Images:
    if isinstance(value, str):
        return Images(value)
    if not isinstance(value, dict) or not isinstance(value.get("of"), str):
        raise ValueError(": give a path, or a mapping such as {of: builtin:digits, share: 0.1}")
    if wrong := list(_wrong_keys(value, Images.__dataclass_fields__, ".")):
        raise ValueError("; ".join(wrong))
    return Images(**value)


def _settings(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f": must be settings such as model.ch: 8, not {value!r}")
    for path, inner in value.items():
        if path in OWN_SETTINGS:
            raise ValueError(f".{path}: is what `{OWN_SETTINGS[path]}` says")
        if path not in configuration.fields():
            written = "write it as section.field: value; " if isinstance(inner, dict) else ""
            raise ValueError(f": {written}{unknown_key(str(path))}")
    return value


def _budget(value: Any) -> tuple[str | None, float | None]:
    if isinstance(value, dict) and len(value) == 1:
        (unit, number), *_ = value.items()
        if unit == "images":
            if amount(number, 1) < 1:
                raise ValueError(".images: must be at least 1")
            return str(number), None
        if unit == "seconds" and isinstance(number, int | float) and number > 0:
            return None, float(number)
    raise ValueError(f": write {{images: 12k}} or {{seconds: 90}}, not {value!r}")


def _seeds(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(s, int) and s >= 0 for s in value):
        raise ValueError(f": write numbers such as [0, 1, 2], not {value!r}")
    if len(set(value)) < len(value):
        raise ValueError(f": one is named twice in {value}")
    if len(value) < 2:
        raise ValueError(f": {len(value)} tells nothing of the spread; give two at least, better three")
    return tuple(value)


def _score(value: Any) -> Score:
    if not isinstance(value, dict):
        raise ValueError(": write {metrics: [frechet], features: pixels, num: 1000}")
    if wrong := list(_wrong_keys(value, SCORE_KEYS, ".")):
        raise ValueError("; ".join(wrong))
    metrics, num, truncation = value.get("metrics"), value.get("num", 1000), value.get("truncation", ["none"])
    if not isinstance(metrics, list) or not metrics:
        raise ValueError(".metrics: give a list such as [frechet]")
    try:
        theirs = table.find([name for name in metrics if name not in scoring.OWN], "score.metrics")
    except UserError as error:
        own = ", ".join(scoring.OWN)
        raise ValueError(f": {error} Of the benchmark's own there are {own}") from None
    if not isinstance(num, int) or num < 2:
        raise ValueError(f".num: must be 2 or more images, not {num!r}")
    if not isinstance(truncation, list) or not truncation:
        raise ValueError(".truncation: give a list such as [none, 0.5]")
    thresholds = tuple(None if t in (None, "none") else float(t) for t in truncation)
    own = [name for name in metrics if name in scoring.OWN]
    return Score((*own, *theirs), str(value.get("features", "pixels")), num, thresholds)


def _variants(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) < 2:
        raise ValueError(": name two or more, such as {baseline: {}, wide: {model.ch: 12}}")
    return {str(name): words for name, words in value.items()}


_PARSERS = {
    "name": _name,
    "about": lambda value: str(value or "").strip(),
    "data": _images,
    "set": _settings,
    "budget": _budget,
    "seeds": _seeds,
    "baseline": lambda value: str(value or "baseline"),
    "score": _score,
    "variants": _variants,
}


def _variant(name: str, words: Any, parts: Mapping[str, Any]) -> Variant:
    words = dict(words) if isinstance(words, dict) else words
    images = _images(words.pop("data")) if isinstance(words, dict) and "data" in words else None
    settings = parts.get("set", {}) | _settings(words)
    return Variant(name, images or parts.get("data", Images("")), settings)


def _contradictions(spec: Spec) -> Iterable[str]:
    """Problems between the parts of a spec, each part being right by itself."""
    if spec.baseline not in {variant.name for variant in spec.variants}:
        yield f"variants: there is no {spec.baseline}: add it, or name another one as `baseline`"
    seen: dict[str, str] = {}
    for variant in spec.variants:
        if spec.duration is not None and "train.duration" in variant.settings:
            yield f"variants.{variant.name}: train.duration is what `budget` says"
            continue
        try:
            config, _ = configuration.load(spec.preset, None, spec.settings(variant, spec.seeds[0]))
        except UserError as error:
            # The first line says that there are problems.
            lines = str(error).splitlines()
            yield from (f"variants.{variant.name}: {line.strip(' -')}" for line in lines[1:] or lines)
            continue
        optim = config.optim
        if spec.seconds and optim.schedule in ("linear", "cosine") and optim.schedule_end is None:
            yield f"variants.{variant.name}: optim.schedule_end is needed under a budget of seconds"
        same = identity(spec, variant, 0)
        if (other := seen.setdefault(repr(same), variant.name)) != variant.name:
            yield f"variants.{variant.name}: is the same run as {other}"
        if not (config.model.conditional and config.data.labels == "dataset"):
            for metric in spec.score.metrics:
                if metric not in scoring.OWN and "labels" in table.METRICS[metric].needs:
                    yield f"score.metrics: {metric} needs classes, and {variant.name} has none"


def identity(spec: Spec, variant: Variant, seed: int) -> dict[str, Any]:
    """All that decides a run, JSON-able: two runs with equal ones are one. What is at its default is left
    out, so that a setting which is yet to be invented makes no other run of it.
    """
    config, _ = configuration.load(spec.preset, None, spec.settings(variant, seed))
    plain = configuration.load()[0]
    chosen = {path: value for path, _, value in configuration.diff(plain, config)}
    chosen = {path: value for path, value in chosen.items() if path not in ("preset", "data.path")}
    return {"images": variant.images.recipe(), "settings": chosen, "seconds": spec.seconds}
