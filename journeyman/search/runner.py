"""Searches many tasks at once: an answer to each, for more tokens than one attempt takes.

Contract of the loop in :func:`search`: all searches under way put their next orders together, so that the engine's
batch stays full; when all are played, V reads what became of them, and every strategy goes on. What its next orders do
not mention, the engine lets go of. No strategy hears what an attempt earned: that is revealed once it has answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from journeyman.engine.base import Engine
from journeyman.errors import UsageError
from journeyman.jobs.base import Job
from journeyman.model.render import Renderer
from journeyman.rollout.environments import Environments
from journeyman.rollout.oversight import Score
from journeyman.rollout.runner import Attempt, RolloutConfig, environments_for
from journeyman.search.draft import Draft
from journeyman.search.player import Order, Player
from journeyman.search.strategies import STRATEGIES, Budget, SearchConfig, Steps
from journeyman.types import Trajectory


@dataclass(frozen=True)
class Found:
    """What the search of one task came to.

    Attributes:
        trajectory: the attempt that is the answer, with what it earned.
        tokens: that the engine was given to read, and that it sampled, over all that was tried.
        value_tokens: that V read.
    """

    trajectory: Trajectory
    tokens: int
    value_tokens: int


@dataclass
class _Search:
    """One task's search under way."""

    place: int
    budget: Budget
    steps: Steps
    orders: list[Order]
    value_tokens: int = 0
    held: list[Draft] = field(default_factory=list[Draft])

    def go_on(self, drafts: Sequence[Draft], spent: int) -> Found | None:
        """Let the strategy see what became of its orders; the answer, if it has one."""
        self.budget.spent += spent
        if self.budget.config.asks_value:
            self.value_tokens += sum(len(draft) for draft in drafts)
        try:
            self.orders = self.steps.send(list(drafts))
        except StopIteration as end:
            self.orders = []
            answer: Draft = end.value
            return Found(answer.reveal(), self.budget.spent, self.value_tokens)
        return None


def search(
    engine: Engine,
    renderer: Renderer,
    score: Score,
    jobs: Mapping[str, Job],
    attempts: Sequence[Attempt],
    config: SearchConfig,
    plain: float,
    rollouts: RolloutConfig | None = None,
    environments: Environments | None = None,
) -> list[Found]:
    """Answers to the attempts' tasks, in their order. Each search begins with the attempt itself, by its own seed.

    Args:
        score: writes V along trajectories.
        jobs: by the name that `Task.job` holds.
        plain: tokens of a plain attempt at such tasks, on average: the unit of the budget.
        environments: where environments run, as :func:`journeyman.rollout.runner.rollout` has it.

    Raises:
        UsageError: the engine has too few slots for a single search, or there is no V to ask.
    """
    if engine.slots < config.slots:
        raise UsageError(
            f"search: {config.strategy} with think {config.think} takes {config.slots} slots of the engine",
            reason=f"it has {engine.slots}",
            fix="give the engine more, or think less",
        )
    rollouts = rollouts or RolloutConfig()
    home = environments or environments_for(rollouts)
    player = Player(engine, renderer, jobs, rollouts, home)
    found: dict[int, Found] = {}
    line = list(enumerate(attempts))[::-1]
    under_way: list[_Search] = []
    try:
        while line or under_way:
            while line and len(under_way) < engine.slots // config.slots:
                place, attempt = line.pop()
                prompt = player.begin(attempt)
                if prompt.ended:
                    found[place] = Found(prompt.reveal(), 0, 0)
                    continue
                turns = rollouts.max_turns or jobs[attempt.task.job].max_turns
                budget = Budget(config, plain, "turn" if turns > 1 else "token", attempt.seed)
                steps = STRATEGIES[config.strategy](prompt, budget)
                under_way.append(_Search(place, budget, steps, next(steps)))
            found |= _round(player, score if config.asks_value else list, under_way)
            under_way = [one for one in under_way if one.place not in found]
    finally:
        player.close()
        if environments is None:
            home.close()
    return [found[place] for place in range(len(attempts))]


def _round(player: Player, score: Score, searches: Sequence[_Search]) -> dict[int, Found]:
    """Play what all have ordered, and let them go on; the answers that this brings, by place."""
    played = player.play([order for one in searches for order in one.orders])
    scored = score([draft.trajectory for draft, _ in played])
    drafts = [replace(draft, trajectory=t) for (draft, _), t in zip(played, scored, strict=True)]
    found: dict[int, Found] = {}
    start = 0
    for one in searches:
        own = slice(start, start + len(one.orders))
        start = own.stop
        if one.budget.config.asks_value and any(math.isnan(draft.value) for draft in drafts[own]):
            raise no_value(one.budget.config)
        answer = one.go_on(drafts[own], sum(spent for _, spent in played[own]))
        if answer is not None:
            found[one.place] = answer
        mentioned = {order.draft.sequence for order in one.orders} | {d.sequence for d in one.budget.aside}
        one.held += drafts[own]
        for draft in one.held:
            if draft.sequence not in mentioned:
                player.release(draft)
        one.held = [draft for draft in one.held if draft.sequence in mentioned]
    return found


def no_value(config: SearchConfig) -> UsageError:
    """What to tell those who want to search without a value function."""
    return UsageError(
        f"search: the strategy {config.strategy} needs a value function",
        reason="it goes by V, and this model was saved without one",
        fix="take a model that learned with one (journeyman learn JOB), or --strategy vote, which needs none",
    )
