"""The experience store: every episode, append-only, content-addressed, chained, on disk when `add` returns.

SQLite in a file by default (write-ahead log, full synchronization), any SQLAlchemy URL otherwise. Each row holds
the sha256 of its content and a link of a hash chain over all rows, so that `verify` finds what was changed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from journeyman.errors import StoreError, UnknownName
from journeyman.experience.codec import decode, digest, encode, link
from journeyman.experience.migrations import MIGRATIONS
from journeyman.types import Ending, Trajectory

T = TypeVar("T")
GENESIS = "0" * 64
INSERT = text(
    "INSERT INTO episodes"
    " (number, id, job, split, task_index, step, ending, reward, taught, record, columns, digest, chain) VALUES"
    " (:number, :id, :job, :split, :task_index, :step, :ending, :reward, :taught, :record, :columns, :digest, :chain)"
)


class Store:
    """Episodes kept for good. One writer at a time; readers see what was acknowledged.

    Args:
        where: a file, or a SQLAlchemy URL such as `postgresql+psycopg://...`.

    Raises:
        StoreError: it cannot be opened, is no store, or was written by a newer version.
    """

    def __init__(self, where: Path | str) -> None:
        self.where = str(where)
        url = self.where if "://" in self.where else f"sqlite:///{Path(self.where).absolute()}"
        self._engine: Engine = create_engine(url)
        self._lock = threading.Lock()
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _durable)
        self._attempt("open", self._migrate)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- writing ---------------------------------------------------------------------------------------

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Keep the trajectories: all of them are on disk when this returns, or none.

        One that is there already, with the same content, is left alone: adding again is safe.

        Raises:
            StoreError: it cannot be written, or an id is there with other content.
        """
        if trajectories:
            with self._lock:
                self._attempt("write", lambda connection: self._add(connection, trajectories))

    def _add(self, connection: Connection, trajectories: Sequence[Trajectory]) -> None:
        last = connection.execute(text("SELECT number, chain FROM episodes ORDER BY number DESC LIMIT 1")).first()
        number, chain = (0, GENESIS) if last is None else (last[0], last[1])
        rows: list[dict[str, Any]] = []
        for t in trajectories:
            record, columns, content = encode(t)
            there = connection.execute(text("SELECT digest FROM episodes WHERE id = :id"), {"id": t.id}).scalar()
            if there == content:
                continue
            if there is not None:
                raise StoreError(
                    f"the episode {t.id} is kept already, with other content",
                    reason="experience is append-only",
                    fix="give a new run a folder of its own",
                )
            number, chain = number + 1, link(chain, content)
            rows.append(
                {
                    "number": number,
                    "id": t.id,
                    "job": t.task.job,
                    "split": t.task.split,
                    "task_index": t.task.index,
                    "step": t.step,
                    "ending": t.outcome.ending.value,
                    "reward": t.outcome.reward,
                    "taught": sum(turn.by == "teacher" for turn in t.turns),
                    "record": record,
                    "columns": columns,
                    "digest": content,
                    "chain": chain,
                }
            )
        if rows:
            connection.execute(INSERT, rows)

    # -- reading ---------------------------------------------------------------------------------------

    def episodes(
        self,
        *,
        job: str | None = None,
        split: str | None = None,
        min_step: int | None = None,
        max_step: int | None = None,
        ending: Ending | None = None,
        prefix: str | None = None,
        taught: bool = False,
        latest: bool = False,
        limit: int | None = None,
    ) -> Iterator[Trajectory]:
        """Episodes in the order they were kept (newest first with `latest`), narrowed by what is given.

        Args:
            prefix: what their ids begin with (`"exam-"`, `"step000003"`).
            taught: only those in which a teacher spoke.
        """
        tests = {
            "job = :job": job,
            "split = :split": split,
            "step >= :min_step": min_step,
            "step <= :max_step": max_step,
            "ending = :ending": None if ending is None else ending.value,
            "substr(id, 1, length(:prefix)) = :prefix": prefix,
            "taught > :taught": 0 if taught else None,
        }
        given = {test: amount for test, amount in tests.items() if amount is not None}
        query = "SELECT record, columns FROM episodes"
        if given:
            query += " WHERE " + " AND ".join(given)
        query += " ORDER BY number" + (" DESC" if latest else "")
        if limit is not None:
            query += f" LIMIT {int(limit)}"
        names = {test.rsplit(":", 1)[1]: amount for test, amount in given.items()}
        rows = self._attempt("read", lambda c: c.execute(text(query), names).all())
        return (decode(row[0], bytes(row[1])) for row in rows)

    def episode(self, id: str) -> Trajectory:
        """One episode by its id.

        Raises:
            UnknownName: there is none; the message names the nearest ids.
        """
        query = text("SELECT record, columns FROM episodes WHERE id = :id")
        row = self._attempt("read", lambda c: c.execute(query, {"id": id}).first())
        if row is None:
            known = self._attempt("read", lambda c: list(c.execute(text("SELECT id FROM episodes")).scalars()))
            raise UnknownName("episode", id, known)
        return decode(row[0], bytes(row[1]))

    def count(self) -> int:
        """How many episodes are kept."""
        query = text("SELECT count(*) FROM episodes")
        return int(self._attempt("read", lambda c: c.execute(query).scalar_one()))

    def verify(self) -> list[str]:
        """Derive every digest and the chain again; what does not fit, in words. Empty when all is as written."""
        problems: list[str] = []
        query = text("SELECT number, id, record, columns, digest, chain FROM episodes ORDER BY number")
        chain, expected = GENESIS, 0
        for number, id, record, columns, content, linked in self._attempt("read", lambda c: c.execute(query).all()):
            expected += 1
            if number != expected:
                problems.append(f"{number - expected} episodes are missing before {id}")
                expected = number
            if digest(record, bytes(columns)) != content or json.loads(record)["id"] != id:
                problems.append(f"the episode {id} is not as it was written")
            chain = link(chain, content)
            if chain != linked:
                problems.append(f"the chain breaks at {id}")
                chain = linked
        return problems

    # -- inside ----------------------------------------------------------------------------------------

    def _migrate(self, connection: Connection) -> None:
        connection.execute(
            text("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, date TEXT NOT NULL)")
        )
        version = connection.execute(text("SELECT count(*) FROM migrations")).scalar_one()
        if version > len(MIGRATIONS):
            raise StoreError(
                f"the store {self.where} has schema version {version}",
                reason=f"this Journeyman knows versions up to {len(MIGRATIONS)}",
                fix="upgrade Journeyman",
            )
        blob = "BYTEA" if self._engine.dialect.name == "postgresql" else "BLOB"
        for number in range(version, len(MIGRATIONS)):
            for statement in MIGRATIONS[number]:
                connection.execute(text(statement.replace("BLOB", blob)))
            stamp = {"version": number + 1, "date": datetime.now(UTC).isoformat()}
            connection.execute(text("INSERT INTO migrations VALUES (:version, :date)"), stamp)

    def _attempt(self, verb: str, work: Callable[[Connection], T]) -> T:
        """Do the work in one transaction; turn the database's errors into ours."""
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except (DBAPIError, SQLAlchemyError) as error:
            reason = str(getattr(error, "orig", None) or error)
            raise StoreError(f"cannot {verb} the store {self.where}", reason=reason, fix=_fix(reason)) from error


def _fix(reason: str) -> str:
    for sign, fix in (
        ("full", "free some disk and give the same command again: what was acknowledged is kept"),
        ("readonly", "make the file and its folder writable"),
        ("unable to open", "check that the folder exists and is writable"),
        ("not a database", "this file is no experience store: give another path"),
        ("malformed", "restore it from a copy: the file is damaged"),
        ("locked", "another process is writing: wait for it"),
    ):
        if sign in reason:
            return fix
    return ""


def _durable(connection: Any, _: object) -> None:
    """Acknowledged means on disk: write-ahead log, flushed at every commit."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
