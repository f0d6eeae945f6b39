"""Oversight: what V says of episodes between their turns, and what is done about it.

Contract: whenever environments have answered, the runner shows the episodes that go on and are due, all at once, so
that V reads them in one batch; and does with each what was decided before it samples another reply.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from journeyman.types import Trajectory, Turn, Verdict

Score = Callable[[Sequence[Trajectory]], list[Trajectory]]
"""Writes V along trajectories, as `Learner.score` does."""


@dataclass(frozen=True)
class Watched:
    """An episode between two turns: the seed that its draws follow from, and what there is of it."""

    seed: int
    trajectory: Trajectory

    @property
    def value(self) -> float:
        """V now, once it was written."""
        return float(self.trajectory.values[-1])


@dataclass(frozen=True)
class Decision:
    """What becomes of an episode now: by default it goes on.

    Attributes:
        verdict: V's verdict, after which the episode is not looked at again.
        stop: whether it ends here.
        reply: what a teacher says next, instead of the policy.
    """

    verdict: Verdict | None = None
    stop: bool = False
    reply: str | None = None


GO_ON = Decision()


class Rule(ABC):
    """One use of V during episodes."""

    @abstractmethod
    def due(self, job: str, turns: Sequence[Turn]) -> bool:
        """Whether an episode of this job is looked at after these turns."""

    @abstractmethod
    def decide(self, watched: Sequence[Watched]) -> list[Decision]:
        """What becomes of each of these episodes, along which V is written."""


class Oversight:
    """The rules in force. The first that does not let an episode go on has decided."""

    def __init__(self, score: Score, rules: Sequence[Rule]) -> None:
        self.score, self.rules = score, rules

    def due(self, job: str, turns: Sequence[Turn]) -> bool:
        """Whether any rule looks at an episode of this job after these turns."""
        return any(rule.due(job, turns) for rule in self.rules)

    def look(self, watched: Sequence[Watched]) -> list[Decision]:
        """Decide about episodes that are due; V reads them in one batch."""
        if not watched:
            return []
        scored = self.score([w.trajectory for w in watched])
        known = [replace(w, trajectory=t) for w, t in zip(watched, scored, strict=True)]
        decisions = [GO_ON] * len(watched)
        for rule in self.rules:
            asked = [
                i
                for i, w in enumerate(known)
                if decisions[i] is GO_ON and rule.due(w.trajectory.task.job, w.trajectory.turns)
            ]
            for i, decision in zip(asked, rule.decide([known[i] for i in asked]), strict=True):
                decisions[i] = decision
        return decisions
