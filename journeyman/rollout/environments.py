"""Where environments run: the seam between the rollout's loop and the environments of its episodes.

The loop asks (`open`, `step`) and takes answers in as they come (`answers`); every request has one answer. `Inline` has
it ready when the request returns; `journeyman.rollout.pool.Pool` asks another process and lets the loop go on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from journeyman.jobs.base import Env, Job
from journeyman.rollout.guard import FAILURES, TimeLimitExceeded, call_within
from journeyman.types import StepResult, Task


@dataclass(frozen=True)
class Answer:
    """What came of the last request about one environment.

    Attributes:
        key: the environment, as `open` named it.
        result: its answer to a reply. None: it has opened, or failed.
        error: what broke, in words a user can act on; "" where nothing did.
    """

    key: int
    result: StepResult | None = None
    error: str = ""


Past = Sequence[tuple[str, StepResult]]
"""What an environment was told, and answered each time, before it was rebuilt."""

OTHERWISE = (
    "rebuilt, the environment answered the same replies otherwise: "
    "what a job does must follow from the task and the replies alone"
)


class Environments(ABC):
    """The contract. For one rollout at a time; used by whoever made it until they close it.

    A request must be answered before the next one about the same environment. One that failed is only forgotten.
    """

    @abstractmethod
    def open(self, job: Job, task: Task, past: Past = ()) -> int:
        """Ask for the task's environment; the key it goes by from now on.

        With a `past`, for an environment in the state that these replies lead to.
        """

    @abstractmethod
    def step(self, key: int, reply: str) -> None:
        """Hand an environment the policy's reply."""

    @abstractmethod
    def answers(self, *, wait: bool) -> list[Answer]:
        """Answers not taken in yet, in the order they came. With `wait`, at least one, which must have been asked."""

    @abstractmethod
    def forget(self, key: int) -> None:
        """Let go of an environment, whatever its state; what it was asked is not answered any more."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing running."""


class Inline(Environments):
    """Environments in this process, called one after the other.

    Args:
        seconds: limit of one call.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._envs: dict[int, Env | None] = {}
        self._answers: list[Answer] = []
        self._opened = 0

    def open(self, job: Job, task: Task, past: Past = ()) -> int:
        self._opened += 1
        key = self._opened
        self._envs[key] = None
        try:
            env = self._envs[key] = call_within(self.seconds, lambda: job.env(task))
            for reply, before in past:
                if not alike(checked(call_within(self.seconds, partial(env.step, reply))), before):
                    raise ValueError(OTHERWISE)
            self._answers.append(Answer(key))
        except FAILURES as error:
            self._answers.append(Answer(key, error=said(error)))
        return key

    def step(self, key: int, reply: str) -> None:
        env = self._envs[key]
        assert env is not None
        try:
            self._answers.append(Answer(key, checked(call_within(self.seconds, lambda: env.step(reply)))))
        except TimeLimitExceeded as error:
            self._answers.append(Answer(key, error=late(error)))
        except FAILURES as error:
            self._answers.append(Answer(key, error=said(error)))

    def answers(self, *, wait: bool) -> list[Answer]:
        answers, self._answers = self._answers, []
        return [answer for answer in answers if answer.key in self._envs]

    def forget(self, key: int) -> None:
        del self._envs[key]

    def close(self) -> None:
        self._envs.clear()


def alike(one: StepResult, other: StepResult) -> bool:
    """Whether two answers are the same. Who spoke does not count: it is not on record."""
    return one == replace(other, role=one.role)


def said(error: BaseException) -> str:
    """An error in the words that an episode keeps."""
    return f"{type(error).__name__}: {error}"


def late(error: TimeLimitExceeded) -> str:
    """The same, for a reply that was not answered in time."""
    return f"the grader gave {error}"


def checked(result: StepResult) -> StepResult:
    """The environment's answer, or an error that names what is wrong with it."""
    reward: Any = result.reward  # a user's environment may return anything
    if not isinstance(reward, int | float | np.number | np.bool_):
        raise TypeError(f"a reward must be a number, got {reward!r}")
    if not math.isfinite(result.reward):
        raise ValueError(f"a reward must be finite, got {result.reward!r}")
    return StepResult(
        str(result.observation),
        float(result.reward),
        bool(result.terminated),
        bool(result.truncated),
        result.role,
    )
