"""What branches say of V: Monte Carlo values of single states (2410.01679, section 4), and V corrected by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from journeyman.learn.credit import CreditConfig, lambda_returns
from journeyman.rollout.branch import Fork
from journeyman.types import Ending, Trajectory


@dataclass(frozen=True)
class Estimate:
    """What became of continuations of one state.

    Attributes:
        fork: the state.
        value: what V had said of it.
        returns: what each continuation earned from there on; failed ones are left out.
    """

    fork: Fork
    value: float
    returns: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    @property
    def variance(self) -> float:
        """Of a single return, without bias."""
        return float(np.var(self.returns, ddof=1))


def estimates(forks: Sequence[Fork], branches: Sequence[Trajectory], config: CreditConfig) -> list[Estimate]:
    """One for each fork from which at least two branches came to an end.

    Args:
        branches: what was played from the forks, in any order, with values.
    """
    played = [t for t in branches if t.outcome.ending is not Ending.FAILED and t.mask.any()]
    targets = lambda_returns(
        played, gamma=config.gamma, lam=1.0, unit=config.unit, bootstrap_truncated=config.bootstrap_truncated
    )
    returns: dict[str, list[float]] = {}
    for t, target in zip(played, targets, strict=True):
        returns.setdefault(t.group, []).append(float(target[t.prompt_length - 1]))
    return [
        Estimate(fork, float(fork.parent.values[fork.position]), tuple(returns[fork.group]))
        for fork in forks
        if len(returns.get(fork.group, ())) > 1
    ]


def error_of_value(found: Sequence[Estimate]) -> float:
    """The mean square error of V against the true values of these states, noise of their estimates taken off; >= 0."""
    if not found:
        return 0.0
    apart = np.mean([(e.mean - e.value) ** 2 - e.variance / len(e.returns) for e in found])
    return max(float(apart), 0.0)


def sharpened(trajectories: Sequence[Trajectory], found: Sequence[Estimate]) -> list[Trajectory]:
    """The trajectories with V, at the forks they passed through, replaced by the mean of V and the estimate there.

    Both are weighted by their precisions: V <- V + g (m - V) with g = tau^2 / (tau^2 + sigma^2 / k). tau^2 is V's own
    :func:`error_of_value` and sigma^2 the variance of a return, each over all forks, for a handful of returns says too
    little of its own (empirical Bayes; DerSimonian and Laird 1986, eq. 8). So a V without errors is left alone, and of
    one that knows nothing only m remains. Continuations are drawn apart from the episodes that are credited: m is as
    good a baseline for these as V.
    """
    tau, sigma = error_of_value(found), float(np.mean([e.variance for e in found])) if found else 0.0
    corrections: dict[str, list[tuple[int, float]]] = {}
    for e in found:
        noise = sigma / len(e.returns)
        gain = tau / (tau + noise) if tau + noise else 1.0
        for id in e.fork.passed:
            corrections.setdefault(id, []).append((e.fork.position, e.value + gain * (e.mean - e.value)))
    known: list[Trajectory] = []
    for t in trajectories:
        values = t.values.copy()
        for position, value in corrections.get(t.id, ()):
            values[position] = value
        known.append(replace(t, values=values) if t.id in corrections else t)
    return known
