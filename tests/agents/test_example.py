"""examples/agent: written against the `openai` package alone, and taught by what the server shows."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from journeyman.agents.player import AgentPlayer
from journeyman.jobs import resolve
from journeyman.jobs.agent import AgentConfig
from journeyman.learn.school import demonstrate
from journeyman.model.render import Renderer
from journeyman.model.tiny import texts
from journeyman.model.tokenizer import train_tokenizer
from journeyman.serve.openai import ChatMessage
from journeyman.serve.prompts import Prompts
from journeyman.types import Ending
from tests.agents.test_player import orders, played

pytest.importorskip("openai")
EXAMPLE = Path(__file__).parents[2] / "examples" / "agent"


def test_the_example_as_it_is(tmp_path: Path) -> None:
    made_here = subprocess.run([sys.executable, EXAMPLE / "tasks.py"], capture_output=True, text=True, check=True)
    tasks = [json.loads(line) for line in made_here.stdout.splitlines()]
    splits = {split: [t for t in tasks if t["split"] == split] for split in ("train", "test", "combined")}
    asked = {split: {t["question"] for t in some} for split, some in splits.items()}
    pairs = {split: {frozenset(t["wanted"]) for t in some} for split, some in splits.items()}
    assert asked["test"] and not asked["test"] & asked["train"], "no held-out task is asked in training"
    assert pairs["combined"] and not pairs["combined"] & pairs["train"], "nor what is wanted together in `combined`"

    call = '<tool_call>\n{{"name": "open", "arguments": {{"drawer": "{}"}}}}\n</tool_call>'
    task = tasks[0]
    right = [task["workshop"][thing] for thing in task["wanted"]]
    who = AgentPlayer(
        AgentConfig(
            f"{sys.executable} {EXAMPLE / 'agent.py'}", "tasks.jsonl", f"{sys.executable} {EXAMPLE / 'grade.py'}"
        )
    )
    done = played(who, orders(task), tmp_path, *(call.format(drawer) for drawer in right))
    assert done[0].outcome.success
    assert [turn.observation for turn in done[0].turns] == [task["wanted"][0], ""]
    missed = played(who, orders(task), tmp_path, call.format(right[0]))
    assert missed[0].outcome.reward == 0 and missed[0].outcome.ending is Ending.TERMINATED
    assert [turn.observation for turn in missed[0].turns] == [task["wanted"][0], "nothing", ""]


def test_what_is_watched_is_what_the_server_shows() -> None:
    watched = resolve(f"{EXAMPLE / 'school.py'}:Watched")
    tool = import_module("agent").OPEN  # beside the file, and so importable once it was read
    tokenizer = train_tokenizer(texts(watched), 400)
    prompts, renderer = Prompts(tokenizer), Renderer(tokenizer)
    manner = prompts.manner([tool])
    assert manner.calls is not None
    for index in range(4):
        task = watched.task("train", index)
        talk = demonstrate(watched, task, renderer)
        said = [ChatMessage(role="user", content=task.messages[-1].content)]
        tokens = prompts.opening(said, manner)
        for turn in talk.turns:
            assert len(manner.calls.parse(turn.reply, manner.names).calls) == 1
            tokens += renderer.reply_ids(turn.reply)
            if turn is not talk.turns[-1]:
                tokens += prompts.further([ChatMessage(role="tool", content=turn.observation)], manner, ended=True)
        assert tokens == talk.tokens[: talk.turns[-1].stop].tolist()
