"""What can be asked of the log and its index, inside of a transaction that is open."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select, text
from sqlalchemy.engine import Connection

from journeyman.errors import NotKept, UsageError
from journeyman.experience.codec import canonical, decode
from journeyman.experience.log import head
from journeyman.experience.outcomes import Episode, text_of
from journeyman.experience.records import (
    REWARD,
    EpisodeFilter,
    EpisodeSummary,
    Feedback,
    Metric,
    Page,
    ServedTurn,
    StoreInfo,
)
from journeyman.experience.schema import EPISODES, LOG, MENTIONS, VERSIONS
from journeyman.experience.served_codec import decode_feedback, decode_turn
from journeyman.experience.statements import ENTRIES_OF, EPISODE_OF, FEEDBACK_OF, TURN_OF
from journeyman.types import SUCCESS

MOST = 1000
"""Episodes of one page."""
SEEN = ("served", "learning")
"""Origins of the episodes that lists show."""
REACH = 20_000
"""Entries of the log that one page searches for words. There is no index of words: a search goes on page by page."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Episodes of which something has come, in short, the latest last; and the cursor from which to ask next."""

    episodes: tuple[EpisodeSummary, ...]
    cursor: int


@dataclass(frozen=True, slots=True)
class News:
    """Episodes of which something has come, and the cursor from which to ask next."""

    episodes: tuple[Episode, ...]
    cursor: int


def browse(connection: Connection, wanted: EpisodeFilter, cursor: str | None, limit: int) -> Page:
    """A page of the list of episodes, newest first."""
    if not 1 <= limit <= MOST:
        raise UsageError(f"limit must lie in 1 to {MOST}, got {limit}")
    query = select(EPISODES).where(EPISODES.c.origin.in_(SEEN), *_tests(wanted))
    if cursor is not None:
        if not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 19):
            raise UsageError(f"{cursor!r} is no cursor", fix="give the one that came with the page before")
        query = query.where(EPISODES.c.first < int(cursor))
    reached = 0
    if wanted.search is not None:
        reached = (head(connection)[0] + 1 if cursor is None else int(cursor)) - REACH
        query = query.where(EPISODES.c.first >= reached, _says(wanted.search))
    rows = connection.execute(query.order_by(EPISODES.c.first.desc()).limit(limit + 1)).all()
    shown = rows[:limit]
    following = shown[-1].first if len(rows) > limit else reached if reached > 1 else None
    return Page(summaries(connection, shown), None if following is None else str(following))


def _says(words: str) -> ColumnElement[bool]:
    """Whether the words are in an episode's id or in what is kept of it, as canonical JSON spells them."""
    spelled = LOG.c.record.icontains(canonical({"": words})[5:-2], autoescape=True)
    about = LOG.join(MENTIONS, MENTIONS.c.number == LOG.c.number)
    said = select(LOG.c.number).select_from(about).where(MENTIONS.c.episode == EPISODES.c.id, spelled)
    return or_(EPISODES.c.id.icontains(words, autoescape=True), said.correlate(EPISODES).exists())


def every(connection: Connection, wanted: EpisodeFilter, after: int, limit: int) -> tuple[list[Episode], int | None]:
    """Whole episodes in the order they began, from after this entry on; and where to go on, None at the end."""
    query = select(EPISODES).where(EPISODES.c.origin.in_(SEEN), EPISODES.c.first > after, *_tests(wanted))
    rows = connection.execute(query.order_by(EPISODES.c.first).limit(limit)).all()
    return [_whole(connection, row) for row in rows], rows[-1].first if rows else None


def changes(connection: Connection, cursor: int | None, limit: int) -> Changes:
    """Episodes with an entry after the cursor, the latest `limit` of them. Without one, only where to begin."""
    last = EPISODES.c.last
    end = connection.execute(select(func.max(last))).scalar() or 0
    if cursor is None or end <= cursor:
        return Changes((), end)
    query = select(EPISODES).where(last > cursor, EPISODES.c.origin.in_(SEEN)).order_by(last.desc()).limit(limit)
    return Changes(summaries(connection, connection.execute(query).all()[::-1]), end)


def attempts(connection: Connection, id: str, limit: int) -> tuple[EpisodeSummary, ...]:
    """Other attempts of the learning loop at the task of this one, in the order they were kept."""
    e = EPISODES.c
    row = connection.execute(EPISODE_OF, {"of": id}).first()
    if row is None or row.origin != "learning":
        return ()
    same = e.job == row.job, e.split == row.split, e.task_index == row.task_index, e.id != id, e.origin == "learning"
    rows = connection.execute(select(EPISODES).where(*same).order_by(e.first).limit(limit)).all()
    return summaries(connection, rows)


def openings(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """What each episode is about: of the learning loop, its task's first question; of a served one, the last message
    of its first prompt, or bare text. Unknown ids are left out."""
    joined = EPISODES.join(LOG, LOG.c.number == EPISODES.c.first)
    query = select(EPISODES.c.id, LOG.c.kind, LOG.c.record).select_from(joined).where(EPISODES.c.id.in_(ids))
    found: dict[str, str] = {}
    for row in connection.execute(query):
        if row.record is None or row.kind not in ("turn", "trajectory"):
            continue
        record: dict[str, Any] = json.loads(row.record)
        if row.kind == "trajectory":
            asked = [message for message in record["task"]["messages"] if message["role"] == "user"]
            found[row.id] = text_of(asked[0]) if asked else ""
        else:
            last = record["messages"][-1:]
            found[row.id] = text_of(last[0]) if last else str(record["parameters"].get("text", ""))
    return found


def _tests(wanted: EpisodeFilter) -> list[ColumnElement[bool]]:
    e = EPISODES.c
    equal = {"job": e.job, "split": e.split, "user": e.user_id, "key": e.key_id, "ending": e.ending, "origin": e.origin}
    tests = [column == getattr(wanted, name) for name, column in equal.items() if getattr(wanted, name) is not None]
    if wanted.version is not None:
        tests.append(e.id.in_(select(VERSIONS.c.episode).where(VERSIONS.c.version == wanted.version)))
    if wanted.since is not None:
        tests.append(e.started >= wanted.since)
    if wanted.until is not None:
        tests.append(e.started < wanted.until)
    if wanted.has_feedback is not None:
        tests.append(e.feedback > 0 if wanted.has_feedback else e.feedback == 0)
    if wanted.least is not None:
        tests.append(e.value >= wanted.least)
    if wanted.most is not None:
        tests.append(e.value <= wanted.most)
    if wanted.outcome is not None:
        outcomes = {"success": e.reward >= SUCCESS, "failure": e.reward < SUCCESS, "unknown": e.reward.is_(None)}
        if wanted.outcome not in outcomes:
            raise UsageError(f"outcome must be success, failure or unknown, got {wanted.outcome!r}")
        tests.append(outcomes[wanted.outcome])
    return tests


def summaries(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[EpisodeSummary, ...]:
    """Rows of the index as records."""
    versions: dict[str, list[int]] = {row.id: [] for row in rows}
    among = select(VERSIONS).where(VERSIONS.c.episode.in_(versions)).order_by(VERSIONS.c.version)
    for made in connection.execute(among):
        versions[made.episode].append(made.version)
    return tuple(
        EpisodeSummary(
            id=row.id,
            origin=row.origin,
            job=row.job,
            key=row.key_id,
            user=row.user_id,
            split=row.split,
            step=row.step,
            ending=row.ending,
            reward=row.reward,
            value=row.value,
            turns=row.turns,
            feedback=row.feedback,
            versions=tuple(versions[row.id]),
            started=row.started,
            updated=row.updated,
        )
        for row in rows
    )


def whole(connection: Connection, id: str) -> Episode:
    """An episode with everything that is known of it."""
    row = connection.execute(EPISODE_OF, {"of": id}).first()
    if row is None or row.erased is not None:
        raise NotKept(id, erased=row is not None)
    return _whole(connection, row)


def _whole(connection: Connection, row: Row[Any]) -> Episode:
    turns: dict[str, ServedTurn] = {}
    trajectory = None
    feedback: list[Feedback] = []
    for entry in connection.execute(ENTRIES_OF, {"of": row.id}):
        match entry.kind:
            case "turn":
                after = json.loads(entry.record)["after"]
                turn = decode_turn(entry.record, bytes(entry.columns), turns.get(after))
                turns[turn.id] = turn
            case "trajectory":
                trajectory = decode(entry.record, bytes(entry.columns))
            case _:
                feedback.append(decode_feedback(entry.record))
    (summary,) = summaries(connection, [row])
    return Episode(summary, tuple(turns.values()), trajectory, tuple(feedback), row.last)


def news(connection: Connection, cursor: int, limit: int) -> News:
    """Served episodes with an entry after the cursor, in the order of their latest."""
    last = EPISODES.c.last
    fresh = last > cursor, EPISODES.c.origin == "served"
    some = select(last).where(*fresh).order_by(last).limit(limit).subquery()
    end = select(func.max(some.c.last)).scalar_subquery()  # a preference is the latest of two: they come together
    rows = connection.execute(select(EPISODES).where(*fresh, last <= end).order_by(last)).all()
    return News(tuple(_whole(connection, row) for row in rows), rows[-1].last if rows else cursor)


def feedback_of(connection: Connection, episode: str) -> list[Feedback]:
    """All feedback on an episode, in the order it came."""
    return [decode_feedback(record) for record in connection.execute(FEEDBACK_OF, {"of": episode}).scalars()]


def turn_before(
    connection: Connection, turn: ServedTurn, recent: Callable[[str], ServedTurn | None]
) -> ServedTurn | None:
    """The turn that this one goes on from, None where it is not kept.

    Raises:
        UsageError: it is of another episode.
    """
    if turn.after is None:
        return None
    missing: list[Row[Any, Any]] = []
    before, id = None, turn.after
    while id is not None and before is None:
        before = recent(id)
        if before is None:
            row = connection.execute(TURN_OF, {"of": id}).first()
            if row is None:
                break
            missing.append(row)
            id = json.loads(row.record)["after"]
    for row in reversed(missing):
        before = decode_turn(row.record, bytes(row.columns), before)
    if before is not None and before.episode != turn.episode:
        raise UsageError(f"the turn {turn.after} is of another episode than {turn.episode}")
    return before


def known_metrics(connection: Connection, name: str | None = None) -> dict[str, Metric]:
    """The metrics that were declared (this one alone), by name."""
    if name == REWARD.name:
        return {REWARD.name: REWARD}
    query = select(LOG.c.record).where(LOG.c.kind == "metric")
    if name is not None:
        query = query.where(LOG.c.id == f"metric {name}")
    found: dict[str, Metric] = {} if name is not None else {REWARD.name: REWARD}
    for line in connection.execute(query.order_by(LOG.c.number)).scalars():
        record: dict[str, Any] = json.loads(line)
        metric = Metric(**{k: v for k, v in record.items() if k not in ("kind", "id")})
        found[metric.name] = metric
    return found


def info(connection: Connection, size: int | None) -> StoreInfo:
    """The store at a glance."""
    e, number = EPISODES.c, func.count()
    entries, chain = head(connection)
    origins = connection.execute(select(e.origin, number).group_by(e.origin).order_by(e.origin))
    kept = select(LOG.c.kind, number).where(LOG.c.record.is_not(None)).group_by(LOG.c.kind).order_by(LOG.c.kind)
    first, last = connection.execute(select(func.min(e.started), func.max(e.updated))).one()
    return StoreInfo(
        schema=connection.execute(text("SELECT max(version) FROM migrations")).scalar_one(),
        entries=entries,
        head=chain,
        episodes={origin: count for origin, count in origins},
        kinds={kind: count for kind, count in connection.execute(kept)},
        metrics=tuple(known_metrics(connection)),
        first=first,
        last=last,
        bytes=size,
    )
