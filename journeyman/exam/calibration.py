"""How well, and how early, a value function knew what would become of an episode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from journeyman.exam.stats import auc, brier, explained_variance, reliability
from journeyman.types import Ending, Trajectory


class ValueReport(TypedDict):
    """AUC for success by share of the episode read; the rest at half of it. None where undefined."""

    auc_25: float | None
    auc_50: float | None
    auc_75: float | None
    brier: float
    explained_variance: float | None
    reliability: list[tuple[float, float, int]]


def position_at(trajectory: Trajectory, fraction: float) -> int | None:
    """The token after which this share of the sampled ones has been read (the ceil-th of them); at 0, the one before
    the first. None where nothing was sampled."""
    actions = trajectory.actions
    if not len(actions):
        return None
    taken = math.ceil(fraction * len(actions))
    return int(actions[0]) - 1 if taken == 0 else int(actions[taken - 1])


def value_at(trajectory: Trajectory, fraction: float) -> float:
    """V after reading this share of the sampled tokens; NaN where nothing was sampled or no value was computed."""
    position = position_at(trajectory, fraction)
    return math.nan if position is None else float(trajectory.values[position])


def early_knowledge(trajectories: Sequence[Trajectory]) -> ValueReport | None:
    """What V knew of these episodes' outcomes; None where it was not asked. Failed episodes do not count."""
    known = [t for t in trajectories if t.outcome.ending is not Ending.FAILED and not math.isnan(value_at(t, 0.5))]
    if not known:
        return None
    success = np.array([t.outcome.success for t in known])
    rewards = [t.outcome.reward for t in known]
    at = {share: [value_at(t, share / 100) for t in known] for share in (25, 50, 75)}
    return ValueReport(
        auc_25=auc(at[25], success),
        auc_50=auc(at[50], success),
        auc_75=auc(at[75], success),
        brier=brier(at[50], success.astype(float)),
        explained_variance=explained_variance(at[50], rewards),
        reliability=reliability(at[50], success.astype(float)),
    )
