"""Numbers over seeds: mean and spread, and the difference to a baseline of the same seeds with its error."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

CLEAR = 2  # standard errors


@dataclass(frozen=True)
class Spread:
    """sd: of a sample (n − 1), None for one value."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean over n seeds of variant − baseline; se: its standard error, None for one seed."""

    mean: float
    se: float | None
    n: int

    @property
    def clear(self) -> bool:
        """Whether it is more than CLEAR standard errors from 0."""
        return self.se is not None and abs(self.mean) > CLEAR * self.se


def spread(values: Sequence[float]) -> Spread:
    return Spread(mean(values), stdev(values) if len(values) > 1 else None, len(values))


def difference(variant: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """seed → value, of both. Only seeds that both have count; None where there is none."""
    gaps = [variant[seed] - baseline[seed] for seed in sorted(variant.keys() & baseline.keys())]
    if not gaps:
        return None
    error = stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else None
    return Difference(mean(gaps), error, len(gaps))


def chance(n: int) -> float:
    """How often n ≥ 2 paired differences of no effect (normal ones) are `clear`: P(|t| > CLEAR), n − 1
    degrees of freedom.
    """
    from scipy.stats import t

    return float(2 * t.sf(CLEAR, n - 1))
