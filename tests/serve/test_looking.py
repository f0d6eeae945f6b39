"""The routes that the page reads: traces, what has come, the learner at a glance; of a server and of a run alone."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from journeyman import ExamConfig, LearnConfig, SchoolConfig, Store, learn
from journeyman.exam.calibration import early_knowledge
from journeyman.rollout.branch import BranchConfig
from journeyman.serve.archive import Archive
from journeyman.serve.keys import Keys
from journeyman.serve.metrics import Traffic
from journeyman.serve.pages import DASHBOARD
from journeyman.serve.viewer import viewer
from tests.serve.live import Live, judged, native, scripted

CONFIG = LearnConfig(
    jobs=("maze,size=3",),
    model="apprentice",
    steps=2,
    tasks=3,
    repeats=4,
    school=SchoolConfig(demonstrations=0),
    exam=ExamConfig(tasks=4, splits=("test",)),
    branch=BranchConfig(share=1.0),
    value_warmup=0,
    context=512,
    threads=1,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which something was learned, with branches and exams."""
    folder = tmp_path_factory.mktemp("runs") / "maze"
    for _ in learn(CONFIG, folder):
        pass
    return folder


@pytest.fixture(scope="module")
def looking(run: Path) -> Iterator[TestClient]:
    with Store(run / "experience.sqlite") as store:
        yield TestClient(viewer(Archive(store, run), "maze"), base_url="http://127.0.0.1")


def ask(looking: Any, path: str, **query: Any) -> Any:
    answer = looking.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_trace_is_the_text_of_the_episode_with_v_of_each_token(looking: TestClient, run: Path) -> None:
    (listed,) = ask(looking, "/v1/episodes", limit=1, search="exam-000002-")["data"]
    trace = ask(looking, f"/v1/traces/{listed['id']}")
    with Store(run / "experience.sqlite") as store:
        kept = store.episode(listed["id"])
    (path,) = trace["paths"]
    replies = [p for p in path["passages"] if p["speaker"] == "assistant"]
    assert [turn.reply for turn in kept.turns] == [
        "".join(span["text"] for span in p["spans"]).removesuffix("↵") for p in replies
    ]
    for span in (span for p in replies for span in p["spans"]):
        assert span["value"] == pytest.approx(float(kept.values[span["position"]]), abs=1e-4)
    assert path["by_token"] and path["sampled"] == int(kept.mask.sum())
    assert [turn["start"] for turn in path["turns"]] == [turn.start for turn in kept.turns]
    assert listed["opening"] and listed["opening"] in kept.task.messages[0].content


def test_branches_are_beside_the_episode_they_left(looking: TestClient, run: Path) -> None:
    branches = [one["id"] for one in ask(looking, "/v1/episodes", limit=200)["data"] if "-b" in one["id"]]
    assert branches, "the run has no branches"
    parent, _, rest = branches[0].rpartition("-b")
    trace = ask(looking, f"/v1/traces/{parent}")
    (path,) = trace["paths"]
    turn = int(rest.split("-")[0])
    (of_it,) = [one for one in trace["others"] if one["id"] == branches[0]]
    assert (of_it["kind"], of_it["parent"], of_it["turn"]) == ("branch", parent, turn)
    assert of_it["position"] == path["turns"][turn]["start"] - 1
    back = ask(looking, f"/v1/traces/{branches[0]}")
    assert parent in {one["id"] for one in back["others"]}


def test_the_run_at_a_glance(looking: TestClient, run: Path) -> None:
    found = ask(looking, "/v1/overview")
    assert (found["name"], found["live"], found["state"], found["step"]) == ("maze", False, "finished", 2)
    (job,) = found["jobs"]
    lines = [json.loads(line) for line in (run / "exams.jsonl").read_text().splitlines()]
    assert [exam["success"] for exam in job["exams"]] == [line["success"] for line in lines]
    assert job["learning"].startswith("<svg") and job["calibration"].startswith("<svg")
    assert found["versions"] == [] and found["judgement"] is None


def test_activity_costs_one_small_question(looking: TestClient) -> None:
    start = ask(looking, "/v1/activity")
    assert start["data"] == [] and ask(looking, "/v1/activity", cursor=start["cursor"]) == start
    everything = ask(looking, "/v1/activity", cursor=0)
    assert len(everything["data"]) > 20 and everything["cursor"] == start["cursor"]


def test_what_is_not_there_is_said_so(looking: TestClient) -> None:
    assert looking.get("/v1/traces/nowhere").status_code == 404
    assert looking.get("/v1/traces/../../etc/passwd").status_code == 404
    assert looking.get("/v1/activity", params={"cursor": -1}).status_code == 400
    assert looking.get("/v1/episodes", params={"least": "nan"}).status_code == 400
    assert looking.get("/v1/nothing").status_code == 404
    for path in ("/../pyproject.toml", "/%2e%2e/app.py", "/..%2fapp.py"):
        assert looking.get(path).status_code == 404
    assert looking.post("/v1/feedback", json={"episode_id": "x", "value": 1}).status_code in (404, 405)


def test_no_web_page_that_points_here_can_read(looking: TestClient) -> None:
    for path in ("/v1/episodes", "/v1/overview", "/v1/activity", "/v1/traces/x"):
        answer = looking.get(path, headers={"Host": "evil.example"})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_the_page_may_load_nothing_but_itself(looking: TestClient) -> None:
    for path in ("/", "/main.js", "/look.css", "/icon.svg"):
        answer = looking.get(path)
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200 and "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    for file in DASHBOARD.iterdir():
        addresses = set(re.findall(r"https?:[^\"'\s]*", file.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, f"{file.name} names {addresses}"


def test_view_is_a_command_that_says_what_is_wrong(run: Path, tmp_path: Path) -> None:
    def view(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "journeyman", "view", *words, "--no-open"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = view(str(run), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2 and "cannot listen" in done.stderr and "Fix:" in done.stderr
    done = view(str(tmp_path))
    assert done.returncode == 2 and "no store in" in done.stderr and not list(tmp_path.iterdir())


def test_turns_choices_and_tools_of_a_served_episode(tmp_path: Path) -> None:
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "E4"}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    with Live(tmp_path, scripted(f"let me see {call}", "a wall", "north", "south"), judged()) as live:
        asked = live.chat("what is at E4?", tools=tools, max_tokens=200).json()
        message = asked["choices"][0]["message"]
        assert message["tool_calls"], message
        answer = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "brick"}
        said = [{"role": "user", "content": "what is at E4?"}, message, answer]
        headers = {"journeyman-episode-id": asked["episode_id"]}
        body = {"model": "apprentice", "messages": said, "tools": tools, "max_tokens": 30}
        assert live.http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
        trace = live.http.get(f"/v1/traces/{asked['episode_id']}").json()
        (path,) = trace["paths"]
        speakers = [p["speaker"] for p in path["passages"]]
        assert speakers[-3:] == ["assistant", "tool", "assistant"], speakers
        first = path["passages"][-3]["spans"]
        marked = "".join(span["text"] for span in first if span["call"])
        assert '"name": "look"' in marked and "let me see" not in marked
        assert "".join(span["text"] for span in path["passages"][-2]["spans"]) == "brick"
        assert path["reward"] is None and [turn["finish"] for turn in path["turns"]] == ["tool_calls", "stop"]
        choices = live.chat("which way?", n=2).json()
        trace = live.http.get(f"/v1/traces/{choices['episode_id']}").json()
        texts = ["".join(span["text"] for span in path["passages"][-1]["spans"]) for path in trace["paths"]]
        assert sorted(texts) == ["north↵", "south↵"]
        assert [path["forked"] is None for path in trace["paths"]] == [True, False]


def test_what_a_server_knows_of_its_versions(tmp_path: Path) -> None:
    with Live(tmp_path, native(judged()), judged(), job="maze") as live:
        ids = [live.chat(f"question {i}").json()["episode_id"] for i in range(5)]
        for id, value in zip(ids, (1, 1, 0, 1), strict=False):
            assert live.http.post("/v1/feedback", json={"episode_id": id, "value": value}).status_code == 201
        found = live.http.get("/v1/overview").json()
        (version,) = found["versions"]
        assert (version["version"], version["episodes"], version["judged"]) == (1, 5, 4)
        assert version["success"] == 0.75 and version["low"] < 0.75 < version["high"]
        assert version["digest"] == live.d.version.digest and found["serving"] == 1 and found["live"]
        known = early_knowledge([live.store.whole(id).trajectories()[0] for id in ids[:4]])
        assert known is not None and found["judgement"]["brier"] == pytest.approx(known["brier"])
        traffic = live.http.get("/v1/activity").json()["traffic"]
        sums = {name: sum(one.get(name, 0) for one in traffic) for name in ("answers", "valued", "feedback")}
        assert sums == {"answers": 5, "valued": 5, "feedback": 4}


def test_a_key_looks_at_its_own_episodes_alone(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    ann, bob = (keys.add(name)[1] for name in ("ann", "bob"))
    boss = keys.add("boss", ("admin",))[1]
    headers = {name: {"Authorization": f"Bearer {key}"} for name, key in (("ann", ann), ("bob", bob), ("boss", boss))}
    with Live(tmp_path, scripted("north"), judged()) as live:
        start = live.http.get("/v1/activity", headers=headers["boss"]).json()["cursor"]
        id = live.chat("mine", headers=headers["ann"]).json()["episode_id"]

        def seen(path: str, who: str, **query: Any) -> Any:
            return live.http.get(path, params=query, headers=headers[who])

        for who, status in (("ann", 200), ("bob", 404), ("boss", 200)):
            assert seen(f"/v1/traces/{id}", who).status_code == seen(f"/v1/episodes/{id}", who).status_code == status
            data = seen("/v1/activity", who, cursor=start).json()["data"]
            assert [one["id"] for one in data] == ([id] if status == 200 else [])
            versions = seen("/v1/overview", who).json()["versions"]
            assert versions[0]["episodes"] == (status == 200)
        for path in (f"/v1/traces/{id}", "/v1/overview", "/v1/activity"):
            assert live.http.get(path).status_code == 401
        assert live.http.get("/").status_code == 200, "the page itself asks for the key"


def test_traffic_forgets_what_is_long_past() -> None:
    now = [1000.0]
    traffic = Traffic(span=10, spans=3, clock=lambda: now[0])
    for at, amount in ((1000, 1), (1004, 2), (1010, 4), (1049, 8)):
        now[0] = at
        traffic.add(answers=amount)
    assert traffic.read() == [{"at": 1040, "answers": 8}]
    now[0] = 1090
    assert traffic.read() == []


def test_figures_are_made_again_only_when_something_came(run: Path) -> None:
    with Store(run / "experience.sqlite") as store:
        archive = Archive(store, run)
        assert archive.read() is archive.read() and archive.learning() is archive.learning()
        assert archive.evidence() is archive.evidence()


def test_a_store_that_is_of_no_run_is_read_turn_by_turn(run: Path, tmp_path: Path) -> None:
    with Store(run / "experience.sqlite") as store, Store(tmp_path / "alone.sqlite") as alone:
        (one,) = list(store.episodes(prefix="exam-000002-", limit=1))
        alone.add([replace(one, id="a/b c")])
        looking = TestClient(viewer(Archive(alone, None), "alone"), base_url="http://127.0.0.1")
        (path,) = ask(looking, "/v1/traces/a%2Fb%20c")["paths"]
        assert not path["by_token"] and len(path["passages"]) >= len(one.turns)
        assert ask(looking, "/v1/overview")["state"] is None
