"""What a score is worth: its value together with everything that decided it, as one JSON object.

Two scores may be ranked only if the comparable part of their protocols is equal; `protocol_id` names that
part. This room knows no networks and no images.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

VERSION = 1  # raised whenever the same protocol would give another number

# What must be equal for two scores to be ranked. The rest says who was scored, and when.
COMPARABLE = (
    "version", "metric", "settings", "features", "n_real", "n_fake", "split", "reference", "labels",
    "truncation", "truncation_kind", "ema", "batchnorm",
)  # fmt: skip
# Images without their network do not tell these; they then stand for any value.
OF_THE_NETWORK = ("truncation", "truncation_kind", "ema", "batchnorm")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Score:
    """What a metric found in one pass.

    metric: short name (`precision`). name: as printed, with its feature network (`FD-EffNetLite0`).
    better: lower | higher. features: what identifies its feature network, if it has one. settings: choices
    that decide the number (k, splits). details: what else it found; JSON.
    """

    metric: str
    name: str
    value: float
    better: str
    features: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """A score with its protocol. value: None where it is not finite. sd: over repeats; None for one pass."""

    metric: str
    name: str
    value: float | None
    sd: float | None
    better: str
    details: dict[str, Any]
    protocol: dict[str, Any]
    protocol_id: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Result":
        """Raises KeyError or TypeError for what is no result."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


def results(passes: list[list[Score]], common: Mapping[str, Any]) -> list[Result]:
    """The scores of one or more passes (seeds) as results: mean and standard deviation where there are more.

    common: the protocol of all of them, without `metric`, `features` and `settings`: a score's own.
    """
    gathered = []
    for scores in zip(*passes, strict=True):
        first, values = scores[0], [score.value for score in scores]
        details = _plain(dict(first.details))
        if len(values) > 1:
            details["values"] = _plain(values)
        own = {"metric": first.metric, "features": first.features, "settings": first.settings}
        protocol = _plain({"version": VERSION, **own, **common})
        gathered.append(
            Result(
                metric=first.metric,
                name=first.name,
                value=_plain(mean(values)),
                sd=_plain(stdev(values)) if len(values) > 1 else None,
                better=first.better,
                details=details,
                protocol=protocol,
                protocol_id=identity(protocol),
            )
        )
    return gathered


def identity(protocol: Mapping[str, Any]) -> str:
    """Twelve hex digits that name the comparable part of a protocol."""
    text = json.dumps({name: protocol.get(name) for name in COMPARABLE}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def scope(protocol: Mapping[str, Any]) -> str:
    """The same of all that is decided before a score: equal for all scores of one network in one pass."""
    common = {name: protocol.get(name) for name in COMPARABLE if name not in ("metric", "settings")}
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:12]


def differences(protocols: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Field → its value in each protocol, of every comparable field in which they are not equal.

    `features` is taken apart (`features.resizer`). Unknown facts of images without network equal any.
    """
    flat = [_flat(protocol) for protocol in protocols]
    found = {}
    for name in dict.fromkeys(name for each in flat for name in each):
        values = [each.get(name) for each in flat]
        known = [
            value
            for value, each in zip(values, flat)
            if not (name in OF_THE_NETWORK and each.get("truncation_kind") == UNKNOWN)
        ]
        if any(value != known[0] for value in known[1:]):
            found[name] = values
    return found


def _flat(protocol: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in COMPARABLE:
        value = protocol.get(name)
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


def _plain(value: Any) -> Any:
    """JSON-able: numpy's numbers and arrays as Python's, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's, without importing it
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
