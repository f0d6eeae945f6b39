"""Intervals cover what they promise; AUC and the rest match their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journeyman.exam.calibration import early_knowledge, value_at
from journeyman.exam.stats import (
    auc,
    bootstrap_interval,
    brier,
    explained_variance,
    mean_interval,
    paired_difference,
    reliability,
)
from tests.learn.helpers import make_trajectory


def test_wilson_matches_the_published_example() -> None:
    interval = mean_interval([1.0] * 8 + [0.0] * 2)
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert mean_interval([0.0] * 10).low == 0


def test_clustered_intervals_cover_where_naive_ones_would_not() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        skill = rng.normal(0.5, 0.2, 30)
        values = (skill[:, None] + rng.normal(0, 0.1, (30, 8))).ravel()
        interval = mean_interval(values, np.repeat(np.arange(30), 8).tolist())
        covered += interval.low <= 0.5 <= interval.high
    # 380 expected, standard deviation 4.4
    assert 360 <= covered <= 396
    assert interval.n == 30


def test_one_cluster_or_none_gives_no_bounds() -> None:
    assert math.isnan(mean_interval([0.2, 0.4], ["a", "a"]).low)
    assert math.isnan(mean_interval([]).mean)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_auc_is_the_chance_of_the_right_order(pairs: list[tuple[float, bool]]) -> None:
    good = [s for s, label in pairs if label]
    bad = [s for s, label in pairs if not label]
    measured = auc([s for s, _ in pairs], [label for _, label in pairs])
    if not good or not bad:
        assert measured is None
    else:
        expected = np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad])
        assert measured == pytest.approx(expected)


def test_a_weight_is_so_many_of_the_same() -> None:
    scores, labels, weights = [0.1, 0.9, 0.4, 0.4, 0.7], [False, True, True, False, False], [1, 3, 2, 4, 1]
    many = np.repeat(np.arange(5), weights)
    scored, labelled = np.array(scores)[many], np.array(labels)[many]
    assert auc(scores, labels, weights) == pytest.approx(auc(scored, labelled))
    rewards = np.array(labels, float)
    assert explained_variance(scores, rewards, weights) == pytest.approx(explained_variance(scored, rewards[many]))


def test_small_measures() -> None:
    assert brier([0.5, 1.0], [1.0, 1.0]) == 0.125
    assert explained_variance([0.0, 1.0], [0.0, 1.0]) == 1
    assert explained_variance([0.3, 0.3], [0.0, 1.0]) == 0
    assert explained_variance([0.3, 0.3], [1.0, 1.0]) is None
    assert reliability([0.05, 0.06, 1.0], [0.0, 1.0, 1.0]) == [(pytest.approx(0.055), 0.5, 2), (1.0, 1.0, 1)]


def test_pairing_removes_what_is_common() -> None:
    rng = np.random.default_rng(1)
    task = rng.normal(0, 1, 50)
    paired = paired_difference(task + 0.1, task)
    assert paired.mean == pytest.approx(0.1) and paired.high - paired.low < 1e-6


def test_bootstrap_of_a_ratio() -> None:
    rng = np.random.default_rng(2)
    pairs = np.stack([rng.normal(3, 0.1, 40), rng.normal(1, 0.1, 40)], 1)
    interval = bootstrap_interval(lambda rows: float(rows[:, 0].mean() / rows[:, 1].mean()), pairs)
    assert interval.low < 3 < interval.high and interval.high - interval.low < 0.3


def test_value_at_shares_of_the_episode() -> None:
    t = make_trajectory([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [(2, 4), (5, 6)], [0.0, 1.0])
    assert [value_at(t, f) for f in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.6])


def test_early_knowledge_of_a_perfect_value_function() -> None:
    good = [make_trajectory([0.9] * 4, [(1, 4)], [1.0])] * 3
    bad = [make_trajectory([0.2] * 4, [(1, 4)], [0.0])] * 3
    report = early_knowledge(good + bad)
    assert report is not None and report["auc_25"] == report["auc_50"] == 1
    assert report["explained_variance"] == pytest.approx(1 - 0.15**2 / 0.25)
    assert [row[1] for row in report["reliability"]] == [0.0, 1.0]
    assert early_knowledge([make_trajectory([math.nan] * 4, [(1, 4)], [1.0])]) is None
