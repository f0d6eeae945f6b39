"""Sequential tests keep their error rates at every look, agree with `confseq`, and have the power they are used for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from journeyman.errors import UsageError
from journeyman.release.sequential import (
    FRACTIONS,
    Budget,
    by_cluster,
    confidence_sequence,
    evidence_above,
    evidence_below,
    lower_bound,
    shared,
    upper_bound,
)

LOOKS = (10, 20, 40, 80, 160, 320, 640)


def ever(streams: np.ndarray, bound: float, alpha: float, low: float, high: float) -> int:
    """How many streams show, at one of the looks, a mean above the bound."""
    crossed = [any(evidence_above(x[:n], bound, low, high) >= -math.log(alpha) for n in LOOKS) for x in streams]
    return sum(crossed)


def at_most(count: int, n: int, rate: float) -> bool:
    """Whether so many of n are no proof of a rate above this; odds of a false alarm: one in a million."""
    return float(binom.sf(count - 1, n, rate)) > 1e-6


@pytest.mark.parametrize("mean", [0.5, 0.9, 0.99])
def test_false_alarms_stay_under_their_level_at_every_look(mean: float) -> None:
    """Coins whose mean is exactly the bound, 200 streams. Odds of failing by chance: below one in a million."""
    streams = (np.random.default_rng(1).random((200, LOOKS[-1])) < mean).astype(float)
    assert at_most(ever(streams, mean, 0.1, 0.0, 1.0), len(streams), 0.1)


def test_false_alarms_of_paired_differences_stay_under_their_level() -> None:
    """Differences in -1, 0, 1 with mean 0. Odds as above."""
    draws = np.random.default_rng(2).random((200, LOOKS[-1]))
    streams = (draws < 0.15).astype(float) - (draws > 0.85)
    assert at_most(ever(streams, 0.0, 0.1, -1.0, 1.0), len(streams), 0.1)


def test_false_alarms_of_unbounded_numbers_stay_near_their_level() -> None:
    """Skewed numbers (exponential), looks from 40 on. The sequence is asymptotic, so a quarter more is allowed for;
    odds as above."""
    streams = np.random.default_rng(3).exponential(size=(200, LOOKS[-1]))
    crossed = [any(evidence_above(x[:n], 1.0, 0, math.inf) >= math.log(10) for n in LOOKS[2:]) for x in streams]
    assert at_most(sum(crossed), len(streams), 0.125)


def test_a_confidence_sequence_covers_the_mean_at_every_look() -> None:
    """Beta(2, 5), 60 streams, both kinds. Odds of failing by chance: below one in a million each."""
    streams = np.random.default_rng(4).beta(2, 5, (60, LOOKS[-1]))
    for low, high in ((0.0, 1.0), (-math.inf, math.inf)):
        missed = 0
        for x in streams:
            bounds = [confidence_sequence(x[:n], 0.1, low, high) for n in (20, 160)]
            missed += any(not b.low <= 2 / 7 <= b.high for b in bounds)
        assert at_most(missed, len(streams), 0.1)


def test_three_points_are_found_in_some_thousand_paired_tasks() -> None:
    """A candidate without a difference, of whose answers one in ten differs, is shown to be within 2.5 points, and one
    worse by 5 points to be worse than that, within 4,000 tasks. Power at this size is above 0.999 (simulated once), and
    the seed is fixed."""
    rng = np.random.default_rng(5)
    for worse, right in ((0.0, evidence_above), (0.05, evidence_below)):
        draws = rng.random(4000)
        differences = (draws < 0.05).astype(float) - (draws > 0.95 - worse)
        assert right(differences, -0.025, -1.0, 1.0) > math.log(20)


def test_a_rare_event_is_bounded_by_its_absence() -> None:
    """(1 - f + f / m)^n by hand for the largest fraction; all others grow more slowly."""
    found = evidence_above(np.ones(700), 0.99)
    best = 700 * math.log1p(0.95 * (1 / 0.99 - 1))
    assert best - math.log(len(FRACTIONS)) < found < best
    assert found > math.log(20)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_order_changes_nothing_and_both_sides_mirror(values: list[float], bound: float) -> None:
    forward = evidence_above(values, bound)
    assert evidence_above(values[::-1], bound) == pytest.approx(forward)
    assert evidence_below([1 - v for v in values], 1 - bound) == pytest.approx(forward, abs=1e-9)
    assert evidence_above([2 * v - 1 for v in values], 2 * bound - 1, -1, 1) == pytest.approx(forward, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40), st.floats(0.01, 0.3))
def test_bounds_are_where_the_evidence_crosses(values: list[float], alpha: float) -> None:
    low, high = lower_bound(values, alpha), upper_bound(values, alpha)
    assert 0 <= low <= np.mean(values) + 1e-9 and np.mean(values) - 1e-9 <= high <= 1
    if low > 1e-6:
        assert evidence_above(values, low - 1e-7) >= -math.log(alpha) - 1e-3
    assert evidence_above(values, min(low + 1e-6, 1.0)) <= -math.log(alpha) + 1e-3


def test_edges() -> None:
    assert evidence_above([], 0.5) == 0 and evidence_above([1.0], 1.0) == 0
    assert evidence_above([0.0, 0.1], 0.0) == math.inf and evidence_above([0.0], 0.0) == 0
    assert evidence_above([3.0], 0.0, 0, math.inf) == 0
    with pytest.raises(UsageError, match=r"must lie in \[0.0, 1.0\], got 0.5 to 1.5"):
        evidence_above([0.5, 1.5], 0.2)
    with pytest.raises(UsageError, match="low must be below high"):
        evidence_above([0.5], 0.2, 1, 1)


def test_clusters_count_once() -> None:
    assert by_cluster([1, 0, 1, 1], ["a", "a", "b", "c"]).tolist() == [0.5, 1, 1]
    with pytest.raises(ValueError, match="2 values and 1 clusters"):
        by_cluster([1, 0], ["a"])


def test_the_budget_lasts_a_lifetime() -> None:
    budget = Budget(0.1)
    levels = [budget.level(k, 0) for k in range(100_000)]
    assert levels == sorted(levels, reverse=True) and 0.099 < sum(levels) < 0.1
    assert budget.level(9, 5) == pytest.approx(6 * budget.level(9, 0))
    assert shared(0.05, [3, 1]) == pytest.approx([0.0375, 0.0125])
    for wrong in (lambda: budget.level(1, 2), lambda: Budget(0), lambda: shared(0.1, [0, 0])):
        with pytest.raises(UsageError):
            wrong()


def test_of_many_releases_few_are_false() -> None:
    """300 lives of 60 candidates, every second of which is no better than the bound: the mean share of these among what
    was released is at most the risk. It is about 0.002 where 0.1 is allowed: chance does not reach that."""
    rng, shares = np.random.default_rng(6), []
    for _ in range(300):
        good = rng.random(60) < 0.5
        # an e-value under the null: exp of a normal with mean -1/2; under the alternative its mean is much higher
        evidence = rng.normal(np.where(good, 8.0, -0.5), np.where(good, 2.0, 1.0))
        released: list[bool] = []
        for k in range(60):
            if evidence[k] >= -math.log(Budget(0.1).level(k, len(released))):
                released.append(bool(good[k]))
        shares.append(released.count(False) / max(len(released), 1))
    assert np.mean(shares) < 0.1


def test_betting_agrees_with_confseq() -> None:
    """The authors' own package as an oracle: the same constant bets give the same capital."""
    oracle = pytest.importorskip("confseq.betting", reason="only where somebody put confseq on the path")
    x = np.random.default_rng(7).beta(3, 2, 300)
    for bound in (0.3, 0.55, 0.7):
        fixed = [lambda x, m, f=f: np.full(len(x), f / m) for f in FRACTIONS]
        theirs = [oracle.betting_mart(x, bound, lambdas_fn_positive=f, theta=1, trunc_scale=1)[-1] for f in fixed]
        assert evidence_above(x, bound) == pytest.approx(math.log(np.mean(theirs)), abs=1e-9)
