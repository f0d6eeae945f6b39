"""Tasks for agents: what a file may say, and how it is split."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from journeyman.errors import JobError, UsageError
from journeyman.jobs.agent import AgentConfig, AgentJob, given


def job(folder: Path, *lines: str, command: str = sys.executable, grade: str = "") -> AgentJob:
    (folder / "sums.jsonl").write_text("\n".join(lines))
    return AgentJob(AgentConfig(command, str(folder / "sums.jsonl"), grade))


def test_splits_are_named_or_follow_from_what_a_line_says(tmp_path: Path) -> None:
    lines = [json.dumps({"n": i}) for i in range(500)]
    sums = job(tmp_path, *lines, "", '{"n": 1, "split": "hard"}'.replace("1", "-1"))
    assert sums.name == "agent:sums"
    assert set(sums.splits) == {"train", "test", "hard"}
    # 500 draws of 52/256: fewer than 60 or more than 150 in less than one file in a million; the file is fixed
    assert 60 < sums.splits["test"] < 150
    again = job(tmp_path, *reversed(lines), '{"n": 7, "split": "hard", "more": 1}')
    held_out = [{task.data["n"] for task in one.tasks("test")} for one in (sums, again)]
    assert held_out[0] == held_out[1], "the order of lines does not matter"


def test_the_agent_is_not_given_what_is_hidden(tmp_path: Path) -> None:
    sums = job(tmp_path, '{"q": "2+2", "hidden": {"a": 4}, "split": "train"}', '{"q": "3", "split": "test"}')
    task = sums.task("train", 0)
    assert given(task.data) == {"q": "2+2"}
    assert json.loads(task.messages[0].content) == {"q": "2+2"}
    with pytest.raises(JobError, match="learn it with"):
        sums.env(task)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "has no task"),
        (['{"q": 1}', "{"], r"sums.jsonl line 2 is no JSON"),
        (["[1]"], r"line 1 is no task"),
        (['{"split": 3}'], "line 1: a split is a word"),
        (['{"split": "a b"}'], "line 1: a split is a word"),
        (['{"q": 1, "split": "train"}', '{"q": 1, "split": "test"}'], "lines 1 and 2 are one task"),
        (['{"split": "train"}'], "has no task to examine it on"),
        (['{"split": "test"}'], "has no task to learn from"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, lines: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        job(tmp_path, *lines)


def test_what_is_not_there(tmp_path: Path) -> None:
    lines = ['{"split": "train"}', '{"split": "test"}']
    with pytest.raises(UsageError, match="agent: there is no program 'no-such-program'"):
        job(tmp_path, *lines, command="no-such-program x")
    with pytest.raises(UsageError, match="grader: there is no program"):
        job(tmp_path, *lines, grade="no-such-program")
    with pytest.raises(UsageError, match="cannot read the command"):
        job(tmp_path, *lines, command="python 'agent.py")
    with pytest.raises(UsageError, match="cannot read the tasks"):
        AgentJob(AgentConfig(sys.executable, str(tmp_path / "none.jsonl")))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("at_once", 0, "at_once must be at least 1, got 0"), ("calls", 0, "calls"), ("seconds", 0.0, "above 0")],
)
def test_bounds(field: str, value: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        AgentConfig("python", "tasks.jsonl", **{field: value})  # pyright: ignore
