"""Practice: tasks that are neither solved nor hopeless are practised more often than the others.

Where all attempts at a task end alike, nothing tells better from worse: what an update can be expected to gain grows
with the variance of the outcome, p (1 - p) for a chance p of success (its *learnability*: 2502.12272; 2408.15099). V
at the end of the prompt is p, before any attempt. So of candidates that are drawn uniformly, each is practised with a
chance that grows with the variance that V gives it.

A share of the chances is the same for all candidates (prioritized level replay mixes in in the same way what it has not
seen for long: 2010.03934): nothing is never practised, and V goes on hearing of what it has given up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from journeyman.errors import UsageError
from journeyman.model.render import Renderer
from journeyman.rollout.branch import most_variance
from journeyman.types import Ending, Outcome, Task, Trajectory

Chances = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PracticeConfig:
    """Which tasks are practised."""

    candidates: int = 1
    """Tasks whose prompt V reads for each one that is practised; 1: tasks are drawn uniformly, without V."""
    uniform: float = 0.2
    """Share of the chances that all candidates have alike; the rest goes by V's variance of the outcome."""

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UsageError(f"practice: candidates must be at least 1, got {self.candidates}")
        if not 0 < self.uniform <= 1:
            raise UsageError(
                f"practice: uniform must lie above 0 and at most at 1, got {self.uniform}",
                reason="a task that V gives up must still be practised at times, or V never hears that it was wrong",
            )


def opening(task: Task, renderer: Renderer) -> Trajectory:
    """An episode of which nothing but the prompt is there: what V reads of a candidate."""
    tokens = np.array(renderer.open(task.messages), np.int32)
    return Trajectory(
        id=task.id,
        task=task,
        group=task.id,
        step=-1,
        policy_version=-1,
        temperature=1.0,
        tokens=tokens,
        mask=np.zeros(len(tokens), bool),
        logprobs=np.zeros(len(tokens), np.float32),
        values=np.full(len(tokens), np.nan, np.float32),
        turns=(),
        outcome=Outcome(0.0, Ending.TRUNCATED),
    )


def chances(variances: Sequence[float], uniform: float) -> Chances:
    """Of each candidate, the chance that it is drawn first: float64 [n], above 0, 1 in all.

    (1 - uniform) u / sum(u) + uniform / n, u being the variances; 1 / n where all of these are 0.
    """
    u = np.array(variances, float)
    alike = np.full(len(u), 1 / len(u))
    return (1 - uniform) * u / u.sum() + uniform * alike if u.sum() else alike


def practised(
    candidates: Sequence[Trajectory],
    count: int,
    config: PracticeConfig,
    rng: np.random.Generator,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> list[Task]:
    """`count` of the candidates' tasks, drawn one after the other by their :func:`chances`, no candidate twice.

    Args:
        candidates: openings along which V is written.
        low, high: between which returns lie.
    """
    drawn = rng.choice(
        len(candidates), count, replace=False, p=chances(_variances(candidates, low, high), config.uniform)
    )
    return [candidates[place].task for place in drawn]


def practice_report(
    candidates: Sequence[Trajectory], tasks: Collection[str], *, low: float = 0.0, high: float = 1.0
) -> dict[str, float]:
    """What the choice was, as V saw it: the figures `practice/...` of docs/metrics.md.

    Args:
        tasks: the ids of those that were chosen.
    """
    variances = _variances(candidates, low, high)
    chosen = [u for t, u in zip(candidates, variances, strict=True) if t.task.id in tasks]
    return {"practice/offered": float(np.mean(variances)), "practice/chosen": float(np.mean(chosen))}


def _variances(candidates: Sequence[Trajectory], low: float, high: float) -> list[float]:
    """The variance of each one's outcome, by V: V(1 - V) for a success."""
    return [most_variance(float(t.values[-1]), low, high) for t in candidates]


def mixed(episodes: Sequence[Trajectory]) -> float:
    """The share of groups in which some episodes succeeded and some did not: others say nothing of what to do."""
    outcomes: dict[str, set[bool]] = {}
    for t in episodes:
        outcomes.setdefault(t.group, set()).add(t.outcome.success)
    return float(np.mean([len(found) > 1 for found in outcomes.values()]))
