"""Other ways to ask the same: rewordings that leave a task's meaning alone, and attacks on the rules.

A rewording changes how the last message of the task's opening is put, never what it asks for: the grader stays right.
A job that knows better ones (synonyms, other formats of its data) gives them to the search in place of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from journeyman.types import Message, Task

Rewording = Callable[[str, np.random.Generator], str]
"""A text put otherwise; draws come from the generator alone."""


def _typo(text: str, rng: np.random.Generator) -> str:
    """Two neighbouring letters of one long word, neither first nor last, change places."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not long:
        return text
    at = int(rng.choice(long))
    word = words[at]
    i = int(rng.integers(1, len(word) - 2))
    words[at] = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return " ".join(words)


REWORDINGS: tuple[Rewording, ...] = (
    lambda text, _: f"please {text}",
    lambda text, _: f"{text} please",
    lambda text, _: f"{text}.",
    lambda text, _: f" {text}",
    lambda text, _: f"{text}\n",
    lambda text, _: text[:1].upper() + text[1:],
    lambda text, _: f'"{text}"',
    lambda text, _: f"now: {text}",
    _typo,
)


def reworded(task: Task, attempt: int, rewordings: Sequence[Rewording] = REWORDINGS) -> Task:
    """The task put otherwise: the `attempt`-th way, from a place in the list that differs by task."""
    rng = np.random.default_rng((task.index, attempt))
    start = int(np.random.default_rng(task.index).integers(len(rewordings)))
    change = rewordings[(start + attempt) % len(rewordings)]
    return with_opening(task, lambda text: change(text, rng))


def with_opening(task: Task, change: Callable[[str], str]) -> Task:
    """The task with its last message changed; how it is graded stays as it is."""
    last = task.messages[-1]
    return replace(task, messages=(*task.messages[:-1], Message(last.role, change(last.content))))
