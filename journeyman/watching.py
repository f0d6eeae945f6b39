"""What a step's episodes say of the policy and of V before either learns, and how fast the policy learns from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from journeyman.exam.looking import knowing, mixed
from journeyman.learn.batch import usable
from journeyman.learn.monte_carlo import Estimate, error_of_value
from journeyman.rollout.player import is_trail
from journeyman.rollout.practice import practice_report
from journeyman.rollout.stopping import REMEMBERED, completed, prospects, stopping_report
from journeyman.stages import Learning, Record
from journeyman.types import Ending, Trajectory

LOOKED_AT = 16
"""Episodes of a step on which the KL to the reference is estimated: a metric need not cost what learning does."""

EASED = 8
"""Steps by which it is judged how many attempts fail."""


def look(s: Learning, episodes: Sequence[Trajectory], found: Sequence[Estimate]) -> Record:
    """What this step's episodes, and estimates from branches, say of the policy and of V before either learns."""
    record: Record = {}
    for name in s.jobs:
        own = [t for t in episodes if t.task.job == name and not is_trail(t)]
        record[f"{name}/reward"] = float(np.mean([completed(t, t.outcome.reward) for t in own]))
        record[f"{name}/success"] = float(np.mean([completed(t, t.outcome.success) for t in own]))
        record[f"{name}/tokens_per_episode"] = float(np.mean([len(t) for t in own]))
        record[f"{name}/failed"] = float(np.mean([t.outcome.ending is Ending.FAILED for t in own]))
        record[f"{name}/mixed"] = mixed(own)
        if s.learner.value is not None:
            record |= {f"{name}/{key}": amount for key, amount in knowing(usable(own)).items()}
        if name in s.candidates:
            low, high, tasks = s.config.value.low, s.config.value.high, {t.task.id for t in own}
            chosen = practice_report(s.candidates[name], tasks, low=low, high=high)
            record |= {f"{name}/{key}": amount for key, amount in chosen.items()}
        if s.config.stopping.every:
            record |= {f"{name}/{key}": amount for key, amount in stopping_report(own).items()}
            steps = s.progress.prospects.setdefault(name, [])
            steps[:] = [*steps, prospects(usable(own), s.config.stopping.every)][-REMEMBERED:]
        if s.teacher is not None:
            speakers = [turn.by for t in own for turn in t.turns]
            record[f"{name}/taught"] = speakers.count("teacher") / max(len(speakers), 1)
    if s.config.branch.share:
        record["value/branch_states"] = len(found)
        record["value/branch_error"] = math.sqrt(error_of_value(found)) if found else None
    record |= s.learner.kl_reference(usable(episodes)[:LOOKED_AT])
    s.progress.failed = [*s.progress.failed, 1 - min(record[f"{name}/success"] for name in s.jobs)][-EASED:]
    record["policy/pace"] = pace(s.progress.failed, s.config.ease, usable(episodes))
    return record


def pace(failed: Sequence[float], ease: float, episodes: Sequence[Trajectory]) -> float:
    """The share of its learning rate that the policy learns at.

    An optimizer that moves as far on noise as on signal (Adam) undoes what the policy knows where there is little left
    to learn. So it follows what there is: the share of attempts that failed of late, once that is below `ease`, and of
    this step's episodes those whose end V left open (rollout/stopping.py).
    """
    left = min(max(fmean(failed) / ease, 0.0), 1.0) if ease else 1.0
    spoken = sum(t.verdict is not None for t in episodes)
    return min(left, 1 - spoken / max(len(episodes), 1))
