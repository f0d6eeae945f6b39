"""Credit: which token of an episode deserves how much of its outcome. Pure functions, one per rule.

Each takes finished trajectories and gives, for each of them, one float32 per token [T]: the advantage where the
policy sampled, 0 elsewhere. A new rule is one more function of this shape, named in :data:`RULES`.

A *decision* is where credit is given: every sampled token, or (for jobs of several turns) every reply as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from journeyman.errors import UsageError
from journeyman.types import Ending, FloatArray, IntArray, Trajectory

Unit = Literal["token", "turn"]
Lambda = float | Literal["length"]

REACH = 0.05
"""Share of an episode's decisions over which a length-adaptive lambda spreads a surprise (2504.05118, section 4.2)."""

RECENT = 4
"""Steps by which V is trusted: one alone is noisy, and V changes."""

LITTLE = 0.02
"""A V that says less than this share of the returns' variance is trusted by less than half, however true it is: what is
true of so little cannot be measured within :data:`RECENT` steps of a hundred episodes."""


@dataclass(frozen=True)
class CreditConfig:
    """How outcomes become advantages."""

    rule: Literal["auto", "gae", "blend", "grpo", "rloo"] = "auto"
    """gae: from the value function; grpo, rloo: from the other episodes of the group; blend: gae as far as the value
    function has proved right of late, rloo for the rest; auto: gae or blend as goes well with the jobs, with the other
    settings here that are not given (config.py, `settled`)."""
    unit: Unit = "turn"
    """What gets credit as a whole: a token or a turn. With one turn per episode, "turn" means the episode."""
    gamma: float = 1.0
    """Discount per decision; 1 makes V the expected outcome itself."""
    lambda_policy: Lambda = 0.9
    """GAE's lambda for the advantages: 1 trusts the outcome alone, 0 the value function alone. "length" grows with the
    episode, 1 - 1 / (0.05 K) for K decisions (0 up to 20): for tokens of long replies (2504.05118, section 4.2)."""
    lambda_value: float = 1.0
    """Lambda of the value function's targets: 1 is the observed outcome (2503.01491: unbiased)."""
    bootstrap_truncated: bool = False
    """Let truncated episodes end in V instead of in what they earned. Off: a job's limit is part of the job. Those that
    V stopped always end in V: to give up is no part of any job."""
    divide_by_std: bool = False
    """GRPO's division by the group's standard deviation, which favours easy and hard tasks (2503.20783)."""

    def __post_init__(self) -> None:
        for name in ("gamma", "lambda_policy", "lambda_value"):
            amount = getattr(self, name)
            if amount != "length" and not 0 <= amount <= 1:
                raise UsageError(f"credit: {name} must lie in [0, 1], got {amount}")


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
    (2503.20783). `leave_one_out` takes the mean of the *other* episodes: RLOO (2402.14740, eq. 8); for one that is
    alone in its group, of the others of its job.
    """
    returns = [t.outcome.reward for t in trajectories]
    groups: dict[str, list[float]] = {}
    for t, amount in zip(trajectories, returns, strict=True):
        groups.setdefault(t.group, []).append(amount)
    means = {group: float(np.mean(rewards)) for group, rewards in groups.items()}
    scales = {group: 1 / (float(np.std(rewards)) + 1e-6) if divide_by_std else 1.0 for group, rewards in groups.items()}
    baselines = _others(trajectories, returns) if leave_one_out else [means[t.group] for t in trajectories]
    return [
        t.mask * np.float32((amount - baseline) * scales[t.group])
        for t, amount, baseline in zip(trajectories, returns, baselines, strict=True)
    ]


def gae(
    trajectories: Sequence[Trajectory],
    *,
    gamma: float = 1.0,
    lam: Lambda = 0.95,
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


def blend(
    trajectories: Sequence[Trajectory],
    trusted: Mapping[str, float],
    *,
    gamma: float = 1.0,
    lam: Lambda = 0.95,
    unit: Unit = "token",
    bootstrap_truncated: bool = True,
) -> list[FloatArray]:
    """w A_gae + (1 - w) A_group: V as far as it is trusted at the trajectory's job, else the others of the group.

    A_group is the return (discounted, with V at the end of what was cut, as for GAE) less the mean of the others, see
    :func:`group_advantages`. 2604.19485 switches from V to the batch's mean where V's explained variance is not above
    0; w does so by degrees. What an episode is compared with does not depend on its own actions in either part, so
    the gradient stays unbiased if w does not, either: take it from earlier steps.

    Args:
        trusted: w by job, as :func:`trust` gives it; 0 where a job is missing.
    """
    ours = gae(trajectories, gamma=gamma, lam=lam, unit=unit, bootstrap_truncated=bootstrap_truncated)
    returns = [float(_returns(t, gamma, unit, bootstrap_truncated)[:1].sum()) for t in trajectories]
    blended: list[FloatArray] = []
    for t, advantages, amount, baseline in zip(
        trajectories, ours, returns, _others(trajectories, returns), strict=True
    ):
        theirs = (t.mask * (amount - baseline)).astype(np.float32)
        w = np.float32(trusted.get(t.task.job, 0.0))
        if w and np.isfinite(advantages).all():  # a V that has diverged must not take the policy along
            theirs = (w * advantages + (1 - w) * theirs).astype(np.float32)
        blended.append(theirs)
    return blended


def foresight(
    trajectories: Sequence[Trajectory], *, gamma: float = 1.0, unit: Unit = "token", bootstrap_truncated: bool = True
) -> tuple[float, float] | None:
    """How much V says of these episodes beyond how hard their tasks are, and how much of that came true.

    Over all decisions of a group, which count alike as in the policy's loss, `said` is the variance of V and `true` its
    covariance with G, the return still to come, both as shares of the variance of G. true / said is the slope of
    returns on V: 1 for a V that is right on average, and the weight of V that explains most. 2 true - said is V's
    explained variance within groups.

    Episodes that are alone in their groups are one group of their job. Those whose return ends in V are left out, for
    there V would be its own witness.

    Returns:
        (said, true); None where all episodes of each group ended alike.
    """
    judged = [t for t in trajectories if not _ends_in_value(t, bootstrap_truncated)]
    sizes = Counter(t.group for t in judged)
    groups: dict[tuple[str, str], list[npt.NDArray[np.float64]]] = {}
    for t in judged:
        group = ("group", t.group) if sizes[t.group] > 1 else ("job", t.task.job)
        returns, values = _returns(t, gamma, unit, bootstrap_truncated), t.values[decisions(t, unit) - 1]
        groups.setdefault(group, []).append(np.stack([returns, values]).astype(float))
    pairs = [np.concatenate(parts, 1) for parts in groups.values()]
    apart = [pair - pair.mean(1, keepdims=True) for pair in pairs]
    spread, true, said = (float(sum((x[i] * x[j]).sum() for x in apart)) for i, j in ((0, 0), (0, 1), (1, 1)))
    return (said / spread, true / spread) if spread else None


def trust(history: Sequence[tuple[float, float]]) -> float:
    """How far to trust V, in [0, 1], by its :func:`foresight` in the last :data:`RECENT` steps; 0 before any.

    Sum of `true` / (sum of `said` + :data:`LITTLE` for each). The steps must be *before* the one whose advantages are
    weighed: measured on the same episodes, the weight would depend on their own actions and so bias the gradient.
    """
    recent = history[-RECENT:]
    said, true = (sum(step[place] for step in recent) for place in (0, 1))
    weight = true / (said + LITTLE * len(recent)) if recent else 0.0
    return min(max(weight, 0.0), 1.0) if np.isfinite(weight) else 0.0


def _gae(
    t: Trajectory, gamma: float, lam: Lambda, unit: Unit, bootstrap_truncated: bool
) -> tuple[FloatArray, FloatArray, float]:
    """Advantages [K] and state values [K] of the decisions, and the value of where the episode ended."""
    rewards, final = _rewards(t, gamma, unit, bootstrap_truncated)
    values = t.values[decisions(t, unit) - 1]
    following = np.append(values[1:], np.float32(final)).astype(np.float32)
    errors = (rewards + gamma * following - values).astype(np.float32)
    if lam == "length":
        lam = max(1 - 1 / (REACH * max(len(errors), 1)), 0.0)
    return _discounted(errors, 0.0, gamma * lam), values, final


def _rewards(t: Trajectory, gamma: float, unit: Unit, bootstrap_truncated: bool) -> tuple[FloatArray, float]:
    """What each decision earned [K], and the value of where the episode ended."""
    starts = decisions(t, unit)
    rewards = np.zeros(len(starts), np.float32)
    for turn in t.turns:
        last = np.searchsorted(starts, turn.stop) - 1
        if last >= 0:
            rewards[last] += turn.reward
    if not (_ends_in_value(t, bootstrap_truncated) and gamma and len(rewards)):
        return rewards, 0.0
    if t.turns[-1].stop < len(t):  # what came back was read: V is of the next decision
        return rewards, float(t.values[-1])
    # V after a last reply is r + gamma V': it still expects the last reward, which is known by now
    return rewards, float(t.values[-1] - rewards[-1]) / gamma


def _returns(t: Trajectory, gamma: float, unit: Unit, bootstrap_truncated: bool) -> FloatArray:
    """The return still to come at each decision: [K]."""
    rewards, final = _rewards(t, gamma, unit, bootstrap_truncated)
    return _discounted(rewards, final, gamma)


def _discounted(amounts: FloatArray, last: float, factor: float) -> FloatArray:
    """From each place on, the sum of what comes, each further step times `factor`: [K]. After the end comes `last`."""
    sums = np.zeros(len(amounts), np.float32)
    running = last
    for k in range(len(amounts) - 1, -1, -1):
        running = float(amounts[k]) + factor * running
        sums[k] = running
    return sums


def _ends_in_value(t: Trajectory, bootstrap_truncated: bool) -> bool:
    """Whether an episode's return goes on in V where the episode ends."""
    ending = t.outcome.ending
    return ending is Ending.STOPPED or (bootstrap_truncated and ending is Ending.TRUNCATED)


def _others(trajectories: Sequence[Trajectory], returns: Sequence[float]) -> list[float]:
    """For each trajectory the mean return of the others of its group; of its job, where it is alone in its group."""
    counts: dict[tuple[str, str], int] = {}
    sums: dict[tuple[str, str], float] = {}
    pools = [(("group", t.group), ("job", t.task.job)) for t in trajectories]
    for own, amount in zip(pools, returns, strict=True):
        for pool in own:
            counts[pool] = counts.get(pool, 0) + 1
            sums[pool] = sums.get(pool, 0.0) + amount
    means: list[float] = []
    for (group, job), amount in zip(pools, returns, strict=True):
        pool = group if counts[group] > 1 else job
        others = counts[pool] - 1
        # alone in both it is compared with itself: nothing can be said of it
        means.append((sums[pool] - amount) / others if others else amount)
    return means


def _spread(t: Trajectory, advantages: FloatArray, unit: Unit) -> FloatArray:
    """Give each sampled token its decision's advantage: float32 [T]."""
    out = np.zeros(len(t), np.float32)
    if len(advantages):
        owner = np.searchsorted(decisions(t, unit), np.arange(len(t)), side="right") - 1
        out = np.where(t.mask, advantages[np.maximum(owner, 0)], 0.0).astype(np.float32)
    return out


Rule = Callable[[Sequence[Trajectory], CreditConfig, Mapping[str, float]], list[FloatArray]]

RULES: dict[str, Rule] = {
    "gae": lambda ts, c, _: gae(
        ts, gamma=c.gamma, lam=c.lambda_policy, unit=c.unit, bootstrap_truncated=c.bootstrap_truncated
    ),
    "blend": lambda ts, c, trusted: blend(
        ts, trusted, gamma=c.gamma, lam=c.lambda_policy, unit=c.unit, bootstrap_truncated=c.bootstrap_truncated
    ),
    "grpo": lambda ts, c, _: group_advantages(ts, divide_by_std=c.divide_by_std),
    "rloo": lambda ts, c, _: group_advantages(ts, leave_one_out=True),
}
"""Credit rules by name. Those that need no value function are in :data:`CRITIC_FREE`."""

CRITIC_FREE = frozenset({"grpo", "rloo"})


def assign(
    trajectories: Sequence[Trajectory], config: CreditConfig, trusted: Mapping[str, float] | None = None
) -> list[FloatArray]:
    """Advantages by the configured rule: one float32 [T] per trajectory.

    Args:
        trusted: how far V is trusted at each job, for the rule `blend`.
    """
    return RULES[config.rule](trajectories, config, trusted or {})
