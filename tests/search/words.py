"""A job of few words, an engine that says what a test wants, and a V that is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from journeyman.engine.fake import ScriptedEngine
from journeyman.jobs.base import Env, Job
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.rollout.environments import Inline
from journeyman.rollout.runner import Attempt, attempts
from journeyman.search.runner import Found, search
from journeyman.search.strategies import SearchConfig
from journeyman.types import Ending, Message, StepResult, Task, Trajectory

RENDERER = Renderer(load("apprentice").tokenizer)
WORDS = ("north", "east", "south", "west")
IDS = {word: RENDERER.reply_ids(word) for word in WORDS}
OPENING = (Message("user", "A1 to B1"),)
PROMPT = len(RENDERER.open(OPENING))
SAID = 2
"""Tokens of a reply: a word and its end."""
HEARD = len(RENDERER.observe("C1", "user", ended=True))
"""Tokens of an observation."""


def whole(turns: int) -> int:
    """Tokens of an attempt of so many turns: what is answered to its last reply is not read."""
    return PROMPT + turns * SAID + (turns - 1) * HEARD


class Words(Job):
    """So many turns of one word each; the reward for "east" every time comes at the end.

    Where `fickle`, an environment that is built for a second time answers otherwise.
    """

    name, max_reply_tokens = "words", SAID
    splits = {"test": 20}  # noqa: RUF012

    def __init__(self, turns: int = 3, *, fickle: bool = False) -> None:
        self.max_turns, self.fickle, self.built = turns, fickle, 0

    def task(self, split: str, index: int) -> Task:
        return Task(self.name, split, index, OPENING)

    def env(self, task: Task) -> Env:
        self.built += 1
        return WordsEnv(self.max_turns, "D" if self.fickle and self.built > 1 else "C")


class WordsEnv(Env):
    def __init__(self, turns: int, tells: str) -> None:
        self.turns, self.tells, self.replies = turns, tells, list[str]()

    def step(self, reply: str) -> StepResult:
        self.replies.append(reply)
        over = len(self.replies) == self.turns
        reward = float(over and set(self.replies) == {"east"})
        return StepResult("over" if over else f"{self.tells}1", reward, terminated=over, role="user")


class Speaker(ScriptedEngine):
    """Says these words, one per reply, in the order in which replies are asked for."""

    def __init__(self, words: str, slots: int = 64) -> None:
        self.left: list[str] = words.split()
        self.asked: list[list[int]] = []
        """What had been read each time."""
        self.open_now: set[int] = set()
        super().__init__(self._say, slots=slots)

    def _say(self, read: list[int]) -> Sequence[int]:
        self.asked.append(read)
        return IDS[self.left.pop(0)]

    def open(self, seed: int) -> int:
        sequence = super().open(seed)
        self.open_now.add(sequence)
        assert len(self.open_now) <= self.slots
        return sequence

    def close(self, sequence: int) -> None:
        super().close(sequence)
        self.open_now.remove(sequence)


Known = Callable[[tuple[str, ...]], float]
"""V by the replies so far."""


def table(values: Mapping[str, float]) -> Known:
    """V by the initials of the replies: {"": 0.5, "e": 0.7, "ew": 0.2}."""
    return lambda replies: values["".join(reply[0] for reply in replies)]


def scorer(known: Known) -> Callable[[Sequence[Trajectory]], list[Trajectory]]:
    """Writes the V that is known along trajectories, and sees to it that nothing else is known of them."""

    def value(t: Trajectory) -> Trajectory:
        assert t.outcome.reward == 0 and t.outcome.ending is Ending.TRUNCATED, "a strategy may not know the outcome"
        assert all(turn.reward == 0 and turn.observation != "over" for turn in t.turns), "nor be told at the end"
        values = np.full(len(t), known(()), np.float32)
        for number, turn in enumerate(t.turns):
            values[turn.stop - 1 :] = known(tuple(one.reply for one in t.turns[: number + 1]))
        return replace(t, values=values)

    return lambda ts: [value(t) for t in ts]


def orders(job: Job, tasks: Iterable[int] = (0,), seed: int = 0) -> list[Attempt]:
    return attempts([job.task("test", index) for index in tasks], repeats=1, prefix="s", seed=seed)


def find(
    config: SearchConfig, words: str, known: Known, job: Words | None = None, plain: float = 0
) -> tuple[Found, Speaker]:
    """One task's search, all of whose words are said; that nothing is held any more when it is over."""
    job, engine = job or Words(), Speaker(words)
    home = Inline(10.0)
    (found,) = search(
        engine,
        RENDERER,
        scorer(known),
        {job.name: job},
        orders(job),
        config,
        plain=plain or whole(job.max_turns),
        environments=home,
    )
    assert not engine.left, f"not asked for: {engine.left}"
    assert not engine.open_now and not home._envs, "something is still held"  # pyright: ignore[reportPrivateUsage]
    return found, engine


def said(found: Found) -> str:
    """The initials of the answer's replies."""
    return "".join(turn.reply[0] for turn in found.trajectory.turns)
