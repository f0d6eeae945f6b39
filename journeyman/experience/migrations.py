"""The store's schema, as the numbered steps that lead to it. Steps are only ever added."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.engine import Connection

from journeyman.errors import StoreError


def _index_trajectories(connection: Connection) -> None:
    """What lists show of each trajectory and only its record says; SQL cannot always read that: it may hold NaN."""
    made_by = text("INSERT INTO versions (episode, version) VALUES (:id, :version)")
    described = text("UPDATE episodes SET turns = :turns, value = :value WHERE id = :id")
    page = text("SELECT number, id, record, columns FROM log WHERE number > :after ORDER BY number LIMIT 500")
    after = 0
    while rows := connection.execute(page, {"after": after}).all():
        records = [json.loads(row.record) for row in rows]
        last = [struct.unpack("<f", row.columns[-4:])[0] if row.columns else math.nan for row in rows]
        values = [None if math.isnan(value) else value for value in last]
        found = [
            {"id": row.id, "version": record["policy_version"], "turns": len(record["turns"]), "value": value}
            for row, record, value in zip(rows, records, values, strict=True)
        ]
        connection.execute(made_by, found)
        connection.execute(described, found)
        after = rows[-1].number


MIGRATIONS: tuple[tuple[str | Callable[[Connection], None], ...], ...] = (
    (
        """
        CREATE TABLE episodes (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            job TEXT NOT NULL,
            split TEXT NOT NULL,
            task_index INTEGER NOT NULL,
            step INTEGER NOT NULL,
            ending TEXT NOT NULL,
            reward DOUBLE PRECISION NOT NULL,
            record TEXT NOT NULL,
            columns BLOB NOT NULL,
            digest TEXT NOT NULL,
            chain TEXT NOT NULL
        )
        """,
        "CREATE INDEX episodes_by_step ON episodes (step)",
        "CREATE INDEX episodes_by_task ON episodes (job, split, task_index)",
    ),
    # turns that a teacher said; records may hold them, and verdicts, from here on
    ("ALTER TABLE episodes ADD COLUMN taught INTEGER NOT NULL DEFAULT 0",),
    # what a deployment keeps: one log and chain for all kinds of records, and `episodes` as an index of it
    (
        "DROP INDEX episodes_by_step",
        "DROP INDEX episodes_by_task",
        "ALTER TABLE episodes RENAME TO former",
        """
        CREATE TABLE log (
            number BIGINT PRIMARY KEY,
            kind TEXT NOT NULL,
            id TEXT UNIQUE,
            once TEXT UNIQUE,
            key_id TEXT,
            user_id TEXT,
            record TEXT,
            columns BLOB,
            digest TEXT NOT NULL,
            chain TEXT NOT NULL
        )
        """,
        "CREATE INDEX log_by_kind ON log (kind, number)",
        "CREATE INDEX log_by_user ON log (user_id) WHERE user_id IS NOT NULL",
        """
        CREATE TABLE episodes (
            id TEXT PRIMARY KEY,
            first BIGINT NOT NULL,
            last BIGINT NOT NULL,
            origin TEXT NOT NULL,
            job TEXT NOT NULL DEFAULT '',
            split TEXT NOT NULL DEFAULT '',
            task_index INTEGER,
            step INTEGER,
            ending TEXT NOT NULL DEFAULT '',
            reward DOUBLE PRECISION,
            value DOUBLE PRECISION,
            taught INTEGER NOT NULL DEFAULT 0,
            turns INTEGER NOT NULL DEFAULT 0,
            feedback INTEGER NOT NULL DEFAULT 0,
            key_id TEXT NOT NULL DEFAULT '',
            user_id TEXT NOT NULL DEFAULT '',
            started DOUBLE PRECISION,
            updated DOUBLE PRECISION,
            erased DOUBLE PRECISION
        )
        """,
        "CREATE INDEX episodes_by_first ON episodes (first)",
        "CREATE INDEX episodes_by_last ON episodes (last)",
        "CREATE INDEX episodes_by_step ON episodes (step)",
        "CREATE INDEX episodes_by_task ON episodes (job, split, task_index)",
        "CREATE INDEX episodes_by_user ON episodes (user_id)",
        "CREATE TABLE mentions (episode TEXT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (episode, number))",
        "CREATE INDEX mentions_by_number ON mentions (number)",
        "CREATE TABLE versions (episode TEXT NOT NULL, version BIGINT NOT NULL, PRIMARY KEY (episode, version))",
        "CREATE INDEX versions_by_version ON versions (version)",
        """
        INSERT INTO log (number, kind, id, record, columns, digest, chain)
        SELECT number, 'trajectory', id, record, columns, digest, chain FROM former ORDER BY number
        """,
        """
        INSERT INTO episodes (id, first, last, origin, job, split, task_index, step, ending, reward, taught)
        SELECT id, number, number, 'learning', job, split, task_index, step, ending, reward, taught FROM former
        """,
        "INSERT INTO mentions (episode, number) SELECT id, number FROM former",
        _index_trajectories,
        "DROP TABLE former",
    ),
)
"""Step n brings the schema from version n to n + 1."""
SPELLINGS = {
    "sqlite": {"BIGINT PRIMARY KEY": "INTEGER PRIMARY KEY"},  # so that it is the row's own number
    "postgresql": {"BLOB": "BYTEA"},
}


def migrate(connection: Connection) -> None:
    """Bring the schema forward to the present version, in the transaction that is open.

    Raises:
        StoreError: it was written by a newer Journeyman.
    """
    connection.execute(text("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, date TEXT NOT NULL)"))
    version = connection.execute(text("SELECT max(version) FROM migrations")).scalar_one() or 0
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the store has schema version {version}",
            reason=f"this Journeyman knows versions up to {len(MIGRATIONS)}",
            fix="upgrade Journeyman",
        )
    for number in range(version, len(MIGRATIONS)):
        for step in MIGRATIONS[number]:
            if callable(step):
                step(connection)
                continue
            for ours, theirs in SPELLINGS.get(connection.dialect.name, {}).items():
                step = step.replace(ours, theirs)
            connection.execute(text(step))
        stamp = {"version": number + 1, "date": datetime.now(UTC).isoformat()}
        connection.execute(text("INSERT INTO migrations (version, date) VALUES (:version, :date)"), stamp)
