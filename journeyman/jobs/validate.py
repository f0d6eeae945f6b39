"""Checks a job against its contract before anyone learns from it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from journeyman.errors import UnknownName
from journeyman.jobs.base import Job
from journeyman.types import SUCCESS, Task

MOST = 5
"""Problems of one kind that are named; the rest are counted."""


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

    Checked of each task: the same when built twice, serializable, a non-empty opening that is not the
    assistant's; its expert earns 1 within the turns allowed; an empty reply neither raises nor earns 1; and no
    held-out task equals one of the checked training tasks.

    Args:
        per_split: tasks checked of each split, spread evenly over it.
    """
    for split in splits or ():
        if split not in job.splits:
            raise UnknownName(f"split of {job.name}", split, job.splits)
    general = list(_contract(job))
    trained = {_content(job.task("train", i)) for i in _spread(job.splits["train"], per_split)}
    checks: list[SplitCheck] = []
    for number, split in enumerate(splits or job.splits):
        problems = (general if number == 0 else []) + list(_tasks(job, split, per_split, trained))
        earned = [_play_expert(job, job.task(split, i)) for i in _spread(job.splits[split], per_split)]
        known = [reward for reward in earned if reward is not None]
        success = sum(reward >= SUCCESS for reward in known) / len(known) if known else None
        if success is not None and success < 1:
            problems.append(f"the expert fails {sum(r < SUCCESS for r in known)} of {len(known)} tasks")
        checks.append(SplitCheck(split, len(earned), success, tuple(problems)))
    return Validation(job.name, tuple(checks))


def _contract(job: Job) -> Iterator[str]:
    if "train" not in job.splits:
        yield "there is no split `train`"
    if not job.name:
        yield "the job has no name"
    try:
        copy = pickle.loads(pickle.dumps(job))
        if copy.task("train", 0) != job.task("train", 0):
            yield "a pickled copy gives other tasks"
    except Exception as error:
        yield f"the job cannot be pickled: {error}"


def _tasks(job: Job, split: str, per_split: int, trained: set[str]) -> Iterator[str]:
    problems: dict[str, list[int]] = {}
    for index in _spread(job.splits[split], per_split):
        for problem in _task_problems(job, job.task(split, index), trained):
            problems.setdefault(problem, []).append(index)
    for problem, indices in problems.items():
        shown = ", ".join(map(str, indices[:MOST]))
        more = f" and {len(indices) - MOST} more" if len(indices) > MOST else ""
        yield f"{problem}: {'tasks' if len(indices) > 1 else 'task'} {shown}{more}"


def _task_problems(job: Job, task: Task, trained: set[str]) -> Iterator[str]:
    if job.task(task.split, task.index) != task:
        yield "differs when built again"
    try:
        content = _content(task)
        if task.split not in ("train",) and content in trained:
            yield "is a training task, too"
    except (TypeError, ValueError) as error:
        yield f"its data is not JSON ({error})"
    if not task.messages or task.messages[-1].role == "assistant":
        yield "opens with nothing to reply to"
    elif not task.messages[-1].content.strip():
        yield "opens with an empty message"
    try:
        result = job.env(task).step("")
        if result.reward >= SUCCESS:
            yield "an empty reply earns 1"
    except Exception as error:
        yield f"an empty reply raises {type(error).__name__}: {error}"


def _play_expert(job: Job, task: Task) -> float | None:
    """What the expert earns; None where there is none; -1 where it breaks."""
    env = job.env(task)
    earned = 0.0
    for _ in range(job.max_turns):
        try:
            reply = env.expert()
            if reply is None:
                return None
            result = env.step(reply)
        except Exception:
            return -1.0
        earned += result.reward
        if result.terminated or result.truncated:
            break
    return earned


def _content(task: Task) -> str:
    return json.dumps([[m.role, m.content] for m in task.messages] + [dict(task.data)], sort_keys=True)


def _spread(size: int, count: int) -> list[int]:
    """At most `count` indices, evenly over a split."""
    return list(range(size)) if size <= count else [i * size // count for i in range(count)]
