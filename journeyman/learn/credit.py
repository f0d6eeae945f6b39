"""Credit: which token of an episode deserves how much of its outcome. Pure functions, one per rule.

Each takes finished trajectories and gives, for each of them, one float32 per token [T]: the advantage where the
policy sampled, 0 elsewhere. A new rule is one more function of this shape, named in :data:`RULES`.

A *decision* is where credit is given: every sampled token, or (for jobs of several turns) every reply as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from journeyman.errors import UsageError
from journeyman.types import Ending, FloatArray, IntArray, Trajectory

Unit = Literal["token", "turn"]


@dataclass(frozen=True)
class CreditConfig:
    """How outcomes become advantages."""

    rule: Literal["gae", "grpo", "rloo"] = "gae"
    """gae: from the value function; grpo, rloo: from the other episodes of the group."""
    unit: Unit = "turn"
    """What gets credit as a whole: a token or a turn. With one turn per episode, "turn" means the episode."""
    gamma: float = 1.0
    """Discount per decision; 1 makes V the expected outcome itself."""
    lambda_policy: float = 0.9
    """GAE's lambda for the advantages: 1 trusts the outcome alone, 0 the value function alone."""
    lambda_value: float = 1.0
    """Lambda of the value function's targets: 1 is the observed outcome (2503.01491: unbiased)."""
    bootstrap_truncated: bool = False
    """Let truncated episodes end in V instead of in what they earned. Off: a job's limit is part of the job. Those that
    V stopped always end in V: to give up is no part of any job."""
    divide_by_std: bool = False
    """GRPO's division by the group's standard deviation, which favours easy and hard tasks (2503.20783)."""

    def __post_init__(self) -> None:
        for name in ("gamma", "lambda_policy", "lambda_value"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"credit: {name} must lie in [0, 1], got {getattr(self, name)}")


def decisions(trajectory: Trajectory, unit: Unit) -> IntArray:
    """Positions of the first token of each of the policy's decisions, ascending: int32 [K]."""
    if unit == "token":
        return trajectory.actions.astype(np.int32)
    own = (turn for turn in trajectory.turns if turn.by == "policy" and turn.stop > turn.start)
    return np.array([turn.start for turn in own], np.int32)


def group_advantages(
    trajectories: Sequence[Trajectory], *, leave_one_out: bool = False, divide_by_std: bool = False
) -> list[FloatArray]:
    """The return less the group's mean, the same for every token.

    GRPO (2402.03300, section 4.1.2) divides by the group's standard deviation; without that it is Dr. GRPO
    (2503.20783). `leave_one_out` takes the mean of the *other* episodes: RLOO (2402.14740, eq. 8).
    """
    groups: dict[str, list[float]] = {}
    for t in trajectories:
        groups.setdefault(t.group, []).append(t.outcome.reward)
    means = {group: float(np.mean(rewards)) for group, rewards in groups.items()}
    scales: dict[str, float] = {}
    for group, rewards in groups.items():
        others = len(rewards) / max(len(rewards) - 1, 1) if leave_one_out else 1.0
        scales[group] = others / (float(np.std(rewards)) + 1e-6) if divide_by_std else others
    return [t.mask * np.float32((t.outcome.reward - means[t.group]) * scales[t.group]) for t in trajectories]


def gae(
    trajectories: Sequence[Trajectory],
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    unit: Unit = "token",
    bootstrap_truncated: bool = True,
) -> list[FloatArray]:
    """Generalized advantage estimation (1506.02438, eq. 16) over decisions, from the stored values."""
    return [_spread(t, _gae(t, gamma, lam, unit, bootstrap_truncated)[0], unit) for t in trajectories]


def lambda_returns(
    trajectories: Sequence[Trajectory],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    unit: Unit = "token",
    bootstrap_truncated: bool = True,
) -> list[FloatArray]:
    """Targets for the value function at *every* position (float32 [T]): the lambda-return of the next decision.

    A turn's reward comes after its last token, so that token's target still holds it. At lambda = gamma = 1 every
    position's target is the return still to come.
    """
    targets: list[FloatArray] = []
    for t in trajectories:
        advantages, values, final = _gae(t, gamma, lam, unit, bootstrap_truncated)
        returns = np.append(advantages + values, final)
        starts = decisions(t, unit)
        following = np.searchsorted(starts, np.arange(len(t)), side="right")
        for turn in t.turns:
            last = int(np.searchsorted(starts, turn.stop)) - 1
            if last >= 0:
                following[starts[last] : turn.stop] = last
        targets.append(returns[following].astype(np.float32))
    return targets


def _gae(
    t: Trajectory, gamma: float, lam: float, unit: Unit, bootstrap_truncated: bool
) -> tuple[FloatArray, FloatArray, float]:
    """Advantages [K] and state values [K] of the decisions, and the value of where the episode ended."""
    starts = decisions(t, unit)
    values = t.values[starts - 1]
    rewards = np.zeros(len(starts), np.float32)
    for turn in t.turns:
        last = np.searchsorted(starts, turn.stop) - 1
        if last >= 0:
            rewards[last] += turn.reward
    ending = t.outcome.ending
    bootstrap = ending is Ending.STOPPED or (bootstrap_truncated and ending is Ending.TRUNCATED)
    # V after a last reply still expects its reward, which is known by now; V after what came back does not
    known = rewards[-1] if len(rewards) and t.turns[-1].stop == len(t) else 0.0
    final = float(t.values[-1] - known) if bootstrap and len(rewards) else 0.0
    following = np.append(values[1:], np.float32(final)).astype(np.float32)
    errors = (rewards + gamma * following - values).astype(np.float32)
    advantages = np.zeros_like(errors)
    running = 0.0
    for k in range(len(errors) - 1, -1, -1):
        running = float(errors[k]) + gamma * lam * running
        advantages[k] = running
    return advantages, values, final


def _spread(t: Trajectory, advantages: FloatArray, unit: Unit) -> FloatArray:
    """Give each sampled token its decision's advantage: float32 [T]."""
    out = np.zeros(len(t), np.float32)
    if len(advantages):
        owner = np.searchsorted(decisions(t, unit), np.arange(len(t)), side="right") - 1
        out = np.where(t.mask, advantages[np.maximum(owner, 0)], 0.0).astype(np.float32)
    return out


Rule = Callable[[Sequence[Trajectory], CreditConfig], list[FloatArray]]

RULES: dict[str, Rule] = {
    "gae": lambda ts, c: gae(
        ts, gamma=c.gamma, lam=c.lambda_policy, unit=c.unit, bootstrap_truncated=c.bootstrap_truncated
    ),
    "grpo": lambda ts, c: group_advantages(ts, divide_by_std=c.divide_by_std),
    "rloo": lambda ts, c: group_advantages(ts, leave_one_out=True),
}
"""Credit rules by name. Those that need no value function are in :data:`CRITIC_FREE`."""

CRITIC_FREE = frozenset({"grpo", "rloo"})


def assign(trajectories: Sequence[Trajectory], config: CreditConfig) -> list[FloatArray]:
    """Advantages by the configured rule: one float32 [T] per trajectory."""
    return RULES[config.rule](trajectories, config)
