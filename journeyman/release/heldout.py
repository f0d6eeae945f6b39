"""Held-out tasks that do not wear out: a fresh part for every candidate, and none that the traffic has brought.

A held-out task that chose a release once is held out no longer: whoever picks the best of many on the same tasks picks
their noise, too. So a candidate's tasks are its own stretch of one fixed shuffle of the split. Where the split is used
up, that is said, not hidden.

Traffic is learned from. A held-out task whose opening came in (the same words, or most of its runs of N words) is left
out. Words count, not spaces or case (the n-gram rule is that of GPT-3's appendix C, 2005.14165).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from journeyman.errors import UsageError
from journeyman.experience.records import EpisodeFilter
from journeyman.experience.store import Store
from journeyman.jobs.base import Job
from journeyman.types import Task

N = 8
"""Words of a run that counts as one."""
MOST = 0.5
"""Share of a task's runs that may be known."""


class WornOut(UsageError):
    """Nothing of a split is left that has not chosen a version before."""


def part(job: Job, split: str, number: int, size: int, parts: int) -> list[Task]:
    """The tasks of a candidate's part of a split.

    Args:
        number: of the part: candidates examined before this one.
        size: tasks of each part.
        parts: into how many the split is cut, so that parts of all sizes asked for stay apart.

    Raises:
        WornOut: there is no such part: all were used, or they are smaller than asked for.
    """
    total = job.splits[split]
    room = total // parts
    if number >= parts or size > room:
        raise WornOut(
            f"{job.name}: the split {split} has {parts} parts of {room} tasks, asked for {size} of part {number + 1}",
            reason="tasks that chose one version are no evidence for the next",
            fix="give the job more held-out tasks, or examine with fewer",
        )
    order = job.rng("held out", split).permutation(total)
    return [job.task(split, int(index)) for index in order[number * room : number * room + size]]


@dataclass
class Seen:
    """What came in, as hashes: whole texts, and runs of N words."""

    texts: set[int] = field(default_factory=set[int])
    runs: set[int] = field(default_factory=set[int])

    def add(self, text: str) -> None:
        """Remember a text."""
        words = _words(text)
        self.texts.add(hash(words))
        self.runs.update(_runs(words))

    def knows(self, text: str) -> bool:
        """Whether it came in as it is, or most of it did."""
        words = _words(text)
        if hash(words) in self.texts:
            return True
        runs = _runs(words)
        return bool(runs) and float(np.mean([run in self.runs for run in runs])) > MOST

    @staticmethod
    def traffic(store: Store) -> Seen:
        """What users and tools said in all episodes that were served."""
        seen = Seen()
        for episode in store.every(EpisodeFilter(origin="served")):
            for turn in episode.turns:
                for message in turn.messages:
                    if message.get("role") != "assistant" and isinstance(message.get("content"), str):
                        seen.add(message["content"])
        return seen


def untouched(tasks: Iterable[Task], seen: Seen) -> tuple[list[Task], list[Task]]:
    """The tasks whose openings nobody brought, and the others."""
    clean: list[Task] = []
    known: list[Task] = []
    for task in tasks:
        opening = "\n".join(message.content for message in task.messages if message.role != "system")
        (known if seen.knows(opening) else clean).append(task)
    return clean, known


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+|[^\w\s]", text.lower()))


def _runs(words: Sequence[str]) -> list[int]:
    return [hash(tuple(words[i : i + N])) for i in range(len(words) - N + 1)]
