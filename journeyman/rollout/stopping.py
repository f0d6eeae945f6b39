"""Stopping: episodes whose end V already knows are not played to it, but for a random share.

An episode has a *verdict* at the first look at which V is below `low` or above `high`. Then a coin, thrown by the
episode's own seed, decides: with chance `play_out` it is played on as if nothing had been said, otherwise it ends as
`stopped`. Since the coin knows nothing of the episode, those played on stand for all that had a verdict: whatever is
averaged over episodes stays unbiased, however wrong V is, if each is completed as

    V + w (seen - V),    w = 0 where it was stopped, 1 / play_out where it was played on

with V at the verdict: Horvitz and Thompson's estimator (1952) of what V leaves unexplained (Cassel, Särndal and
Wretman 1976, eq. 2.4). The better V, the less the few that were played on shake the estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from journeyman.errors import UsageError
from journeyman.rollout.oversight import GO_ON, Decision, Rule, Watched
from journeyman.types import Ending, Outcome, Trajectory, Turn, Verdict

COIN = 0x57
"""Sets the coin's draw apart from all others that follow from an episode's seed."""


@dataclass(frozen=True)
class StoppingConfig:
    """When V stops an episode."""

    every: int = 0
    """Turns between looks, each of which costs V a reading of the whole episode; 0: no episode is stopped."""
    low: float = 0.05
    """Below this V an episode is hopeless."""
    high: float = 0.95
    """Above this V its success is certain."""
    play_out: float = 0.1
    """Share of such episodes that is played to the end, so that figures stay unbiased and V hears where it errs."""
    skill: float = 0.1
    """What V must have foreseen of the outcomes of a job's last episodes before it stops any there: 1 is everything, 0
    no more than their mean; a V that lags behind the policy falls below it."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise UsageError(f"stopping: every must be at least 0, got {self.every}")
        if not self.low < self.high:
            raise UsageError(f"stopping: low must be below high, got {self.low} and {self.high}")
        if not 0 < self.play_out <= 1:
            raise UsageError(
                f"stopping: play_out must lie above 0 and at most at 1, got {self.play_out}",
                reason="where all are stopped nobody sees whether V was right",
            )


class Stopping(Rule):
    """The rule as :class:`Oversight` applies it.

    Args:
        jobs: those that V knows well enough.
    """

    def __init__(self, config: StoppingConfig, jobs: frozenset[str]) -> None:
        self.config, self.jobs = config, jobs

    def due(self, job: str, turns: Sequence[Turn]) -> bool:
        return job in self.jobs and len(turns) > 0 and len(turns) % self.config.every == 0

    def decide(self, watched: Sequence[Watched]) -> list[Decision]:
        return [self._decision(w) for w in watched]

    def _decision(self, watched: Watched) -> Decision:
        c, value = self.config, watched.value
        if c.low <= value <= c.high:
            return GO_ON
        played_on = np.random.default_rng((watched.seed, COIN)).random() < c.play_out
        return Decision(Verdict(len(watched.trajectory), value, c.play_out), stop=not played_on)


def completed(trajectory: Trajectory, seen: float) -> float:
    """What would have been seen of the episode without any stopping, unbiased: `seen` itself where V said nothing."""
    if trajectory.verdict is None:
        return seen
    value = trajectory.verdict.value
    return value + trajectory.weight * (seen - value)


def as_stopped(t: Trajectory) -> Trajectory:
    """The episode as it would have been, had V not only spoken but stopped it."""
    if t.verdict is None or t.outcome.ending is Ending.STOPPED:
        return t
    read = slice(t.verdict.at)
    turns = tuple(turn for turn in t.turns if turn.stop <= t.verdict.at)
    earned = sum(turn.reward for turn in turns)
    columns = {name: getattr(t, name)[read] for name in ("tokens", "mask", "logprobs", "values")}
    return replace(t, **columns, turns=turns, outcome=Outcome(earned, Ending.STOPPED))


def stopping_report(trajectories: Sequence[Trajectory]) -> dict[str, float | None]:
    """What stopping saved, and how far V was off where it spoke: the figures `stopped...` of docs/metrics.md."""
    spoken = [t for t in trajectories if t.verdict is not None and t.outcome.ending is not Ending.FAILED]
    played_on = [t for t in spoken if t.weight]
    # one played on stands for 1 / share of which 1 / share - 1 were stopped, each about as long as it is
    saved = sum((t.weight - 1) * (len(t) - t.verdict.at) for t in played_on if t.verdict)
    errors = [t.verdict.value - t.outcome.reward for t in played_on if t.verdict]
    return {
        "stopped": (len(spoken) - len(played_on)) / len(trajectories),
        "stopped_saved": saved / (saved + sum(len(t) for t in trajectories)),
        "stopped_bias": float(np.mean(errors)) if errors else None,
    }
