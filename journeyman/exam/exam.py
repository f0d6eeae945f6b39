"""Exams: how well the present policy does a job's splits, with clustered intervals, and how well V knew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from journeyman.engine.base import Engine
from journeyman.errors import UnknownName, UsageError
from journeyman.exam.calibration import ValueReport, early_knowledge
from journeyman.exam.stats import mean_interval
from journeyman.jobs.base import Job
from journeyman.model.render import Renderer
from journeyman.rollout.environments import Environments
from journeyman.rollout.oversight import Score
from journeyman.rollout.player import is_trail
from journeyman.rollout.runner import Attempt, RolloutConfig, attempts, rollout
from journeyman.search.runner import Found, search
from journeyman.search.strategies import SearchConfig
from journeyman.types import Trajectory

Play = Callable[[Sequence[Attempt], RolloutConfig], Iterator[Trajectory]]
"""Makes attempts."""


@dataclass(frozen=True)
class ExamConfig:
    """How much is asked."""

    tasks: int = 200
    """Tasks of each split (fewer where the split is smaller)."""
    attempts: int = 1
    """Episodes of each task; intervals are clustered by task."""
    splits: tuple[str, ...] = ()
    """Which splits; none named: every one but `train` and `valid`."""
    temperature: float = 1.0
    """Sampling temperature; 1 examines the policy that learned, 0 its most likely replies."""

    def __post_init__(self) -> None:
        if self.tasks < 1 or self.attempts < 1:
            raise UsageError(f"exam: tasks and attempts must be at least 1, got {self.tasks} and {self.attempts}")


@dataclass(frozen=True)
class ExamResult:
    """One split's result. `low` and `high` bound the success rate's 95% interval, clustered by task.

    `tokens` were read and sampled for all answers; by search (`think` above 1), the attempts that were not chosen
    count, too, and `value_tokens` were read by V to choose.
    """

    step: int
    job: str
    split: str
    tasks: int
    episodes: int
    success: float
    low: float
    high: float
    reward: float
    failed: int
    tokens: int
    seconds: float
    value: ValueReport | None
    think: int = 1
    strategy: str | None = None
    value_tokens: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine(
    engine: Engine,
    renderer: Renderer,
    score: Score,
    jobs: Mapping[str, Job],
    config: ExamConfig,
    *,
    step: int,
    rollouts: RolloutConfig | None = None,
    environments: Environments | None = None,
    thinking: SearchConfig | None = None,
    play: Play | None = None,
) -> tuple[list[ExamResult], list[Trajectory]]:
    """Examine every job on every split asked for. The same tasks each time, so that results pair.

    Args:
        score: writes the value function's estimates along the episodes.
        environments: where environments run, as :func:`rollout` has it.
        thinking: how answers are searched for; when not given, or with `think` 1, each is a plain attempt.
        play: who makes the attempts; when not given, :func:`rollout` does.

    Returns:
        A result per job and split, and all episodes, scored by the value function.

    Raises:
        UnknownName: a split is asked for that the job does not have.
        UsageError: a search without a V that its strategy needs, or at temperature 0.
    """
    played_as = replace(rollouts or RolloutConfig(), temperature=config.temperature, top_p=1.0)
    thinking = thinking or SearchConfig()
    if thinking.think > 1 and not config.temperature:
        raise UsageError(
            "exam: at temperature 0 there is nothing to search among",
            reason="every attempt at a task is the same",
            fix="leave out --temperature, or --think",
        )
    results: list[ExamResult] = []
    episodes: list[Trajectory] = []
    for name, job in jobs.items():
        for split in splits_of(job, config.splits):
            started = time.monotonic()
            orders = attempts(
                list(job.tasks(split, config.tasks)),
                repeats=config.attempts,
                prefix=f"exam-{step:06d}-{name}-{split}",
                seed=0,
            )
            made = play(orders, played_as) if play else rollout(engine, renderer, jobs, orders, played_as, environments)
            found = _plain(made)
            if thinking.think > 1:
                plain = sum(one.tokens for one in found) / len(found)
                found = search(engine, renderer, score, jobs, orders, thinking, plain, played_as, environments)
            played = score([one.trajectory for one in found])
            episodes += played
            whole = [t for t in played if not is_trail(t)]
            results.append(_result(step, name, split, thinking, found, whole, time.monotonic() - started))
    return results, episodes


def _plain(played: Iterable[Trajectory]) -> list[Found]:
    """Plain attempts in the order of their ids, each an answer."""
    return [Found(t, len(t), 0) for t in sorted(played, key=lambda t: t.id)]


def splits_of(job: Job, wanted: Sequence[str]) -> list[str]:
    """The splits to examine.

    Raises:
        UnknownName: a split is asked for that the job does not have.
    """
    for split in wanted:
        if split not in job.splits:
            raise UnknownName(f"split of {job.name}", split, job.splits)
    return list(wanted) or [split for split in job.splits if split not in ("train", "valid")]


def _result(
    step: int,
    job: str,
    split: str,
    thinking: SearchConfig,
    found: Sequence[Found],
    played: Sequence[Trajectory],
    seconds: float,
) -> ExamResult:
    success = mean_interval([float(t.outcome.success) for t in played], [t.task.id for t in played])
    searched = thinking.think > 1
    return ExamResult(
        step=step,
        job=job,
        split=split,
        tasks=len({t.task.id for t in played}),
        episodes=len(played),
        success=success.mean,
        low=success.low,
        high=success.high,
        reward=sum(t.outcome.reward for t in played) / len(played),
        failed=sum(t.outcome.ending == "failed" for t in played),
        tokens=sum(one.tokens for one in found),
        seconds=seconds,
        value=None if searched else early_knowledge(played),  # V is no witness of answers that it chose
        think=thinking.think,
        strategy=thinking.strategy if searched else None,
        value_tokens=sum(one.value_tokens for one in found),
    )
