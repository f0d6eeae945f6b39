"""The loop with an agent, end to end: it learns, it is examined, and a kill loses nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from journeyman import ExamConfig, LearnConfig, SchoolConfig, Store
from journeyman.agents import learn
from journeyman.cli import tasks_of_agents
from journeyman.errors import RunError, UsageError
from journeyman.jobs.agent import AgentConfig, agent_options
from journeyman.loop import learn as learn_without
from journeyman.rollout.branch import BranchConfig
from journeyman.rollout.practice import PracticeConfig
from journeyman.rollout.stopping import StoppingConfig
from journeyman.run import read_lines
from journeyman.types import Ending

ASK = """
import json, os, random, sys, urllib.request

def ask(*messages):
    body = {"model": "gpt-4o-mini", "messages": messages, "max_tokens": 4}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    answer = urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers))
    return json.load(answer)["choices"][0]["message"]

question = {"role": "user", "content": sys.argv[1]}
said = ask(question)
ask(question, said, {"role": "user", "content": f"what? {random.random()}"})  # not the same twice
if "2" in sys.argv[1]:
    ask({"role": "user", "content": "and now for something else"})  # a second trail
print(len(said["content"] or "") % 2)
"""
GRADE = "import json, sys; print(json.load(sys.stdin)['stdout'])"


def config(folder: Path, steps: int = 2) -> LearnConfig:
    """A small run; every word of the apprentice is as good as any other for it."""
    (folder / "agent.py").write_text(ASK)
    (folder / "grade.py").write_text(GRADE)
    lines = [json.dumps({"q": f"number {i}", "split": "test" if i < 4 else "train"}) for i in range(24)]
    (folder / "numbers.jsonl").write_text("\n".join(lines))
    python = sys.executable
    return LearnConfig(
        agent=AgentConfig(
            f"{python} {folder / 'agent.py'} {{q}}",
            str(folder / "numbers.jsonl"),
            f"{python} {folder / 'grade.py'}",
            seconds=600,
        ),
        model="apprentice",
        steps=steps,
        tasks=6,
        rollout=replace(LearnConfig(jobs=("maze",)).rollout, seconds_per_step=300),
        exam=ExamConfig(tasks=4),
        exam_every=1,
        checkpoint_every=2,
        context=256,
        threads=1,
    )


@pytest.mark.slow
def test_a_run(tmp_path: Path) -> None:
    c, folder = config(tmp_path), tmp_path / "run"
    records = list(learn(c, folder))
    exams = [r for r in records if r["kind"] == "exam"]
    assert [(e["job"], e["split"], e["episodes"]) for e in exams] == [("agent:numbers", "test", 4)] * 3
    steps = [r for r in records if r["kind"] == "learn"]
    assert [s["trajectories"] for s in steps] == [6, 12], "trails are no attempts"
    with Store(folder / "experience.sqlite") as store:
        episodes = {t.id: t for t in store.episodes(min_step=0)}
        assert store.verify() == []
    assert len([t for t in episodes.values() if not t.id.endswith("-t01")]) == 12
    for t in episodes.values():
        assert t.outcome.ending is Ending.TERMINATED, t.outcome.error
        assert t.policy_version == t.step, "each step is played by the weights of the step before"
        assert len(t.turns) == (1 if t.id.endswith("-t01") else 2)
    with pytest.raises(RunError, match="its agent differ"):
        (tmp_path / "numbers.jsonl").write_text((tmp_path / "numbers.jsonl").read_text() + '\n{"q": "1"}')
        list(learn(c, folder))


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    c, folder = config(tmp_path, steps=3), tmp_path / "run"
    assert c.agent is not None
    words = [sys.executable, "-m", "journeyman", "learn", "--agent", c.agent.command, "--tasks", c.agent.tasks]
    words += ["--grade", c.agent.grade, "--model", "apprentice", "--steps", "3", "--tasks", "6", "--run", str(folder)]
    words += ["--exam.tasks", "4", "--exam-every", "1", "--checkpoint-every", "2", "--context", "256", "--threads", "1"]
    words += ["--agent.seconds", "600", "--rollout.seconds-per-step", "300", "--json"]
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.getcwd()})
    while killed.poll() is None and not [r for r in read_lines(folder / "metrics.jsonl") if r["kind"] == "learn"]:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, "it was to be killed, and had ended by itself"
    with Store(folder / "experience.sqlite") as store:
        before = {t.id: t for t in store.episodes()}
    assert any(t.step == 0 for t in before.values())
    records = list(learn(c, folder))
    assert [r["step"] for r in records if r["kind"] == "learn"] == [1, 2, 3]
    with Store(folder / "experience.sqlite") as store:
        after = {t.id: t for t in store.episodes()}
        assert store.verify() == []
    for id, t in before.items():
        assert (after[id].tokens == t.tokens).all(), "what was kept is not played again"
    assert len([t for t in after.values() if t.step >= 0 and not t.id.endswith("-t01")]) == 18


def test_what_does_not_go_with_an_agent() -> None:
    agent = AgentConfig("python agent.py", "tasks.jsonl")
    assert LearnConfig(agent=agent, model="apprentice").jobs == ("agent:tasks",)
    with pytest.raises(UsageError, match="in one run"):
        LearnConfig(jobs=("maze",), agent=agent, model="apprentice")
    with pytest.raises(UsageError, match="can speak already"):
        LearnConfig(agent=agent)
    with pytest.raises(UsageError, match="can speak already"):
        LearnConfig(agent=agent, model="apprentice", school=SchoolConfig(updates=10))
    for name, part in {
        "branch": BranchConfig(share=0.5),
        "stopping": StoppingConfig(every=4),
        "practice": PracticeConfig(candidates=4),
    }.items():
        with pytest.raises(UsageError, match=f"{name}.* does not go with an agent"):
            LearnConfig(agent=agent, model="apprentice", **{name: part})  # pyright: ignore
    with pytest.raises(UsageError, match="no job to learn"):
        LearnConfig()


def test_the_loop_needs_a_player_for_an_agent(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"journeyman\.agents\.learn"):
        next(learn_without(config(tmp_path), tmp_path / "run"))
    with pytest.raises(UsageError, match="no agent to learn from"):
        next(learn(LearnConfig(jobs=("maze",)), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_command_line() -> None:
    words = ["learn", "--agent", "python agent.py", "--tasks", "tasks.jsonl", "--tasks", "8"]
    assert tasks_of_agents(words) == [*words[:3], "--agent.tasks", "tasks.jsonl", "--tasks", "8"]
    assert tasks_of_agents(["learn", "maze", "--tasks", "x"]) == ["learn", "maze", "--tasks", "x"]
    words = ["learn", "--agent=python agent.py", "--tasks=tasks.jsonl", "--tasks=8"]
    assert tasks_of_agents(words) == [*words[:2], "--agent.tasks=tasks.jsonl", "--tasks=8"]
    assert tasks_of_agents([]) == []
    with pytest.raises(UsageError, match="without an agent"):
        agent_options(tasks="tasks.jsonl")
    with pytest.raises(UsageError, match="what is it to do"):
        agent_options("python agent.py")
