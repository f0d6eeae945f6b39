"""Stopping: episodes whose end V foresees are not played to it, but for a random share.

Where V foresees it is not said beforehand: a V of 0.1 may mean one success in six, or none in a hundred. It is read off
the last steps' episodes (:func:`doubt`): the highest value below which hardly any of them succeeded, and the lowest
above which hardly any failed, compared with all. Where V cannot tell, or lags behind a policy that has just improved,
there are no such values, and nothing is stopped.

An episode has a *verdict* at the first look at which V is outside of these. Then a coin, thrown by the episode's own
seed, decides: with chance `play_out` it is played on as if nothing had been said, otherwise it ends as `stopped`. Since
the coin knows nothing of the episode, those played on stand for all that had a verdict: whatever is averaged over
episodes stays unbiased, however wrong V is, if each is completed as

    V + w (seen - V),    w = 0 where it was stopped, 1 / play_out where it was played on

with V at the verdict: Horvitz and Thompson's estimator (1952) of what V leaves unexplained (Cassel, Särndal and
Wretman 1976, eq. 2.4). The better V, the less the few that were played on shake the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from journeyman.errors import UsageError
from journeyman.rollout.oversight import GO_ON, Decision, Rule, Watched
from journeyman.types import Ending, Outcome, Trajectory, Turn, Verdict

COIN = 0x57
"""Sets the coin's draw apart from all others that follow from an episode's seed."""

REMEMBERED = 16
"""Steps whose episodes a threshold is read off. Of what V stops only a share is seen to its end, so the evidence thins
as soon as it is used: read off four steps, the threshold came and went from step to step (docs/LOG.md)."""

LATEST = 4
"""Steps whose episodes say what all earn at present."""


@dataclass(frozen=True)
class StoppingConfig:
    """When V stops an episode."""

    every: int = 0
    """Turns between looks, each of which costs V a reading of the whole episode; 0: no episode is stopped."""
    hopeless: float = 0.1
    """An episode is hopeless where V is so low that lately those as low earned less than this share of what all that
    were looked at earned, on average. 0: none is."""
    certain: float = 0.0
    """An episode is certain where V is so high that lately those as high fell short of a return of 1 by less than this
    share of what all did. 0: none is."""
    play_out: float = 0.1
    """Share of such episodes that is played to the end, so that figures stay unbiased and V hears where it errs."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise UsageError(f"stopping: every must be at least 0, got {self.every}")
        for name in ("hopeless", "certain"):
            if not 0 <= (share := getattr(self, name)) < 1:
                raise UsageError(
                    f"stopping: {name} must be at least 0 and below 1, got {share}",
                    reason="it is a share of what episodes earn, or fall short of, on average",
                )
        if not 0 < self.play_out <= 1:
            raise UsageError(
                f"stopping: play_out must lie above 0 and at most at 1, got {self.play_out}",
                reason="where all are stopped nobody sees whether V was right",
            )


class Doubt(NamedTuple):
    """The values of V between which the end of an episode is open: below `low` it is hopeless, above `high` certain."""

    low: float = -math.inf
    high: float = math.inf

    def over(self, value: float) -> bool:
        """Whether the end is foreseen where V is this."""
        return value < self.low or value > self.high


class Stopping(Rule):
    """The rule as :class:`Oversight` applies it.

    Args:
        doubt: by job, where episodes go on; where there is no entry, all do.
    """

    def __init__(self, config: StoppingConfig, doubt: Mapping[str, Doubt]) -> None:
        self.config, self.doubt = config, doubt

    def due(self, job: str, turns: Sequence[Turn]) -> bool:
        return self.doubt.get(job, Doubt()) != Doubt() and len(turns) > 0 and len(turns) % self.config.every == 0

    def decide(self, watched: Sequence[Watched]) -> list[Decision]:
        return [self._decision(w) for w in watched]

    def _decision(self, watched: Watched) -> Decision:
        value, share = watched.value, self.config.play_out
        if not self.doubt[watched.trajectory.task.job].over(value):
            return GO_ON
        played_on = np.random.default_rng((watched.seed, COIN)).random() < share
        return Decision(Verdict(len(watched.trajectory), value, share), stop=not played_on)


class Prospect(NamedTuple):
    """Of an episode that was seen to its end: the lowest and the highest V at a look, its return, and its weight."""

    lowest: float
    highest: float
    reward: float
    weight: float


def prospects(trajectories: Sequence[Trajectory], every: int) -> list[Prospect]:
    """What :func:`doubt` learns from episodes along which V is written; those too short for a look have none."""
    found: list[Prospect] = []
    for t in trajectories:
        looks = [float(t.values[turn.start - 1]) for turn in t.turns[every::every]]
        if looks and t.weight:
            found.append(Prospect(min(looks), max(looks), t.outcome.reward, t.weight))
    return found


def doubt(steps: Sequence[Sequence[Prospect]], config: StoppingConfig) -> Doubt:
    """Where V has lately left the end of an episode open. What is certain is what is hopeless upside down.

    Both are compared with what episodes earn on average: where one in fifty succeeds, a chance of one in fifty is no
    reason to stop, it is where the next lesson comes from; where all but one in fifty do, the failures teach. The
    average is that of the very last steps: a policy that has just learned fails less than all that are remembered. On
    both sides one is counted that was not seen: that nothing failed of late does not mean that nothing will.

    Args:
        steps: what was seen in each of the last steps, oldest first.
    """
    seen, latest = (list(chain.from_iterable(some)) for some in (steps, steps[-LATEST:]))
    if not latest:
        return Doubt()
    _, _, returns, weights = np.array(latest).T
    mean, count = float(np.average(returns, weights=weights)), len(returns)
    earned, missed = ((part * count + 1) / (count + 1) for part in (mean, 1 - mean))
    lowest, highest, returns, weights = np.array(seen).T
    low = threshold(np.stack([lowest, returns, weights], 1), config.hopeless * earned)
    high = threshold(np.stack([-highest, 1 - returns, weights], 1), config.certain * missed)
    return Doubt(low, -high)


def threshold(seen: npt.NDArray[np.float64], least: float) -> float:
    """The highest V such that episodes of which some look was below it had a mean return below `least`.

    The mean is taken with one success more than there were among those seen, so that a few failures in a row prove
    nothing (Laplace). Weights count in the mean only: one that was seen is one, however many it stands for. -inf where
    there is no such value.

    Args:
        seen: of each episode the lowest V at a look, its return, and its weight: [episodes, 3].
    """
    lowest, returns, weights = seen[seen[:, 0].argsort(kind="stable")].T
    mean = np.cumsum(weights * returns) / np.cumsum(weights)
    count = np.arange(1, len(mean) + 1)
    whole = np.append(lowest[1:] > lowest[:-1], True)  # all that are as low stand before here
    fits = np.flatnonzero(whole & ((mean * count + 1) / (count + 1) < least))
    return float(np.nextafter(lowest[fits[-1]], math.inf)) if len(fits) else -math.inf


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
