"""validate: each way to break the contract is found, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs import builtin, resolve
from journeyman.jobs.base import Env, Job
from journeyman.jobs.validate import MOST, validate
from journeyman.types import Message, StepResult, Task

OTHER_SCANS = [f"scan,split={split}" for split in ("length", "addprim_jump", "addprim_turn_left")]


class Say(Env):
    """One word to be said, in one turn or after some."""

    def __init__(self, word: str, turns: int = 1) -> None:
        self.word, self.turns = word, turns

    def step(self, reply: str) -> StepResult:
        self.turns -= 1
        return StepResult("go on", float(reply == self.word and not self.turns), terminated=not self.turns)

    def expert(self) -> str | None:
        return self.word


class Sound(Job):
    """A job that keeps the contract; the others below break it in one way each."""

    name = "sound"
    splits: ClassVar = {"train": 30, "test": 10}
    max_turns = 2

    def task(self, split: str, index: int) -> Task:
        word = f"{split} {index}"
        return Task(self.name, split, index, (Message("user", f"say {word}"),), {"word": word})

    def env(self, task: Task) -> Env:
        return Say(task.data["word"], turns=2)


def test_a_sound_job_passes() -> None:
    found = validate(Sound(), per_split=20)
    assert found.passed, found
    assert [(s.split, s.tasks, s.expert_success) for s in found.splits] == [("train", 20, 1.0), ("test", 10, 1.0)]


@dataclass
class Stepping(Env):
    """Steps as it is told to; without an expert unless one is given."""

    answer: Callable[[str], Any]
    said: str | None = None

    def step(self, reply: str) -> StepResult:
        return self.answer(reply)

    def expert(self) -> str | None:
        return self.said


def fail(reply: str) -> StepResult:
    raise RuntimeError("out of order")


def pay(reply: str) -> StepResult:
    return StepResult(reward=1.0, terminated=True)


class Restless(Sound):
    count = 0

    def task(self, split: str, index: int) -> Task:
        self.count += 1
        return replace(super().task(split, index), data={"word": f"{self.count}"})


class Leaking(Sound):
    def task(self, split: str, index: int) -> Task:
        return replace(super().task("train", index), split=split)


class Elsewhere(Sound):
    def task(self, split: str, index: int) -> Task:
        return replace(super().task(split, index), job="another")


class Unwritable(Sound):
    def task(self, split: str, index: int) -> Task:
        return replace(super().task(split, index), data={"word": "a", "kind": object})


class Tupled(Sound):
    def task(self, split: str, index: int) -> Task:
        task = super().task(split, index)
        return replace(task, data={**task.data, "pair": (1, 2)})


class Mute(Sound):
    def task(self, split: str, index: int) -> Task:
        return replace(super().task(split, index), messages=(Message("user", " \n"),))


class Finished(Sound):
    def task(self, split: str, index: int) -> Task:
        task = super().task(split, index)
        return replace(task, messages=(*task.messages, Message("assistant", "done")))


class Unbuildable(Sound):
    def task(self, split: str, index: int) -> Task:
        if split == "test" and index:
            raise KeyError("lost")
        return super().task(split, index)


class Slow(Sound):
    def env(self, task: Task) -> Env:
        return Say(task.data["word"], turns=3)


class Nameless(Sound):
    name = ""


class Unpicklable(Sound):
    def __init__(self) -> None:
        self.grade = lambda reply: reply  # type: ignore[misc]


class Forgetful(Sound):
    """Its copy has lost what its tasks follow from."""

    word = ""

    def __init__(self) -> None:
        self.word = "kept"

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def task(self, split: str, index: int) -> Task:
        return replace(super().task(split, index), messages=(Message("user", f"say {self.word}."),))


class Playing(Sound):
    def __init__(self, answer: Callable[[str], Any], said: str | None = None) -> None:
        self.answer, self.said = answer, said

    def env(self, task: Task) -> Env:
        return Stepping(self.answer, self.said)


def nan(reply: str) -> StepResult:
    return StepResult(reward=float("nan"), terminated=True)


def text(reply: str) -> Any:
    return StepResult(reward="1", terminated=True)  # type: ignore[arg-type]


def nothing(reply: str) -> Any:
    return 1.0


def picky(reply: str) -> StepResult:
    return StepResult(terminated=True) if not reply else fail(reply)


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (Restless(), "differs when built again: tasks 0, 1, 2, 3, 4 and 25 more"),
        (Leaking(), "is a training task, too"),
        (Elsewhere(), "is another than the one asked for"),
        (Unwritable(), "its data is not JSON"),
        (Tupled(), "not the same after a way through JSON"),
        (Mute(), "opens with an empty message"),
        (Finished(), "opens with nothing to reply to"),
        (Unbuildable(), "building it raises KeyError: 'lost': tasks 1, 2"),
        (Slow(), "the expert fails 30 of 30 tasks"),
        (Nameless(), "the job has no name"),
        (Unpicklable(), "the job cannot be pickled"),
        (Forgetful(), "a pickled copy gives other tasks"),
        (Playing(fail), "an empty reply raises RuntimeError: out of order"),
        (Playing(pay), "an empty reply earns 1"),
        (Playing(nan), "the reward is nan"),
        (Playing(text), "the reward is '1'"),
        (Playing(nothing), "step() answers float, not StepResult"),
        (Playing(picky, "word"), "playing its expert raises RuntimeError: out of order"),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, Job) else "",
)
def test_what_is_broken_is_named(job: Job, why: str) -> None:
    found = validate(job)
    assert not found.passed
    assert any(why in problem for split in found.splits for problem in split.problems), found


def test_a_job_without_an_expert_passes() -> None:
    found = validate(Playing(picky))
    assert found.passed and [split.expert_success for split in found.splits] == [None, None], found


def test_a_problem_names_some_tasks_and_counts_the_rest() -> None:
    (split,) = validate(Leaking(), splits=["test"]).splits
    problem = next(p for p in split.problems if "training" in p)
    assert problem == f"is a training task, too: tasks 0, 1, 2, 3, 4 and {10 - MOST} more"


def test_tasks_are_taken_from_all_over_the_split() -> None:
    seen: set[int] = set()

    class Watched(Sound):
        splits: ClassVar = {"train": 1000, "test": 10}

        def task(self, split: str, index: int) -> Task:
            if split == "train":
                seen.add(index)
            return super().task(split, index)

    validate(Watched(), per_split=10, splits=["train"])
    assert sorted(seen) == list(range(0, 1000, 100))


def test_mistakes() -> None:
    with pytest.raises(UnknownName, match="did you mean test"):
        validate(Sound(), splits=["tests"])
    with pytest.raises(UsageError, match="1 or more"):
        validate(Sound(), per_split=0)


@pytest.mark.parametrize(
    "spec",
    [
        "countdown",
        "countdown,numbers=2",
        "countdown,numbers=6,largest_target=50",
        "hops",
        "hops,max_hops=1",
        "hops,min_hops=2,max_hops=8",
        "maze",
        "maze,size=4,seed=1",
        "maze,size=10,max_turns=100",
        "scan",
        *OTHER_SCANS,
    ],
)
def test_jobs_that_come_with_us_keep_the_contract_and_their_names(spec: str) -> None:
    job = resolve(spec)
    assert job.name == spec
    found = validate(job, per_split=100)
    assert found.passed, found


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*builtin(), "hops,min_hops=2", "maze,size=4", "reasoning_gym:chain_sum", *OTHER_SCANS]
)
def test_every_job_that_comes_with_us_holds_its_contract_on_a_thousand_tasks_of_each_split(name: str) -> None:
    checked = validate(resolve(name), 1000)
    assert checked.passed, [split.problems for split in checked.splits]
    sizes = resolve(name).splits
    assert {split.split: split.tasks for split in checked.splits} == {s: min(1000, sizes[s]) for s in sizes}
    assert all(split.expert_success == 1 for split in checked.splits)
