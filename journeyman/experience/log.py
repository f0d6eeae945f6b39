"""The log: every record in order, each with the sha256 of its content and a link of one hash chain over all.

An entry is never changed. It can be erased: its content goes, its digest stays, so the chain can still be derived, and
an entry of the kind `erasure` says which were erased, when and why.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Row, select, update
from sqlalchemy.engine import Connection

from journeyman.experience.codec import canonical, digest, link
from journeyman.experience.ids import uuid7
from journeyman.experience.schema import LOG, MENTIONS
from journeyman.experience.statements import LAST_ENTRY, NEW_ENTRY, NEW_MENTION

Kind = Literal["trajectory", "turn", "feedback", "metric", "event", "erasure"]
GENESIS = "0" * 64
PAGE = 500
"""Rows read at a time."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record before it is in the log.

    Attributes:
        kind: what it is.
        id: its own.
        record: canonical JSON.
        columns: its arrays.
        about: the episodes it is about.
        key: the API key that it came by.
        user: the end user whose words these are.
        once: hash of the caller's idempotency key.
        digest: sha256 of record and columns, where it is known already.
    """

    kind: Kind
    id: str
    record: str
    columns: bytes = b""
    about: tuple[str, ...] = ()
    key: str = ""
    user: str = ""
    once: str | None = None
    digest: str = ""


def head(connection: Connection) -> tuple[int, str]:
    """Number and link of the last entry."""
    last = connection.execute(LAST_ENTRY).first()
    return (0, GENESIS) if last is None else (last.number, last.chain)


def append(connection: Connection, entries: Sequence[Entry]) -> int:
    """Put the entries at the end of the log; the number of the first."""
    before, chain = head(connection)
    rows: list[dict[str, Any]] = []
    for number, entry in enumerate(entries, before + 1):
        content = entry.digest or digest(entry.record, entry.columns)
        chain = link(chain, content)
        rows.append(
            {
                "number": number,
                "kind": entry.kind,
                "id": entry.id,
                "once": entry.once,
                "key_id": entry.key or None,
                "user_id": entry.user or None,
                "record": entry.record,
                "columns": entry.columns,
                "digest": content,
                "chain": chain,
            }
        )
    if rows:
        connection.execute(NEW_ENTRY, rows)
    mentions = [{"episode": id, "number": n} for n, e in enumerate(entries, before + 1) for id in e.about]
    if mentions:
        connection.execute(NEW_MENTION, mentions)
    return before + 1


def clear(connection: Connection, numbers: Sequence[int], why: str, at: float) -> None:
    """Erase the content of these entries, and note that in the log."""
    empty = dict.fromkeys(("record", "columns", "once", "key_id", "user_id"))
    for start in range(0, len(numbers), PAGE):
        chosen = LOG.c.number.in_(numbers[start : start + PAGE])
        connection.execute(MENTIONS.delete().where(MENTIONS.c.number.in_(numbers[start : start + PAGE])))
        connection.execute(update(LOG).where(chosen).values(empty))
        # the random id is part of what was hashed: without it nobody can try out what the content may have been
        connection.execute(update(LOG).where(chosen, LOG.c.kind != "trajectory").values(id=None))
    id = uuid7()
    record = {"kind": "erasure", "id": id, "at": at, "why": why, "numbers": runs(numbers)}
    append(connection, [Entry("erasure", id, canonical(record))])


def runs(numbers: Iterable[int]) -> list[list[int]]:
    """Sorted numbers as [first, last] of each run without a gap."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def about(kind: str, record: Mapping[str, Any]) -> set[str]:
    """Which episodes a record is about."""
    match kind:
        case "trajectory":
            return {record["id"]}
        case "turn":
            return {record["episode"]}
        case "feedback":
            return {record["episode"], record["preferred_to"] or record["episode"]}
        case _:
            return set()


def verify(connection: Connection, known: tuple[int, str] | None = None) -> list[str]:
    """Derive every digest, the chain and the index again; what does not fit, in words.

    Args:
        known: number and link of what was once the last entry.
    """
    problems: list[str] = []
    chain, expected = GENESIS, 0
    empty: set[int] = set()
    declared: set[int] = set()
    recalled = known is None or known == (0, GENESIS)
    for row, mentioned in _rows(connection):
        noun = "episode" if row.kind == "trajectory" else row.kind
        name = f"the entry {row.number}" if row.id is None else f"the {noun} {row.id}"
        expected += 1
        if row.number != expected:
            problems.append(f"{row.number - expected} entries are missing before {name}")
            expected = row.number
        record: dict[str, Any] = {}
        if row.record is None:
            empty.add(row.number)
        elif digest(row.record, bytes(row.columns)) == row.digest:
            record = json.loads(row.record)
        if row.record is not None and (record.get("id"), record.get("kind", "trajectory")) != (row.id, row.kind):
            problems.append(f"{name} is not as it was written")
        elif mentioned != (about(row.kind, record) if record else set()):
            problems.append(f"{name} is not listed with its episode")
        if record and row.kind == "erasure":
            declared |= {number for first, last in record["numbers"] for number in range(first, last + 1)}
        chain = link(chain, row.digest)
        if chain != row.chain:
            problems.append(f"the chain breaks at {name}")
            chain = row.chain
        recalled |= known == (row.number, chain)
    if not recalled and known is not None:
        problems.append(f"the log does not go on from the entry {known[0]} that was its last")
    problems += [f"the entry {number} was erased without a note of it" for number in sorted(empty - declared)]
    problems += [f"the entry {number} is said to be erased and is there" for number in sorted(declared - empty)]
    return problems


def _rows(connection: Connection) -> Iterator[tuple[Row[Any], set[str]]]:
    """All entries in order, a page at a time, with the episodes that they are listed with."""
    after = 0
    query = select(LOG).order_by(LOG.c.number).limit(PAGE)
    while page := connection.execute(query.where(LOG.c.number > after)).all():
        mentions: dict[int, set[str]] = {}
        among = MENTIONS.c.number.between(page[0].number, page[-1].number)
        for mention in connection.execute(select(MENTIONS).where(among)):
            mentions.setdefault(mention.number, set()).add(mention.episode)
        yield from ((row, mentions.get(row.number, set())) for row in page)
        after = page[-1].number
