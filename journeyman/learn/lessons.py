"""Lessons: what teachers said in episodes, and what the policy said where it succeeded. Both are imitated.

A teacher's few demonstrations are soon known by heart. The policy's own successes are many, on other tasks, and cost no
teacher anything (self-imitation: 1806.05635; STaR: 2203.14465). Each study begins with the weights from before all
lessons, as STaR's rounds do: whoever has a first few by heart learns less from many (1910.08475).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from journeyman.learn.learner import Learner, Metrics
from journeyman.learn.school import SchoolConfig, school
from journeyman.rollout.branch import is_branch
from journeyman.types import Ending, Trajectory

GROWTH = 2
"""Times as many lessons as at the last study make the next one due: few studies, and each has something to tell."""


def lessons(episodes: Iterable[Trajectory]) -> list[Trajectory]:
    """What is worth imitating, as demonstrations in the order of their ids: masked so that what a teacher said is
    learned, and where the episode succeeded also what the policy said. Branches are no lesson for the policy."""
    found: list[Trajectory] = []
    for t in sorted((t for t in episodes if not is_branch(t)), key=lambda t: t.id):
        mask = t.mask & t.outcome.success
        mask[t.taught] = True
        if mask.any() and t.outcome.ending is not Ending.FAILED:
            found.append(replace(t, mask=mask, logprobs=np.zeros(len(t), np.float32)))
    return found


def due(count: int, studied: int, config: SchoolConfig) -> bool:
    """Whether so many lessons are to be studied, when so many were there at the last study."""
    return count >= max(GROWTH * studied, config.batch)


def study(
    learner: Learner,
    learned: Sequence[Trajectory],
    config: SchoolConfig,
    updates: int,
    seed: int,
    going: Callable[[], bool] = lambda: True,
) -> Metrics:
    """School the policy on all lessons anew. Returns how unlikely they are in the end (docs/metrics.md).

    Args:
        going: called after each update; false when the time is over.
    """
    learner.start_again()
    metrics: Metrics = {}
    for update in school(learner, learned, config, updates, seed=seed):
        metrics = {"policy/lesson_loss": update["loss"]}
        if not going():
            break
    learner.version += 1
    return metrics
