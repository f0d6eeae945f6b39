"""Branches: going on from states in the middle of finished episodes, to see what becomes of them (2410.01679).

    choose          states that V is unsure of, within a budget of tokens
    continuations   orders for episodes that go on from there, to be played by `rollout` like any other

A branch is an episode whose prompt is all that was read and said until its state; its outcome is what was earned after
it. So it is a sample of what V should say there, and a lesson for V from there on. It is no lesson for the states
before: those were chosen for where they had led.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from journeyman.errors import UsageError
from journeyman.rollout.runner import Attempt, Prefix, seed_of
from journeyman.types import Trajectory


@dataclass(frozen=True)
class BranchConfig:
    """How much is played from the middle of episodes."""

    share: float = 0.0
    """Tokens that branches may take, as a share of those of the step's own episodes; 0: no branches."""
    continuations: int = 4
    """Episodes played from each chosen state."""

    def __post_init__(self) -> None:
        if not self.share >= 0:
            raise UsageError(f"branch: share must be at least 0, got {self.share}")
        if self.continuations < 2:
            raise UsageError(
                f"branch: continuations must be at least 2, got {self.continuations}",
                reason="how far they differ says how much their mean is worth",
            )


@dataclass(frozen=True)
class Fork:
    """A state to go on from: where an episode stood before its turn number `turn` (from 0).

    Attributes:
        parent: the first of the episodes that passed through it.
        turn: of theirs.
        passed: the ids of them all, ascending.
    """

    parent: Trajectory
    turn: int
    passed: tuple[str, ...]

    @property
    def position(self) -> int:
        """The last token of the state: V there is V of the state."""
        return self.parent.turns[self.turn].start - 1

    @property
    def group(self) -> str:
        """The group that its continuations are."""
        return f"{self.parent.id}-b{self.turn:02d}"


def most_variance(value: float, low: float = 0.0, high: float = 1.0) -> float:
    """The greatest variance of a return in [low, high] whose mean is `value`; the variance itself of a success."""
    return max(value - low, 0.0) * max(high - value, 0.0)


def choose(
    trajectories: Sequence[Trajectory], config: BranchConfig, *, low: float = 0.0, high: float = 1.0
) -> list[Fork]:
    """States between turns, most uncertain by V first, as many as the budget lasts for.

    Uncertainty is :func:`most_variance` of V. A continuation is expected to be as long as the episodes that passed
    through the state, prefix included, so that the budget is kept on average. The first state is no fork: from there
    the group goes on already.

    Args:
        trajectories: the step's episodes, with values.
    """
    passed: dict[tuple[str, int, bytes], list[Trajectory]] = {}
    for t in trajectories:
        for turn in range(1, len(t.turns)):
            place = t.task.id, turn, t.tokens[: t.turns[turn].start].tobytes()
            passed.setdefault(place, []).append(t)
    forks: list[tuple[float, Fork, float]] = []
    for (_, turn, _), owners in passed.items():
        owners.sort(key=lambda t: t.id)
        fork = Fork(owners[0], turn, tuple(t.id for t in owners))
        value = float(owners[0].values[fork.position])
        expected = config.continuations * sum(len(t) for t in owners) / len(owners)
        forks.append((most_variance(value, low, high), fork, expected))
    forks.sort(key=lambda found: (-found[0], found[1].group))
    chosen: list[Fork] = []
    left = config.share * sum(len(t) for t in trajectories)
    for _, fork, expected in forks:
        if expected > left:  # to skip it for a shorter one would prefer states that end soon
            break
        left -= expected
        chosen.append(fork)
    return chosen


def forked_from(id: str) -> tuple[str, int] | None:
    """The episode that a branch of this id went on from, and before which of its turns; None: it is no branch."""
    found = re.fullmatch(r"(.+)-b(\d+)-m\d+", id)
    return (found[1], int(found[2])) if found else None


def is_branch(trajectory: Trajectory) -> bool:
    """Whether the episode went on from the middle of another. (Its id tells: a served episode's may end in `-b…`, too,
    for it is a UUID.)"""
    return forked_from(trajectory.id) is not None


def continuations(forks: Sequence[Fork], count: int, seed: int) -> list[Attempt]:
    """`count` attempts at going on from each fork, with ids and seeds that follow from the arguments alone."""
    orders: list[Attempt] = []
    for fork in forks:
        parent = fork.parent
        read = slice(fork.position + 1)
        prefix = Prefix(
            tuple(parent.tokens[read].tolist()), tuple(parent.logprobs[read].tolist()), parent.turns[: fork.turn]
        )
        for member in range(count):
            name = f"{fork.group}-m{member:02d}"
            orders.append(Attempt(name, parent.task, fork.group, seed_of(name, parent.task, seed), parent.step, prefix))
    return orders
