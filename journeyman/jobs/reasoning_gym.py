"""Any data set of reasoning-gym (2505.24760) as a job, graded by its own `score_answer`.

    reasoning_gym:spell_backward            reasoning_gym:spell_backward,max_word_len=6

Tasks are drawn by seeds that count up from the split's own start, and an entry belongs to the split that a hash of
its question says: no question is both practised and examined, however small the data set's world is.
"""

from __future__ import annotations

import dataclasses
import zlib
from functools import lru_cache
from typing import Any

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs._common import check_place
from journeyman.jobs.base import Env, Job
from journeyman.types import Message, StepResult, Task

SPLITS = {"train": 10_000, "valid": 500, "test": 500}
SHARES = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}
"""Of ten parts of the questions, those that belong to each split."""
STRIDE = 1_000_000_000
"""Between the seeds at which splits start."""
MOST_TRIES = 500
EAGER = frozenset({"acre", "gsm_symbolic", "list_functions", "word_ladder"})
"""Data sets that make all their entries at once: of these, one is made per entry."""


class ReasoningGym(Job):
    """One data set.

    Args:
        dataset: its name in reasoning-gym.
        max_reply_tokens: tokens after which a reply is cut.
        options: of the data set's own configuration.

    Raises:
        UsageError: reasoning-gym is not installed, or refuses an option.
        UnknownName: there is no such data set or option.
    """

    max_turns = 1

    def __init__(self, dataset: str, max_reply_tokens: int = 64, **options: Any) -> None:
        self.dataset, self.max_reply_tokens, self.options = dataset, max_reply_tokens, options
        given = [f"{key}={value}" for key, value in options.items()]
        if max_reply_tokens != 64:
            given.append(f"max_reply_tokens={max_reply_tokens}")
        self.name = ",".join([f"reasoning_gym:{dataset}", *given])
        self.about = f"reasoning-gym's {dataset}"
        self.splits = dict(SPLITS)
        _check(dataset, options)

    def task(self, split: str, index: int) -> Task:
        check_place(self.name, self.splits, split, index)
        start = (1 + list(SPLITS).index(split)) * STRIDE + index * MOST_TRIES
        for seed in range(start, start + MOST_TRIES):
            entry = _entry(self.dataset, tuple(self.options.items()), seed)
            if zlib.crc32(entry["question"].encode()) % 10 in SHARES[split]:
                break
        else:
            raise UsageError(
                f"{self.name} has too few different questions for the split {split}",
                fix="choose options that allow more of them",
            )
        return Task(self.name, split, index, (Message("user", entry["question"]),), {"seed": seed})

    def env(self, task: Task) -> Env:
        seed = task.data["seed"]
        return ReasoningGymEnv(
            _source(self.dataset, tuple(self.options.items()), seed)[0],
            _entry(self.dataset, tuple(self.options.items()), seed),
        )


class ReasoningGymEnv(Env):
    """One question. The answer is what stands in <answer> tags, or else the whole reply, stripped."""

    def __init__(self, dataset: Any, entry: dict[str, Any]) -> None:
        self.dataset, self.entry = dataset, entry

    def step(self, reply: str) -> StepResult:
        from reasoning_gym.utils import extract_answer

        answer = extract_answer(reply) if "<answer>" in reply else reply
        try:
            reward = self._score((answer or "").strip())
        except Exception:
            # Some graders raise at what they cannot read. One that grades the known answer is not itself broken.
            if self.expert() is None:
                raise
            reward = 0.0
        return StepResult(reward=reward, terminated=True)

    def expert(self) -> str | None:
        answer = self.entry.get("answer")
        return answer if isinstance(answer, str) and self._score(answer.strip()) >= 1 else None

    def _score(self, answer: str) -> float:
        return float(self.dataset.score_answer(answer, self.entry)) if answer else 0.0


def _module() -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise UsageError(
            "reasoning-gym is not installed", reason=str(error), fix="pip install 'journeyman[jobs]'"
        ) from error
    return reasoning_gym


def _check(name: str, options: dict[str, Any]) -> None:
    from_factory: dict[str, Any] = _module().factory.DATASETS
    if name not in from_factory:
        raise UnknownName("reasoning-gym data set", name, from_factory)
    _, kind = from_factory[name]
    known = [field.name for field in dataclasses.fields(kind) if field.name not in ("seed", "size")]
    for option in options:
        if option not in known:
            raise UnknownName(f"option of {name}", option, known)
    try:
        _source(name, tuple(options.items()), 1)
    except (AssertionError, TypeError, ValueError) as error:
        raise UsageError(f"reasoning-gym refuses these options of {name}: {options}", reason=str(error)) from error


def _source(name: str, options: tuple[tuple[str, Any], ...], seed: int) -> tuple[Any, int]:
    """The data set that holds the entry of this seed, and the entry's index in it."""
    return (_dataset(name, options, seed, 1), 0) if name in EAGER else (_dataset(name, options, 0, 10 * STRIDE), seed)


@lru_cache(maxsize=256)
def _dataset(name: str, options: tuple[tuple[str, Any], ...], seed: int, size: int) -> Any:
    return _module().create_dataset(name, size=size, seed=seed, **dict(options))


@lru_cache(maxsize=65_536)
def _entry(name: str, options: tuple[tuple[str, Any], ...], seed: int) -> dict[str, Any]:
    dataset, index = _source(name, options, seed)
    return dataset[index]
