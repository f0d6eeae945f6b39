"""Hops whose tool takes its time: what attempts cost where playing them is not next to free."""

from __future__ import annotations

import time

from journeyman import Env, StepResult, Task
from journeyman.jobs.hops import Hops


class WaitingHops(Hops):
    """The questions of `hops`; every call of the tool takes a while.

    Args:
        seconds: that a call takes.
        min_hops, max_hops: as for `hops`.
    """

    def __init__(self, seconds: float = 0.01, min_hops: int = 1, max_hops: int = 3) -> None:
        super().__init__(min_hops, max_hops)
        self.seconds = seconds

    def env(self, task: Task) -> Env:
        return Waiting(super().env(task), self.seconds)


class Waiting(Env):
    """An environment that answers later."""

    def __init__(self, env: Env, seconds: float) -> None:
        self.env, self.seconds = env, seconds

    def step(self, reply: str) -> StepResult:
        time.sleep(self.seconds)
        return self.env.step(reply)
