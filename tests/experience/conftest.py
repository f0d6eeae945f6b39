"""The same tests on SQLite and on PostgreSQL: whoever asks for `where` or `store` runs on both."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from journeyman.experience import Store
from tests.experience import postgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL server of this test process."""
    reason = postgres.missing()
    if reason:
        pytest.skip(reason)
    with postgres.running() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a store of a test's own can be."""
    if request.param == "sqlite":
        return str(tmp_path / "e.sqlite")
    server: postgres.Server = request.getfixturevalue("server")
    return server.url(f"test{next(_numbers)}")


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    with Store(where) as opened:
        yield opened
