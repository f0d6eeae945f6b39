"""Credit against hand calculation and against the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from journeyman.learn.credit import decisions, gae, group_advantages, lambda_returns
from journeyman.types import Ending
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
