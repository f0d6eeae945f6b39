"""The server follows the log, whoever writes it: no request fails, and no answer says otherwise than the log does."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from journeyman.experience import EpisodeFilter, Store
from journeyman.experience.journal import Event
from journeyman.model.load import load
from journeyman.model.weights import weights_digest
from journeyman.release.book import Version
from journeyman.release.gate import Power
from journeyman.release.registry import Registry
from journeyman.release.rollout import Guardrail, Phase, RolloutPlan
from journeyman.release.steering import TROUBLE, Rollout, observed
from journeyman.serve import fleet, following
from tests.serve.live import APPRENTICE, Live, judged, native, until
from tests.serve.test_versions import answered_by, other_weights, served

RAILS = (Guardrail("reward", margin=0.5),)
PLAN = RolloutPlan(shares=(0.0, 0.3, 1.0), least=4, risk=0.5, guardrails=RAILS)
HALF = RolloutPlan(shares=(0.5, 1.0), least=1000)
SURE = 20.0
"""log of an e-value that allows everything."""
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and let go at once."""
    monkeypatch.setattr(following, "EVERY", 0.02)
    monkeypatch.setattr(following, "AGAIN", 0.05)
    monkeypatch.setattr(fleet, "LINGER", 0.2)


@contextmanager
def elsewhere(folder: Path, source: str) -> Iterator[tuple[Store, int]]:
    """The store as another process has it, in which these weights became known; and their number."""
    with Store(folder / "experience.sqlite") as store:
        yield store, Registry(store).add(weights_digest(load(source).model), source, parents=[1]).number


@contextmanager
def half_released(
    folder: Path, factor: float = 1.01, power: Power | None = None, plan: RolloutPlan = HALF
) -> Iterator[tuple[Live, Store, int]]:
    """A server, its store as another process has it, and a candidate that has half of the traffic, or as planned."""
    new = other_weights(folder / "new", factor)
    with Live(folder, slots=4) as live, elsewhere(folder, new) as (store, candidate):
        Rollout(store).begin(candidate, plan, gate=SURE, power=power)
        until(lambda: members(live) == [1, candidate])
        yield live, store, candidate


@contextmanager
def asked_all_the_while(live: Live, clients: int = 3) -> Iterator[Counter[int]]:
    """People who ask and say that it was good, each time as somebody else; statuses of all that they were answered."""
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def ask(number: int) -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            answer = live.chat("A1 to B1", user=f"user{number}-{turn}", max_tokens=3)
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                said = {"episode_id": answer.json()["episode_id"], "value": 1}
                statuses[live.http.post("/v1/feedback", json=said).status_code] += 1

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def break_(engine: Any) -> None:
    """Whatever it is asked from now on."""

    def step() -> list[Any]:
        raise RuntimeError("NaN")

    engine.step = step


def by_version(store: Store) -> list[tuple[float, int, float]]:
    """Each answer: when it was asked for, which version gave it, with which probability."""
    turns = [turn for one in store.every(EpisodeFilter(origin="served")) for turn in one.turns]
    return [(turn.started, span.version, span.probability) for turn in turns for span in turn.spans]


def events(store: Store, topic: str) -> list[Event]:
    return [event for event in store.events() if event.topic == topic]


def members(live: Live) -> list[int]:
    return [one.number for one in live.d.fleet.members]


def test_from_the_shadow_to_the_release_without_a_failure(tmp_path: Path) -> None:
    loaded = judged()
    with (
        Live(tmp_path, native(loaded), loaded, slots=4) as live,
        elsewhere(tmp_path, other_weights(tmp_path / "new", 1.0001)) as (store, candidate),
        asked_all_the_while(live) as statuses,
    ):
        rollout = Rollout(store)
        state = rollout.begin(candidate, PLAN, gate=SURE)
        assert state is not None
        until(lambda: live.d.shadow.member is not None)
        end = time.monotonic() + 600
        while (state := rollout.state()) is not None and state.under_way and time.monotonic() < end:
            rollout.look(list(observed(store, state)))
            time.sleep(0.05)
        assert state is not None and state.phase is Phase.RELEASED, state
        until(lambda: members(live) == [candidate])
        asked = sum(statuses.values())
        until(lambda: sum(statuses.values()) > asked + 8)
    assert set(statuses) == {200, 201}, statuses
    with Store(tmp_path / "experience.sqlite") as store:
        answers, moves = by_version(store), events(store, "rollout")
        assert store.verify() == []
    assert [move.data["what"] for move in moves] == ["begin", "advance", "advance"]
    first = {1.0: 0.0, 0.3: moves[1].at, 0.7: moves[1].at}
    for started, version, probability in answers:
        assert (version, probability) in {(1, 1.0), (1, 0.7), (2, 0.3), (2, 1.0)}
        assert started >= (moves[2].at if (version, probability) == (2, 1.0) else first[probability])
    assert {version for _, version, _ in answers} == {1, 2} and answers[-1][1:] == (2, 1.0)


def test_a_roll_back_takes_the_traffic_back(tmp_path: Path) -> None:
    with (
        Live(tmp_path, slots=4) as live,
        elsewhere(tmp_path, other_weights(tmp_path / "new")) as (store, candidate),
        asked_all_the_while(live) as statuses,
    ):
        rollout = Rollout(store)
        rollout.begin(candidate, HALF, gate=SURE)
        until(lambda: any(version == candidate for _, version, _ in by_version(store)))
        theirs = next(n for n in range(100) if answered_by(live.chat("?", user=f"u{n}", max_tokens=1)) == candidate)
        rollout.act("roll back", "a complaint")
        until(lambda: members(live) == [1])
        assert answered_by(live.chat("?", user=f"u{theirs}", max_tokens=1)) == 1
        rollout.begin(candidate, HALF, gate=SURE)  # and once more
        until(lambda: answered_by(live.chat("?", user=f"u{theirs}", max_tokens=1)) == candidate)
    assert set(statuses) == {200, 201}, statuses


def test_one_that_was_let_go_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "LINGER", 2.0)
    with half_released(tmp_path) as (live, store, candidate):
        rollout = Rollout(store)
        member = live.d.fleet.of(candidate)
        rollout.act("roll back", "in haste")
        until(lambda: member.leaving)
        rollout.begin(candidate, HALF, gate=SURE)
        until(lambda: live.d.fleet.share(member) == 0.5)
        assert not member.leaving


def test_one_that_is_taken_back_at_the_last_moment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last look at it and its end."""
    monkeypatch.setattr(fleet, "LINGER", 0.01)
    service: Any = SimpleNamespace(running=0, waiting=0, close=lambda: None)
    one, other = (fleet.Member(Version(n, f"{n}" * 64, ""), APPRENTICE, service) for n in (1, 2))
    both, sleep = fleet.Fleet(one), asyncio.sleep

    async def overslept(seconds: float) -> None:
        await sleep(2 * fleet.LINGER)
        assert both.take_back(2)

    both.add(other)
    both.dismiss(2)
    monkeypatch.setattr(asyncio, "sleep", overslept)
    asyncio.run(both.emptied(other))
    assert both.members == [one, other]


def test_what_nobody_understands_does_not_end_the_following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def lost(events: object) -> None:
        tried.append(events)
        raise KeyError("version")

    new = other_weights(tmp_path / "new")
    with Live(tmp_path, slots=4) as live, elsewhere(tmp_path, new) as (store, candidate):
        with monkeypatch.context() as patch:
            patch.setattr(following, "course", lost)
            Registry(store).note(1, "from a later version of the programme")
            until(lambda: bool(tried))
        assert answered_by(live.chat("?", max_tokens=1)) == 1
        Rollout(store).begin(candidate, HALF, gate=SURE)
        until(lambda: members(live) == [1, candidate])


def test_one_that_cannot_be_loaded_is_rolled_back_and_the_release_goes_on(tmp_path: Path) -> None:
    with served(tmp_path) as (live, admin), Store(tmp_path / "experience.sqlite") as store:
        gone = Registry(store).add("2" * 64, str(tmp_path / "gone"), parents=[1]).number
        rollout = Rollout(store)
        rollout.begin(gone, HALF, gate=SURE)
        until(lambda: bool(events(store, TROUBLE)))
        assert answered_by(live.chat("?", max_tokens=1)) == 1
        (failed,) = admin.get("/admin/versions").json()["failed"]
        assert failed["version"] == gone and "cannot be loaded" in failed["why"]
        assert "journeyman_unserved 1.0" in live.http.get("/metrics").text
        tried = live.d.follower.failures[gone].wait
        until(lambda: live.d.follower.failures[gone].wait > tried)  # it is tried again
        assert len(events(store, TROUBLE)) == 1, "once is enough"
        decision = rollout.look([])
        assert decision.what == "roll back" and "cannot be loaded" in decision.why
        until(lambda: not live.d.follower.failures)
        assert answered_by(live.chat("?", max_tokens=1)) == 1
        rollout.begin(gone, HALF, gate=SURE)
        until(lambda: len(events(store, TROUBLE)) == 2)  # another attempt, another failure


@pytest.mark.parametrize("what", ["others", "damaged"])
def test_what_lies_there_must_be_the_version(tmp_path: Path, what: str) -> None:
    """The course before stays, whole, until the right weights are there."""
    right, folder = other_weights(tmp_path / "right", 1.02), tmp_path / "new"
    with Live(tmp_path, slots=4) as live, elsewhere(tmp_path, right) as (store, _):
        other_weights(folder, 1.03)
        if what == "damaged":
            (folder / "model.safetensors").write_bytes(b"\0" * 100)
        number = Registry(store).add("3" * 64, str(folder), parents=[1]).number
        Rollout(store).begin(number, HALF, gate=SURE)
        until(lambda: bool(events(store, TROUBLE)))
        assert members(live) == [1] and live.d.fleet.share(live.d.fleet.release) == 1


def test_a_candidate_may_do_what_its_evidence_allows(tmp_path: Path) -> None:
    power = Power(tokens=1, seconds=30.0, tools=())
    with half_released(tmp_path, 1.0001, power) as (live, store, candidate):
        users = [f"u{n}" for n in range(16)]  # all of one version: 2 ** -15
        plain = [live.chat("A1 to C3", user=user, max_tokens=20, temperature=0) for user in users]
        made = {(answered_by(answer), answer.json()["usage"]["completion_tokens"]) for answer in plain}
        assert made == {(1, 2), (candidate, 1)}, "a word and its end, of which the candidate may say one"
        armed = [live.chat("A1 to C3", user=user, max_tokens=2, tools=[TOOL]) for user in users]
        assert {answered_by(answer) for answer in armed} == {1}
        (turn,) = store.whole(armed[0].json()["episode_id"]).turns
        assert turn.spans[0].probability == 1, "no lot was drawn, whoever would have got the release"
        unarmed = live.chat("A1", model=f"apprentice@{candidate}", tools=[TOOL], tool_choice="none", max_tokens=1)
        assert answered_by(unarmed) == candidate
        refused = live.chat("A1", model=f"apprentice@{candidate}", tools=[TOOL], max_tokens=1)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "beyond_power"


def test_a_candidate_with_nearly_all_of_the_traffic_is_not_the_release(tmp_path: Path) -> None:
    with half_released(tmp_path, power=Power(tools=()), plan=replace(HALF, shares=(0.9, 1.0))) as (live, _, candidate):
        users = [f"u{n}" for n in range(16)]  # all of the release: 10 ** -16
        assert candidate in {answered_by(live.chat("?", user=user, max_tokens=1)) for user in users}
        armed = [live.chat("?", user=user, max_tokens=1, tools=[TOOL]) for user in users]
        assert {answered_by(answer) for answer in armed} == {1}
        break_(live.d.fleet.of(candidate).service.engine)
        assert {answered_by(live.chat("?", user=user, max_tokens=1)) for user in users} == {1}
        assert live.http.get("/readyz").status_code == 200


def test_a_candidate_whose_engine_fails_costs_nobody_an_answer(tmp_path: Path) -> None:
    """Who was asking it gets the release's answer, and so does everybody after."""
    with half_released(tmp_path) as (live, store, candidate):
        break_(live.d.fleet.of(candidate).service.engine)
        answers = [live.chat("?", user=f"u{n}", max_tokens=1) for n in range(30)]  # all of one version: 2 ** -29
        assert {answered_by(answer) for answer in answers} == {1}
        assert len({answer.json()["system_fingerprint"] for answer in answers}) == 1
        until(lambda: bool(events(store, TROUBLE)))
        assert live.http.get("/readyz").status_code == 200
        assert Rollout(store).look([]).what == "roll back"


def test_changes_by_hand_hold_until_the_next_decision(tmp_path: Path) -> None:
    with served(tmp_path) as (live, admin), Store(tmp_path / "experience.sqlite") as store:
        source = other_weights(tmp_path / "new")
        assert admin.post("/admin/versions", json={"source": source}).json()["version"] == 2
        admin.put("/admin/shares", json={"shares": {"2": 1.0}})
        Registry(store).note(1, "an event that decides nothing")
        read = len(store.events())
        until(lambda: len(live.d.follower.tail.read()) == read)
        time.sleep(0.1)
        assert answered_by(live.chat("?", max_tokens=1)) == 2
        Rollout(store).begin(2, HALF, gate=SURE)
        until(lambda: live.d.fleet.share(live.d.fleet.of(1)) == 0.5)
        third = admin.post("/admin/weights", json={"source": other_weights(tmp_path / "third", 1.03)})
        assert third.json()["version"] == 3
        book = Registry(store).book()
        assert book.aliases["release"] == 3 and book.versions[3].parents == (1,)
        until(lambda: members(live) == [3])
        assert Rollout(store).look([]).why == "another version became the release"


@pytest.mark.slow
def test_killed_in_the_middle_of_a_rollout_it_comes_back_to_what_the_log_says(tmp_path: Path) -> None:
    first, second = other_weights(tmp_path / "first", 1.001), other_weights(tmp_path / "second")

    def models(url: str) -> dict[str, float]:
        found = httpx.get(f"{url}/v1/models", timeout=60).json()["data"]
        return {one["id"]: one["journeyman"]["share"] for one in found if "@" in one["id"]}

    with process(tmp_path, first) as (url, kill):
        with elsewhere(tmp_path, second) as (store, candidate):
            Rollout(store).begin(candidate, HALF, gate=SURE)
        until(lambda: len(models(url)) == 2)
        kill()
    with process(tmp_path, first) as (url, kill):
        assert models(url) == {"m@1": 0.5, "m@2": 0.5}, "at once: nobody was answered otherwise"
        kill()
    with Store(tmp_path / "experience.sqlite") as store:
        Registry(store).point("release", 2, "by a person")
    with process(tmp_path, first, says="superseded: the release is version 2") as (url, kill):
        assert models(url) == {"m@2": 1.0}
        kill()


@contextmanager
def process(folder: Path, source: str, says: str = "") -> Iterator[tuple[str, Callable[[], None]]]:
    """`journeyman serve` as a process; its address, and how to kill it."""
    words = ["serve", source, "--name", "m", "--port", "0", "--admin-port", "0", "--slots", "2", "--context", "64"]
    command = [sys.executable, "-m", "journeyman", *words, "--store", str(folder / "experience.sqlite")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stderr is not None
        reader = threading.Thread(target=running.stderr.read)
        try:
            told, url = "", ""
            while not url:
                line = running.stderr.readline()
                assert line, told
                told += line
                found = re.search(r"served at (http://\S+)/v1", line)
                url = found[1] if found else ""
            assert says in " ".join(told.split())
            reader.start()
            yield url, lambda: running.send_signal(signal.SIGKILL)
        finally:
            running.kill()
            running.wait()
            if reader.ident is not None:
                reader.join()
