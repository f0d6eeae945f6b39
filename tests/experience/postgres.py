"""A real PostgreSQL server for tests: its own folder and socket, nobody else's data, gone when they end."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SERVICE_USERS = ("postgres", "nobody")
"""Whom to be instead of root, as whom PostgreSQL refuses to run."""


def missing() -> str:
    """Why there can be no server here; empty if there can."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed: pip install 'journeyman[postgres]'"
    if _program("initdb") is None or _program("postgres") is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    return ""


def _program(name: str) -> str | None:
    """Debian keeps them out of the path, one folder per version."""
    found = shutil.which(name)
    others = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    return found or (str(others[-1]) if others else None)


class Server:
    """A server that can be stopped and started; `url(schema)` leads to a schema of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._user = next((u for u in SERVICE_USERS if _exists(u)), None) if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        initdb = [_program("initdb"), "-D", folder / "data", "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale"]
        subprocess.run(initdb, check=True, capture_output=True, user=self._user, cwd=folder)

    def start(self) -> None:
        command = [_program("postgres"), "-D", self.folder / "data", "-k", self.folder, "-c", "listen_addresses="]
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self.folder)
        _wait_for(self._answers, "PostgreSQL to start", self.folder / "log")

    def stop(self) -> None:
        """At once, as if the machine had lost its power (SIGQUIT: immediate shutdown)."""
        if self._process is not None:
            self._process.send_signal(3)
            self._process.wait()
            self._process = None

    def url(self, schema: str) -> str:
        self.execute(f'CREATE SCHEMA "{schema}"')
        return f"postgresql+psycopg://tester@/postgres?host={self.folder}&options=-csearch_path%3D{schema}"

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(host=str(self.folder), user="tester", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)

    def _answers(self) -> bool:
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _wait_for(ready: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, f"waited a minute for {what}:\n{log.read_text()}"
        time.sleep(0.05)


@contextmanager
def running() -> Iterator[Server]:
    """A server for as long as the block lasts."""
    folder = Path(tempfile.mkdtemp(prefix="journeyman-pg-"))
    try:
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)
