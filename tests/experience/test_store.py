"""What was acknowledged is kept, as it was, and any change shows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from journeyman.errors import StoreError, UnknownName
from journeyman.experience import Store
from journeyman.experience.codec import decode, encode
from journeyman.experience.migrations import MIGRATIONS
from journeyman.experience.store import INSERT
from journeyman.types import Ending, Message, Outcome, Speaker, Task, Trajectory, Turn, Verdict


def make(id: str = "a", step: int = 0, reward: float = 1.0, length: int = 5, text: str = "hé \u2028 <b>") -> Trajectory:
    rng = np.random.default_rng(len(id) + step)
    values = rng.random(length).astype(np.float32)
    values[:1] = np.nan
    return Trajectory(
        id=id,
        task=Task("job", "train", 3, (Message("user", text),), {"k": [1, "two"]}, 2),
        group="g",
        step=step,
        policy_version=4,
        temperature=1.0,
        tokens=rng.integers(0, 9, length).astype(np.int32),
        mask=rng.random(length) < 0.5,
        logprobs=rng.random(length).astype(np.float32),
        values=values,
        turns=(Turn(1, 3, text, "seen", reward),),
        outcome=Outcome(reward, Ending.TERMINATED),
    )


def same(a: Trajectory, b: Trajectory) -> bool:
    return encode(a) == encode(b)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "e.sqlite") as opened:
        yield opened


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


def test_a_store_of_the_first_version_is_brought_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as m:
        m.setattr("journeyman.experience.store.MIGRATIONS", MIGRATIONS[:1])
        m.setattr(
            "journeyman.experience.store.INSERT", text(str(INSERT).replace(" taught,", "").replace(" :taught,", ""))
        )
        with Store(tmp_path / "old.sqlite") as old:
            old.add([make("a"), make("b")])
    with Store(tmp_path / "old.sqlite") as store:
        assert same(store.episode("a"), make("a")) and not list(store.episodes(taught=True))
        store.add([make("b"), replace(make("c"), turns=(Turn(1, 3, "r", "seen", 1.0, by="teacher"),))])
        assert [t.id for t in store.episodes(taught=True)] == ["c"]
        assert store.count() == 3 and store.verify() == []


def test_adding_again_is_safe_and_other_content_is_refused(store: Store) -> None:
    store.add([make("a"), make("b")])
    store.add([make("b"), make("c")])
    assert store.count() == 3
    with pytest.raises(StoreError, match="other content"):
        store.add([make("d"), make("a", reward=0.0)])
    assert store.count() == 3, "a refused batch leaves nothing behind"
    assert store.verify() == []


def test_acknowledged_is_on_disk_for_another_reader(store: Store, tmp_path: Path) -> None:
    store.add([make("a")])
    with Store(tmp_path / "e.sqlite") as other:
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


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "UPDATE episodes SET record = replace(record, 'seen', 'unseen') WHERE id = 'b'",
            "b is not as it was",
        ),
        ("DELETE FROM episodes WHERE id = 'b'", "missing before c"),
    ],
)
def test_verify_sees_what_was_changed(store: Store, tmp_path: Path, change: str, says: str) -> None:
    store.add([make("a"), make("b"), make("c")])
    assert store.verify() == []
    raw = sqlite3.connect(tmp_path / "e.sqlite")
    raw.execute(change)
    raw.commit()
    raw.close()
    assert any(says in problem for problem in store.verify())


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    garbage = tmp_path / "x.sqlite"
    garbage.write_bytes(b"this is not a database, and long enough to be looked at" * 20)
    with pytest.raises(StoreError, match="not a database"):
        Store(garbage)
    with pytest.raises(StoreError, match="unable to open"):
        Store(tmp_path / "no" / "such" / "folder.sqlite")
    newer = tmp_path / "newer.sqlite"
    with Store(newer):
        pass
    raw = sqlite3.connect(newer)
    raw.execute("INSERT INTO migrations VALUES (99, 'later')")
    raw.commit()
    raw.close()
    with pytest.raises(StoreError, match="upgrade"):
        Store(newer)


def test_a_full_disk_is_said_and_loses_nothing(store: Store, tmp_path: Path) -> None:
    store.add([make("a")])
    with store._engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    from sqlalchemy import event

    @event.listens_for(store._engine, "checkout")
    def limit(raw: sqlite3.Connection, *_: object) -> None:
        raw.execute(f"PRAGMA max_page_count={pages + 2}")

    with pytest.raises(StoreError, match="free some disk"):
        store.add([make(f"big{i}", length=20_000) for i in range(4)])
    assert [t.id for t in store.episodes()] == ["a"]
    assert store.verify() == []
