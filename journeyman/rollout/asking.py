"""Asking: where V is low before an episode begins, a teacher leads the way, until V says that the policy can go on.

The teacher says the first replies, and hands over once V has risen to `enough`, or after `replies` of them (guided
roll-ins: 2204.02372). What it said is imitated, and so is what the policy says wherever it succeeds (learn/lessons.py).
As the policy learns the ends of episodes V rises there, and the teacher hands over sooner.

A budget is a promise: a step may spend what the turns of the steps before it have earned, less what teachers have said
in them, and a teacher begins only where the budget lasts for all it may say. It may be spent in advance, for a teacher
is worth most at the start: then it is kept by the end of the run, if episodes stay as long as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from journeyman.errors import UsageError
from journeyman.rollout.oversight import GO_ON, Decision, Rule, Watched
from journeyman.rollout.teachers import Teacher
from journeyman.types import Turn

DRAW = 0xA5
"""Sets the draw of who is led apart from all others that follow from an episode's seed."""


@dataclass(frozen=True)
class AskingConfig:
    """When a teacher is asked, who it is, and how it is learned from."""

    budget: float = 0.0
    """Most turns that teachers say, as a share of all turns of a run; 0: nobody is asked."""
    advance: int = 0
    """Steps of those to come whose turns count as if they had been played."""
    teacher: str = "expert"
    """`expert` (the job's own), `person` (at the terminal), or a model as `model` names them."""
    enough: float = 0.5
    """A teacher is asked where V is below this before an episode begins, and goes on until V reaches it."""
    replies: int = 10
    """Most replies of the teacher in one episode."""
    whom: Literal["low", "any"] = "low"
    """`low`: those of the lowest V, as above. `any`: whoever is drawn, always for all `replies`: the control that does
    without V."""
    updates: int = 400
    """Updates of each study of what teachers said, and of what the policy said itself where it succeeded."""

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 1:
            raise UsageError(f"asking: budget must lie in [0, 1], got {self.budget}")
        for name, least in (("advance", 0), ("replies", 1), ("updates", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"asking: {name} must be at least {least}, got {getattr(self, name)}")


def left(config: AskingConfig, turns: int, taught: int, step: int, steps: int) -> int:
    """How many turns a teacher may say now; below 0 where too many have been said already.

    Args:
        turns: of all episodes so far.
        taught: those of them that a teacher said.
        step: steps so far.
        steps: of the whole run.
    """
    advance = turns / step * min(config.advance, steps - step) if step else 0.0
    return int(config.budget * (turns + advance)) - taught


class Asking(Rule):
    """The rule as :class:`Oversight` applies it, for the episodes of one step.

    Args:
        left: how many turns the teacher may say.
    """

    def __init__(self, config: AskingConfig, teacher: Teacher, left: int) -> None:
        self.config, self.teacher, self.left = config, teacher, left
        self.led: set[str] = set()
        """Tasks that a teacher has been asked about: the same demonstration again would teach less."""

    def due(self, job: str, turns: Sequence[Turn]) -> bool:
        return not turns or (turns[-1].by == "teacher" and len(turns) < self.config.replies)

    def decide(self, watched: Sequence[Watched]) -> list[Decision]:
        blind = self.config.whom == "any"
        in_need = [i for i, w in enumerate(watched) if blind or w.value < self.config.enough]
        begun = [i for i in in_need if watched[i].trajectory.turns]
        asked = begun + self._chosen(watched, [i for i in in_need if not watched[i].trajectory.turns])
        said = self.teacher.replies([watched[i].trajectory for i in asked])
        decisions = [GO_ON] * len(watched)
        for i, reply in zip(asked, said, strict=True):
            if reply is not None:
                decisions[i] = Decision(reply=reply)
        return decisions

    def _chosen(self, watched: Sequence[Watched], fresh: Sequence[int]) -> list[int]:
        """Of the episodes that have not begun, those of the lowest V (or any), one for each task, as far as the budget
        lasts."""
        chosen: list[int] = []
        for i in sorted(fresh, key=lambda i: self._turn_in_line(watched[i])):
            task = watched[i].trajectory.task.id
            if task not in self.led and self.left >= self.config.replies:
                self.led.add(task)
                self.left -= self.config.replies
                chosen.append(i)
        return chosen

    def _turn_in_line(self, watched: Watched) -> float:
        """The lower, the sooner it is led."""
        if self.config.whom == "low":
            return watched.value
        return float(np.random.default_rng((watched.seed, DRAW)).random())
