"""Lessons: what teachers said in episodes, to be imitated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from journeyman.learn.learner import Learner, Metrics
from journeyman.types import Ending, Trajectory

BATCH = 32
"""Episodes of one rehearsal."""


def lessons(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Those episodes in which a teacher spoke, masked so that what it said is learned, as demonstrations are."""
    found: list[Trajectory] = []
    for t in trajectories:
        if len(t.taught) and t.outcome.ending is not Ending.FAILED:
            mask = np.zeros(len(t), bool)
            mask[t.taught] = True
            found.append(replace(t, mask=mask, logprobs=np.zeros(len(t), np.float32)))
    return found


def rehearse(learner: Learner, taught: Sequence[Trajectory], updates: int, rng: np.random.Generator) -> Metrics:
    """Imitate some of the lessons in each update. Returns how unlikely they were at first (docs/metrics.md)."""
    losses: list[float] = []
    for _ in range(updates if taught else 0):
        chosen = rng.choice(len(taught), min(BATCH, len(taught)), replace=False)
        losses.append(learner.school([taught[i] for i in chosen], learner.policy_optimizer, 1.0)["loss"])
    return {"policy/taught_loss": losses[0]} if losses else {}
