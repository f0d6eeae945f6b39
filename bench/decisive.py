"""Jobs whose decisive turn is known: what credit ought to find. For bench/credit_share.py, and to be learned.

    user       turn 1 shut
    assistant  b
    tool       turn 2 red shut
    ...

Every turn offers the same choices. At one turn, always the same, one choice opens a door: all episodes that take it
succeed, and of the others a share, by luck that follows from the task and the replies. All other turns are distractors:
what is said there changes the colour shown next, and nothing else. That the door is open can be seen, what it is good
for only at the end.
"""

from __future__ import annotations

import zlib

import numpy as np

from journeyman import Env, Job, Message, StepResult, Task

CHOICES = ("a", "b", "c")
RIGHT = "b"
STOP = "stop"
COLOURS = ("red", "green", "blue")


class Chain(Job):
    """A fixed number of turns.

    Args:
        turns: of an episode.
        decisive: the turn that decides, from 1.
        luck: share of the others that succeed all the same.
    """

    about = "one known turn decides, seen only at the end"
    max_reply_tokens = 4
    may_stop = False

    def __init__(self, turns: int = 8, decisive: int = 4, luck: float = 0.3) -> None:
        self.name = f"bench/decisive.py:{type(self).__name__}"
        self.max_turns, self.decisive, self.luck = turns, decisive, luck
        self.splits = {"train": 100_000, "test": 10_000}

    def task(self, split: str, index: int) -> Task:
        return Task(self.name, split, index, (Message("user", "turn 1 shut"),))

    def env(self, task: Task) -> Env:
        return Walk(self, f"{task.split}/{task.index}")


class Quit(Chain):
    """The policy may also stop at any turn: before the decisive one, it gives up; after it, nothing is lost."""

    may_stop = True


class Walk(Env):
    """One episode."""

    def __init__(self, job: Chain, key: str) -> None:
        self.job, self.key = job, key
        self.turn, self.opened = 0, False

    def step(self, reply: str) -> StepResult:
        self.turn += 1
        self.key += f",{reply}"
        rng = np.random.default_rng(zlib.crc32(self.key.encode()))
        lucky, colour = rng.random() < self.job.luck, COLOURS[int(rng.integers(len(COLOURS)))]
        self.opened |= self.turn == self.job.decisive and reply == RIGHT
        if self.turn == self.job.max_turns or (self.job.may_stop and reply == STOP):
            return StepResult("end", reward=float(self.opened or lucky), terminated=True)
        return StepResult(f"turn {self.turn + 1} {colour} {'open' if self.opened else 'shut'}")

    def expert(self) -> str:
        return RIGHT
