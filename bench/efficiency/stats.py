"""From learning curves to what is claimed of them: costs to a threshold, and ratios over paired seeds. Pure functions.

A run that never reaches the threshold is censored at what it spent: its cost is *at least* that. So a ratio with one
censored side is a bound, and says so; with both sides censored it is 1 and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Cost = Literal["trajectories", "tokens", "minutes"]
COSTS: tuple[Cost, ...] = ("trajectories", "tokens", "minutes")
Bound = Literal["exact", "at least", "at most", "unclear"]

RESAMPLES = 10_000


@dataclass(frozen=True)
class Curve:
    """One run: what had been spent at each exam, the start's first, and the share of held-out tasks solved then."""

    trajectories: tuple[int, ...]
    tokens: tuple[int, ...]
    minutes: tuple[float, ...]
    success: tuple[float, ...]


@dataclass(frozen=True)
class Reached:
    """What it cost to reach a threshold; `censored`: it was not reached, and would have cost at least this."""

    cost: float
    censored: bool = False


@dataclass(frozen=True)
class Ratio:
    """A baseline's cost over a method's, above 1 where the method is cheaper.

    Attributes:
        value: the geometric mean over paired seeds.
        low, high: 95% interval by bootstrap over the seeds; None where there is only one.
        bound: what censored runs leave of it.
    """

    value: float
    low: float | None
    high: float | None
    bound: Bound


def reached(curve: Curve, threshold: float, cost: Cost) -> Reached:
    """The cost of the first of two consecutive exams whose mean is at or above the threshold, the start's left out."""
    spent = getattr(curve, cost)
    for i in range(1, len(spent) - 1):
        if (curve.success[i] + curve.success[i + 1]) / 2 >= threshold:
            return Reached(float(spent[i]))
    return Reached(float(spent[-1]), censored=True)


def area(curve: Curve, until: int | None = None) -> float:
    """Mean success over the trajectories spent: the area under the curve by trapezoids, over its width.

    Args:
        until: the part of the curve up to so many trajectories.
    """
    places = [i for i, spent in enumerate(curve.trajectories) if until is None or spent <= until]
    trajectories, success = ([column[i] for i in places] for column in (curve.trajectories, curve.success))
    width = trajectories[-1] - trajectories[0]
    return float(np.trapezoid(success, trajectories) / width) if width else success[0]


def median_cost(costs: Sequence[Reached]) -> Reached:
    """The median, as far as censored costs allow: censored where half or more of them are."""
    ordered = sorted(costs, key=lambda c: (c.censored, c.cost))
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    return Reached(sum(c.cost for c in middle) / len(middle), any(c.censored for c in middle))


def paired_ratio(pairs: Sequence[tuple[Reached, Reached]]) -> Ratio:
    """The ratio of (baseline, method) pairs, one for each seed.

    Raises:
        ValueError: there is no pair.
    """
    return median_ratio([pairs])


def median_ratio(jobs: Sequence[Sequence[tuple[Reached, Reached]]]) -> Ratio:
    """The median over jobs of their ratios; the bootstrap draws the seeds of each job anew, and the jobs stay.

    A median may be known where not all that it is taken of is: of "at least 4", 3 and "at most 2" it is 3.

    Raises:
        ValueError: there is no job, or one without a pair.
    """
    if not jobs or not all(jobs):
        raise ValueError("a ratio needs a job, and each job a pair of runs")
    logs = [np.log([baseline.cost / method.cost for baseline, method in pairs]) for pairs in jobs]
    means = [(log.mean(), combined([_bound(*pair) for pair in pairs])) for log, pairs in zip(logs, jobs, strict=True)]
    least = np.median([mean if bound in ("exact", "at least") else -np.inf for mean, bound in means])
    most = np.median([mean if bound in ("exact", "at most") else np.inf for mean, bound in means])
    bound, middle = _known(float(least), float(most), float(np.median([mean for mean, _ in means])))
    value = float(np.exp(middle))
    if min(map(len, logs)) < 2:
        return Ratio(value, None, None, bound)
    low, high = bootstrap(logs, lambda means: np.exp(np.median(means, axis=0)))
    return Ratio(value, min(low, value), max(high, value), bound)


def bootstrap(
    samples: Sequence[npt.NDArray[np.float64]],
    figure: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
) -> tuple[float, float]:
    """Percentile interval (Efron 1979), 95%, of a figure of the samples' means.

    Args:
        samples: one array [seeds] for each job.
        figure: from means [jobs, RESAMPLES] to [RESAMPLES].
    """
    rng = np.random.default_rng(0)
    means = np.stack([s[rng.integers(len(s), size=(RESAMPLES, len(s)))].mean(1) for s in samples])
    low, high = np.quantile(figure(means), (0.025, 0.975))
    return float(low), float(high)


def combined(bounds: Sequence[Bound]) -> Bound:
    """What is known of a figure that grows with each of several ratios."""
    unsure = set(bounds) - {"exact"}
    if not unsure:
        return "exact"
    return unsure.pop() if len(unsure) == 1 else "unclear"


def _known(least: float, most: float, seen: float) -> tuple[Bound, float]:
    """What can be said of a figure that lies between these two, infinite where nothing limits it."""
    if least == most:
        return "exact", least
    if np.isfinite(least):
        return "at least", least
    return ("at most", most) if np.isfinite(most) else ("unclear", seen)


def _bound(baseline: Reached, method: Reached) -> Bound:
    if baseline.censored:
        return "unclear" if method.censored else "at least"
    return "at most" if method.censored else "exact"
