"""Strategies: what is tried next, and which attempt is the answer.

Each is a generator over one task. It yields orders, is sent the drafts that became of them, with V along and without
what they earned, and returns the draft that is the answer. A new strategy is one more function of this shape, named in
:data:`STRATEGIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from journeyman.errors import UnknownName, UsageError
from journeyman.learn.credit import Unit, decisions
from journeyman.search.draft import Draft
from journeyman.search.player import Order
from journeyman.types import Trajectory

Name = Literal["best", "weighted", "vote", "stepwise", "beam", "correct"]


@dataclass(frozen=True)
class SearchConfig:
    """How much is thought about one task, and how."""

    think: int = 1
    """Tokens for one answer, as a multiple of those of a plain attempt; 1: a plain attempt."""
    strategy: Name = "best"
    """best: of whole attempts, the one of the highest V; weighted: the last reply with the most V behind it; vote: the
    last reply given most often, without V; stepwise: in each turn the reply given most often, without V; beam: several
    replies in each turn, and on from those of the highest V; correct: go back to where V fell most, and try again."""
    width: int = 1
    """beam: attempts that go on after each turn."""
    fall: float = 0.1
    """correct, beam: how far V must move to count. A smaller fall is not gone back to, and an attempt that is closer to
    certain success than this ends the search."""

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Name):
            raise UnknownName("search strategy", self.strategy, get_args(Name))
        for name in ("think", "width"):
            if getattr(self, name) < 1:
                raise UsageError(f"search: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.fall < 1:
            raise UsageError(f"search: fall must lie between 0 and 1, got {self.fall}")

    @property
    def asks_value(self) -> bool:
        """Whether the strategy needs V."""
        return self.strategy not in ("vote", "stepwise")

    @property
    def slots(self) -> int:
        """Slots of the engine that the search of one task takes at most."""
        return 2 if self.strategy == "correct" else self.think


@dataclass
class Budget:
    """What the search of one task may spend, and its seeds.

    Attributes:
        plain: tokens of a plain attempt, on average over tasks.
        unit: what is decided as a whole: a turn, or a token where there is but one turn.
        seed: of the attempt that the search begins with.
        spent: tokens that the engine was given to read, and that it sampled, so far.
        seeds: how many were given out.
        aside: drafts that the present orders do not mention, and that are to be kept all the same.
    """

    config: SearchConfig
    plain: float
    unit: Unit
    seed: int
    spent: int = 0
    seeds: int = 0
    aside: list[Draft] = field(default_factory=list[Draft])

    @property
    def left(self) -> float:
        """Tokens that may yet be spent."""
        return self.config.think * self.plain - self.spent

    def fresh(self, count: int) -> list[int]:
        """So many seeds that were not given out before."""
        first, self.seeds = self.seeds, self.seeds + count
        return [int(np.random.default_rng((self.seed, n)).integers(1 << 63)) for n in range(first, self.seeds)]


Steps = Generator[list[Order], list[Draft], Draft]
Strategy = Callable[[Draft, Budget], Steps]
"""From the draft that has nothing but its prompt. A draft that the orders of a round do not mention, and that is not
put aside, is let go of, and cannot be ordered from later."""


def correct(prompt: Draft, budget: Budget) -> Steps:
    """Back to the decision in which V fell most, and again from there, until V is content.

    Of the attempt so far and the new one, that of the higher V at its end is kept. Where V fell nowhere, the new one
    begins at the prompt.
    """
    (kept,) = yield [Order(prompt, keep=True)]
    most = budget.spent + (budget.config.think - 1) * budget.plain
    while kept.trajectory.turns and kept.value <= 1 - budget.config.fall:
        place = deepest_fall(kept.trajectory, budget)
        start, expected = (prompt, budget.plain) if place is None else (kept.until(place), len(kept) - place)
        if budget.spent + expected > most:
            break
        (again,) = yield [Order(start, *budget.fresh(1), turns=1, keep=True)]
        if again.broken:
            break
        if not again.ended and (place is None or again.value >= start.value - budget.config.fall):
            budget.aside = [kept]
            (again,) = yield [Order(again, keep=True)]
            budget.aside = []
        kept = highest([kept, again]) if again.ended else kept
    return kept


def deepest_fall(t: Trajectory, budget: Budget) -> int | None:
    """Where the decision begins in which V fell most; None where no fall counts.

    A decision takes V from that of the state in which it was made to that of the next one; the last, to V at the end.
    """
    starts = decisions(t, budget.unit)
    falls = -np.diff(t.values[[*(starts - 1), -1]])
    if not len(falls) or falls.max() <= budget.config.fall:
        return None
    return int(starts[falls.argmax()])


def beam(prompt: Draft, budget: Budget) -> Steps:
    """Several replies in each turn; those of the highest V go on (2505.17373, with turns for its blocks).

    Drafts that have ended wait aside: V has not heard what came of their last reply, and has of all others'. The search
    ends with the first that V is content with, or as :func:`lasts` says.
    """
    config = budget.config
    width = min(config.width, max(config.think // 2, 1))
    each = config.think // width
    ended: list[Draft] = []
    drafts = yield _several(prompt, budget, width * each, turns=1)
    while True:
        ended += [draft for draft in drafts if draft.ended]
        living = ranked([draft for draft in drafts if not draft.ended])[:width]
        if not living or (ended and highest(ended).value > 1 - config.fall):
            return highest(ended)
        if not lasts(budget, prompt, living[0], width * each):
            return highest([*ended, *(yield [Order(living[0])])])
        drafts = yield [order for draft in living for order in _several(draft, budget, each, turns=1)]


def stepwise(prompt: Draft, budget: Budget) -> Steps:
    """A majority in each turn: of several replies the one given most often is said. With a single turn it is `vote`."""
    think = budget.config.think
    drafts = yield _several(prompt, budget, think, turns=1)
    while True:
        said = elected(drafts, counted)
        if said.ended:
            return said
        if not lasts(budget, prompt, said, think):
            return (yield [Order(said)])[0]
        drafts = yield _several(said, budget, think, turns=1)


def lasts(budget: Budget, prompt: Draft, draft: Draft, count: int) -> bool:
    """Whether the tokens left last for another turn of so many, and then for the rest of a plain attempt. If not, the
    draft is played to its end alone."""
    turn = (len(draft) - len(prompt)) / len(draft.trajectory.turns)
    rest = max(budget.plain - len(draft) - turn, 0)
    return budget.left >= count * turn + rest


def best(prompt: Draft, budget: Budget) -> Steps:
    """Best of n (2110.14168): the attempt of the highest V at its end."""
    return highest((yield _several(prompt, budget, budget.config.think)))


def vote(prompt: Draft, budget: Budget) -> Steps:
    """Self-consistency (2203.11171): the last reply given most often. V is not asked."""
    return elected((yield _several(prompt, budget, budget.config.think)), counted)


def weighted(prompt: Draft, budget: Budget) -> Steps:
    """The same, where each attempt votes with its V (2206.02336; 2505.17373)."""
    return elected((yield _several(prompt, budget, budget.config.think)), lambda draft: max(draft.value, 0.0))


def _several(draft: Draft, budget: Budget, count: int, turns: int | None = None) -> list[Order]:
    """So many ways to go on: the draft itself, which of a prompt is the plain attempt, and new ones."""
    return [Order(draft, seed, turns) for seed in (None, *budget.fresh(count - 1))]


def counted(draft: Draft) -> float:
    """One vote; none of an attempt whose environment broke."""
    return float(not draft.broken)


def ranked(drafts: Sequence[Draft]) -> list[Draft]:
    """Highest V first, otherwise in their order; of those with the same tokens only the last."""
    different = {draft.trajectory.tokens.tobytes(): draft for draft in drafts}
    return sorted(different.values(), key=lambda draft: -draft.value)


def highest(drafts: Sequence[Draft]) -> Draft:
    """The first of the highest V."""
    return max(drafts, key=lambda draft: draft.value)


def elected(drafts: Sequence[Draft], weight: Callable[[Draft], float]) -> Draft:
    """The weightiest draft with the answer of the greatest weight; the first of its like in both."""
    votes: dict[str, float] = {}
    for draft in drafts:
        votes[draft.answer] = votes.get(draft.answer, 0.0) + weight(draft)
    answer = max(votes, key=lambda text: votes[text])
    return max((draft for draft in drafts if draft.answer == answer), key=weight)


STRATEGIES: dict[Name, Strategy] = {
    "best": best,
    "weighted": weighted,
    "vote": vote,
    "stepwise": stepwise,
    "beam": beam,
    "correct": correct,
}
