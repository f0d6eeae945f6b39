"""What was erased is gone and the chain still holds; what fails is said, and nothing acknowledged is lost."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from journeyman.errors import NotKept, StoreConflict, StoreError, StoreUnavailable, UsageError
from journeyman.experience import Feedback, Metric, Store
from journeyman.experience.log import runs
from tests.experience.helpers import START, following, make, served
from tests.experience.postgres import Server

ROOT = Path(__file__).parents[2]


def engine_of(store: Store) -> Engine:
    return store._database.engine


# -- erasing -----------------------------------------------------------------------------------------------


def test_a_users_episodes_are_erased_and_the_chain_holds(store: Store) -> None:
    hers = served(user="ada", key="k", reply={"content": "her secret"})
    more = following(hers, [6], [7], user="ada", key="k")
    his = served(user="bob", key="k")
    store.record([hers, his, more]).result()
    kept = store.give(Feedback(his.episode, value=1.0, user="bob", key="k")).result()
    store.give(Feedback(his.episode, value=0.0, comment="hers, of his", user="ada", key="k")).result()
    store.give(Feedback(hers.episode, comment="his, of hers", user="bob", key="k")).result()
    store.give(Feedback(his.episode, preferred_to=hers.episode)).result()
    before = store.info()
    assert store.whole(his.episode).summary.reward == 0.5
    assert store.erase(user="ada", why="she asked") == 1
    for fails in (
        lambda: store.whole(hers.episode),
        lambda: store.give(Feedback(hers.episode, value=1)).result(),
        lambda: store.give(Feedback(his.episode, preferred_to=hers.episode)).result(),
        lambda: store.record([following(more, [8], [9])]).result(),
    ):
        with pytest.raises(NotKept) as refused:
            fails()
        assert refused.value.erased
    left = store.whole(his.episode)
    assert left.feedback == (kept,) and (left.summary.feedback, left.summary.reward) == (1, 1.0)
    assert [s.id for s in store.browse().episodes] == [his.episode]
    assert [e.summary.id for e in store.news().episodes] == [his.episode]
    assert store.verify((before.entries, before.head)) == []
    assert store.info().kinds == {"erasure": 1, "feedback": 1, "turn": 1}
    assert store.erase(user="ada") == 0 and store.info().entries == before.entries + 1, "nothing is left to erase"


def test_users_of_another_key_are_others(store: Store) -> None:
    one, other = served(user="1", key="a"), served(user="1", key="b")
    store.record([one, other]).result()
    assert store.erase(user="1", key="a") == 1
    assert [s.id for s in store.browse().episodes] == [other.episode]


def test_retention_erases_what_is_old(store: Store) -> None:
    old, young, answered = (served(started=START + age, ended=START + age) for age in (0, 100, 0))
    store.record([old, young, answered]).result()
    store.give(Feedback(answered.episode, value=1, at=START + 200)).result()
    store.add([make("a")])
    assert store.erase(before=START + 100) == 1
    assert {s.id for s in store.browse().episodes} == {young.episode, answered.episode, "a"}
    assert store.erase(episodes=["a", "nowhere"]) == 1 and store.count() == 0
    store.add([make("a")])
    assert store.count() == 0, "the learning loop may add it again: it stays erased"
    with pytest.raises(StoreError, match="other content"):
        store.add([make("a", reward=0.0)])
    assert store.verify() == []


def test_nothing_erased_is_left_in_the_files(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        secret = "a secret that nobody shall find"
        turn = served(user="user-of-secrets", messages=({"role": "user", "content": secret},))
        store.record([turn, served(), *(served() for _ in range(20))]).result()
        store.give(Feedback(turn.episode, comment=secret, idempotency_key="key-of-secrets")).result()
        files = [tmp_path / f"e.sqlite{suffix}" for suffix in ("", "-wal")]
        assert any(secret.encode() in file.read_bytes() for file in files)
        store.erase(user="user-of-secrets")
        for word in (secret, "user-of-secrets", turn.id):
            assert not any(word.encode() in file.read_bytes() for file in files), word


@given(st.sets(st.integers(1, 40)))
def test_runs_are_the_numbers(numbers: set[int]) -> None:
    found = runs(numbers)
    assert {n for first, last in found for n in range(first, last + 1)} == numbers
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(found)), "as few as can be"


@given(st.lists(st.tuples(st.sampled_from(["turn", "feedback", "erase", "add"]), st.integers(0, 3)), max_size=12))
@settings(max_examples=15)
def test_whatever_is_done_the_store_verifies(plan: list[tuple[str, int]]) -> None:
    """Any order of writes and erasures: a model in memory says which episodes are there, with how much feedback."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "e.sqlite") as store:
        there: dict[str, int] = {}
        gone: set[str] = set()
        for number, (verb, who) in enumerate(plan):
            id = f"episode{who}"
            if verb == "add":
                store.add([make(f"learned{number}")])
                there[f"learned{number}"] = 0
            elif verb == "erase":
                assert store.erase(episodes=[id]) == (id in there)
                gone |= {id} & there.keys()
                there.pop(id, None)
            elif verb == "turn" and id in gone:
                with pytest.raises(NotKept):
                    store.record([served(episode=id)]).result()
            elif verb == "turn":
                store.record([served(episode=id)]).result()
                there.setdefault(id, 0)
            elif id in there:
                store.give(Feedback(id, value=0.5)).result()
                there[id] += 1
            else:
                with pytest.raises(NotKept):
                    store.give(Feedback(id, value=0.5)).result()
        assert {s.id: s.feedback for s in store.browse().episodes} == there
        assert store.verify() == []


# -- what fails --------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        store.add([make("a")])
        kept = served()
        store.record([kept]).result()
        with engine_of(store).connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

        @event.listens_for(engine_of(store), "checkout")
        def limit(raw: Any, *_: object) -> None:
            raw.execute(f"PRAGMA max_page_count={pages + 2}")

        with pytest.raises(StoreUnavailable, match="free some disk"):
            store.add([make(f"big{i}", length=20_000) for i in range(4)])
        large = served(range(40_000))
        with pytest.raises(StoreUnavailable, match="cannot write"):
            store.record([large]).result()
        assert [s.id for s in store.browse().episodes] == [kept.episode, "a"] and store.verify() == []
        event.remove(engine_of(store), "checkout", limit)
        engine_of(store).dispose()  # there is room again
        store.record([large]).result()
        assert store.count() == 1 and len(store.browse().episodes) == 3 and store.verify() == []


def test_a_nearly_full_disk_is_no_place_for_new_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.probe()
    monkeypatch.setattr("journeyman.experience.database.ROOM", 2**80)
    if store.where.startswith("postgresql"):
        store.probe()
    else:
        with pytest.raises(StoreUnavailable, match="No space"):
            store.probe()


def test_a_file_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    file, aside = tmp_path / "e.sqlite", tmp_path / "aside.sqlite"
    first, second, third = served(), served(), served()
    with Store(file) as store:
        store.record([first]).result()
        store.probe()
        engine_of(store).dispose()  # nobody else has it open: the write-ahead log is in the file
        os.rename(file, aside)
        for fails in (lambda: store.record([second]).result(), store.browse, store.probe):
            with pytest.raises(StoreUnavailable, match="No such file"):
                fails()
        assert not file.exists(), "no new store is made in its place"
        os.rename(aside, file)
        store.record([second]).result()
        store.record([third]).result()
        assert len(store.browse().episodes) == 3 and store.verify() == []


def test_a_copy_put_in_its_place_is_the_store(tmp_path: Path) -> None:
    file = tmp_path / "e.sqlite"
    with Store(file) as store:
        store.record([served()]).result()
        engine_of(store).dispose()
        copy = file.read_bytes()
        file.rename(tmp_path / "broken.sqlite")
        file.write_bytes(copy)
        store.record([served()]).result()
        assert len(store.browse().episodes) == 2
    with Store(file) as store:
        assert len(store.browse().episodes) == 2 and store.verify() == []


def test_a_server_that_goes_away_and_comes_back(server: Server) -> None:
    with Store(server.url("away")) as store:
        first, second = served(), served()
        store.record([first]).result()
        server.stop()
        try:
            for fails in (lambda: store.record([second]).result(), store.browse, store.probe):
                with pytest.raises(StoreUnavailable, match="cannot"):
                    fails()
        finally:
            server.start()
        store.record([second]).result()
        assert len(store.browse().episodes) == 2 and store.verify() == []


def test_one_that_is_refused_fails_alone(store: Store) -> None:
    """All in one group: the first work waits until the others have come."""
    gate = threading.Event()
    good = [served() for _ in range(5)]
    waiting = store._database.write(lambda _: gate.wait(60))
    futures: list[Any] = []
    for turn in good:
        futures += [
            store.record([turn]),
            store.give(Feedback("nowhere", value=1)),
            store.give(Feedback(turn.episode, value=1)),
        ]
    impossible = store.record([served(parameters={"x": object()})])
    gate.set()
    assert waiting.result()
    for number, future in enumerate(futures):
        if number % 3 == 1:
            assert isinstance(future.exception(), NotKept)
        else:
            future.result()
    assert isinstance(impossible.exception(), UsageError)
    assert all(s.feedback == 1 for s in store.browse().episodes) and len(store.browse().episodes) == 5
    assert store.verify() == []


def test_waiting_writers_share_a_commit(store: Store) -> None:
    commits: list[object] = []
    event.listen(engine_of(store), "commit", lambda connection: commits.append(connection))
    gate = threading.Event()
    waiting = store._database.write(lambda _: gate.wait(60))
    futures = [store.record([served()]) for _ in range(200)]
    gate.set()
    for future in futures:
        future.result()
    assert waiting.result() and len(commits) <= 2, "the group that the gate held up, and all that came meanwhile"
    assert store.info().kinds == {"turn": 200}


def test_turns_that_wait_share_their_statements(store: Store) -> None:
    """Those of one episode, one after another in the same group, too."""
    statements: list[str] = []
    event.listen(engine_of(store), "before_cursor_execute", lambda *given: statements.append(given[2]))
    gate = threading.Event()
    waiting = store._database.write(lambda _: gate.wait(60))
    first = served()
    second = following(first, [1], [2])
    third = following(second, [3], [4, 5])
    turns = [first, second, third, *(served() for _ in range(50))]
    futures = [store.record([turn]) for turn in turns]
    gate.set()
    for future in futures:
        future.result()
    assert waiting.result() and len(statements) < len(turns)
    kept = store.whole(first.episode)
    assert [turn.tokens.tolist() for turn in kept.turns] == [turn.tokens.tolist() for turn in turns[:3]]
    assert (kept.summary.turns, kept.summary.started) == (3, first.started) and len(
        store.browse(limit=99).episodes
    ) == 51
    assert store.verify() == []


def test_one_turn_that_is_refused_leaves_its_neighbours_alone(store: Store) -> None:
    gate = threading.Event()
    waiting = store._database.write(lambda _: gate.wait(60))
    good = [served() for _ in range(6)]
    changed = replace(good[0], finish="length")  # the same id, with other content
    wrong = [served(parameters={"x": object()}), changed]
    futures = [store.record([turn]) for turn in (*good[:3], *wrong, *good[3:], good[1])]
    gate.set()
    assert waiting.result()
    failed = [type(future.exception()) for future in futures]
    assert failed == [type(None)] * 3 + [UsageError, StoreConflict] + [type(None)] * 4
    assert store.info().kinds == {"turn": 6} and store.verify() == []


def test_many_threads_write_at_once(store: Store) -> None:
    def converse(number: int) -> str:
        turn = served(user=str(number))
        store.record([turn]).result()
        for _ in range(3):
            turn = following(turn, [1], [2])
            store.record([turn]).result()
        store.give(Feedback(turn.episode, value=1, turn=None)).result()
        return turn.episode

    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(converse, range(32)))
    assert all(store.whole(id).summary.turns == 4 for id in ids) and store.verify() == []


def test_after_closing_nothing_is_taken(where: str) -> None:
    store = Store(where)
    pending = store.record([served()])
    store.close()
    pending.result()
    with pytest.raises(StoreError, match="was closed"):
        store.record([served()])


CHILD = """
import sys
from journeyman.experience import Store
from tests.experience.helpers import served
with Store(sys.argv[1]) as store:
    for _ in range(int(sys.argv[2])):
        store.record([served(user=sys.argv[3])]).result()
"""


@pytest.mark.slow
def test_two_processes_write_one_store(where: str) -> None:
    with Store(where) as store:
        command = [sys.executable, "-c", CHILD, where, "50"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        children = [subprocess.Popen([*command, name], cwd=ROOT, env=environment) for name in "ab"]
        for _ in range(20):
            store.record([served(user="c")]).result()
        assert [child.wait() for child in children] == [0, 0]
        assert store.info().kinds == {"turn": 120} and store.verify() == []


def test_a_writer_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journeyman.experience.database.PATIENCE", 50)
    with Store(tmp_path / "e.sqlite") as store:
        other = sqlite3.connect(tmp_path / "e.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process is writing"):
            store.record([served()]).result()
        assert store.browse().episodes == (), "readers do not wait"
        other.execute("ROLLBACK")
        other.close()
        store.record([served()]).result()


def test_acknowledged_means_synchronized(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store, engine_of(store).connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous")
        }
        assert found == {"journal_mode": "wal", "synchronous": 2}


def test_synchronous_commit_is_on_for_writers(server: Server) -> None:
    with Store(server.url("synchronous") + "%20-csynchronous_commit%3Doff") as store:
        setting = store._database.write(lambda c: c.exec_driver_sql("SHOW synchronous_commit").scalar_one()).result()
        assert setting == "on"


def test_metrics_survive_erasures(store: Store) -> None:
    store.declare(Metric("ok", "boolean", "episode", "max"))
    turn = served()
    store.record([turn]).result()
    store.give(Feedback(turn.episode, value=True, metric="ok")).result()
    store.erase(episodes=[turn.episode])
    assert "ok" in store.metrics()
    store.record([replace(served(), episode="later")]).result()
    store.give(Feedback("later", value=True, metric="ok")).result()
