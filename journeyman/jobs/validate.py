"""Checks a job against its contract before anyone learns from it."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import cast

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs.base import Job
from journeyman.types import SUCCESS, StepResult, Task

MOST = 5
"""Tasks of one problem that are named; the rest are counted."""


@dataclass(frozen=True)
class SplitCheck:
    """What was found in one split. `expert_success` is None where the job has no expert."""

    split: str
    tasks: int
    expert_success: float | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Validation:
    """What was found in a job."""

    job: str
    splits: tuple[SplitCheck, ...]

    @property
    def passed(self) -> bool:
        return not any(split.problems for split in self.splits)


def validate(job: Job, per_split: int = 1000, splits: Sequence[str] | None = None) -> Validation:
    """Build tasks, play their experts, try a junk reply; say what breaks the contract.

    Checked of the job: it can be pickled, and its copy gives the same tasks. Checked of each task: it is the same
    when built twice, is the one asked for, is serializable, and opens with something to reply to; its expert
    earns 1 within the turns allowed; an empty reply neither raises nor earns 1; and no held-out task equals one
    of the checked training tasks. Whatever the job raises is a problem found, never raised from here.

    Args:
        per_split: tasks checked of each split, spread evenly over it.

    Raises:
        UnknownName: a split is asked for that the job does not have.
        UsageError: `per_split` is below 1.
    """
    if per_split < 1:
        raise UsageError(f"tasks checked of each split must be 1 or more, got {per_split}")
    for split in splits or ():
        if split not in job.splits:
            raise UnknownName(f"split of {_name(job)}", split, job.splits)
    general = list(_contract(job))
    trained = _training_tasks(job, per_split)
    checks: list[SplitCheck] = []
    for split in splits or job.splits:
        found = _check_split(job, split, per_split, trained)
        checks.append(SplitCheck(split, found.tasks, found.expert_success, (*general, *found.problems)))
        general = []
    return Validation(_name(job), tuple(checks))


def _contract(job: Job) -> Iterator[str]:
    if "train" not in job.splits:
        yield "there is no split `train`"
    if not _name(job):
        yield "the job has no name; `resolve('file.py:Class')` gives it one"
    try:
        copy = pickle.loads(pickle.dumps(job))
        for split in job.splits:
            if copy.task(split, 0) != job.task(split, 0):
                yield f"a pickled copy gives other tasks of {split}"
    except Exception as error:
        yield f"the job cannot be pickled ({_said(error)})"


def _training_tasks(job: Job, per_split: int) -> set[str]:
    """Contents of the training tasks that can be built; the others are problems of their split."""
    contents: set[str] = set()
    for index in _spread(job.splits.get("train", 0), per_split):
        try:
            contents.add(_content(job.task("train", index)))
        except Exception:
            continue
    return contents


def _check_split(job: Job, split: str, per_split: int, trained: set[str]) -> SplitCheck:
    problems: dict[str, list[int]] = {}
    earned: list[float] = []
    indices = _spread(job.splits[split], per_split)
    for index in indices:
        found: list[str] = []
        try:
            task = job.task(split, index)
            found += _task_problems(job, task, split, index, trained)
            reward = _play_expert(job, task)
            if reward is not None:
                earned.append(reward)
        except _Broken as error:
            found.append(str(error))
            earned.append(0.0)
        except Exception as error:
            found.append(f"building it raises {_said(error)}")
        for problem in found:
            problems.setdefault(problem, []).append(index)
    told = [_told(problem, where) for problem, where in problems.items()]
    failed = sum(reward < SUCCESS for reward in earned)
    if failed:
        told.append(f"the expert fails {failed} of {len(earned)} tasks")
    if not indices:
        told.append("it has no tasks")
    return SplitCheck(split, len(indices), 1 - failed / len(earned) if earned else None, tuple(told))


def _told(problem: str, indices: list[int]) -> str:
    more = f" and {len(indices) - MOST} more" if len(indices) > MOST else ""
    return f"{problem}: {'tasks' if len(indices) > 1 else 'task'} {', '.join(map(str, indices[:MOST]))}{more}"


def _task_problems(job: Job, task: Task, split: str, index: int, trained: set[str]) -> Iterator[str]:
    if job.task(split, index) != task:
        yield "differs when built again"
    if (task.job, task.split, task.index) != (_name(job), split, index):
        yield "is another than the one asked for (its job, split or index)"
    try:
        if _content(task) in trained and split != "train":
            yield "is a training task, too"
        if json.loads(json.dumps(dict(task.data))) != dict(task.data):
            yield "its data is not the same after a way through JSON"
    except (TypeError, ValueError) as error:
        yield f"its data is not JSON ({error})"
    if not task.messages or task.messages[-1].role == "assistant":
        yield "opens with nothing to reply to"
    elif not task.messages[-1].content.strip():
        yield "opens with an empty message"
    try:
        if _reward(job.env(task).step("")) >= SUCCESS:
            yield "an empty reply earns 1"
    except _Broken as error:
        yield f"after an empty reply, {error}"
    except Exception as error:
        yield f"an empty reply raises {_said(error)}"


class _Broken(Exception):
    """An environment broke its contract; the message says how."""


def _play_expert(job: Job, task: Task) -> float | None:
    """What the expert earns within the turns allowed; None where there is none."""
    earned = 0.0
    try:
        env = job.env(task)
        for _ in range(job.max_turns):
            reply = env.expert()
            if reply is None:
                return None
            result = env.step(reply)
            earned += _reward(result)
            if result.terminated or result.truncated:
                break
    except _Broken:
        raise
    except Exception as error:
        raise _Broken(f"playing its expert raises {_said(error)}") from error
    return earned


def _reward(result: object) -> float:
    """The reward of what an environment answered.

    Raises:
        _Broken: it answered something else, or the reward is no number.
    """
    if not isinstance(result, StepResult):
        raise _Broken(f"step() answers {type(result).__name__}, not StepResult")
    reward = cast(object, result.reward)
    if not isinstance(reward, Real) or not math.isfinite(reward):
        raise _Broken(f"the reward is {reward!r}")
    return float(reward)


def _name(job: Job) -> str:
    return str(getattr(job, "name", ""))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _content(task: Task) -> str:
    return json.dumps([[m.role, m.content] for m in task.messages] + [dict(task.data)], sort_keys=True)


def _spread(size: int, count: int) -> list[int]:
    """At most `count` indices, evenly over a split."""
    return list(range(size)) if size <= count else [i * size // count for i in range(count)]
