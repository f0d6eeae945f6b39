"""Tasks for an agent: a program of the user's own, which asks a model for what it says and acts by itself.

    {"question": "Where does the boss of Ada work?", "hidden": {"answer": "Oslo"}}

Each line of the file is a task, a JSON object. The agent is given all of it but `split` and `hidden`; the grader all of
it. `split` names the split; a line without one is held out (`test`) or learned from (`train`) by the hash of what it
says, one in five. How attempts are made is in `journeyman.agents`.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import tyro

from journeyman.errors import JobError, UsageError
from journeyman.jobs._common import check_place
from journeyman.jobs.base import Env, Job
from journeyman.types import Message, Task

HELD_OUT = 5
"""Of the lines that name no split, one in so many is held out."""
OURS = ("split", "hidden")
"""Fields of a task that the agent is not given."""


@dataclass(frozen=True)
class AgentConfig:
    """A program that learns, what it is to do, and who says how well it did."""

    command: str
    """The program, as in a shell; `{name}` stands for a task's field of that name."""
    tasks: str
    """A file with one JSON object per line, each a task."""
    grade: str = ""
    """A program that grades an attempt; none: the agent itself says how it went, at /v1/feedback."""
    metric: str = "reward"
    """Without a grader: the feedback that counts."""
    seconds: float = 120.0
    """An attempt that takes longer has failed."""
    at_once: int = 8
    """Attempts that run side by side."""
    calls: int = 50
    """Answers that one attempt gets; then it is over."""
    digest: str = ""
    """sha256 of the tasks, filled in when a run begins: a run is continued with the tasks that it began with."""

    def __post_init__(self) -> None:
        for name in ("at_once", "calls"):
            if getattr(self, name) < 1:
                raise UsageError(f"agent: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.seconds < math.inf:
            raise UsageError(f"agent: seconds must be above 0 and finite, got {self.seconds}")
        if not self.tasks:
            raise UsageError("agent: what is it to do?", fix="name a file of tasks: --tasks tasks.jsonl")

    @property
    def name(self) -> str:
        """What the job is called."""
        return f"agent:{Path(self.tasks).stem}"


def agent_options(
    command: Annotated[str, tyro.conf.arg(aliases=("--agent",))] = "",
    tasks: str = "",
    grade: Annotated[str, tyro.conf.arg(aliases=("--grade",))] = "",
    metric: str = "reward",
    seconds: float = 120.0,
    at_once: int = 8,
    calls: int = 50,
) -> AgentConfig | None:
    """:class:`AgentConfig` as the command line has it, where what is not given cannot be None.

    Args:
        command: A program that asks an OpenAI endpoint and is to learn, as in a shell: "python agent.py". It gets its
            task as JSON on standard input; `{name}` stands for a task's field of that name.
        tasks: A file with one JSON object per line, each a task (`--tasks FILE` for short).
        grade: A program that grades an attempt: JSON on standard input, a number on standard output. None: the agent
            itself says how it went, at /v1/feedback.
        metric: Without a grader: the feedback that counts.
        seconds: An attempt that takes longer has failed.
        at_once: Attempts that run side by side.
        calls: Answers that one attempt gets; then it is over.
    """
    if command:
        return AgentConfig(command, tasks, grade, metric, seconds, at_once, calls)
    if tasks or grade:
        raise UsageError("agent: tasks or a grader without an agent", fix='add --agent "python agent.py"')
    return None


class AgentJob(Job):
    """The tasks of a file, for an agent.

    Args:
        config: who does them.

    Raises:
        UsageError: a command cannot be found, the file cannot be read, or a line is no task.
    """

    about = "a program that speaks to an OpenAI endpoint"

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.name, self.max_turns = config.name, config.calls
        self.command = words_of(config.command, "agent")
        self.grader = words_of(config.grade, "grader") if config.grade else None
        self._tasks, self.digest = read_tasks(Path(config.tasks))
        self.splits = {split: len(tasks) for split, tasks in self._tasks.items()}
        for split, use in (("train", "to learn from"), ("test", "to examine it on")):
            if split not in self.splits:
                raise UsageError(
                    f"{config.tasks} has no task {use}",
                    reason=f"its splits are {', '.join(self.splits)}",
                    fix=f'give some lines "split": "{split}", or none to any: then one in {HELD_OUT} is held out',
                )

    def task(self, split: str, index: int) -> Task:
        """The task; its messages stand in for what the agent will say, which nobody knows yet."""
        check_place(self.name, self.splits, split, index)
        data = self._tasks[split][index]
        return Task(self.name, split, index, (Message("user", json.dumps(given(data), ensure_ascii=False)),), data)

    def env(self, task: Task) -> Env:
        raise JobError(
            f"{self.name} has no environment",
            reason="its attempts are made by a program of their own",
            fix="learn it with `journeyman learn --agent`, or journeyman.agents.learn",
        )


def given(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of a task the agent is given."""
    return {name: value for name, value in data.items() if name not in OURS}


def words_of(command: str, who: str) -> list[str]:
    """A command's words.

    Raises:
        UsageError: it cannot be read, or there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"{who}: cannot read the command {command!r}", reason=str(error)) from error
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            f"{who}: there is no program {(words or [command])[0]!r}",
            reason="it is neither a command here nor a file that can be run",
            fix='give it as in a shell: "python agent.py"',
        )
    return words


def read_tasks(file: Path) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """The tasks of a file by split, and its sha256.

    Raises:
        UsageError: it cannot be read, is empty, or a line is no task, or the same one as in another split.
    """
    try:
        raw = file.read_bytes()
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the tasks {file}", reason=str(error)) from error
    tasks: dict[str, list[dict[str, Any]]] = {}
    seen: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        task = _task(f"{file} line {number}", line)
        said = json.dumps({**task, "split": None}, sort_keys=True)
        split = task.get("split") or _drawn(said)
        before = seen.setdefault(said, (split, number))
        if before[0] != split:
            raise UsageError(
                f"{file} lines {before[1]} and {number} are one task in the splits {before[0]} and {split}",
                reason="what is learned from is not held out",
                fix="take one of them away",
            )
        tasks.setdefault(split, []).append(task)
    if not tasks:
        raise UsageError(f"{file} has no task", fix='write one per line: {"question": "2+2"}')
    return tasks, hashlib.sha256(raw).hexdigest()


def _task(where: str, line: str) -> dict[str, Any]:
    try:
        task: object = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is no JSON", reason=str(error), fix="write one JSON object per line") from error
    if not isinstance(task, dict):
        raise UsageError(f"{where} is no task", reason=f"it is {line.strip()[:40]}", fix="write a JSON object")
    found = cast(dict[str, Any], task)
    split = found.get("split", "train")
    if not isinstance(split, str) or not split.isidentifier():
        raise UsageError(f"{where}: a split is a word such as train or test, got {split!r}")
    return found


def _drawn(said: str) -> str:
    return "test" if hashlib.sha256(said.encode()).digest()[0] % HELD_OUT == 0 else "train"
