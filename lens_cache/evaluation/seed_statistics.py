"""Mean and spread over seeds, differences paired by seed, and what may be said of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower", "no clear difference"]
Verdict = Literal["agrees", "disagrees", "no clear difference"]
# A difference counts from so many standard errors on.
CLEAR = 2.0


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing.

    Attributes:
        mean: Their mean.
        deviation: Their standard deviation (n - 1 in the denominator); None for a single one.
        count: How many there are.
    """

    mean: float
    deviation: float | None
    count: int

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None for a single measurement."""
        return None if self.deviation is None else self.deviation / math.sqrt(self.count)


def spread(values: Sequence[float]) -> Spread:
    """Summarise at least one measurement."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


def paired_difference(row: Mapping[int, float], reference: Mapping[int, float]) -> Spread | None:
    """Return ``row`` minus ``reference`` over the seeds that both have; None if there is none.

    The runs of a seed saw the same data in the same order: what the seed does to both drops out.
    """
    differences = [row[seed] - reference[seed] for seed in sorted(row.keys() & reference.keys())]
    return spread(differences) if differences else None


def direction(difference: Spread) -> Direction:
    """Tell where a difference points, if its mean is ``CLEAR`` standard errors away from zero.

    A single pair has no standard error: nothing is clear then.
    """
    error, mean = difference.standard_error, difference.mean
    if error is None or mean == 0 or abs(mean) < CLEAR * error:
        return "no clear difference"
    return "higher" if mean > 0 else "lower"


def verdict(difference: Spread, published: float) -> Verdict:
    """Tell whether a measured difference has the sign of a published one."""
    found = direction(difference)
    if found == "no clear difference":
        return found
    return "agrees" if published * difference.mean > 0 else "disagrees"
