"""Mean and spread over seeds, differences paired by seed, and their significance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower", "no clear difference"]
Verdict = Literal["agrees", "disagrees", "no clear difference"]
# A difference is clear from this many standard errors on.
CLEAR = 2.0


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing.

    Attributes:
        mean: Their mean.
        deviation: Their standard deviation (n - 1 in the denominator); None for a single one.
        count: Number of measurements.
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

    Runs of one seed see the same data in the same order, so its effect on both cancels.
    """
    differences = [row[seed] - reference[seed] for seed in sorted(row.keys() & reference.keys())]
    return spread(differences) if differences else None


def direction(difference: Spread) -> Direction:
    """Return the direction of a difference if its mean is ``CLEAR`` standard errors from zero.

    A single pair has no standard error, so it has no clear direction.
    """
    error, mean = difference.standard_error, difference.mean
    if error is None or mean == 0 or abs(mean) < CLEAR * error:
        return "no clear difference"
    return "higher" if mean > 0 else "lower"


def verdict(difference: Spread, published: float) -> Verdict:
    """Return whether a measured difference has the sign of a published one."""
    found = direction(difference)
    if found == "no clear difference":
        return found
    return "agrees" if published * difference.mean > 0 else "disagrees"
