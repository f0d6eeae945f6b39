"""Credit against hand calculation and against the definition."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journeyman.errors import UsageError
from journeyman.learn.credit import (
    LITTLE,
    RECENT,
    CreditConfig,
    assign,
    blend,
    decisions,
    foresight,
    gae,
    group_advantages,
    lambda_returns,
    trust,
)
from journeyman.types import Ending, Task, Trajectory
from tests.learn.helpers import make_trajectory


def test_gae_by_hand() -> None:
    # prompt of 2, actions at 2 and 3; state values V1 = 0.4 and V2 = 0.6; reward 1 at the end
    t = make_trajectory([0.0, 0.4, 0.6, 0.9], [(2, 4)], [1.0])
    (advantage,) = gae([t], gamma=1.0, lam=0.5, unit="token")
    last = 1.0 - 0.6
    assert advantage.tolist() == pytest.approx([0, 0, (0.6 - 0.4) + 0.5 * last, last])


def test_turns_get_one_advantage_each_and_observations_none() -> None:
    values = [0.1, 0.2, 0.3, 0.3, 0.5, 0.6, 0.7, 0.9]
    t = make_trajectory(values, [(2, 4), (6, 8)], [0.0, 1.0])
    (advantage,) = gae([t], lam=1.0, unit="turn")
    first, second = 1.0 - values[1], 1.0 - values[5]
    assert advantage.tolist() == pytest.approx([0, 0, first, first, 0, 0, second, second])
    assert decisions(t, "turn").tolist() == [2, 6]


@pytest.mark.parametrize("ending", [Ending.TRUNCATED, Ending.STOPPED, Ending.TERMINATED])
def test_only_what_was_cut_bootstraps(ending: Ending) -> None:
    t = make_trajectory([0.0, 0.5, 0.25], [(1, 3)], [0.0], ending=ending)
    (advantage,) = gae([t], lam=0.0, unit="token", bootstrap_truncated=True)
    final = 0.0 if ending is Ending.TERMINATED else 0.25
    assert advantage[2] == pytest.approx(final - 0.5)
    (otherwise,) = gae([t], lam=0.0, unit="token", bootstrap_truncated=False)
    assert otherwise[2] == pytest.approx(-0.25 if ending is Ending.STOPPED else -0.5), "V itself gave it up"


def test_where_an_episode_was_cut_v_is_its_own_target_at_any_discount() -> None:
    t = make_trajectory([0.2, 0.3, 0.7], [(1, 3)], [0.4], ending=Ending.TRUNCATED)
    (target,) = lambda_returns([t], gamma=0.5, lam=1.0, unit="turn")
    assert target[-1] == pytest.approx(0.7)
    (advantage,) = gae([t], gamma=0.5, lam=1.0, unit="turn")
    assert advantage[-1] == pytest.approx(0.7 - 0.2)


rewards = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=8)


@given(rewards)
@settings(max_examples=50, deadline=None)
def test_group_advantages_sum_to_nothing_and_leave_one_out_is_unbiased(outcomes: list[float]) -> None:
    ts = [make_trajectory([0.0, 0.0], [(1, 2)], [r]) for r in outcomes]
    centred = [a[1] for a in group_advantages(ts)]
    assert sum(centred) == pytest.approx(0, abs=1e-5)
    for index, advantage in enumerate(group_advantages(ts, leave_one_out=True)):
        others = outcomes[:index] + outcomes[index + 1 :]
        assert advantage[1] == pytest.approx(outcomes[index] - np.mean(others), abs=1e-5)


@given(
    st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8),
    st.floats(0, 1),
    st.floats(0.5, 1),
    st.sampled_from(["token", "turn"]),
)
@settings(max_examples=60, deadline=None)
def test_gae_is_the_sum_of_discounted_errors(values: list[float], lam: float, gamma: float, unit: str) -> None:
    t = make_trajectory(values, [(2, 4), (5, 8)], [0.25, 1.0])
    starts = decisions(t, unit).tolist()  # type: ignore[arg-type]
    state = [float(t.values[s - 1]) for s in starts] + [0.0]
    earned = {4: 0.25, 8: 1.0}
    bounds = [*starts[1:], 8]
    reward = [
        next((r for end, r in earned.items() if start < end <= bound), 0.0)
        for start, bound in zip(starts, bounds, strict=True)
    ]
    errors = [reward[k] + gamma * state[k + 1] - state[k] for k in range(len(starts))]
    (advantage,) = gae([t], gamma=gamma, lam=lam, unit=unit)  # type: ignore[arg-type]
    for k, start in enumerate(starts):
        expected = sum((gamma * lam) ** (j - k) * errors[j] for j in range(k, len(starts)))
        assert advantage[start] == pytest.approx(expected, abs=1e-4)


def test_targets_at_lambda_one_are_the_return_still_to_come() -> None:
    t = make_trajectory([0.3] * 8, [(2, 4), (6, 8)], [0.5, 1.0])
    (target,) = lambda_returns([t], lam=1.0, unit="turn")
    assert target.tolist() == pytest.approx([1.5, 1.5, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0])
    (by_token,) = lambda_returns([t], lam=1.0, unit="token")
    assert by_token.tolist() == target.tolist()


def test_a_length_adaptive_lambda_reaches_over_a_twentieth_of_the_decisions() -> None:
    for length, lam in ((1, 0.0), (20, 0.0), (40, 0.5), (200, 0.9)):
        t = make_trajectory([0.5] * (length + 1), [(k + 1, k + 2) for k in range(length)], [0.0] * (length - 1) + [1.0])
        (advantage,) = gae([t], lam="length", unit="turn")
        assert advantage[-1] == pytest.approx(0.5)
        for early, late in pairwise(advantage[1:]):
            assert early == pytest.approx(lam * late, abs=1e-6)
    assert CreditConfig(lambda_policy="length").lambda_policy == "length"
    with pytest.raises(UsageError, match=r"lambda_policy must lie in \[0, 1\], got 1.5"):
        CreditConfig(lambda_policy=1.5)


def attempt(
    value: float, reward: float, group: str, job: str = "job", ending: Ending = Ending.TERMINATED
) -> Trajectory:
    t = make_trajectory([value] * 4, [(1, 2), (3, 4)], [0.0, reward], group=group, ending=ending)
    return replace(t, task=Task(job, "train", 0, ()))


def test_a_blend_by_hand() -> None:
    ts = [attempt(0.6, 1.0, "a"), attempt(0.2, 0.0, "a"), attempt(0.9, 0.0, "b", "other"), attempt(0.5, 1.0, "c")]
    given = blend(ts, {"job": 0.25}, lam=1.0, unit="turn")
    # the first two against each other, the third has none to be compared with, the last against the others of its job
    group = [1.0 - 0.0, 0.0 - 1.0, 0.0, 1.0 - 0.5]
    from_v = [1.0 - 0.6, 0.0 - 0.2, 0.0 - 0.9, 1.0 - 0.5]
    weights = [0.25, 0.25, 0.0, 0.25]
    for advantage, w, ours, theirs in zip(given, weights, from_v, group, strict=True):
        assert advantage.tolist() == pytest.approx([0, w * ours + (1 - w) * theirs] * 2)


def test_a_blend_is_one_rule_where_trust_is_all_or_nothing_and_survives_a_v_that_is_no_number() -> None:
    ts = [attempt(0.6, 1.0, "a"), attempt(0.2, 0.0, "a"), attempt(0.4, 1.0, "a", ending=Ending.TRUNCATED)]
    config = CreditConfig(rule="blend", lambda_policy=0.3)

    def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
        return all(np.allclose(a, b) for a, b in zip(one, other, strict=True))

    assert same(assign(ts, config, {"job": 1.0}), assign(ts, replace(config, rule="gae")))
    assert same(assign(ts, config), assign(ts, replace(config, rule="rloo")))
    broken = [replace(t, values=t.values * math.nan) for t in ts]
    assert same(assign(broken, config, {"job": 1.0}), assign(ts, config)), "it diverged in this very step"
    assert trust([(0.2, 0.2), foresight(broken) or (0.0, 0.0)]) == 0.0


def test_foresight_by_hand() -> None:
    ts = [attempt(0.7, 1.0, "a"), attempt(0.2, 0.0, "a"), attempt(0.4, 1.0, "b"), attempt(0.1, 1.0, "b")]
    # two decisions in each; within groups G differs from its mean by 1/2 and 0, and V by 0.25 and 0.15
    spread = 4 * 0.25
    said = 4 * 0.25**2 + 4 * 0.15**2
    true = 4 * 0.5 * 0.25
    assert foresight(ts, unit="turn") == pytest.approx((said / spread, true / spread))
    alone = [replace(t, group=str(number)) for number, t in enumerate(ts)]
    assert foresight(alone, unit="turn") == foresight([replace(t, group="g") for t in ts], unit="turn")
    assert foresight(ts[2:]) is None and foresight(ts[:1]) is None and foresight([]) is None, "nothing to foresee"
    by_v = [replace(t, outcome=replace(t.outcome, ending=Ending.STOPPED)) for t in ts]
    assert foresight(by_v) is None, "V is not its own witness"
    assert foresight([*ts, *by_v], unit="turn") == foresight(ts, unit="turn")


@pytest.mark.parametrize("size", [2, 8])
def test_what_v_says_of_the_task_alone_is_nothing_and_all_of_what_it_knows_beyond_comes_true(size: int) -> None:
    """4,000 episodes at tasks of different difficulty. Bounds are five standard deviations, as other seeds show them:
    passed by chance once in 1.7 million, and the seed is fixed."""
    rng = np.random.default_rng(0)
    easy = np.repeat(rng.uniform(0.2, 0.8, 4000 // size), size)
    signs = rng.choice([-1, 1], len(easy))  # what an episode does half way: its chance goes up or down by 0.2
    rewards = (rng.random(len(easy)) < easy + 0.2 * signs).astype(float)

    def told(values: np.ndarray) -> tuple[float, float]:
        given = zip(values, rewards, np.arange(len(easy)) // size, strict=True)
        found = foresight([attempt(float(v), float(r), str(g)) for v, r, g in given], unit="turn")
        assert found is not None
        return found

    beyond = 0.04 / float(np.mean(easy * (1 - easy)))
    for values, said, true in (
        (easy, 0.0, 0.0),  # the task's difficulty alone
        (np.full(len(easy), 0.5), 0.0, 0.0),  # not even that
        (easy + 0.2 * signs, beyond, beyond),
        (easy + 0.6 * signs, 9 * beyond, 3 * beyond),  # too sure of it
        (easy - 0.2 * signs, beyond, -beyond),
    ):
        assert told(values) == pytest.approx((said, true), rel=0.2, abs=0.01)


def test_trust_is_how_much_of_what_was_said_of_late_came_true() -> None:
    assert trust([]) == 0.0
    assert trust([(0.4, 0.4)]) == pytest.approx(0.4 / (0.4 + LITTLE))
    assert trust([(0.4, 0.1), (0.2, 0.2)]) == pytest.approx(0.3 / (0.6 + 2 * LITTLE))
    assert trust([(9.0, 0.0), *[(0.4, 0.2)] * RECENT]) == pytest.approx(0.2 / (0.4 + LITTLE)), "long ago"
    assert trust([(0.2, -0.1)]) == 0.0 and trust([(0.1, 5.0)]) == 1.0
    assert trust([(LITTLE, LITTLE)]) == 0.5, "so little may be chance"
    assert trust([(1e4, 0.2), (0.2, 0.2)]) < 1e-3, "a V that is far off silences itself"


def test_a_stopped_episode_ends_in_value_and_a_truncated_one_only_if_asked() -> None:
    # two turns of reward 0.25; the answer to the second was read: V there is V of the next state
    values = [0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.3]
    for ending, last in ((Ending.STOPPED, 0.3), (Ending.TRUNCATED, 0.0)):
        t = make_trajectory(values, [(2, 3), (5, 6)], [0.25, 0.25], ending=ending)
        (advantage,) = gae([t], lam=1.0, unit="turn", bootstrap_truncated=False)
        assert advantage[[2, 5]].tolist() == pytest.approx([0.5 + last - 0.4, 0.25 + last - 0.7])
        assert not advantage[[0, 1, 3, 4, 6]].any()
        (target,) = lambda_returns([t], lam=1.0, unit="turn", bootstrap_truncated=False)
        assert target[[1, 4, 6]].tolist() == pytest.approx([0.5 + last, 0.25 + last, last])
