"""The store's schema, as the numbered steps that lead to it. Steps are only ever added."""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
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
)
"""Step n brings the schema from version n to n + 1. `BLOB` is `BYTEA` on PostgreSQL."""
