"""What a step's episodes say of the policy and of V, before either learns from them (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from journeyman.exam.calibration import value_at
from journeyman.exam.stats import auc, explained_variance
from journeyman.types import Trajectory


def mixed(episodes: Sequence[Trajectory]) -> float:
    """The share of groups in which some episodes succeeded and some did not: others say nothing of what to do."""
    outcomes: dict[str, set[bool]] = {}
    for t in episodes:
        outcomes.setdefault(t.group, set()).add(t.outcome.success)
    return float(np.mean([len(found) > 1 for found in outcomes.values()]))


def knowing(episodes: Sequence[Trajectory]) -> dict[str, Any]:
    """How well V, written before it learned from these episodes, foresaw their outcomes."""
    alone = [t for t in episodes if not len(t.taught)]  # what V says at their beginning is of the policy alone
    seen = [t for t in alone if t.weight]
    if not seen:
        return {}
    weights, solved = [t.weight for t in seen], [t.outcome.success for t in seen]
    halves, rewards = [value_at(t, 0.5) for t in seen], [t.outcome.reward for t in seen]
    record: dict[str, Any] = {
        "value/mean": float(np.mean([value_at(t, 0.0) for t in alone])),
        "value/explained_variance": explained_variance(halves, rewards, weights),
    }
    for percent in (25, 50, 75):
        record[f"value/auc_{percent}"] = auc([value_at(t, percent / 100) for t in seen], solved, weights)
    return record
