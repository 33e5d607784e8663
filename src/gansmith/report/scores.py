"""Evaluation rows → score curves and the newest scores with their protocols.

A score is comparable only within its protocol: each protocol is a line of its own, whatever the score is
called. Knows the shape of a result (docs/evaluation.md), not how it is computed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gansmith.report.curves import Clock, Source, shorten
from gansmith.report.records import Row, number

UNKNOWN = "unknown"  # protocol of a published number: never the same as that of a measured one
ORDER = ("FID", "FD", "FID∞", "FD∞", "KID", "KD", "IS", "precision", "recall", "density", "coverage", "CAS")
# What tells people apart, first: key of a protocol → words around its value.
TELLING = {
    "n_fake": "{} fakes",
    "n_real": "{} reals",
    "split": "split {}",
    "truncation": "truncation {}",
    "truncation_kind": "{} truncation",
    "ema": "averaged weights: {}",
    "batchnorm": "BatchNorm {}",
    "seed": "seed {}",
}


def charts(
    sources: Sequence[Source], first_table: int, own: str | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Charts as curves.charts makes them, one per score name and lines per protocol, and their tables, which
    will be numbered from `first_table` on. own: content hash of the data of the first source, the run.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    tables: list[dict[str, Any]] = []
    better: dict[str, str] = {}
    for at, source in enumerate(sources):
        lines = _lines(source)
        clock = Clock(source.log.of("status"))
        protocols: dict[str, dict[str, Any]] = {}
        for (name, protocol), points in lines.items():
            protocols.setdefault(name, {})[protocol] = points[-1][1].get("protocol")
        for (name, protocol), points in lines.items():
            results = [result for _, result in points]
            better.setdefault(name, str(results[-1].get("better", "")))
            label = name if at == 0 else source.name
            if protocol == UNKNOWN:
                label = f"{source.name}, protocol not known"
            elif len(protocols[name]) > 1 or at:
                words = difference(protocols[name], protocol, None if at else own)
                label += f" · {words or f'protocol {protocol}'}"
            line = {
                "label": label,
                "source": at,
                "table": first_table + len(tables),
                "color": len(found.get(name, [])),
                "i": list(range(len(points))),
                "v": [shorten(number(result.get("value"))) for result in results],
                "sd": [shorten(number(result.get("sd"))) for result in results],
                "protocol": protocol,
                "points": True,
            }
            found.setdefault(name, []).append(line)
            tables.append(clock.places([images for images, _ in points]))
    drawn = [
        {"title": name, "note": _direction(better[name]), "better": better[name], "lines": lines}
        for name, lines in sorted(found.items(), key=lambda item: _rank(item[0]))
    ]
    return drawn, tables


def newest(rows: Sequence[Row], own: str | None = None) -> list[dict[str, Any]]:
    """Per score and protocol of the run itself: newest and best result, and what its protocol says.

    own: content hash of the run's data. Keys: name, protocol_id, newest, best (each {"images", "value",
    "sd"}), better, telling (text), protocol, classes (rows of a table per class, or []).
    """
    table = []
    for (name, protocol), points in sorted(
        _lines_of(rows).items(), key=lambda item: (_rank(item[0][0]), item[0][1])
    ):
        result = points[-1][1]
        better = str(result.get("better", ""))
        values = [(number(r.get("value")), images, r) for images, r in points]
        finite = [entry for entry in values if entry[0] is not None]
        best = None
        if finite and better in ("lower", "higher"):
            best = (min if better == "lower" else max)(finite, key=lambda entry: entry[0] or 0.0)
        said = result.get("protocol")
        table.append(
            {
                "name": name,
                "protocol_id": protocol,
                "better": better,
                "newest": _place(points[-1][0], result),
                "best": _place(best[1], best[2]) if best else None,
                "telling": telling(said if isinstance(said, dict) else {}, own),
                "protocol": said,
                "classes": _classes(result),
            }
        )
    return table


def headline(rows: Sequence[dict[str, Any]], name: str, own: str | None) -> tuple[dict[str, Any], str]:
    """Of the rows of `newest`, the one to show first for this score, and its protocol in few words: the one
    with most fakes; of equals one against the run's own data, then the newest.
    """

    def said(row: dict[str, Any]) -> dict[str, Any]:
        return row["protocol"] if isinstance(row["protocol"], dict) else {}

    def fakes(row: dict[str, Any]) -> float:
        return number(said(row).get("n_fake")) or 0.0

    def merit(row: dict[str, Any]) -> tuple[float, bool, float]:
        ours = own is not None and said(row).get("reference") == own
        return fakes(row), ours, row["newest"]["images"]

    row = max((row for row in rows if row["name"] == name), key=merit)
    words = [f"{fakes(row):,.0f} fakes"] if fakes(row) else []
    words += [data] if (data := reference(said(row), own)) else []
    return row, ", ".join(words)


def reference(protocol: Mapping[str, Any], own: str | None) -> str:
    """Which reals it was, by the content hash of the run's data where that is known."""
    found = protocol.get("reference")
    if not isinstance(found, str) or not found:
        return ""
    if found == own:
        return "own data"
    return f"{'data' if own is None else 'other data'} {found[:12]}"


def difference(protocols: Mapping[str, Any], chosen: str, own: str | None = None) -> str:
    """What tells the chosen one of several protocols (id → protocol) from the others, in words."""
    said = {
        key: telling(value if isinstance(value, dict) else {}, own).split("; ")
        for key, value in protocols.items()
    }
    others = [words for key, words in said.items() if key != chosen]
    return ", ".join(word for word in said[chosen] if not all(word in words for words in others))


def telling(protocol: dict[str, Any], own: str | None = None) -> str:
    """The words that tell protocols apart: `50,000 fakes; 10,000 reals; own data; split train …`."""
    words = []
    for key, text in TELLING.items():
        value = protocol.get(key)
        if value is None or (key == "truncation_kind" and value == "none"):
            continue
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
        words.append(text.format({"True": "yes", "False": "no"}.get(shown, shown)))
    if data := reference(protocol, own):
        words.insert(sum(protocol.get(key) is not None for key in ("n_fake", "n_real")), data)
    features = protocol.get("features")
    if isinstance(features, dict):
        words.insert(
            0, "features " + ", ".join(str(features[k]) for k in ("name", "resizer") if features.get(k))
        )
    return "; ".join(words)


def _lines(source: Source) -> dict[tuple[str, str], list[tuple[float, dict[str, Any]]]]:
    return _lines_of(source.log.of("evaluation"))


def _lines_of(rows: Sequence[Row]) -> dict[tuple[str, str], list[tuple[float, dict[str, Any]]]]:
    """(name, protocol) → (images, result) by images; of repeated evaluations the last one counts."""
    found: dict[tuple[str, str], dict[float, dict[str, Any]]] = {}
    for row in rows:
        results = row.data.get("results")
        if row.abandoned or row.images is None or not isinstance(results, list):
            continue
        for result in results:
            if isinstance(result, dict):
                key = (str(result.get("name") or result.get("metric") or "?"), _protocol_id(result))
                found.setdefault(key, {})[row.images] = result
    return {key: sorted(points.items(), key=lambda item: item[0]) for key, points in found.items()}


def _protocol_id(result: dict[str, Any]) -> str:
    given = result.get("protocol_id")
    if isinstance(given, str) and given:
        return given
    protocol = result.get("protocol")
    if not protocol:
        return UNKNOWN
    return hashlib.sha256(json.dumps(protocol, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _place(images: float, result: dict[str, Any]) -> dict[str, Any]:
    return {"images": images, "value": number(result.get("value")), "sd": number(result.get("sd"))}


def _classes(result: dict[str, Any]) -> list[dict[str, Any]]:
    details = result.get("details")
    rows = details.get("classes") if isinstance(details, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _direction(better: str) -> str:
    return f"{better} is better" if better in ("lower", "higher") else ""


def _rank(name: str) -> tuple[int, bool, str]:
    """Fréchet distances first, then as papers list scores; those per class behind the whole."""
    base = name.partition("-")[0]
    return (ORDER.index(base) if base in ORDER else len(ORDER), "per-class" in name, name)
