"""Attempts so far, which can be gone back into, and which keep what they earned to themselves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from journeyman.rollout.runner import Attempt
from journeyman.types import Ending, Outcome, Trajectory

UNKNOWN = Outcome(0.0, Ending.TRUNCATED)
"""What is said of an outcome that is not known, or not to be known yet."""


@dataclass(frozen=True, eq=False)
class Draft:
    """An attempt so far.

    Attributes:
        attempt: the order that it answers.
        trajectory: what was read and said, up to where a reply is due, or in the middle of one; where it has ended, up
            to the end of its last reply. All that V and a strategy may know: no rewards, not what the environment said
            at the end, and an :data:`UNKNOWN` outcome.
        ended: whether nothing more can be said.
        sequence: the engine's, idle, that holds the first `held` tokens; None: none does.
        environment: the key of the one that waits for the next reply; None: none does.
    """

    attempt: Attempt
    trajectory: Trajectory
    ended: bool = False
    sequence: int | None = None
    held: int = 0
    environment: int | None = None
    sealed: Trajectory = field(kw_only=True, repr=False)
    """The same with what it earned, for :meth:`reveal` and for going on."""

    @staticmethod
    def of(
        attempt: Attempt,
        made: Trajectory,
        *,
        ended: bool,
        sequence: int | None = None,
        held: int = 0,
        environment: int | None = None,
    ) -> Draft:
        """A draft that shows of a trajectory what may be known of it."""
        turns = [replace(turn, reward=0.0) for turn in made.turns]
        if ended and turns:
            turns[-1] = replace(turns[-1], observation="")
        shown = replace(made, turns=tuple(turns), outcome=UNKNOWN)
        return Draft(attempt, shown, ended, sequence, held, environment, sealed=made)

    def __len__(self) -> int:
        return len(self.trajectory)

    @property
    def broken(self) -> bool:
        """Whether it ended because its environment could not be made, or made again. What it earned does not show."""
        return self.sealed.outcome.boundary == "environment"

    @property
    def value(self) -> float:
        """V after the last token; -inf where it is broken, NaN where V was not asked."""
        return -math.inf if self.broken else float(self.trajectory.values[-1])

    @property
    def answer(self) -> str:
        """The last reply, without white space around it."""
        turns = self.trajectory.turns
        return turns[-1].reply.strip() if turns else ""

    def until(self, position: int) -> Draft:
        """The draft as it was when the token at `position` was to be sampled."""
        t = self.trajectory
        columns = {name: getattr(t, name)[:position] for name in ("tokens", "mask", "logprobs", "values")}
        turns = tuple(turn for turn in self.sealed.turns if turn.stop <= position)
        made = replace(t, **columns, turns=turns)
        held = min(self.held, position)
        return Draft.of(self.attempt, made, ended=False, sequence=self.sequence, held=held)

    def reveal(self) -> Trajectory:
        """The attempt with what it earned. For when the choice is made."""
        return replace(self.sealed, values=self.trajectory.values)
