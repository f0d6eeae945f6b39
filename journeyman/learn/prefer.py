"""Learning from preferences: pairs of answers to the same question, of which somebody liked one better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from journeyman.learn.batch import collate, mini_batches
from journeyman.learn.learner import Learner, Metrics
from journeyman.learn.losses.preference import preference_loss
from journeyman.model.decoder import Decoder
from journeyman.types import Trajectory

BETA = 0.1
"""As in the paper's experiments (2305.18290, appendix B)."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one question. What the policy said is marked in their masks, as everywhere."""

    better: Trajectory
    worse: Trajectory


def prefer(
    learner: Learner,
    pairs: Sequence[Pair],
    rng: np.random.Generator,
    *,
    epochs: int = 1,
    batch: int = 16,
    beta: float = BETA,
) -> Metrics:
    """Move the policy towards what was preferred; means over pairs (docs/metrics.md).

    Args:
        learner: whose reference it may not leave without a reason; it must have been kept.
        batch: pairs in one update.
    """
    assert learner.reference is not None
    sums: dict[str, float] = {}
    for part in mini_batches(len(pairs), -(-len(pairs) // batch), rng, epochs) if pairs else ():
        for start in range(0, len(part), PAIRS):
            some = [pairs[i] for i in part[start : start + PAIRS]]
            moved = _moved(learner, learner.reference, [t for pair in some for t in (pair.better, pair.worse)])
            loss, metrics = preference_loss(moved[::2], moved[1::2], beta)
            (loss / len(part)).backward()
            for name, amount in metrics.items():
                sums[name] = sums.get(name, 0.0) + amount
        learner.step_policy()
    learner.version += bool(pairs)
    return {name: amount / (epochs * len(pairs)) for name, amount in sums.items()}


PAIRS = 8
"""Pairs in one pass: both answers of a pair have to be in it."""


def _moved(learner: Learner, reference: Decoder, trajectories: Sequence[Trajectory]) -> Tensor:
    """log pi - log reference of each trajectory's own tokens: float32 [B]."""
    batch = collate(trajectories, device=learner.device)
    with torch.no_grad():
        before, _ = learner.logprobs(reference, batch)
    now, _ = learner.logprobs(learner.policy, batch)
    counts = torch.tensor([len(t.actions) for t in trajectories], device=learner.device)
    owner = torch.repeat_interleave(torch.arange(len(trajectories), device=learner.device), counts)
    return torch.zeros(len(trajectories), device=learner.device).index_add(0, owner, now - before)
