"""Tests and bounds that hold however often one looks: pure functions on numbers.

The question is always the same: is the mean of these numbers above a bound? The answer is an e-value, the capital of
a gambler who began with 1 and bet on "yes" at odds that are fair if the answer is "no". Where the mean is not above
the bound, the capital ever reaches 1/alpha with a chance of at most alpha (Ville 1939). So one may look after every
number, stop when one likes, and go on later.

    bounded numbers    y and m: the numbers and the bound, scaled to [0, 1]
                       E = mean over fractions f of prod_i (1 - f + f y_i / m)
                       a mixture of constant bets (2010.09686, appendix B: diversified and grid Kelly). Exact, however
                       few there are; their order changes nothing.
    unbounded numbers  E = 2 (exp(z) - 1) / sqrt(n r + 1),  z = r S^2 / (2 (n r + 1))  (0 where S < 0)
                       S: sum of (x_i - bound) / their standard deviation. The one-sided asymptotic confidence sequence
                       (2103.06476, appendix B) solved for 1/alpha. It holds in the limit, from some dozens on.

One observation is one cluster (a task, a user): its members' mean. Observations may depend on each other only so far
that each has the same mean whatever came before. The least e-value of several hypotheses is one against "at least one
of these is not so" (an intersection-union test, Berger 1982): to demand all of them costs no correction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from journeyman.errors import UsageError

Floats = Sequence[float] | npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]

FRACTIONS = 0.95 * 1.6 ** -np.arange(13.0)
"""Shares of the capital that are bet: 0.95 down to 0.003. Near the best one, (mean - bound) m / variance in scaled
numbers, capital grows with the square of its distance from the bound; a bet off by a factor of 1.27 keeps 93% of it."""
EXPECTED = 500
"""Observations around which the asymptotic sequence is tightest (eq. 12 of 2103.06476, at alpha = 0.05)."""
RATE = (-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / EXPECTED
"""r = rho^2 of that."""
SPENDING, TOTAL = 1.5, 2.612375348685488
"""gamma_k is k to the minus SPENDING, over the sum of these: a quarter of the budget is left after the tenth try."""


def evidence_above(values: Floats, bound: float, low: float = 0.0, high: float = 1.0) -> float:
    """log of the e-value against "the mean is at most `bound`".

    Args:
        low, high: between which all values lie; infinite ones where that is not known.

    Raises:
        UsageError: a value lies outside.
    """
    x = np.asarray(values, float)
    if math.isinf(low) or math.isinf(high):
        return _unbounded(x, bound)
    return _Bets.on(x, low, high).capital(bound)


def evidence_below(values: Floats, bound: float, low: float = 0.0, high: float = 1.0) -> float:
    """log of the e-value against "the mean is at least `bound`"."""
    return evidence_above(-np.asarray(values, float), -bound, -high, -low)


@dataclass(frozen=True)
class _Bets:
    """Observations, equal ones together: what is bet on does not depend on their order."""

    values: Doubles
    counts: Doubles
    low: float
    high: float

    @staticmethod
    def on(x: Doubles, low: float, high: float) -> _Bets:
        if not low < high:
            raise UsageError(f"evidence: low must be below high, got {low} and {high}")
        if len(x) and not (low - 1e-9 <= x.min() and x.max() <= high + 1e-9):
            raise UsageError(f"evidence: values must lie in [{low}, {high}], got {x.min()} to {x.max()}")
        values, counts = np.unique(np.clip(x, low, high), return_counts=True)
        return _Bets(values, counts.astype(float), low, high)

    def capital(self, bound: float) -> float:
        """log of the capital of who bets that the mean is above the bound."""
        if bound >= self.high or not len(self.values):
            return 0.0
        if bound <= self.low:  # one value above is a proof
            return math.inf if self.values[-1] > self.low else 0.0
        gain = (self.values - self.low) / (bound - self.low) - 1
        grown = np.log1p(np.outer(FRACTIONS, gain)) @ self.counts
        return float(np.logaddexp.reduce(grown)) - math.log(len(FRACTIONS))


def _unbounded(x: Doubles, bound: float) -> float:
    if len(x) < 2:
        return 0.0
    deviation = float(x.std())
    if deviation == 0.0:  # a constant tells nothing of how far others may lie
        return 0.0
    total = float((x - bound).sum()) / deviation
    spread = len(x) * RATE + 1
    z = RATE * total**2 / (2 * spread)
    if total <= 0 or z <= 0:
        return 0.0
    log_grown = z + math.log(-math.expm1(-z))
    return max(0.0, log_grown + math.log(2) - math.log(spread) / 2)


def lower_bound(values: Floats, alpha: float, low: float = 0.0, high: float = 1.0) -> float:
    """A bound that the mean is above, at every look, with a chance of at least 1 - alpha (bounded values)."""
    bets = _Bets.on(np.asarray(values, float), low, high)
    if not len(bets.values):
        return low
    mean = float(bets.values @ bets.counts / bets.counts.sum())
    return _last(lambda m: bets.capital(m) >= -math.log(alpha), low, mean)


def upper_bound(values: Floats, alpha: float, low: float = 0.0, high: float = 1.0) -> float:
    """A bound that the mean is below, at every look, with a chance of at least 1 - alpha (bounded values)."""
    return -lower_bound(-np.asarray(values, float), alpha, -high, -low)


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The end of the stretch from `low` on where it holds; capital falls as the bound rises."""
    if not high > low:
        return low
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@dataclass(frozen=True, slots=True)
class Bounds:
    """A mean and between which bounds it lies, whenever one looks; `n`: the observations it rests on."""

    mean: float
    low: float
    high: float
    n: int


def confidence_sequence(values: Floats, alpha: float = 0.05, low: float = 0.0, high: float = 1.0) -> Bounds:
    """Both bounds at this look, each at alpha / 2. Bounded values by betting, others asymptotically."""
    x = np.asarray(values, float)
    mean = float(x.mean()) if len(x) else math.nan
    if math.isinf(low) or math.isinf(high):
        reach = asymptotic_reach(len(x), float(x.std()) if len(x) else 0.0, alpha)
        return Bounds(mean, mean - reach, mean + reach, len(x))
    return Bounds(mean, lower_bound(x, alpha / 2, low, high), upper_bound(x, alpha / 2, low, high), len(x))


def asymptotic_reach(n: int, deviation: float, alpha: float) -> float:
    """Half the width of the two-sided asymptotic confidence sequence (2103.06476, theorem 2.2)."""
    if n < 2:
        return math.inf
    spread = n * RATE + 1
    return deviation * math.sqrt(2 * spread / (n**2 * RATE) * math.log(math.sqrt(spread) / alpha))


def by_cluster(values: Floats, clusters: Sequence[Hashable]) -> Doubles:
    """The mean of each cluster, in the order in which they first appear."""
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values and {len(clusters)} clusters")
    number = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
    index = [number[label] for label in clusters]
    return np.bincount(index, np.asarray(values, float)) / np.bincount(index)


@dataclass(frozen=True)
class Budget:
    """What may go wrong over a lifetime, spent by everybody who may be wrong.

    Candidate after candidate is examined: of those that are released, at most the share `risk` is expected to be worse
    than demanded, however they depend on each other and whenever one stops: e-LOND (Xu and Ramdas 2024, 2311.06412).
    """

    risk: float = 0.1
    """Expected share of released versions that ought not to have been."""

    def __post_init__(self) -> None:
        if not 0 < self.risk < 1:
            raise UsageError(f"budget: risk must lie between 0 and 1, got {self.risk}")

    def level(self, tried: int, released: int) -> float:
        """alpha of the next candidate: gamma_(tried + 1) times (released + 1) times the risk.

        Args:
            tried: candidates that were examined before.
            released: how many of them were released.
        """
        if not 0 <= released <= tried:
            raise UsageError(f"budget: released must lie in 0 to {tried}, the candidates tried, got {released}")
        share = (tried + 1) ** -SPENDING / TOTAL
        return self.risk * share * (released + 1)


def shared(alpha: float, weights: Sequence[float]) -> list[float]:
    """One error budget over several guardrails, of which any may raise an alarm: alpha by weight (Bonferroni)."""
    total = sum(weights)
    if total <= 0 or min(weights) < 0:
        raise UsageError(f"budget: weights must be at least 0 and not all 0, got {list(weights)}")
    return [alpha * weight / total for weight in weights]
