"""What became of episodes: said once, kept for good, read again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from journeyman.experience.store import Store
from journeyman.prefixes import under_way
from journeyman.serve.keys import Keys
from tests.serve.live import RENDERER, Live, Slow, judged, saying, scripted, until


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with Live(tmp_path, scripted("in a maze"), judged(), job="maze") as server:
        yield server


def say(live: Live, **fields: Any) -> Any:
    return live.http.post("/v1/feedback", json=fields)


def test_every_kind_of_feedback_is_kept(live: Live) -> None:
    worse, better = (live.chat("where?").json() for _ in range(2))
    episode, turn = better["episode_id"], better["journeyman"]["choices"][0]["turn_id"]
    metric = {"name": "polite", "type": "boolean", "level": "turn"}
    for _ in range(2):
        assert live.http.post("/v1/metrics", json=metric).status_code == 201
    assert live.http.post("/v1/metrics", json={**metric, "optimize": "min"}).status_code == 409
    assert {m["name"] for m in live.http.get("/v1/metrics").json()["data"]} == {"reward", "polite"}
    for fields in (
        {"value": 0.75, "source": "code", "tags": ["nightly"], "user": "ann"},
        {"value": 0, "explanation": "it contradicts"},
        {"value": True, "metric": "polite", "turn_id": turn},
        {"comment": "well said"},
        {"correction": "at E4", "turn_id": turn},
        {"preferred_to": worse["episode_id"]},
    ):
        kept = say(live, episode_id=episode, **fields)
        assert kept.status_code == 201 and kept.json()["episode_id"] == episode, kept.text
    whole = live.http.get(f"/v1/episodes/{episode}").json()
    assert len(whole["said"]) == 6 and whole["said"][0]["value"] == 0.75 and whole["said"][4]["correction"] == "at E4"
    assert whole["items"][0]["pieces"] and "".join(whole["items"][0]["pieces"]).endswith("in a maze<|end|>")
    assert len(whole["items"][0]["values"]) == len(whole["items"][0]["pieces"])


def test_it_may_come_before_the_answer_is_finished(tmp_path: Path) -> None:
    with Live(tmp_path, Slow(saying("north " * 30), pace=1)) as live:
        body = {"model": "apprentice", "messages": [{"role": "user", "content": "go"}], "stream": True}
        with httpx.stream("POST", f"{live.url}/v1/chat/completions", json=body, timeout=60) as stream:
            episode = stream.headers["journeyman-episode-id"]
            assert not live.store.browse().episodes
            assert say(live, episode_id=episode, value=1).status_code == 201
            stream.read()
        assert live.store.whole(episode).reward() == 1.0
        (trajectory,) = live.store.whole(episode).trajectories()
        assert trajectory.outcome.reward == 1.0


def test_episodes_are_listed_and_filtered(live: Live) -> None:
    ids = [live.chat("where?", user=f"user {number % 2}").json()["episode_id"] for number in range(6)]
    assert say(live, episode_id=ids[0], value=1).status_code == 201

    def listed(**query: Any) -> list[str]:
        answer = live.http.get("/v1/episodes", params=query)
        assert answer.status_code == 200, answer.text
        return [one["id"] for one in answer.json()["data"]]

    assert listed() == ids[::-1]
    assert listed(user="user 1") == [ids[5], ids[3], ids[1]]
    assert listed(has_feedback=True) == listed(outcome="success") == [ids[0]]
    assert listed(job="hops") == [] and listed(job="maze", version=1) == ids[::-1]
    first = live.http.get("/v1/episodes", params={"limit": 4}).json()
    assert [one["id"] for one in first["data"]] + listed(limit=4, cursor=first["next"]) == ids[::-1]
    assert live.http.get("/v1/episodes", params={"cursor": "x"}).status_code == 400
    assert live.http.get("/v1/episodes", params={"limit": 0}).status_code == 400


def test_one_key_says_only_so_much_in_a_day(tmp_path: Path) -> None:
    key = Keys(tmp_path / "keys.json").add("rater", feedback_per_day=2)[1]
    headers = {"Authorization": f"Bearer {key}"}
    with Live(tmp_path, scripted("x")) as live:
        episode = live.chat("where?", headers=headers).json()["episode_id"]
        said = {"episode_id": episode, "value": 1}
        statuses = [live.http.post("/v1/feedback", json=said, headers=headers).status_code for _ in range(3)]
    assert statuses == [201, 201, 429]


def test_erasure_takes_everything_and_the_chain_holds(tmp_path: Path) -> None:
    boss = Keys(tmp_path / "keys.json").add("boss", ("admin",))[1]
    headers = {"Authorization": f"Bearer {boss}"}
    with Live(tmp_path, scripted("in a maze")) as live:
        episode = live.chat("my secret", user="ann", headers=headers).json()["episode_id"]
        erased = httpx.post(f"{live.admin}/admin/erase", json={"user": "ann", "why": "asked"}, headers=headers)
        assert erased.json() == {"erased": 1}
        assert live.http.get(f"/v1/episodes/{episode}", headers=headers).status_code == 410
        again = live.chat("my secret", "in a maze", "?", journeyman={"episode_id": episode}, headers=headers)
        assert again.status_code == 410, "what was erased is not gone on with"
        assert live.store.verify() == []


def test_what_was_acknowledged_is_on_the_disk(tmp_path: Path) -> None:
    """Another process's view of the file, while many speak at once."""
    with Live(tmp_path, scripted("in a maze")) as live, Store(tmp_path / "experience.sqlite") as elsewhere:
        missing: list[str] = []

        def ask() -> None:
            for _ in range(5):
                answer = httpx.post(
                    f"{live.url}/v1/chat/completions",
                    json={"model": "apprentice", "messages": [{"role": "user", "content": "?"}]},
                    timeout=60,
                ).json()
                if not elsewhere.whole(answer["episode_id"]).turns:
                    missing.append(json.dumps(answer))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not missing and len(elsewhere.browse().episodes) == 20
        until(lambda: live.d.gateway.outstanding == 0)


def test_episodes_of_the_learning_loop_are_there_too(live: Live) -> None:
    tokens = RENDERER.encode("<|user|>A1 to B1<|end|><|assistant|>north<|end|>")
    mask = [place >= len(tokens) - 2 for place in range(len(tokens))]
    played = under_way("my/job.py:Mine", 1.0, tokens, mask, np.zeros(len(tokens), np.float32))
    live.store.add([replace(played, id="step000001-my/job.py:Mine-g0000-m00", policy_version=3)])
    (one,) = live.http.get("/v1/episodes", params={"origin": "learning"}).json()["data"]
    whole = live.http.get(f"/v1/episodes/{one['id']}").json()
    assert whole["items"][0]["token_ids"] == tokens and "".join(whole["items"][0]["pieces"]).endswith("north<|end|>")
    assert say(live, episode_id=one["id"], comment="well done").status_code == 201
