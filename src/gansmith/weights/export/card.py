"""The model card: what a stranger should know before using a network, from what its files say.

Nothing is claimed that no file says: scores are those of the run's own log, for this very snapshot, each with
its protocol; what is unknown is called unknown.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNKNOWN = "not stated"


@dataclass
class Card:
    """name: the folder's, or `user/name` on the hub. license: an SPDX name or None. source_sha256: of the
    snapshot that was exported. truncation: in words. scores: rows of metrics.jsonl of type `evaluation`.
    recipe: settings by path. imported: where weights of another program are from.
    """

    name: str
    source_sha256: str
    truncation: str
    license: str | None = None
    scores: Sequence[dict[str, Any]] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    imported: dict[str, Any] | None = None

    def text(self, described: dict[str, Any]) -> str:
        """README.md. described: what config.json says."""
        parts = [
            _front_matter(self.license, described),
            f"# {_last(self.name)}\n\n{_summary(described)}\n\n![Samples](samples.png)\n\n"
            f"One row per class, one seed per column, {self.truncation}.\n",
            _use(self.name, described),
            f"## Data\n\n{self._data(described)}\n",
            f"## Recipe\n\n{self._recipe(described)}\n",
            f"## Scores\n\n{_scores(self.scores)}\n",
            f"## Limits\n\n{_limits(described)}\n",
            f"## License\n\n{self.license or f'{UNKNOWN}; ask whoever trained it before using it'}.\n",
            "## Identity\n\nExported by gansmith "
            f"{described['gansmith_version']} from the snapshot with SHA-256\n`{self.source_sha256}`. "
            f"SHA-256 over the tensors of G:\n`{described['sha256']['G']}`.\n",
        ]
        return "\n".join(parts)

    def _data(self, described: dict[str, Any]) -> str:
        if self.imported:
            program = self.imported.get("format", UNKNOWN)
            return f"Weights published in the format of {program}; their data: {UNKNOWN}."
        name = _last(str(self.recipe.get("data.path") or UNKNOWN))
        labels = list(described["id2label"].values())
        shown = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
        classes = (
            f"{len(labels)} class{'es' if len(labels) > 1 else ''}: {shown}" if labels else "without classes"
        )
        begun = self.recipe.get("init.source")
        started = (
            f" Training began from the weights `{_last(begun)}` (SHA-256 of their tensors "
            f"`{self.recipe.get('init.sha256') or UNKNOWN}`), with data and a licence of their own."
            if begun
            else ""
        )
        return f"`{name}`, {classes}.{started}"

    def _recipe(self, described: dict[str, Any]) -> str:
        kwargs = described["generator"]
        rows = {
            "family": kwargs["family"],
            "resolution": kwargs["resolution"],
            "channel multiplier (ch)": kwargs["ch"],
            "length of z": f"{kwargs['dim_z']} ({described['latent']})",
            "images seen": f"{described['images_seen']:,}",
            "weights": "averaged (EMA)" if described["ema"] else "as trained",
        }
        if kwargs.get("fade"):
            rows["promoted"] = f"from {kwargs['resolution'] // 2} px ({kwargs['fade']})"
        rows |= {path: value for path, value in self.recipe.items() if path in SHOWN and value is not None}
        return "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in rows.items())


def _last(path: str) -> str:
    """What people call a path: where it lay on one machine is nobody's business."""
    return path if path.startswith("builtin:") else path.rstrip("/").rpartition("/")[2]


KINDS = {"biggan": "BigGAN", "biggan-deep": "BigGAN-deep", "dcgan": "DCGAN", "sngan": "SNGAN",
         "sagan": "SAGAN", "wgan-gp": "WGAN-GP"}  # fmt: skip
SHOWN = ("preset", "loss.objective", "optim.lr_g", "optim.lr_d", "optim.d_steps", "train.batch", "train.seed",
         "bn.group", "ema.half_life", "data.flip")  # fmt: skip


def _front_matter(license_name: str | None, described: dict[str, Any]) -> str:
    family = described["model_type"]
    tags = ["gan", *(["biggan"] if "biggan" in family else []), family, "image-generation"]
    lines = ["library_name: gansmith", f"license: {license_name or 'unknown'}", "tags:"]
    return "---\n" + "\n".join([*lines, *(f"- {tag}" for tag in dict.fromkeys(tags))]) + "\n---\n"


def _summary(described: dict[str, Any]) -> str:
    kwargs = described["generator"]
    kind = KINDS[kwargs["family"]]
    what = f"of {len(described['id2label'])} classes" if described["id2label"] else "without classes"
    both = "Generator and discriminator" if described["discriminator"] else "Generator"
    article = "an" if kind.startswith("S") else "a"
    return (
        f"{both} of {article} {kind} for images {what}, {kwargs['resolution']}×{kwargs['resolution']} pixels."
    )


def _use(name: str, described: dict[str, Any]) -> str:
    labels = list(described["id2label"].values())
    asked = f", classes={labels[:1]!r}" if labels else ""
    return (
        "## Use\n\n```python\nimport gansmith\n\n"
        f'sampler = gansmith.load("{name}")  # this folder, or user/name on the hub\n'
        f"images = sampler.sample(8{asked})  # uint8 (8, {described['generator']['resolution']}, …)\n```\n"
    )


def _scores(rows: Sequence[dict[str, Any]]) -> str:
    results = [result for row in rows for result in row["results"]]
    if not results:
        return "None were computed by the run that made it (`gansmith eval` computes them)."
    lines = [
        "| score | value | better | real / fake images | truncation | protocol |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        protocol = result.get("protocol") or {}
        sd = f" ± {result['sd']:.3g}" if result.get("sd") is not None else ""
        counts = f"{_count(protocol.get('n_real'))} / {_count(protocol.get('n_fake'))}"
        truncation = protocol.get("truncation")
        lines.append(
            f"| {result['name']} | {result['value']:.5g}{sd} | {result.get('better', UNKNOWN)} | {counts} "
            f"| {'none' if truncation is None else truncation} | {result.get('protocol_id', UNKNOWN)} |"
        )
    lines.append("\nScores compare only where the protocol is the same:\n")
    protocols = {r.get("protocol_id", UNKNOWN): r.get("protocol") or {} for r in results}
    lines += [f"- {name}: {_protocol(protocol)}" for name, protocol in protocols.items()]
    return "\n".join(lines)


def _protocol(protocol: dict[str, Any]) -> str:
    """What decides a score's value besides the network, in one line."""
    features = protocol.get("features") or {}
    said = {
        "features": features.get("name"),
        "resizer": features.get("resizer"),
        "weights of the features (SHA-256)": (features.get("weights_sha256") or "")[:12],
        "reals": protocol.get("split"),
        "content of the reals": (protocol.get("reference") or "")[:12],
        "classes of the fakes": protocol.get("labels"),
        "BatchNorm": protocol.get("batchnorm"),
        "averaged weights": protocol.get("ema"),
        "precision": protocol.get("precision"),
        "seed": protocol.get("seed"),
        "repeats": protocol.get("repeats"),
        "gansmith": protocol.get("code_version"),
    }
    return ", ".join(f"{key} {value}" for key, value in said.items() if value not in (None, "")) or UNKNOWN


def _count(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else UNKNOWN


def _limits(described: dict[str, Any]) -> str:
    points = [
        "It draws what its training images show, with their gaps and biases, and nothing else.",
        "A GAN leaves out part of the variety of its data; truncation leaves out more.",
        "Images are synthetic: no evidence of anything, and not to be passed off as photographs.",
    ]
    if described["statistics"]:
        points.append("Standing statistics belong to one truncation; gansmith re-estimates them for another.")
    return "\n".join(f"- {point}" for point in points)


def evaluations(source: Path) -> list[dict[str, Any]]:
    """Log rows that score this snapshot, from the `metrics.jsonl` of the run in whose `snapshots` it lies."""
    log = source.parent.parent / "metrics.jsonl"
    if source.parent.name != "snapshots" or not log.is_file():
        return []
    rows = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last line of a killed run
        if isinstance(row, dict) and row.get("type") == "evaluation" and _is_of(row, source.stem):
            rows.append(row)
    return rows


def _is_of(row: dict[str, Any], stem: str) -> bool:
    return Path(str(row.get("snapshot"))).stem == stem and isinstance(row.get("results"), list)
