"""The journal: what was decided about a deployment, in the same log and hash chain as what it lived through.

An event is appended and never changed; whatever state there is follows from all events in order. What is appended is
decided inside of the transaction that appends it: no two processes act on a state that only one of them saw.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.engine import Connection

from journeyman.experience.codec import canonical
from journeyman.experience.ids import uuid7
from journeyman.experience.log import PAGE, Entry, append, runs
from journeyman.experience.schema import LOG, MENTIONS

Runs = tuple[tuple[int, int], ...]
"""Numbers of entries as (first, last) of each stretch without a gap, ascending: ((1, 40), (52, 60))."""


@dataclass(frozen=True)
class Event:
    """Something that happened. ``Event("note", {"version": 3, "text": "the first with hops"})``

    Attributes:
        topic: what kind of thing; who reads it knows what its data are.
        data: JSON.
        id: a UUIDv7.
        at: when, in Unix seconds.
        number: of its entry in the log; 0: it is not there yet.
    """

    topic: str
    data: Mapping[str, Any]
    id: str = field(default_factory=uuid7)
    at: float = field(default_factory=time.time)
    number: int = 0


Decide = Callable[[Sequence[Event]], Sequence[Event]]
"""What happens next, given everything that did. It may raise, and then nothing does."""


def events(connection: Connection, after: int = 0) -> list[Event]:
    """Everything that happened since this entry of the log, in order."""
    since = LOG.c.kind == "event", LOG.c.number > after
    query = select(LOG.c.number, LOG.c.record).where(*since).order_by(LOG.c.number)
    return [_event(row.number, row.record) for row in connection.execute(query)]


def _event(number: int, record: str) -> Event:
    kept: dict[str, Any] = json.loads(record)
    return Event(kept["topic"], kept["data"], kept["id"], kept["at"], number)


def happen(connection: Connection, decide: Decide) -> list[Event]:
    """Append what is decided in view of everything so far."""
    new = decide(events(connection))
    entries = [
        Entry("event", e.id, canonical({"kind": "event", "id": e.id, "at": e.at, "topic": e.topic, "data": e.data}))
        for e in new
    ]
    first = append(connection, entries)
    return [Event(e.topic, e.data, e.id, e.at, number) for number, e in enumerate(new, first)]


def entries_of(connection: Connection, episodes: Sequence[str]) -> Runs:
    """The entries that are about these episodes."""
    numbers: set[int] = set()
    for start in range(0, len(episodes), PAGE):
        among = MENTIONS.c.episode.in_(episodes[start : start + PAGE])
        numbers |= set(connection.execute(select(MENTIONS.c.number).where(among)).scalars())
    return as_runs(numbers)


def episodes_in(connection: Connection, wanted: Runs) -> set[str]:
    """The episodes that some of these entries are about."""
    return {
        id
        for tests in _pages(MENTIONS.c.number, wanted)
        for id in connection.execute(select(MENTIONS.c.episode).where(tests)).scalars()
    }


def content_of(connection: Connection, wanted: Runs) -> str:
    """sha256 over the digests of these entries, in order: erasing changes neither them nor it."""
    found = hashlib.sha256()
    for tests in _pages(LOG.c.number, wanted):
        for digest in connection.execute(select(LOG.c.digest).where(tests).order_by(LOG.c.number)).scalars():
            found.update(digest.encode())
    return found.hexdigest()


def erased(connection: Connection) -> Runs:
    """The entries that were erased, as the log itself says."""
    records = connection.execute(select(LOG.c.record).where(LOG.c.kind == "erasure")).scalars()
    return as_runs(n for r in records for first, last in json.loads(r)["numbers"] for n in range(first, last + 1))


def _pages(column: ColumnElement[int], wanted: Runs) -> list[ColumnElement[bool]]:
    """Tests for these runs, as many at a time as one statement takes, in order."""
    return [
        or_(*(column.between(first, last) for first, last in wanted[start : start + PAGE // 2]))
        for start in range(0, len(wanted), PAGE // 2)
    ]


def as_runs(numbers: Any) -> Runs:
    """Numbers as the stretches that they form."""
    return tuple((first, last) for first, last in runs(set(numbers)))


def overlap(one: Runs, other: Runs) -> Runs:
    """What is in both."""
    found: list[tuple[int, int]] = []
    a = b = 0
    while a < len(one) and b < len(other):
        first, last = max(one[a][0], other[b][0]), min(one[a][1], other[b][1])
        if first <= last:
            found.append((first, last))
        a, b = (a + 1, b) if one[a][1] < other[b][1] else (a, b + 1)
    return tuple(found)


def union(many: Sequence[Runs]) -> Runs:
    """What is in any of them."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(run for one in many for run in one):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def without(one: Runs, other: Runs) -> Runs:
    """What is in the first and not in the second."""
    found: list[tuple[int, int]] = []
    for first, last in one:
        for taken_first, taken_last in overlap(((first, last),), other):
            if first < taken_first:
                found.append((first, taken_first - 1))
            first = taken_last + 1
        if first <= last:
            found.append((first, last))
    return tuple(found)
