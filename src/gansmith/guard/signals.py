"""What the guard looks at: which signals a row of a log holds, and what makes each of them vote.

A row is a status row of metrics.jsonl or the like; any signal may be missing. Must not know what came before.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The numbers of a row that are looked at as they are; what is computed of others is in `of_row`.
PLAIN = {
    "loss_d": "D's loss",
    "loss_g": "G's loss",
    "d_real": "D's mean output on reals",
    "d_fake": "D's mean output on fakes",
    "gradient_norm_d": "norm of D's gradient",
    "gradient_norm_g": "norm of G's gradient",
    "sigma0_g": "largest singular value of G's weights",
    "sigma0_d": "largest singular value of D's weights",
    "diversity": "mean distance of generated images, beside that of reals",
    "effective_rank": "directions in which generated images differ, beside those of reals",
    "diversity_class_min": "mean distance within the least varied class, beside that of reals",
    "duplicates": "share of generated images that have a twin",
    "d_held_out": "D's mean output on reals it was not trained on",
    "d_gap": "how much higher D's output on reals it was trained on is, like for like",
    "skipped": "steps left out for non-finite gradients, counted from the start",
    "step": "steps of G, counted from the start",
    "score": "a distance such as FID: lower is better",
}
LAYER = "sigma0/"  # of one layer: sigma0/G.linear
FIRST_LAYERS = ("G.linear", "G.blocks.0.0.conv")  # whose σ0 is the best alarm there is
GRADIENTS = ("gradient_norm_d", "gradient_norm_g")
LOSSES = ("loss_d", "loss_g")


@dataclass(frozen=True)
class Rule:
    """Votes while a signal, over its last bins, is far from what it was.

    way: `rises` or `falls`. ratio: to the trailing median, beyond which it is far. margin: to be added to
    that, for signals that may be 0. spreads: and so many trailing spreads (1.48 · MAD) away. weight: of the
    vote; of a family only the heaviest counts, as its signals go together. slow: of what is relative to
    reals. It votes only where it is below theirs, and also below this share of the best it held, 1 at most.
    """

    signal: str
    way: str
    ratio: float
    weight: int
    family: str
    says: str
    spreads: float = 5.0
    margin: float = 0.0
    slow: float = 0.0


RULES = (
    Rule(LAYER, "rises", 1.5, 2, "singular values", "σ0 of G's first layers grows at once"),
    Rule("sigma0_g", "rises", 1.5, 2, "singular values", "σ0 of G grows at once"),
    Rule("sigma0_d", "rises", 1.5, 2, "singular values", "σ0 of D grows at once"),
    Rule("gradient_norm_g", "rises", 10, 3, "gradients", "G's gradient explodes"),
    Rule("gradient_norm_d", "rises", 10, 3, "gradients", "D's gradient explodes"),
    Rule("gradient_norm_g", "falls", 0.2, 2, "gradients", "G's gradient dies"),
    Rule("gradient_norm_d", "falls", 0.2, 0, "gradients", "D's gradient dies"),
    Rule("loss_d", "rises", 1.5, 1, "losses", "D's loss jumps up"),
    Rule("gap", "falls", 0.2, 1, "judgement", "D tells reals from fakes no longer"),
    Rule("gap", "rises", 3, 1, "judgement", "D tells reals from fakes much more easily"),
    Rule("diversity", "falls", 0.6, 2, "diversity", "images become alike", slow=0.4),
    Rule("effective_rank", "falls", 0.6, 2, "diversity", "images differ in fewer ways", slow=0.4),
    Rule("diversity_class_min", "falls", 0.5, 1, "classes", "images of a class become alike", slow=0.3),
    Rule("duplicates", "rises", 2, 1, "duplicates", "images repeat", margin=0.2),
    Rule("skipped_per_step", "rises", 2, 2, "finite", "steps are left out all the time", margin=0.5),
    Rule("d_gap", "rises", 3, 1, "memory", "D knows its training images by heart", margin=1.0),
)


def of_row(row: Mapping[str, Any]) -> dict[str, float]:
    """The signals of a row; NaN where one is there and is no finite number (null in a log)."""
    found = {name: _number(row[name]) for name in PLAIN if name in row}
    if "skipped" in row and row["skipped"] is None:  # a log says null for none
        found["skipped"] = 0.0
    found |= {name: _number(value) for name, value in row.items() if name.startswith(LAYER)}
    layers = row.get("sigma0")
    by_layer = layers if isinstance(layers, Mapping) else {}
    found |= {
        LAYER + name: _number(value) for name, value in by_layer.items() if name.startswith(FIRST_LAYERS)
    }
    if "d_real" in found and "d_fake" in found:
        found["gap"] = found["d_real"] - found["d_fake"]
    if "d_gap" not in found and "d_real" in found and "d_held_out" in found:
        found["d_gap"] = found["d_real"] - found["d_held_out"]
    return {name: value for name, value in found.items() if name not in ("d_held_out", "score")}


def per_step(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """What is counted from the start, between two rows: `skipped_per_step`, where both tell."""
    if not all(name in row for name in ("skipped", "step") for row in (before, now)):
        return {}
    return {"skipped_per_step": (now["skipped"] - before["skipped"]) / max(now["step"] - before["step"], 1)}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan
