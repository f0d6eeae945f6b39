"""What was acknowledged is kept, as it was, and any change shows."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, inspect, text

from journeyman.errors import StoreError, UnknownName
from journeyman.experience import Store
from journeyman.experience.codec import decode, encode
from journeyman.experience.migrations import MIGRATIONS
from journeyman.experience.schema import METADATA
from journeyman.types import Ending, Outcome, Speaker, Trajectory, Turn, Verdict
from tests.experience.helpers import make

DATA = Path(__file__).parent / "data"


def same(a: Trajectory, b: Trajectory) -> bool:
    return encode(a) == encode(b)


@given(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_codec_gives_back_what_it_was_given(text: str, reward: float, length: int) -> None:
    t = make(reward=reward, length=length, text=text.encode("utf-8", "ignore").decode())
    record, columns, _ = encode(t)
    back = decode(record, columns)
    assert same(back, t)
    assert back.task == t.task and back.turns == t.turns and back.outcome == t.outcome
    assert np.array_equal(back.values, t.values, equal_nan=True) and back.mask.dtype == bool


@pytest.mark.parametrize("verdict", [None, Verdict(3, 0.04, 0.1)])
@pytest.mark.parametrize("by", ["policy", "teacher"])
def test_codec_keeps_what_v_said_and_who_spoke(verdict: Verdict | None, by: Speaker) -> None:
    t = make()
    t = replace(t, verdict=verdict, turns=(replace(t.turns[0], by=by),))
    record, columns, _ = encode(t)
    back = decode(record, columns)
    assert back.verdict == verdict and back.turns == t.turns
    assert ("verdict" in record) == (verdict is not None) and ("teacher" in record) == (by == "teacher")


def old_store(version: int, where: str) -> None:
    """Put a store of an earlier schema at `where`: the file that the code of then wrote, or the same on PostgreSQL."""
    file = DATA / f"v{version}.sqlite"
    if "://" not in where:
        shutil.copyfile(file, where)
        return
    with closing(sqlite3.connect(file)) as old:
        tables = {name: old.execute(f"SELECT * FROM {name}").fetchall() for name in ("episodes", "migrations")}
    with transaction(where) as connection:
        connection.execute(text("CREATE TABLE migrations (version INTEGER PRIMARY KEY, date TEXT NOT NULL)"))
        for steps in MIGRATIONS[:version]:
            for step in steps:
                assert isinstance(step, str)
                connection.execute(text(step.replace("BLOB", "BYTEA")))
        for name, rows in tables.items():
            for row in rows:
                marks = {f"p{number}": one for number, one in enumerate(row)}
                names = ", ".join(f":{mark}" for mark in marks)
                connection.execute(text(f"INSERT INTO {name} VALUES ({names})"), marks)


@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_an_earlier_version_is_brought_forward(version: int, where: str) -> None:
    old_store(version, where)
    with Store(where) as store:
        assert store.verify() == [] and store.info().schema == len(MIGRATIONS)
        assert same(store.episode("a"), make("a"))
        assert [t.id for t in store.episodes(max_step=0)] == ["a", "exam-000001-b"]
        assert [t.id for t in store.episodes(taught=True)] == ["taught"][: version - 1]
        summaries = {s.id: s for s in store.browse().episodes}
        values = {id: s.value for id, s in summaries.items() if id != "taught"}
        last = [float(make(*one).values[-1]) for one in (("a",), ("exam-000001-b", -1))]
        assert values == {"a": last[0], "exam-000001-b": last[1], "step000002-c": 0.0}
        assert all(s.versions == (4,) and s.turns == 1 and s.origin == "learning" for s in summaries.values())
        store.add([make("a"), replace(make("d"), turns=(Turn(1, 3, "r", "seen", 1.0, by="teacher"),))])
        assert [t.id for t in store.episodes(taught=True)] == [*["taught"][: version - 1], "d"]
        assert store.count() == version + 3 and store.verify() == []


def test_the_tables_are_those_that_the_migrations_make(where: str) -> None:
    with Store(where):
        pass
    with transaction(where) as connection:
        for table in METADATA.tables.values():
            made = [column["name"] for column in inspect(connection).get_columns(table.name)]
            assert made == [column.name for column in table.columns]


def test_adding_again_is_safe_and_other_content_is_refused(store: Store) -> None:
    store.add([make("a"), make("b")])
    store.add([make("b"), make("c")])
    assert store.count() == 3
    with pytest.raises(StoreError, match="other content"):
        store.add([make("d"), make("a", reward=0.0)])
    assert store.count() == 3, "a refused batch leaves nothing behind"
    assert store.verify() == []


def test_acknowledged_is_there_for_another_reader(store: Store, where: str) -> None:
    store.add([make("a")])
    with Store(where) as other:
        assert same(other.episode("a"), make("a"))


def test_queries_narrow(store: Store) -> None:
    failed = replace(make("exam-1"), outcome=Outcome(0.0, Ending.FAILED, "boom", "grader"), step=-1)
    store.add([make(f"step{i}", step=i) for i in range(5)] + [failed])
    assert [t.id for t in store.episodes(min_step=1, max_step=2)] == ["step1", "step2"]
    assert [t.id for t in store.episodes(ending=Ending.FAILED)] == ["exam-1"]
    assert [t.id for t in store.episodes(prefix="exam-", job="job", split="train")] == ["exam-1"]
    assert [t.id for t in store.episodes(latest=True, limit=2)] == ["exam-1", "step4"]
    with pytest.raises(UnknownName, match="step4"):
        store.episode("step44")


CHANGES = [
    ("UPDATE log SET record = replace(record, 'seen', 'unseen') WHERE id = 'b'", "b is not as it was"),
    ("UPDATE log SET id = 'x' WHERE id = 'b'", "x is not as it was"),
    ("UPDATE log SET kind = 'turn' WHERE id = 'b'", "b is not as it was"),
    ("UPDATE log SET columns = substr(columns, 2) WHERE id = 'b'", "b is not as it was"),
    ("UPDATE log SET digest = 'x' WHERE id = 'b'", "the chain breaks at the episode b"),
    ("UPDATE log SET chain = 'x' WHERE id = 'b'", "the chain breaks at the episode b"),
    ("UPDATE log SET record = NULL, columns = NULL WHERE id = 'b'", "2 was erased without a note"),
    ("DELETE FROM log WHERE id = 'b'", "1 entries are missing before the episode c"),
    ("DELETE FROM mentions WHERE episode = 'b'", "b is not listed"),
    ("UPDATE mentions SET episode = 'a' WHERE episode = 'b'", "b is not listed"),
]


@pytest.mark.parametrize(("change", "says"), CHANGES)
def test_verify_sees_what_was_changed(store: Store, where: str, change: str, says: str) -> None:
    store.add([make("a"), make("b"), make("c")])
    assert store.verify() == []
    tamper(where, change)
    assert any(says in problem for problem in store.verify()), store.verify()


def test_verify_sees_a_cut_end_by_a_head_noted_before(store: Store, where: str) -> None:
    store.add([make("a"), make("b")])
    info = store.info()
    head = (info.entries, info.head)
    store.add([make("c")])
    assert store.verify(head) == []
    tamper(where, "DELETE FROM log WHERE id IN ('b', 'c')", "DELETE FROM mentions WHERE episode IN ('b', 'c')")
    assert store.verify() == [], "nothing inside of the log can show it"
    assert "does not go on from the entry 2" in store.verify(head)[0]


def tamper(where: str, *changes: str) -> None:
    with transaction(where) as connection:
        for change in changes:
            connection.execute(text(change))


@contextmanager
def transaction(where: str) -> Iterator[Connection]:
    """Past the store, straight to its database."""
    engine = create_engine(where if "://" in where else f"sqlite:///{where}")
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "x.sqlite"
    garbage.write_bytes(b"this is not a database, and long enough to be looked at" * 20)
    with pytest.raises(StoreError, match="not a database"):
        Store(garbage)
    with pytest.raises(StoreError, match="unable to open"):
        Store(tmp_path / "no" / "such" / "folder.sqlite")
    with pytest.raises(StoreError, match="keeps nothing"):
        Store("sqlite:///:memory:")
    with pytest.raises(StoreError, match="no database URL"):
        Store("://host")
    with pytest.raises(StoreError, match="journeyman\\[postgres\\]"):
        Store("postgresql+nosuchdriver://host/database")


def test_a_store_of_a_newer_journeyman_is_refused(where: str) -> None:
    with Store(where):
        pass
    tamper(where, "INSERT INTO migrations VALUES (99, 'later')")
    with pytest.raises(StoreError, match="schema version 99") as refused:
        Store(where)
    assert "upgrade" in refused.value.fix
