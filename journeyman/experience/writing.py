"""What each kind of write does to the log and its index, inside of a transaction that is open."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, or_, select, text, update
from sqlalchemy.engine import Connection

from journeyman.errors import NotKept, StoreConflict, UnknownName, UsageError
from journeyman.experience.codec import canonical, digest, encode
from journeyman.experience.log import PAGE, Entry, append, clear
from journeyman.experience.outcomes import ENDINGS, vote
from journeyman.experience.query import feedback_of, known_metrics, turn_before
from journeyman.experience.records import REWARD, SHADOW, Feedback, Metric, ServedTurn
from journeyman.experience.schema import EPISODES, LOG, MENTIONS, VERSIONS
from journeyman.experience.served_codec import decode_feedback, encode_feedback, encode_turn
from journeyman.experience.statements import (
    CHANGED_EPISODE,
    DIGESTS_OF,
    EPISODE_OF,
    EPISODES_OF,
    NEW_EPISODE,
    NEW_VERSION,
    RECORD_OF,
    RECORD_ONCE,
    ROWS_OF,
    SERVED,
    VERSIONS_OF,
)
from journeyman.types import Trajectory

RECENT = 1024
"""Turns kept in memory, since the next one of their episode is written as what it adds to them."""


class RecentTurns:
    """The last turns that were acknowledged."""

    def __init__(self) -> None:
        self._turns: OrderedDict[str, ServedTurn] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, id: str) -> ServedTurn | None:
        return self._turns.get(id)

    def put(self, turns: Sequence[ServedTurn]) -> None:
        with self._lock:
            self._turns.update((turn.id, turn) for turn in turns)
            while len(self._turns) > RECENT:
                self._turns.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._turns.clear()


def add(connection: Connection, trajectories: Sequence[Trajectory]) -> None:
    """Keep whole trajectories of the learning loop."""
    pages = [{"ids": page} for page in _pages([t.id for t in trajectories])]
    there = {row.id: row.digest for page in pages for row in connection.execute(DIGESTS_OF, page)}
    entries: list[Entry] = []
    fresh: list[Trajectory] = []
    for t in trajectories:
        record, columns, content = encode(t)
        if there.get(t.id) == content:
            continue
        if t.id in there:
            raise StoreConflict(
                f"the episode {t.id} is kept already, with other content",
                reason="experience is append-only",
                fix="give a new run a folder of its own",
            )
        entries.append(Entry("trajectory", t.id, record, columns, (t.id,), digest=content))
        fresh.append(t)
    first, now = append(connection, entries), time.time()
    rows = [{"id": t.id, **_row(t, number, now)} for number, t in enumerate(fresh, first)]
    known = {id for page in pages for id in connection.execute(EPISODES_OF, page).scalars()}  # feedback came first
    if new := [row for row in rows if row["id"] not in known]:
        connection.execute(NEW_EPISODE, new)
    for row in rows:
        if row["id"] in known:
            connection.execute(CHANGED_EPISODE, {"of": row.pop("id"), **row})
    if fresh:
        connection.execute(NEW_VERSION, [{"episode": t.id, "version": t.policy_version} for t in fresh])


def _row(t: Trajectory, number: int, now: float) -> dict[str, Any]:
    """A trajectory of the learning loop in the index."""
    return {
        "first": number,
        "last": number,
        "origin": "learning",
        "job": t.task.job,
        "split": t.task.split,
        "task_index": t.task.index,
        "step": t.step,
        "ending": t.outcome.ending.value,
        "reward": t.outcome.reward,
        "value": _number(t.values[-1]) if len(t) else None,
        "taught": sum(turn.by == "teacher" for turn in t.turns),
        "turns": len(t.turns),
        "started": now,
        "updated": now,
    }


def record_all(connection: Connection, groups: Sequence[Sequence[ServedTurn]], recent: RecentTurns) -> Sequence[None]:
    """Keep the turns that each of several callers was served; many cost hardly more statements than one."""
    turns = [turn for group in groups for turn in group]
    pages = [{"ids": page} for page in _pages([turn.id for turn in turns])]
    there = {row.id: row.digest for page in pages for row in connection.execute(DIGESTS_OF, page)}
    index = _index_rows(connection, {turn.episode for turn in turns})
    new = {turn.episode for turn in turns} - index.keys()
    entries: list[Entry] = []
    fresh: dict[str, ServedTurn] = {}
    for turn in turns:
        row = index.get(turn.episode)
        if row is not None and row["erased"] is not None:
            raise NotKept(turn.episode, erased=True)
        if row is not None and row["origin"] == "learning":
            raise StoreConflict(f"the episode {turn.episode} was kept whole by the learning loop: it has no more turns")
        text, columns = encode_turn(turn, turn_before(connection, turn, lambda id: fresh.get(id) or recent.get(id)))
        content = digest(text, columns)
        if turn.id not in there:
            entries.append(Entry("turn", turn.id, text, columns, (turn.episode,), turn.key, turn.user, digest=content))
            there[turn.id], fresh[turn.id] = content, turn
        elif there[turn.id] != content:
            raise StoreConflict(f"the turn {turn.id} is kept already, with other content")
    first = append(connection, entries)
    for number, turn in enumerate(fresh.values(), first):
        index[turn.episode] = {**index.get(turn.episode, {}), **_served(index.get(turn.episode), turn, number)}
    _put_all(connection, {turn.episode: index[turn.episode] for turn in fresh.values()}, new)
    _made_by(connection, fresh.values(), new)
    return [None] * len(groups)


def _served(row: Mapping[str, Any] | None, turn: ServedTurn, number: int) -> dict[str, Any]:
    """A served episode in the index, with its new turn; `row` as it was."""
    old = row if row is not None and row["origin"] == "served" else None
    return {
        "first": old["first"] if old else number,
        "last": number,
        "origin": "served",
        "job": turn.job or (old["job"] if old else ""),
        "ending": ENDINGS[turn.finish].value,
        "value": _number(turn.values[-1]) if len(turn.values) else None,
        "taught": (old["taught"] if old else 0) + (turn.by == "teacher"),
        "turns": (old["turns"] if old else 0) + 1,
        "key_id": old["key_id"] if old else turn.key,
        "user_id": old["user_id"] if old else turn.user,
        "started": min(old["started"], turn.started) if old else turn.started,
        "updated": turn.ended if row is None else max(row["updated"], turn.ended),
    }


def declare(connection: Connection, metric: Metric) -> None:
    """Make a metric known."""
    there = known_metrics(connection, metric.name).get(metric.name)
    if there is not None and there != metric:
        raise StoreConflict(f"the metric {metric.name!r} is declared otherwise, as {there}", fix="give another name")
    if there is None:
        id = f"metric {metric.name}"
        append(connection, [Entry("metric", id, canonical({"kind": "metric", "id": id, **asdict(metric)}))])


def give_all(connection: Connection, given: Sequence[tuple[Feedback, bool]]) -> list[Feedback]:
    """Keep what several callers said."""
    return [give(connection, feedback, under_way) for feedback, under_way in given]


def give(connection: Connection, feedback: Feedback, under_way: bool) -> Feedback:
    """Keep feedback, once."""
    once = None
    if feedback.idempotency_key is not None:
        once = hashlib.sha256(f"{feedback.key}\0{feedback.idempotency_key}".encode()).hexdigest()
    there = connection.execute(RECORD_ONCE, {"once": once}).first() if once else None
    there = there or connection.execute(RECORD_OF, {"of": feedback.id}).first()
    if there is not None:
        kept = decode_feedback(there.record) if there.kind == "feedback" else None
        if kept is None or replace(feedback, id=kept.id, at=kept.at) != kept:
            name = feedback.idempotency_key or feedback.id
            raise StoreConflict(f"the idempotency key {name!r} was used for other feedback", fix="give a new one")
        return kept
    about = [feedback.episode, *([feedback.preferred_to] if feedback.preferred_to else [])]
    rows = {id: _index_row(connection, id) for id in about}
    for id, row in rows.items():
        if row is None and not (under_way and id == feedback.episode):
            raise NotKept(id)
        if row is not None and row.erased is not None:
            raise NotKept(id, erased=True)
    _check(connection, feedback, rows[feedback.episode], under_way)
    entry = Entry(
        "feedback", feedback.id, encode_feedback(feedback), b"", tuple(about), feedback.key, feedback.user, once
    )
    number = append(connection, [entry])
    for id, row in rows.items():
        at = feedback.at if row is None or row.updated is None else max(row.updated, feedback.at)
        values = {"last": number, "updated": at, "feedback": (0 if row is None else row.feedback) + _said([feedback])}
        if row is None:
            values |= {"first": number, "origin": "unseen"}
        if (row is None or row.origin != "learning") and feedback.metric == REWARD.name and feedback.value is not None:
            values["reward"] = _reward(feedback_of(connection, id), id)
        _put(connection, id, values, new=row is None)
    return feedback


def _check(connection: Connection, feedback: Feedback, row: Row[Any] | None, under_way: bool) -> None:
    """Raises UsageError, UnknownName: the value is none of the metric, or the turn none of the episode."""
    if feedback.turn is not None and not (under_way and (row is None or row.origin != "learning")):
        assert row is not None
        if row.origin == "learning":
            there = feedback.turn in map(str, range(row.turns))
        else:
            mentioned = select(MENTIONS.c.number).where(MENTIONS.c.episode == feedback.episode)
            turn = select(LOG.c.kind).where(LOG.c.id == feedback.turn, LOG.c.number.in_(mentioned))
            there = connection.execute(turn).scalar() == "turn"
        if not there:
            raise UsageError(f"the episode {feedback.episode} has no turn {feedback.turn}")
    if feedback.value is not None:
        metric = known_metrics(connection, feedback.metric).get(feedback.metric)
        if metric is None:
            raise UnknownName("metric", feedback.metric, known_metrics(connection))
        metric.check(feedback.value)
        if (metric.level == "turn") != (feedback.turn is not None):
            raise UsageError(f"the metric {metric.name!r} is of a {metric.level}, and the feedback is of another")


def _said(feedback: Sequence[Feedback]) -> int:
    """How many pieces somebody gave."""
    return sum(one.metric != SHADOW.name for one in feedback)


def _reward(feedback: Sequence[Feedback], id: str) -> float | None:
    return vote((f for f in feedback if f.episode == id and f.turn is None), REWARD)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What shall be erased: a user's (by this key alone, where one is given), these episodes, those untouched since."""

    user: str | None
    key: str | None
    episodes: tuple[str, ...]
    before: float | None
    why: str


def erase(connection: Connection, wanted: Erasure) -> int:
    """Take content out of log and index; how many episodes are gone."""
    numbers: set[int] = set()
    tests: list[ColumnElement[bool]] = []
    if wanted.user is not None:
        theirs = [LOG.c.user_id == wanted.user, *([LOG.c.key_id == wanted.key] if wanted.key is not None else [])]
        numbers |= set(connection.execute(select(LOG.c.number).where(*theirs, LOG.c.kind == "feedback")).scalars())
        spoken = select(LOG.c.number).where(*theirs, LOG.c.kind == "turn")
        tests.append(EPISODES.c.id.in_(select(MENTIONS.c.episode).where(MENTIONS.c.number.in_(spoken))))
    if wanted.before is not None:
        tests.append(EPISODES.c.updated < wanted.before)
    gone = set(wanted.episodes)
    if tests:
        gone |= set(connection.execute(select(EPISODES.c.id).where(or_(*tests))).scalars())
    present = EPISODES.c.erased.is_(None)
    gone = _among(connection, select(EPISODES.c.id).where(present), EPISODES.c.id, gone)
    numbers |= _among(connection, select(MENTIONS.c.number), MENTIONS.c.episode, gone)
    touched = _among(connection, select(MENTIONS.c.episode), MENTIONS.c.number, numbers) - gone
    now = time.time()
    if numbers:
        clear(connection, sorted(numbers), wanted.why, now)
    blank = {"origin": "erased", "erased": now, "job": "", "split": "", "ending": "", "key_id": "", "user_id": ""}
    blank |= dict.fromkeys(("task_index", "step", "reward", "value", "started", "updated"))
    blank |= dict.fromkeys(("taught", "turns", "feedback"), 0)
    for page in _pages(sorted(gone)):
        connection.execute(update(EPISODES).where(EPISODES.c.id.in_(page)).values(blank))
        connection.execute(VERSIONS.delete().where(VERSIONS.c.episode.in_(page)))
    for id in touched:  # others that the feedback was about, too
        left = feedback_of(connection, id)
        one = EPISODES.c.id == id
        connection.execute(update(EPISODES).where(one).values(feedback=_said(left)))
        not_graded = EPISODES.c.origin != "learning"
        connection.execute(update(EPISODES).where(one, not_graded).values(reward=_reward(left, id)))
    return len(gone)


def probe(connection: Connection) -> None:
    """Change a row and leave it as it was: a commit that the disk has to take."""
    connection.execute(text("UPDATE migrations SET date = date"))


def _index_row(connection: Connection, id: str) -> Row[Any] | None:
    return connection.execute(EPISODE_OF, {"of": id}).first()


def _put(connection: Connection, id: str, values: dict[str, Any], *, new: bool) -> None:
    if new:
        connection.execute(NEW_EPISODE, {"id": id, **values})
    else:
        connection.execute(CHANGED_EPISODE, {"of": id, **values})


def _index_rows(connection: Connection, ids: set[str]) -> dict[str, dict[str, Any]]:
    pages = [{"ids": page} for page in _pages(sorted(ids))]
    return {row["id"]: dict(row) for page in pages for row in connection.execute(ROWS_OF, page).mappings()}


def _put_all(connection: Connection, rows: Mapping[str, dict[str, Any]], new: set[str]) -> None:
    """Write what `_served` made of these episodes."""
    values = {id: {name: row[name] for name in SERVED} for id, row in rows.items()}
    if born := [{"id": id, **row} for id, row in values.items() if id in new]:
        connection.execute(NEW_EPISODE, born)
    if changed := [{"of": id, **row} for id, row in values.items() if id not in new]:
        connection.execute(CHANGED_EPISODE, changed)


def _made_by(connection: Connection, turns: Iterable[ServedTurn], new: set[str]) -> None:
    """Note which versions made some of which episodes."""
    made = {(turn.episode, span.version) for turn in turns for span in turn.spans}
    pages = [{"ids": page} for page in _pages(sorted({episode for episode, _ in made} - new))]
    made -= {(row.episode, row.version) for page in pages for row in connection.execute(VERSIONS_OF, page)}
    if made:
        connection.execute(NEW_VERSION, [{"episode": episode, "version": version} for episode, version in sorted(made)])


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _among(connection: Connection, query: Select[Any], column: ColumnElement[Any], items: set[Any]) -> set[Any]:
    """What the query finds where the column is one of the items."""
    return {
        one for page in _pages(sorted(items)) for one in connection.execute(query.where(column.in_(page))).scalars()
    }


def _pages(items: Sequence[Any]) -> list[Sequence[Any]]:
    """As many at a time as one statement takes."""
    return [items[start : start + PAGE] for start in range(0, len(items), PAGE)]
