"""A store and its registry for every test that asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from journeyman.experience import Store
from journeyman.release.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Store(tmp_path / "experience.sqlite") as store:
        yield Registry(store)
