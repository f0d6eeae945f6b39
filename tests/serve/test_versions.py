"""Several versions side by side: known shares, everybody stays with theirs, and no change costs a request."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from journeyman.errors import UsageError
from journeyman.model.load import save
from journeyman.serve import fleet
from journeyman.serve.config import ServeConfig
from journeyman.serve.deployment import Deployment
from journeyman.serve.keys import Keys
from tests.serve.live import APPRENTICE, Live, Slow, native, saying, scripted, until


def other_weights(folder: Path, factor: float = 1.01) -> str:
    """A checkpoint that fits and is another."""
    model = copy.deepcopy(APPRENTICE.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    save(folder, model, APPRENTICE.tokenizer)
    return str(folder)


@contextmanager
def served(tmp_path: Path, *engine: Any, **config: Any) -> Iterator[tuple[Live, httpx.Client]]:
    """A server, and its administrator's client; both have the same key."""
    key = Keys(tmp_path / "keys.json").add("a", ("admin", "use", "feedback"))[1]
    headers = {"Authorization": f"Bearer {key}"}
    with (
        Live(tmp_path, *engine, slots=4, **config) as live,
        httpx.Client(base_url=live.admin, headers=headers, timeout=60) as admin,
    ):
        live.http.headers.update(headers)
        yield live, admin


def answered_by(answer: httpx.Response) -> int:
    assert answer.status_code == 200, answer.text
    return answer.json()["journeyman"]["choices"][0]["versions"][0]["version"]


def test_shares_are_kept_and_users_stay(tmp_path: Path) -> None:
    with served(tmp_path, scripted("in a maze")) as (live, admin):
        loaded = admin.post("/admin/versions", json={"source": other_weights(tmp_path / "new")})
        assert loaded.status_code == 201 and loaded.json() | {"state": "candidate", "share": 0.0} == loaded.json()
        assert {answered_by(live.chat("?", user=f"u{n}", max_tokens=1)) for n in range(10)} == {1}, (
            "it has no share yet"
        )
        shares = admin.put("/admin/shares", json={"shares": {"1": 0.75, "2": 0.25}})
        assert shares.status_code == 200 and [one["share"] for one in shares.json()["data"]] == [0.75, 0.25]
        first = {n: answered_by(live.chat("?", user=f"u{n}", max_tokens=1)) for n in range(80)}
        again = {n: answered_by(live.chat("?", user=f"u{n}", max_tokens=1)) for n in range(0, 80, 8)}
        assert again == {n: first[n] for n in again}, "a user stays with a version"
        # the hash is fixed, so this passes always or never; over hashes it fails with P(|X - 20| > 19) < 1e-6
        assert abs(Counter(first.values())[2] - 20) <= 19
        admin.put("/admin/shares", json={"shares": {"1": 0.5, "2": 0.5}})
        later = {n: answered_by(live.chat("?", user=f"u{n}", max_tokens=1)) for n in range(80)}
        assert all(later[n] == 2 for n in first if first[n] == 2), "who had the candidate keeps it as its share grows"
        kept = {
            s.probability
            for e in live.store.browse(limit=1000).episodes
            for t in live.store.whole(e.id).turns
            for s in t.spans
        }
    assert kept == {1.0, 0.75, 0.25, 0.5}


def test_an_episode_stays_with_its_version_and_probability(tmp_path: Path) -> None:
    with served(tmp_path, scripted("in a maze")) as (live, admin):
        admin.post("/admin/versions", json={"source": other_weights(tmp_path / "new")})
        admin.put("/admin/shares", json={"shares": {"1": 0.5, "2": 0.5}})
        begun = [live.chat("?", max_tokens=1) for _ in range(40)]
        # each is drawn by a fresh random id: all alike with probability 2 ** -39 < 2e-12
        assert {answered_by(one) for one in begun} == {1, 2}
        admin.put("/admin/shares", json={"shares": {"1": 1.0}})
        for one in begun[:10]:
            said = one.json()["choices"][0]["message"]["content"]
            ours = {"episode_id": one.json()["episode_id"]}
            assert answered_by(live.chat("?", said, "and?", max_tokens=1, journeyman=ours)) == answered_by(one)
            turns = live.store.whole(ours["episode_id"]).turns
            assert [turn.spans[0].probability for turn in turns] == [0.5, 0.5]


def test_a_client_may_choose(tmp_path: Path) -> None:
    with served(tmp_path, scripted("in a maze")) as (live, admin):
        admin.post("/admin/versions", json={"source": other_weights(tmp_path / "new")})
        listed = live.http.get("/v1/models").json()["data"]
        assert [(one["id"], one["journeyman"]["state"]) for one in listed] == [
            ("apprentice", "release"), ("apprentice@1", "release"), ("apprentice@2", "candidate"),
        ]  # fmt: skip
        chosen = live.chat("?", model="apprentice@2", max_tokens=1)
        assert answered_by(chosen) == 2
        (turn,) = live.store.whole(chosen.json()["episode_id"]).turns
        assert turn.spans[0].probability == 1 and turn.parameters["model"] == "apprentice@2"
        assert live.chat("?", model="apprentice@3").status_code == 404


def test_a_version_goes_when_its_replies_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "LINGER", 0.2)
    engine = Slow(saying("north " * 100), pace=1)
    answers: list[httpx.Response] = []
    with served(tmp_path, engine) as (live, admin):
        admin.post("/admin/versions", json={"source": other_weights(tmp_path / "new")})
        assert admin.delete("/admin/versions/1").status_code == 409, "it still has a share"
        slow = threading.Thread(target=lambda: answers.append(live.chat("go", max_tokens=120)))
        slow.start()
        until(lambda: live.d.service.running == 1)
        admin.put("/admin/shares", json={"shares": {"2": 1.0}})
        gone = admin.delete("/admin/versions/1")
        assert gone.status_code == 202 and (gone.json()["state"], gone.json()["running"]) == ("leaving", 1)
        assert answered_by(live.chat("?", max_tokens=1)) == 2
        assert live.chat("?", model="apprentice@1").status_code == 404
        slow.join()
        assert answered_by(answers[0]) == 1 and answers[0].json()["usage"]["completion_tokens"] > 60
        until(lambda: [one.number for one in live.d.fleet.members] == [2])
        ours = {"episode_id": answers[0].json()["episode_id"]}
        said = answers[0].json()["choices"][0]["message"]["content"]
        assert answered_by(live.chat("go", said, "on", max_tokens=1, journeyman=ours)) == 2, "its episodes go on"
        assert admin.delete("/admin/versions/1").status_code == 404


def test_versions_come_and_go_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "LINGER", 0.2)
    statuses: Counter[int] = Counter()
    ended = threading.Event()
    with served(tmp_path, native(slots=4)) as (live, admin):

        def ask() -> None:
            while not ended.is_set():
                statuses[live.chat("A1 to B1", max_tokens=4).status_code] += 1

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        for number in (2, 3):
            admin.post("/admin/versions", json={"source": other_weights(tmp_path / str(number), 1 + number / 100)})
            admin.put("/admin/shares", json={"shares": {str(number): 0.5, str(number - 1): 0.5}})
            asked = sum(statuses.values())
            until(lambda asked=asked: sum(statuses.values()) >= asked + 8)
            admin.put("/admin/shares", json={"shares": {str(number): 1.0}})
            admin.delete(f"/admin/versions/{number - 1}")
            until(lambda number=number: [one.number for one in live.d.fleet.members] == [number])
        ended.set()
        for client in clients:
            client.join()
        assert set(statuses) == {200}, statuses
        assert not live.store.verify()


@pytest.mark.parametrize(
    ("shares", "status"),
    [
        ({"1": 0.5}, 400),
        ({"1": 1.5}, 400),
        ({"1": 0.5, "9": 0.5}, 404),
        ({}, 400),
        ({"1": math.pi}, 400),
        ({"x": 1}, 400),
    ],
)
def test_shares_that_are_none_change_nothing(tmp_path: Path, shares: dict[str, float], status: int) -> None:
    with served(tmp_path, scripted("in a maze")) as (live, admin):
        refused = admin.put("/admin/shares", json={"shares": shares})
        assert refused.status_code == status and refused.json()["error"]["message"]
        assert live.d.fleet.share(live.d.fleet.release) == 1


def test_the_same_weights_are_not_served_twice(tmp_path: Path) -> None:
    with served(tmp_path, scripted("in a maze")) as (live, admin):
        source = other_weights(tmp_path / "new")
        assert admin.post("/admin/versions", json={"source": source}).status_code == 201
        assert admin.post("/admin/versions", json={"source": source}).status_code == 409
        assert admin.post("/admin/weights", json={"source": source}).status_code == 409
        assert len(live.d.fleet.members) == 2


def test_a_server_begins_with_the_shares_of_its_settings(tmp_path: Path) -> None:
    old, new = other_weights(tmp_path / "old", 1.02), other_weights(tmp_path / "new")
    d = Deployment.open(old, ServeConfig(also=(f"{new}=0.25",), slots=2, context=64, store=str(tmp_path / "store")))
    try:
        shares = [(one.number, one.version.source, d.fleet.share(one)) for one in d.fleet.members]
        assert shares == [(1, old, 0.75), (2, new, 0.25)]
    finally:
        asyncio.run(d.close())


def test_settings_name_the_others_with_their_shares() -> None:
    assert ServeConfig(also=("tiny,vocab=512=0.25", "runs/new=0")).others == [
        ("tiny,vocab=512", 0.25),
        ("runs/new", 0.0),
    ]
    for wrong in ("runs/new", "=0.5", "runs/new=2", "runs/new=x", "runs/new=nan"):
        with pytest.raises(UsageError, match="got"):
            ServeConfig(also=(wrong,))
    with pytest.raises(UsageError, match="at most 1"):
        ServeConfig(also=("a=0.6", "b=0.6"))
