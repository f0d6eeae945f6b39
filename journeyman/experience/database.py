"""The database under the store: transactions, one fsync for many writers, and errors that say what to do.

Writers hand over pieces of work and get futures. One thread takes all that is waiting, does it in one transaction and
commits: while a commit waits for the disk, the next group gathers (group commit). A future is done when its work is on
disk, or with the error for which it is not.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from journeyman.errors import StoreError, StoreUnavailable

T = TypeVar("T")
PATIENCE = 5000
"""Milliseconds that a writer waits for another process to end its transaction."""
ROOM = 64 * 2**20
"""Bytes that should be free on the disk before new work is taken on."""
WRITERS = 0x6A6F75726E6579
"""The key of PostgreSQL's advisory lock that makes writers follow one another ("journey")."""


class _Work(Generic[T]):
    """A piece of work and what became of it: neighbours that do the same to other items are done at once."""

    def __init__(self, do: Callable[[Connection, Sequence[Any]], Sequence[T]], item: Any) -> None:
        self.future: Future[T] = Future()
        self.do, self.item = do, item
        self.result: T

    def acknowledge(self) -> None:
        self.future.set_result(self.result)


class Database:
    """A SQLite file, or any database that SQLAlchemy has a URL for.

    Args:
        where: a file, or a URL such as `postgresql+psycopg://...`.

    Raises:
        StoreError: no such database can be had.
    """

    def __init__(self, where: Path | str) -> None:
        url = _url(str(where))
        self.name = url.render_as_string(hide_password=True) if "://" in str(where) else str(where)
        self.file = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
        self.engine: Engine = _engine(url)
        self._identity: tuple[int, int] | None = None
        self._prepare: Callable[[Connection], None] | None = None
        self._waiting: list[_Work[Any]] = []
        self._lock = threading.Lock()
        self._reopening = threading.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")

    def open(self, prepare: Callable[[Connection], None]) -> None:
        """Bring the schema up to date; done again when another file lies in the file's place.

        Raises:
            StoreUnavailable: it cannot be read or written.
        """
        self._prepare = prepare
        with self._attempt("open"), self._transaction(writes=True) as connection:
            prepare(connection)
        self._identity = self._identify()

    def close(self) -> None:
        """Finish what was handed over, then let go of the database."""
        self._writer.shutdown()
        self.engine.dispose()

    def read(self, work: Callable[[Connection], T]) -> T:
        """Do the work in one transaction that sees one state of the database.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        with self._attempt("read"):
            self._find_again()
            with self._transaction(writes=False) as connection:
                return work(connection)

    def write(self, work: Callable[[Connection], T]) -> Future[T]:
        """Do the work in the next group, all or nothing of it. Done means on disk.

        The future raises what the work raised, or StoreUnavailable where the group cannot be written.
        """
        return self.write_each(lambda connection, _: [work(connection)], None)

    def write_each(self, do: Callable[[Connection, Sequence[Any]], Sequence[T]], item: Any) -> Future[T]:
        """The same for one item, with those that others want done by the very same function: it gets them all at once,
        and gives a result for each. Where it raises, they are done one by one, and each has its own failure."""
        piece = _Work(do, item)
        with self._lock:
            self._waiting.append(piece)
        try:
            self._writer.submit(self._write_group)
        except RuntimeError as error:  # closed
            raise StoreError(f"the store {self.name} was closed") from error
        return piece.future

    def size(self) -> int | None:
        """Bytes on disk; None for a server's."""
        if self.file is None:
            return None
        files = (Path(f"{self.file}{suffix}") for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def check_room(self) -> None:
        """Raises StoreUnavailable: the disk is nearly full."""
        if self.file is None:
            return
        with self._attempt("write"):
            free = shutil.disk_usage(self.file.parent).free
            if free < ROOM:
                raise OSError(errno.ENOSPC, f"No space: {free} bytes are free, at least {ROOM} are wanted")

    def forget(self) -> None:
        """Take what was erased out of SQLite's write-ahead log, too, as far as nobody is reading it."""
        if self.file is not None:
            with self._attempt("write"), self.engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # outside of any transaction

    def _write_group(self) -> None:
        with self._lock:
            group, self._waiting = self._waiting, []
        group = [piece for piece in group if piece.future.set_running_or_notify_cancel()]
        if not group:
            return
        kept: list[_Work[Any]] = []
        try:
            with self._attempt("write"):
                self._find_again()
                with self._transaction(writes=True) as connection:
                    for _, alike in groupby(group, key=attrgetter("do")):
                        kept += _done(list(alike), connection)
        except BaseException as error:
            for piece in group:
                if not piece.future.done():
                    piece.future.set_exception(error)
        for piece in kept:
            if not piece.future.done():
                piece.acknowledge()

    @contextmanager
    def _transaction(self, *, writes: bool) -> Generator[Connection, None, None]:
        with self.engine.connect().execution_options(writes=writes) as connection, connection.begin():
            yield connection

    @contextmanager
    def _attempt(self, verb: str) -> Generator[None, None, None]:
        """Turn the database's errors into ours."""
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).strip()
            message = f"cannot {verb} the store {self.name}"
            raise StoreUnavailable(message, reason=reason, fix=_fix(reason)) from error

    def _identify(self) -> tuple[int, int] | None:
        """Which file lies there: SQLite would go on writing to one that was deleted."""
        if self.file is None:
            return None
        found = os.stat(self.file)
        return found.st_dev, found.st_ino

    def _find_again(self) -> None:
        if self.file is None or self._identity is None or self._prepare is None:
            return
        if self._look() == self._identity:
            return
        with self._reopening:
            self.engine.dispose()
            found = self._identify()
            with self._transaction(writes=True) as connection:
                self._prepare(connection)
            self._identity = found

    def _look(self) -> tuple[int, int] | None:
        try:
            return self._identify()
        except OSError:
            self.engine.dispose()  # what is open is no file any more
            raise


def _done(pieces: Sequence[_Work[Any]], connection: Connection) -> list[_Work[Any]]:
    """Do pieces of a group that are alike, if need be one by one; those that were done. What a piece gets wrong itself
    is its own failure; the database's is everyone's."""
    savepoint = connection.begin_nested()
    try:
        results = pieces[0].do(connection, [piece.item for piece in pieces])
    except (OperationalError, InterfaceError):
        raise  # SQLite may have undone the whole transaction already, savepoints with it
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        savepoint.rollback()
        failure: Exception = StoreError("the store does not take this", reason=str(error.orig))
    except Exception as error:
        savepoint.rollback()
        failure = error
    else:
        savepoint.commit()
        for piece, result in zip(pieces, results, strict=True):
            piece.result = result
        return list(pieces)
    if len(pieces) > 1:
        return [done for piece in pieces for done in _done([piece], connection)]
    pieces[0].future.set_exception(failure)
    return []


def _url(where: str) -> URL:
    if "://" not in where:
        return URL.create("sqlite", database=str(Path(where).absolute()))
    try:
        url = make_url(where)
    except ArgumentError as error:
        raise StoreError(f"{where!r} is no database URL", reason=str(error)) from error
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError("a store in memory keeps nothing", fix="give a file")
    return url


def _engine(url: URL) -> Engine:
    try:
        engine = create_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite")
    except (ImportError, SQLAlchemyError) as error:
        fix = "pip install 'journeyman[postgres]', and a URL such as postgresql+psycopg://user@host/database"
        raise StoreError(f"no driver for {url.drivername}", reason=str(error), fix=fix) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif engine.dialect.name == "postgresql":
        event.listen(engine, "begin", _begin_postgresql)
    else:
        raise StoreError(f"a store cannot be kept in {engine.dialect.name}", fix="give a file, or a PostgreSQL URL")
    return engine


def _set_up_sqlite(connection: Any, _: object) -> None:
    """Acknowledged means on disk: write-ahead log, flushed at every commit; what is deleted is overwritten."""
    connection.isolation_level = None  # transactions begin where we say, schema changes included
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={PATIENCE}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "fullfsync=ON",  # macOS: through the drive's own cache
        "secure_delete=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes the lock before it reads where the chain ends: another process may be writing, too."""
    writes = connection.get_execution_options().get("writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get("writes", True):
        connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITERS})
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _fix(reason: str) -> str:
    for signs, fix in (
        (("full", "No space", "disk I/O"), "free some disk and try again: what was acknowledged is kept"),
        (("readonly",), "make the file and its folder writable"),
        (("unable to open", "No such file"), "check that the folder exists and is writable"),
        (("not a database",), "this file is no experience store: give another path"),
        (("malformed",), "restore it from a copy: the file is damaged"),
        (("locked",), "another process is writing: wait for it"),
        (("connect", "terminat"), "see that the database runs and can be reached: nothing acknowledged is lost"),
    ):
        if any(sign in reason for sign in signs):
            return fix
    return ""
