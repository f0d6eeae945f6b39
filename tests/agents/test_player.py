"""Attempts by real programs, each a process of its own, at a real server; only the engine is scripted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from journeyman.agents.player import AgentPlayer, filled
from journeyman.engine.fake import ScriptedEngine
from journeyman.errors import JobError
from journeyman.experience.store import Store
from journeyman.jobs.agent import AgentConfig
from journeyman.rollout.player import going_on, is_trail
from journeyman.rollout.runner import Attempt, RolloutConfig, attempts
from journeyman.types import Ending, Message, Task, Trajectory
from tests.serve.live import APPRENTICE, RENDERER, native, saying

AGENT = """
import json, os, sys, time, urllib.request

task = json.load(sys.stdin)
assert task == json.load(open(os.environ["JOURNEYMAN_TASK"]))

def post(path, **body):
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    url = os.environ["OPENAI_BASE_URL"] + path
    return json.load(urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)))

def ask(*messages, **fields):
    answer = post("/chat/completions", model="gpt-4o-mini", messages=messages, temperature=0, seed=1, **fields)
    return {**answer, "said": answer["choices"][0]["message"]}

def user(text):
    return {"role": "user", "content": text}

exec(task["do"])
"""
GRADER = """
import json, sys
attempt = json.load(sys.stdin)
assert attempt["messages"] and attempt["trails"]
print(attempt["task"].get("hidden", {}).get("grade", attempt["stdout"].strip() or 0))
"""
ONCE = "ask(user('where am I?'))"
VERSION = 7


def program(folder: Path, name: str, text: str) -> str:
    """The command of a program."""
    (folder / name).write_text(text)
    return f"{sys.executable} {folder / name}"


def player(folder: Path, **options: Any) -> AgentPlayer:
    given = {"command": program(folder, "agent.py", AGENT), "grade": program(folder, "grade.py", GRADER), **options}
    return AgentPlayer(AgentConfig(tasks="tasks.jsonl", **given))


def orders(*tasks: dict[str, Any], repeats: int = 1) -> list[Attempt]:
    found = [Task("agent:tasks", "train", i, (Message("user", "?"),), task) for i, task in enumerate(tasks)]
    return attempts(found, repeats=repeats, prefix="step000003", seed=0, step=3)


def made(
    who: AgentPlayer, wanted: Sequence[Attempt], place: Path, *says: str, context: int = 1024
) -> Iterator[Trajectory]:
    engine = ScriptedEngine(saying(*says or ("in a maze",)), context=context, slots=8)
    engine.load(APPRENTICE.model, VERSION)
    rollouts = RolloutConfig(temperature=0.7, seconds_per_step=60)
    with Store(place / "experience.sqlite") as store:
        yield from going_on(who, store, engine, APPRENTICE.model, RENDERER, wanted, rollouts)
        assert not engine.busy


def played(
    who: AgentPlayer, wanted: Sequence[Attempt], place: Path, *says: str, context: int = 1024
) -> list[Trajectory]:
    return list(made(who, wanted, place, *says, context=context))


def test_turns_become_one_trajectory_as_they_were_sampled(tmp_path: Path) -> None:
    talk = "first = ask(user('where?')); ask(user('where?'), first['said'], user('and now?')); print(0.5)"
    (t,) = played(player(tmp_path), orders({"do": talk}), tmp_path, "in a maze", "at E4")
    replies = [RENDERER.reply_ids("in a maze"), RENDERER.reply_ids("at E4")]
    opening = RENDERER.open([Message("user", "where?")])
    between = RENDERER.observe("and now?", "user")
    assert t.tokens.tolist() == [*opening, *replies[0], *between, *replies[1]]
    assert t.tokens[t.mask].tolist() == [*replies[0], *replies[1]]
    assert (t.logprobs == -t.mask.astype(np.float32)).all(), "the engine says -1 of everything it samples"
    assert [(turn.reply, turn.observation, turn.reward) for turn in t.turns] == [
        ("in a maze", "and now?", 0.0),
        ("at E4", "", 0.5),
    ]
    assert (t.policy_version, t.temperature) == (VERSION, pytest.approx(0.7)), "whatever the agent asks for"
    assert (t.id, t.group, t.step) == ("step000003-g0000-m00", "step000003-g0000", 3)
    assert (t.outcome.reward, t.outcome.ending) == (0.5, Ending.TERMINATED)
    assert t.task.messages == (Message("user", "where?"),)


def test_a_rewritten_history_is_a_trail_of_its_own(tmp_path: Path) -> None:
    talk = "first = ask(user('where?')); ask(user('where?'), {**first['said'], 'content': 'so'}, user('on?')); print(1)"
    trail, own = played(player(tmp_path), orders({"do": talk}), tmp_path, "in a maze", "at E4")
    assert (trail.id, trail.group) == ("step000003-g0000-m00-t01", "step000003-g0000-t01")
    assert own.id == "step000003-g0000-m00"
    assert is_trail(trail) and not is_trail(own)
    assert [RENDERER.text(t.tokens[t.mask].tolist()) for t in (own, trail)] == ["in a maze", "at E4"]
    assert own.outcome == trail.outcome
    assert own.outcome.reward == 1
    assert [turn.reward for t in (own, trail) for turn in t.turns] == [1, 1]


def test_tool_calls_are_tool_calls(tmp_path: Path) -> None:
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "E4"}}\n</tool_call>'
    talk = (
        "tools = [{'type': 'function', 'function': {'name': 'look', 'parameters': {}}}]\n"
        "said = ask(user('where?'), tools=tools)['said']; (call,) = said['tool_calls']\n"
        "assert json.loads(call['function']['arguments']) == {'at': 'E4'}\n"
        "tool = {'role': 'tool', 'tool_call_id': call['id'], 'content': 'a wall'}\n"
        "ask(user('where?'), said, tool, tools=tools); print(1)"
    )
    (t,) = played(player(tmp_path), orders({"do": talk}), tmp_path, call, "done")
    assert [(turn.reply, turn.observation) for turn in t.turns] == [(call, "a wall"), ("done", "")]
    assert t.outcome.success


def test_many_at_once_keep_their_tasks_apart(tmp_path: Path) -> None:
    tasks = [{"do": f"ask(user('number {i}')); print({i} / 8)"} for i in range(6)]
    found = played(player(tmp_path, at_once=3), orders(*tasks, repeats=2), tmp_path)
    assert len({t.id for t in found}) == 12
    for t in found:
        assert t.task.messages == (Message("user", f"number {t.task.index}"),)
        assert t.outcome.reward == t.task.index / 8


FAILURES = {
    "ended with exit code 3": {"do": f"{ONCE}; sys.exit(3)"},
    "KeyError: 'nothing'": {"do": f"{ONCE}; task['nothing']"},
    "ended by SIGTERM": {"do": f"{ONCE}; os.kill(os.getpid(), 15); time.sleep(60)"},
    "it made no call": {"do": "print(1)"},
    "got 'well done'": {"do": ONCE, "hidden": {"grade": "well done"}},
    "must be finite, got nan": {"do": ONCE, "hidden": {"grade": "NaN"}},
    "a success is a reward of 1": {"do": ONCE, "hidden": {"grade": '{"reward": 0.5, "success": true}'}},
}


def test_what_fails_fails_alone_and_says_why(tmp_path: Path) -> None:
    found = played(player(tmp_path), orders(*FAILURES.values(), {"do": f"{ONCE}; print(1)"}), tmp_path)
    outcomes = {t.task.index: t.outcome for t in found}
    assert outcomes.pop(len(FAILURES)).success
    assert found[0].task.index == len(FAILURES), "what failed comes last"
    for (said, _), (_, outcome) in zip(FAILURES.items(), sorted(outcomes.items()), strict=True):
        assert outcome.ending is Ending.FAILED
        assert said in outcome.error
        assert outcome.boundary == ("grader" if "hidden" in FAILURES[said] else "agent")


def test_where_all_fail_the_run_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"all 2 attempts (?s:.)* no such thing"):
        played(player(tmp_path), orders({"do": "sys.exit('no such thing')"}, repeats=2), tmp_path)
    with pytest.raises(JobError, match="took longer than 2 s"):
        played(player(tmp_path, seconds=2), orders({"do": "time.sleep(600)"}), tmp_path)
    with pytest.raises(JobError, match="cannot be started"):
        (tmp_path / "not_a_program").write_text("?")
        (tmp_path / "not_a_program").chmod(0o755)
        played(player(tmp_path, command=str(tmp_path / "not_a_program")), orders({"do": ""}), tmp_path)


@pytest.mark.parametrize("limit", ["calls", "context"])
def test_an_agent_that_no_more_fits_is_cut_and_graded(tmp_path: Path, limit: str) -> None:
    talk = "said = [user('on?')]\nwhile True: said += [ask(*said)['said'], user('on?')]"
    options: dict[str, Any] = {"calls": 3} if limit == "calls" else {}
    context = 1024 if limit == "calls" else 40
    (t,) = played(
        player(tmp_path, **options), orders({"do": talk, "hidden": {"grade": 0.25}}), tmp_path, context=context
    )
    assert t.outcome.ending is Ending.TRUNCATED
    assert t.outcome.reward == 0.25
    assert len(t.turns) == 3 or limit == "context"
    assert len(t) <= context


def test_without_a_grader_the_agent_says_how_it_went(tmp_path: Path) -> None:
    said = "post('/feedback', episode_id=ask(user('?'))['episode_id'], value={}, metric={!r}, source='code')"
    declared = "post('/metrics', name='steps', type='float', optimize='max'); "
    tasks = [{"do": said.format(0.75, "reward")}, {"do": declared + said.format(0.5, "steps")}]
    found = {t.task.index: t.outcome for t in played(player(tmp_path, grade=""), orders(*tasks), tmp_path)}
    assert found[0].reward == 0.75
    assert "no feedback on 'reward' came" in found[1].error
    found = {
        t.task.index: t.outcome for t in played(player(tmp_path, grade="", metric="steps"), orders(*tasks), tmp_path)
    }
    assert (found[0].ending, found[1].reward) == (Ending.FAILED, 0.5)


def test_nothing_runs_on_when_the_caller_stops_listening(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    hangs = f"{ONCE}; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    waits = f"{ONCE}\nwhile not os.path.exists({str(file)!r}): time.sleep(0.05)\nprint(1)"
    attempts_made = made(player(tmp_path), orders({"do": hangs}, {"do": waits}), tmp_path)
    assert next(attempts_made).task.index == 1
    attempts_made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


def test_what_was_kept_is_not_played_again(tmp_path: Path) -> None:
    wanted = orders({"do": f"{ONCE}; print(0.5)"}, repeats=2)
    who = player(tmp_path)
    (first,) = played(who, wanted[:1], tmp_path, "first")
    with Store(tmp_path / "experience.sqlite") as store:
        store.add([first])
    found = played(who, wanted, tmp_path, "so")
    assert [t.turns[0].reply for t in found] == ["first", "so"]
    with Store(tmp_path / "experience.sqlite") as store:
        store.add(found)
        assert store.count() == 2, "what was kept is kept once"
    assert len(played(who, wanted, tmp_path)) == 2


def test_draws_follow_from_the_attempt_whatever_seed_the_agent_asks_for(tmp_path: Path) -> None:
    talk = "first = ask(user('A1 to B3')); ask(user('A1 to B3'), first['said'], user('so?')); print(1)"
    wanted = orders({"do": talk}, repeats=3)

    def tokens() -> dict[str, list[int]]:
        engine = native(slots=2)  # fewer than attempts: caches come and go
        engine.load(APPRENTICE.model, VERSION)
        rollouts = RolloutConfig(max_reply_tokens=12, seconds_per_step=60)
        found = player(tmp_path).play(engine, APPRENTICE.model, RENDERER, wanted, rollouts)
        return {t.id: t.tokens.tolist() for t in found}

    first = tokens()
    assert len({tuple(said) for said in first.values()}) > 1, "attempts that are all alike teach nothing"
    assert tokens() == first


def test_a_task_s_fields_stand_in_the_command() -> None:
    task = {"question": "what is {n}?", "n": 3, "given": {"a": [1]}}
    words = ["--ask={question}", "{n}", "{given}", "{other}", "{}"]
    assert [filled(word, task) for word in words] == [
        "--ask=what is {n}?",
        "3",
        json.dumps({"a": [1]}),
        "{other}",
        "{}",
    ]
