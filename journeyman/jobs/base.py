"""What a job is: tasks by (split, index), and an environment that plays and grades one of them.

A simple job takes two methods and under a hundred lines; see `journeyman new my_job.py`.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np

from journeyman.types import StepResult, Task


class Env(ABC):
    """One attempt at one task. Single-use: made by :meth:`Job.env`, stepped until it ends, dropped.

    It follows from the task and the replies alone: the same replies get the same answers. Where environments run in
    processes of their own, one whose process is lost is rebuilt by playing its replies again.
    """

    @abstractmethod
    def step(self, reply: str) -> StepResult:
        """Answer the policy's reply. Never called again after `terminated` or `truncated`."""

    def expert(self) -> str | None:
        """The reply an expert would give now, or None where no expert is known.

        Used to validate the job (experts must earn 1), for demonstrations, and as a scripted teacher.
        """
        return None


class Job(ABC):
    """A family of tasks with a grader. Picklable; everything follows from its constructor's arguments.

    Attributes:
        name: the specification that rebuilds it: `resolve(job.name)` equals the job.
        splits: number of distinct tasks of each split. `train` is the one learned from; `test` is held
            out from the same distribution; the others ask for generalization in a way their name says.
        about: one line for `journeyman jobs`.
        max_turns: replies after which an episode is truncated.
        max_reply_tokens: tokens after which a reply is cut.
    """

    name: str
    about: str = ""
    splits: Mapping[str, int]
    max_turns: int = 1
    max_reply_tokens: int = 64

    @abstractmethod
    def task(self, split: str, index: int) -> Task:
        """The task at `index` (0 <= index < splits[split]): the same one, always, on every machine."""

    @abstractmethod
    def env(self, task: Task) -> Env:
        """A fresh environment for the task."""

    def rng(self, *key: str | int) -> np.random.Generator:
        """A generator that depends on the job's name and the key alone: never on global state."""
        return np.random.default_rng(zlib.crc32(repr((self.name, *key)).encode()))

    def tasks(self, split: str, limit: int | None = None) -> Iterator[Task]:
        """The first `limit` tasks of a split, in order."""
        size = self.splits[split]
        for index in range(size if limit is None else min(limit, size)):
            yield self.task(split, index)
