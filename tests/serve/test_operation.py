"""Keys, limits, health, draining, other weights, and clients that go away."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from journeyman.errors import UsageError
from journeyman.model.load import load, save
from journeyman.serve.config import ServeConfig
from journeyman.serve.keys import Keys
from journeyman.serve.limits import RateLimit
from journeyman.serve.server import check_open
from tests.serve.live import APPRENTICE, Live, Slow, judged, native, saying, scripted, until


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def test_keys_hold_for_what_they_say(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    user, judge, boss = (
        keys.add(name, (scope,))[1] for name, scope in (("u", "use"), ("f", "feedback"), ("a", "admin"))
    )  # type: ignore[misc]
    with Live(tmp_path, scripted("in a maze")) as live:
        assert live.chat("where?").status_code == 401
        for wrong in ("jm-0-0", user[:-1], user + "x", "é", "jm--", "x" * 10_000):
            assert live.chat("where?", headers=bearer(wrong).copy() if wrong.isascii() else {}).status_code == 401
        answer = live.chat("where?", headers=bearer(user))
        assert answer.status_code == 200
        episode = answer.json()["episode_id"]
        said = {"episode_id": episode, "value": 1}
        for text, status in ((user, 403), (judge, 201), (boss, 201)):
            assert live.http.post("/v1/feedback", json=said, headers=bearer(text)).status_code == status
        assert live.chat("where?", headers=bearer(judge)).status_code == 403
        assert live.http.get("/v1/episodes", headers=bearer(judge)).json()["data"] == [], "not its own"
        assert live.http.get(f"/v1/episodes/{episode}", headers=bearer(judge)).status_code == 404
        assert [one["id"] for one in live.http.get("/v1/episodes", headers=bearer(boss)).json()["data"]] == [episode]
        again = {"episode_id": episode}
        assert live.chat("where?", journeyman=again, headers=bearer(boss)).status_code == 404, "another key's episode"
        assert user.split("-", 2)[2] not in (tmp_path / "keys.json").read_text(), "only hashes are kept"


def test_keys_come_and_go_while_it_serves(tmp_path: Path) -> None:
    boss = Keys(tmp_path / "keys.json").add("a", ("admin",))[1]
    with (
        Live(tmp_path, scripted("in a maze")) as live,
        httpx.Client(base_url=live.admin, headers=bearer(boss)) as admin,
    ):
        made = admin.post("/admin/keys", json={"name": "ann", "scopes": ["use"], "per_minute": 2})
        assert made.status_code == 201 and "digest" not in made.json()
        mine = bearer(made.json()["key"])
        assert [live.chat("where?", headers=mine).status_code for _ in range(3)] == [200, 200, 429]
        limited = live.chat("where?", headers=mine)
        assert int(limited.headers["retry-after"]) >= 1 and limited.json()["error"]["type"] == "rate_limit_error"
        assert admin.delete(f"/admin/keys/{made.json()['id']}").status_code == 200
        assert live.chat("where?", headers=mine).status_code == 401
        assert len(admin.get("/admin/keys").json()["data"]) == 2
        elsewhere = Keys(tmp_path / "keys.json").add("bob")[1]  # as another process does
        assert live.chat("where?", headers=bearer(elsewhere)).status_code == 200


def test_a_key_s_suffix_is_its_session(tmp_path: Path) -> None:
    key = Keys(tmp_path / "keys.json").add("a")[1]
    with Live(tmp_path, scripted("in a maze")) as live:
        ids = [live.chat("?", headers=bearer(f"{key}:{name}")).json()["episode_id"] for name in ("x", "x", "y")]
    assert ids[0] == ids[1] != ids[2]


def test_administration_is_elsewhere_and_needs_a_key(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("in a maze")) as live, httpx.Client(base_url=live.admin) as admin:
        assert live.http.get("/admin/keys").status_code == 404
        assert admin.get("/admin/keys").status_code == 401
        assert admin.post("/admin/keys", json={"name": "x", "scopes": ["admin"]}).status_code == 401


def test_without_keys_no_web_page_can_use_it(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("in a maze")) as live:
        rebound = live.chat("where?", headers={"Host": "evil.example"})
        assert rebound.status_code == 403 and rebound.json()["error"]["code"] == "host_not_allowed"
        plain = live.http.options("/v1/chat/completions", headers={"Origin": "https://evil.example"})
        assert not any(name.startswith("access-control") for name in plain.headers)


def test_an_open_server_answers_all_and_tells_nobody_of_others(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("x"), open=True) as live:
        assert live.chat("where?", headers={"Host": "models.example"}).status_code == 200
        assert live.http.get("/v1/episodes").status_code == 403


def test_nobody_is_let_in_from_elsewhere_by_mistake() -> None:
    for config, keys in ((ServeConfig(), 0), (ServeConfig(host="0.0.0.0"), 1), (ServeConfig(host="::", open=True), 0)):
        check_open(config, keys)
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(UsageError, match="no API key"):
            check_open(ServeConfig(host=host), 0)


def test_a_full_queue_turns_away(tmp_path: Path) -> None:
    engine = Slow(saying("north " * 100), slots=1, pace=1)
    with Live(tmp_path, engine, queue=1) as live:
        slow = [threading.Thread(target=live.chat, args=("go",), kwargs={"max_tokens": 80}) for _ in range(2)]
        for thread in slow:
            thread.start()
        until(lambda: live.d.gateway.outstanding == 2)
        refused = live.chat("me, too")
        assert refused.status_code == 429 and refused.headers["retry-after"]
        assert refused.json()["error"]["code"] == "queue_full"
        for thread in slow:
            thread.join()
        assert live.chat("now?", max_tokens=1).status_code == 200


def test_who_waits_too_long_is_told(tmp_path: Path) -> None:
    engine = Slow(saying("north " * 100), slots=1, pace=1)
    with Live(tmp_path, engine, queue_seconds=0.1) as live:
        slow = threading.Thread(target=live.chat, args=("go",), kwargs={"max_tokens": 80})
        slow.start()
        until(lambda: live.d.service.running == 1)
        for stream in (False, True):
            late = live.chat("me, too", stream=stream)
            assert late.status_code == 429 and late.json()["error"]["code"] == "queue_timeout"
        slow.join()


def test_a_reply_that_takes_too_long_is_cut(tmp_path: Path) -> None:
    with Live(tmp_path, Slow(saying("north " * 100), pace=1), reply_seconds=0.2) as live:
        answer = live.chat("go", max_tokens=1000).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert live.store.whole(answer["episode_id"]).turns[0].finish == "timeout"


def test_thought_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with Live(tmp_path, Slow(saying("north " * 40), pace=1, slots=4), judged(), reply_seconds=0.2) as live:
        ended = live.chat("go", max_tokens=1000, journeyman={"think": 4, "strategy": "best"})
        assert ended.status_code == 422 and ended.json()["error"]["code"] == "think_timeout"
        assert live.chat("now?", max_tokens=1).status_code == 200, "its slots are free again"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_slot(tmp_path: Path, stream: bool) -> None:
    engine = Slow(saying("north " * 400), slots=1, pace=1, context=4096)
    with Live(tmp_path, engine) as live:
        body = {"model": "apprentice", "messages": [{"role": "user", "content": "go"}], "stream": stream}

        async def leave() -> None:
            async with httpx.AsyncClient(base_url=live.url) as client:
                task = asyncio.create_task(client.post("/v1/chat/completions", json=body))
                while not live.d.service.running:
                    await asyncio.sleep(0.005)
                await asyncio.sleep(0.1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        asyncio.run(leave())
        until(lambda: live.d.service.running == 0 and live.d.gateway.outstanding == 0)
        until(lambda: len(live.store.browse().episodes) == 1)
        (kept,) = live.store.browse().episodes
        (turn,) = live.store.whole(kept.id).turns
        assert turn.finish == "cancelled" and 0 < len(turn.completion) < 800
        assert live.chat("now?", max_tokens=1).status_code == 200


def test_what_is_under_way_is_finished_before_it_ends(tmp_path: Path) -> None:
    engine = Slow(saying("north " * 20), pace=1, seconds=0.01)
    answers: list[httpx.Response] = []
    with Live(tmp_path, engine, drain_seconds=30) as live:
        slow = threading.Thread(target=lambda: answers.append(live.chat("go", max_tokens=300)))
        slow.start()
        until(lambda: live.d.service.running == 1)
        live.stop()
        live.thread.join()
        slow.join()
    assert answers[0].status_code == 200 and answers[0].json()["choices"][0]["finish_reason"] == "stop"


def test_draining_by_hand(tmp_path: Path) -> None:
    boss = Keys(tmp_path / "keys.json").add("a", ("admin", "use"))[1]
    with Live(tmp_path, scripted("x")) as live, httpx.Client(base_url=live.admin, headers=bearer(boss)) as admin:
        assert admin.post("/admin/drain").json()["draining"]
        assert live.http.get("/readyz").status_code == 503
        assert live.chat("?", headers=bearer(boss)).status_code == 503
        admin.delete("/admin/drain")
        assert live.chat("?", headers=bearer(boss)).status_code == 200


def test_other_weights_without_a_pause(tmp_path: Path) -> None:
    other = copy.deepcopy(APPRENTICE.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    save(tmp_path / "other", other, APPRENTICE.tokenizer)
    boss = Keys(tmp_path / "keys.json").add("a", ("admin", "use"))[1]
    with Live(tmp_path, native(), APPRENTICE) as live:
        before = live.chat("A1 to B1", headers=bearer(boss)).json()
        with httpx.Client(base_url=live.admin, headers=bearer(boss), timeout=60) as admin:
            done = admin.post("/admin/weights", json={"source": str(tmp_path / "other")})
            assert done.status_code == 200 and done.json()["version"] == 2
            missing = admin.post("/admin/weights", json={"source": str(tmp_path / "nothing")})
            assert missing.status_code == 400 and missing.json()["error"]["message"]
            assert admin.get("/admin/weights").json()["current"] == 2
        after = live.chat("A1 to B1", headers=bearer(boss)).json()
        assert after["journeyman"]["choices"][0]["versions"] == [{"version": 2, "start": 0}]
        assert before["system_fingerprint"] != after["system_fingerprint"]
        assert [m["id"] for m in live.http.get("/v1/models", headers=bearer(boss)).json()["data"]][1] == "apprentice@2"
        (turn,) = live.store.whole(after["episode_id"]).turns
        sequence = live.d.service.engine
        assert turn.spans[0].version == 2 and sequence.version == 2
        with torch.no_grad():
            tokens = torch.tensor([turn.tokens.tolist()])
            logits = load(tmp_path / "other").model
            expected = logits.logits(logits.hidden(tokens)).float().log_softmax(-1)[0, :-1]
        told = expected.gather(-1, tokens[0, 1:, None])[len(turn.prompt) - 1 :, 0].tolist()
        assert max(abs(a - b) for a, b in zip(told, turn.logprobs.tolist(), strict=True)) < 0.05


def test_figures_and_logs(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("in a maze"), judged()) as live:
        secret = "a secret that nobody logs"
        live.chat(secret)
        live.chat("?", model="gpt-9")
        page = live.http.get("/metrics").text
        assert 'journeyman_requests_total{route="/v1/chat/completions",status="200"} 1.0' in page
        assert 'journeyman_requests_total{route="/v1/chat/completions",status="404"} 1.0' in page
        assert "journeyman_first_token_seconds_count 1.0" in page and "journeyman_value_count 1.0" in page
        assert live.http.get("/healthz").json() == {"status": "ok"}
    log = (tmp_path / "log.jsonl").read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    asked = [line for line in lines if line["event"] == "request" and line["status"] == 200]
    assert asked[0]["episode"] and asked[0]["completion_tokens"] and secret not in log
    assert lines[-1]["event"] == "stopped"


def test_prompts_are_logged_where_asked_for(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("in a maze"), log_prompts=True) as live:
        live.chat("where am I?")
    log = (tmp_path / "log.jsonl").read_text()
    assert "where am I?" in log and "in a maze" in log


def test_buckets_fill_again() -> None:
    now = 0.0
    limit = RateLimit(60.0, lambda: now)
    assert [limit.take("a", 3) == 0 for _ in range(4)] == [True, True, True, False]
    assert limit.take("b", 3) == 0, "each has its own"
    assert limit.take("a", 3) == pytest.approx(20)
    now = 20.0
    assert limit.take("a", 3) == 0 < limit.take("a", 3)


@pytest.mark.parametrize(
    "change",
    [
        {"port": -1},
        {"port": 70_000},
        {"admin_port": 8000},
        {"slots": 0},
        {"queue": -1},
        {"reply_seconds": 0.0},
        {"context": 1},
    ],
)
def test_impossible_settings(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="got"):
        ServeConfig(**change)
