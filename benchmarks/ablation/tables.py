"""What an ablation leaves: a Markdown table, raw rows as CSV and JSON, and one figure."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation import paired
from ablation.spec import Spec
from gansmith.evaluation.sweep import plotting

ARROW = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class Row:
    """One finished run. values: score → number, None where the run has no such score."""

    variant: str
    seed: int
    end: str  # finished | diverged
    images_seen: int
    seconds: float
    processor_seconds: float
    folder: str
    values: dict[str, float | None]


def scores_of(rows: Sequence[Row]) -> list[str]:
    """Names of all scores, in the order they were asked for."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def by_seed(rows: Sequence[Row], variant: str, score: str) -> dict[int, float]:
    """seed → value, of the runs that have one."""
    own = [row for row in rows if row.variant == variant]
    return {row.seed: value for row in own if (value := row.values.get(score)) is not None}


def markdown(spec: Spec, rows: Sequence[Row], better: dict[str, str]) -> str:
    """The table with a sentence before and what its signs mean after. better: score → lower | higher."""
    names = scores_of(rows)
    heads = [cell for name in names for cell in (f"{name} {ARROW[better[name]]}", "difference")]
    lines = [f"| variant | runs | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for variant in spec.variants:
        own = [row for row in rows if row.variant == variant.name]
        cells = [cell for name in names for cell in _cells(spec, rows, variant.name, name, better[name])]
        diverged = sum(row.end == "diverged" for row in own)
        runs = f"{len(own)} of {len(spec.seeds)}" if len(own) < len(spec.seeds) else f"{len(own)}"
        runs += f" ({diverged} diverged)" if diverged else ""
        lines.append(f"| {variant.name} | {runs} | {' | '.join(cells)} |")
    budget = f"{spec.duration} images" if spec.duration is not None else f"{spec.seconds:g} s"
    seeds = ", ".join(map(str, spec.seeds))
    chance = paired.chance(len(spec.seeds))
    after = (
        f"{budget} a run, seeds {seeds}. Mean ± sd over seeds; difference to `{spec.baseline}` with the same "
        f"seed: mean ± standard error, **bold** beyond {paired.CLEAR} of them. Where there is no effect, "
        f"{chance:.0%} of differences of {len(spec.seeds)} seeds are bold by chance."
    )
    before = f"{spec.about}\n\n" if spec.about else ""
    return f"{before}{chr(10).join(lines)}\n\n{after}\n"


def _cells(spec: Spec, rows: Sequence[Row], variant: str, score: str, better: str) -> tuple[str, str]:
    values = by_seed(rows, variant, score)
    if not values:
        return "–", ""
    spread = paired.spread(list(values.values()))
    decimals = _decimals(spread.mean, spread.sd)
    shown = _number(spread.mean, decimals) + (
        f" ± {_number(spread.sd, decimals)}" if spread.sd is not None else ""
    )
    gap = None
    if variant != spec.baseline:
        gap = paired.difference(values, by_seed(rows, spec.baseline, score))
    if gap is None:
        return shown, ""
    told = f"{gap.mean:+.{decimals}f}" + (f" ± {_number(gap.se, decimals)}" if gap.se is not None else "")
    if gap.clear:
        told = f"**{told} {'better' if (gap.mean > 0) == (better == 'higher') else 'worse'}**"
    return shown, told


def _decimals(mean: float, sd: float | None) -> int:
    """So many that the larger of both shows three digits."""
    size = max(abs(mean), sd or 0)
    return max(0, 2 - math.floor(math.log10(size))) if size else 2


def _number(value: float | None, decimals: int) -> str:
    assert value is not None
    return f"{value:.{decimals}f}"


def as_csv(rows: Sequence[Row]) -> str:
    """One line per run."""
    names = scores_of(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    plain = ("variant", "seed", "end", "images_seen", "seconds", "processor_seconds", "folder")
    writer.writerow([*plain, *names])
    for row in rows:
        writer.writerow([*(getattr(row, name) for name in plain), *(row.values.get(name) for name in names)])
    return out.getvalue()


def figure(spec: Spec, rows: Sequence[Row], better: dict[str, str], path: Path) -> None:
    """A panel per score, a line of dots per variant: one colour per seed, a bar at mean ± sd."""
    plt = plotting()
    names, variants = scores_of(rows), [variant.name for variant in spec.variants]
    if not names:  # all of them diverged before they saved anything
        return
    size = (1.6 + 2.2 * len(names), 0.7 + 0.33 * len(variants))
    figure, axes = plt.subplots(1, len(names), figsize=size, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names):
        for place, variant in enumerate(variants):
            values = by_seed(rows, variant, name)
            if not values:
                continue
            spread = paired.spread(list(values.values()))
            axis.errorbar(
                spread.mean, place, xerr=spread.sd, fmt="|", color="0.3", markersize=11, capsize=3, zorder=1
            )
            for seed, value in values.items():
                axis.plot(value, place, ".", color=f"C{spec.seeds.index(seed)}", alpha=0.8)
        axis.set_title(f"{name} ({better[name]} is better)", fontsize=7)
        axis.tick_params(labelsize=7)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(variants)), variants)
    axes[0, 0].set_ylim(len(variants) - 0.5, -0.5)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    plt.close(figure)


def as_json(spec: Spec, rows: Sequence[Row], better: dict[str, str], settings: dict[str, Any]) -> dict:
    """Everything of the table and the rows. settings: variant → what its runs were told."""
    return {
        "name": spec.name,
        "about": spec.about,
        "baseline": spec.baseline,
        "seeds": list(spec.seeds),
        "budget": {"images": spec.duration} if spec.seconds is None else {"seconds": spec.seconds},
        "better": better,
        "variants": settings,
        "runs": [vars(row) for row in rows],
    }
