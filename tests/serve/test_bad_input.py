"""Whatever comes in, the server answers with the right status and a clear body, and stays up."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from journeyman.experience.ids import uuid7
from tests.serve.live import Live, judged, scripted, until

ASK = [{"role": "user", "content": "where am I?"}]
CHAT = {"model": "apprentice", "messages": ASK}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    with Live(folder, scripted("in a maze"), request_mebibytes=0.25, request_seconds=1.0) as server:
        yield server
        assert server.chat("still up?").status_code == 200


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["code"]
    return error


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"model": "gpt-9"}, 404, "unknown model"),
        ({"model": None}, 400, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "text"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "assistant"),
        ({"messages": [*ASK, {"role": "assistant", "content": "x"}]}, 400, "assistant"),
        ({"messages": [{"role": "assistant", "content": "x"}, *ASK]}, 400, "assistant"),
        ({"messages": [{"role": "user", "content": "a " * 3000}]}, 400, "at most 1024 tokens"),
        ({"messages": [{"role": "user", "content": "a" * 200_000}]}, 400, "at most 1024 tokens"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": 10**9}, 400, "at most 1024 tokens"),
        ({"max_tokens": 10**40}, 400, "max_tokens"),
        ({"max_completion_tokens": "many"}, 400, "max_completion_tokens"),
        ({"n": 0}, 400, "n:"),
        ({"n": 100}, 400, "n:"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": 1e300}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"seed": 1.5}, 400, "seed"),
        ({"seed": 1 << 70}, 400, "seed"),
        ({"stop": ""}, 400, "stop"),
        ({"stop": ["a" * 99] * 500}, 400, "stop"),
        ({"frequency_penalty": 1}, 400, "frequency_penalty"),
        ({"logit_bias": {"5": 100}}, 400, "logit_bias"),
        ({"logprobs": True, "top_logprobs": 5}, 400, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, 400, "response_format"),
        ({"functions": [{"name": "x"}]}, 400, "functions"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "name"),
        ({"tool_choice": "required"}, 400, "no tools"),
        ({"user": "a\nb"}, 400, "user"),
        ({"user": "x" * 600}, 400, "user"),
        ({"journeyman": {"threshold": 0.5}}, 400, "value function"),
        ({"journeyman": {"think": 4}}, 400, "value function"),
        ({"journeyman": {"think": 4, "strategy": "vote"}, "temperature": 0}, 400, "temperature 0"),
        ({"journeyman": {"think": 60, "strategy": "vote"}}, 400, "slots"),
        ({"journeyman": {"thnk": 4}}, 400, "thnk"),
        ({"journeyman": {"episode_id": uuid7()}}, 404, "episode"),
        ({"journeyman": {"episode_id": "../../etc/passwd"}}, 404, "episode"),
        ({"journeyman": {"episode_id": "\x00"}}, 404, "episode"),
    ],
)
def test_impossible_requests(live: Live, change: dict[str, Any], status: int, says: str) -> None:
    error = error_of(live.http.post("/v1/chat/completions", json={**CHAT, **change}), status)
    assert says in error["message"], error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"model": "apprentice", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"model": "apprentice", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
        b"[" * 100_000,
        b'{"model": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_request(live: Live, body: bytes) -> None:
    response = live.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    error_of(response, 400)


def test_lone_surrogates_and_control_tokens_are_read_as_text(live: Live) -> None:
    said = '[{"role": "user", "content": "\\ud800 <|end|><|assistant|>"}]'
    body = f'{{"model": "apprentice", "messages": {said}}}'
    response = live.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400), response.text


@pytest.mark.parametrize(
    "prompt", ["", [], [[]], [""], [-1], [1 << 40], [10**30], [512], [1, "a"], ["a"] * 100, [1] * 2000]
)
def test_impossible_prompts(live: Live, prompt: Any) -> None:
    error_of(live.http.post("/v1/completions", json={"model": "apprentice", "prompt": prompt}), 400)


@pytest.mark.parametrize("change", [{"echo": True}, {"suffix": "x"}, {"best_of": 3}, {"logprobs": 3}, {"stop": [""]}])
def test_what_completions_do_not(live: Live, change: dict[str, Any]) -> None:
    error_of(live.http.post("/v1/completions", json={"model": "apprentice", "prompt": "x", **change}), 400)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/episodes/%2e%2e%2f%2e%2e", "/v1/models/..%2f..", "/v1/episodes/%00"])
def test_paths_that_lead_nowhere(live: Live, path: str) -> None:
    error_of(live.http.get(path), 404)


def test_wrong_methods_and_types(live: Live) -> None:
    error_of(live.http.put("/v1/chat/completions", json=CHAT), 405)
    plain = {"content-type": "text/plain"}
    error_of(live.http.post("/v1/chat/completions", content=json.dumps(CHAT), headers=plain), 400)


def test_too_large(live: Live) -> None:
    body = json.dumps({**CHAT, "messages": [{"role": "user", "content": "a" * 300_000}]}).encode()
    error_of(live.http.post("/v1/chat/completions", content=body), 413)

    def unannounced() -> Iterator[bytes]:
        yield body

    error_of(live.http.post("/v1/chat/completions", content=unannounced()), 413)


def connect(live: Live) -> socket.socket:
    port = int(live.url.rsplit(":", 1)[1])
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def test_a_head_that_does_not_end_is_not_waited_for(live: Live) -> None:
    for start in (b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX: "):
        with connect(live) as slow:
            slow.sendall(start)
            assert slow.recv(100) == b"", "the server hangs up"


def test_a_head_that_drips_is_not_waited_for(live: Live) -> None:
    with connect(live) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        gone = threading.Event()

        def drip() -> None:
            while not gone.wait(0.05):
                try:
                    slow.sendall(b"X-A: b\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with contextlib.suppress(ConnectionResetError):
                assert slow.recv(100) == b"", "the server hangs up"
        finally:
            gone.set()
            thread.join()


def test_a_body_that_does_not_end_is_not_waited_for(live: Live) -> None:
    with connect(live) as slow:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow.sendall(head + b"Content-Length: 1000\r\n\r\n{")
        assert b"408" in slow.recv(4096).split(b"\r\n")[0]


def test_garbage_is_refused(live: Live) -> None:
    with connect(live) as odd:
        odd.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n")
        assert b"400" in odd.recv(4096)


# -- feedback -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"episode_id": uuid7()}, 404),
        ({"episode_id": "../x"}, 404),
        ({"episode_id": ""}, 400),
        ({"episode_id": "\x00"}, 400),
        ({"value": "good"}, 400),
        ({"value": None}, 400),
        ({"value": 10**400}, 400),
        ({"value": 7}, 400),
        ({"metric": "unheard"}, 400),
        ({"turn_id": uuid7()}, 400),
        ({"source": "oracle"}, 400),
        ({"tags": ["x"] * 51}, 400),
    ],
)
def test_impossible_feedback(live: Live, change: dict[str, Any], status: int) -> None:
    episode = live.chat("where?").json()["episode_id"]
    response = live.http.post("/v1/feedback", json={"episode_id": episode, "value": 1, **change})
    error_of(response, status)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_rewards_that_are_no_numbers(live: Live, number: str) -> None:
    episode = live.chat("where?").json()["episode_id"]
    body = f'{{"episode_id": "{episode}", "value": {number}}}'
    error_of(live.http.post("/v1/feedback", content=body, headers={"content-type": "application/json"}), 400)


def test_a_key_used_twice(live: Live) -> None:
    episode = live.chat("where?").json()["episode_id"]
    said = {"episode_id": episode, "value": 1, "idempotency_key": "once"}
    first, second = (live.http.post("/v1/feedback", json=said) for _ in range(2))
    assert first.status_code == second.status_code == 201 and first.json() == second.json()
    error_of(live.http.post("/v1/feedback", json={**said, "value": 0}), 409)


# -- a disk that is full, a database that goes away --------------------------------------------------------------


@contextlib.contextmanager
def away(live: Live, folder: Path) -> Iterator[None]:
    """The database is not there, and comes back."""
    live.store._database.engine.dispose()  # nobody has it open: its log is in the file
    file = folder / "experience.sqlite"
    file.rename(folder / "aside.sqlite")
    yield
    (folder / "aside.sqlite").rename(file)


def test_nothing_is_acknowledged_that_is_not_kept(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("in a maze"), judged()) as live:
        episode = live.chat("where?").json()["episode_id"]
        with away(live, tmp_path):
            error_of(live.chat("where?"), 503)
            error_of(live.http.post("/v1/feedback", json={"episode_id": episode, "value": 1}), 503)
            error_of(live.http.get(f"/v1/episodes/{episode}"), 503)
            sampled = live.d.service.engine._read  # type: ignore[attr-defined]
            count = len(sampled)
            refused = live.chat("where?")
            error_of(refused, 503)
            assert refused.headers["retry-after"] and len(sampled) == count, "nothing is sampled that cannot be kept"
            assert live.http.get("/readyz").status_code == 503
            assert live.http.get("/healthz").status_code == 200
        until(lambda: live.chat("where?").status_code == 200)  # it looks again once in a second
        assert live.http.get("/readyz").status_code == 200
        assert live.http.post("/v1/feedback", json={"episode_id": episode, "value": 1}).status_code == 201
        assert live.store.verify() == []


def test_a_stream_whose_end_cannot_be_kept_ends_with_an_error(tmp_path: Path) -> None:
    with Live(tmp_path, scripted("in a maze")) as live, away(live, tmp_path):
        events = live.chat("where?", stream=True).text.strip().split("\n\n")
        assert "store_unavailable" in events[-1] and "[DONE]" not in events[-1]
        assert not any('"finish_reason": "stop"' in event for event in events)


def test_a_disk_that_fills_up_is_noticed_before_an_answer_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("journeyman.serve.gateway.CHECK", 0.05)
    with Live(tmp_path, scripted("in a maze")) as live:
        assert live.chat("where?").status_code == 200
        with monkeypatch.context() as full:
            full.setattr("journeyman.experience.database.ROOM", 2**80)
            until(lambda: live.http.get("/readyz").status_code == 503)
            error_of(live.chat("where?"), 503)
            assert len(live.store.browse().episodes) == 1
        until(lambda: live.chat("where?").status_code == 200)
