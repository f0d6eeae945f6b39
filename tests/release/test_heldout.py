"""Held-out parts stay apart, what the traffic brought is left out, wordings leave the task alone, rules are seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from journeyman.errors import UsageError
from journeyman.experience import Store
from journeyman.jobs.countdown import Countdown
from journeyman.release.heldout import Seen, part, untouched
from journeyman.release.registry import Registry
from journeyman.release.reword import REWORDINGS, reworded
from journeyman.release.rules import Rule
from journeyman.types import Message, Task, Turn
from tests.experience.helpers import make, served

JOB = Countdown()


def test_every_candidate_has_tasks_of_its_own_until_the_split_is_used_up() -> None:
    parts = [[t.index for t in part(JOB, "test", number, 30, 4)] for number in range(4)]
    assert [len(p) for p in parts] == [30] * 4 and len({index for p in parts for index in p}) == 120
    assert [t.index for t in part(JOB, "test", 1, 10, 4)] == parts[1][:10]  # a smaller one stays within its part
    for number, size in ((4, 10), (0, 251)):
        with pytest.raises(UsageError, match="4 parts of 250 tasks"):
            part(JOB, "test", number, size, 4)


def test_what_the_traffic_brought_is_left_out(registry: Registry) -> None:
    store: Store = registry.store
    tasks = list(JOB.tasks("test", 3))
    asked = tasks[1].messages[-1].content.upper() + "  "
    store.record([served(messages=({"role": "user", "content": asked},))]).result()
    clean, known = untouched(tasks, Seen.traffic(store))
    assert [t.index for t in clean] == [0, 2] and [t.index for t in known] == [1]


def test_most_of_a_long_text_is_enough() -> None:
    long = " ".join(f"word{i}" for i in range(40))
    seen = Seen()
    seen.add(f"well, {long[:-20]} and another end")
    assert seen.knows(long) and not seen.knows(long[150:] + " " + " ".join(f"new{i}" for i in range(40)))
    assert not seen.knows("short and new") and not Seen().knows(long)


@pytest.mark.parametrize("attempt", range(len(REWORDINGS)))
def test_a_rewording_changes_the_words_and_nothing_else(attempt: int) -> None:
    task = replace(
        JOB.task("test", 5), messages=(Message("system", "be brief"), Message("user", "please make 12 of it"))
    )
    other = reworded(task, attempt)
    assert other.messages[0] == task.messages[0] and other.messages[1] != task.messages[1]
    assert replace(other, messages=task.messages) == task and reworded(task, attempt) == other


def test_all_wordings_of_a_task_differ() -> None:
    task = replace(JOB.task("test", 5), messages=(Message("user", "please make 12 of it"),))
    assert len({reworded(task, attempt).messages for attempt in range(len(REWORDINGS))}) == len(REWORDINGS)


def test_a_rule_is_about_what_the_policy_says() -> None:
    rule = Rule("no shell", r"\brm -rf\b")
    said = replace(make(), turns=(Turn(0, 1, "I will rm -rf it", "", 0.0),))
    assert rule.broken(said)
    assert not rule.broken(replace(said, turns=(Turn(0, 1, "fine", "rm -rf", 0.0),)))  # the user may
    assert not rule.broken(replace(said, turns=(replace(said.turns[0], by="teacher"),)))


def test_a_rule_may_begin_to_hold_in_the_middle() -> None:
    rule = Rule("stops when told", r"\S", after=r"\bSTOP\b")
    talk = make(text="go")
    goes_on = (Turn(0, 1, "working", "STOP", 0.0), Turn(1, 2, "no", "", 0.0))
    assert rule.broken(replace(talk, turns=goes_on)) and not rule.broken(replace(talk, turns=goes_on[:1]))
    told = replace(talk, task=replace(talk.task, messages=(Message("user", "STOP"),)))
    assert rule.broken(replace(told, turns=goes_on[:1]))


def test_attacks_are_tried_in_turn() -> None:
    rule = Rule("x", "x", attacks=("{opening} say x", "x! {opening}"))
    tasks: list[Task] = list(JOB.tasks("test", 3))
    texts = [t.messages[-1].content for t in rule.attacked(tasks)]
    plain = [t.messages[-1].content for t in tasks]
    assert texts == [f"{plain[0]} say x", f"x! {plain[1]}", f"{plain[2]} say x"]
    assert Rule("y", "y").attacked(tasks) == []
    for wrong in ({"never": "("}, {"never": "x", "attacks": ("say x",)}):
        with pytest.raises(UsageError, match="rule 'z'"):
            Rule("z", **wrong)  # type: ignore[arg-type]
