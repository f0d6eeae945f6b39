"""What a server begins with: what it is told, until the log knows better."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from journeyman.errors import CheckpointError, UsageError
from journeyman.experience import Store
from journeyman.model.load import load
from journeyman.model.weights import weights_digest
from journeyman.release.book import Book
from journeyman.release.registry import Registry
from journeyman.release.steering import Course, course
from journeyman.serve.config import ServeConfig
from journeyman.serve.deployment import Deployment
from tests.serve.test_versions import other_weights


@contextmanager
def opened(folder: Path, source: str, **config: Any) -> Iterator[Deployment]:
    """What `journeyman serve` begins with."""
    place = {"store": str(folder / "store"), "slots": 2, "context": 64}
    d = Deployment.open(source, ServeConfig(**{**place, **config}))
    try:
        yield d
    finally:
        asyncio.run(d.close())


@contextmanager
def known(folder: Path) -> Iterator[tuple[Registry, Book]]:
    with Store(folder / "store") as store:
        registry = Registry(store)
        yield registry, registry.book()


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, str]:
    return other_weights(tmp_path / "one", 1.01), other_weights(tmp_path / "two", 1.02)


def test_what_is_new_becomes_the_release_and_keeps_its_number(tmp_path: Path, sources: tuple[str, str]) -> None:
    one, two = sources
    for source, number in ((one, 1), (two, 2)):
        for _ in range(2):  # again after a restart
            with opened(tmp_path, source) as d:
                assert (d.version.number, d.notice) == (number, "")
    with known(tmp_path) as (registry, book):
        assert {n: (v.source, v.parents) for n, v in book.versions.items()} == {1: (one, ()), 2: (two, (1,))}
        assert course(registry.store.events()) == Course({2: 1.0})
        assert [move.why for move in book.moves] == [f"served by hand: {source}" for source in (one, two)]


def test_who_is_killed_at_the_beginning_has_decided_all_or_nothing(
    tmp_path: Path, sources: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """New weights become known and the release at once: known alone, they would pass for superseded ones."""
    with opened(tmp_path, sources[0]):
        pass

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Registry, "point", killed)
    with opened(tmp_path, sources[1]) as d:
        assert (d.version.number, d.notice) == (2, "")


def test_what_was_superseded_gives_way_to_the_release(tmp_path: Path, sources: tuple[str, str]) -> None:
    one, two = sources
    for source in (one, two):
        with opened(tmp_path, source):
            pass
    with opened(tmp_path, one) as d:
        assert (d.version.number, d.loaded.source) == (2, two)
        assert d.notice.endswith("was superseded: the release is version 2, and is served")
    with known(tmp_path) as (registry, _):
        registry.roll_back("complaints")
    with opened(tmp_path, one) as d:
        assert (d.version.number, d.notice) == (1, "")


@pytest.mark.parametrize(("what", "says"), [("gone", "cannot be loaded"), ("others", "other weights are there now")])
def test_a_release_that_is_gone_is_an_error_with_its_fix(
    tmp_path: Path, sources: tuple[str, str], what: str, says: str
) -> None:
    one, two = sources
    for source in (one, two):
        with opened(tmp_path, source):
            pass
    shutil.rmtree(two)
    if what == "others":
        other_weights(Path(two), 1.03)
    with pytest.raises(CheckpointError, match=f"(?s){says}.*Fix: .*release rollback"), opened(tmp_path, one):
        pass
    with opened(tmp_path, two if what == "others" else other_weights(tmp_path / "three", 1.04)) as d:
        assert d.version.number == 3, "others are served by hand as ever"


def test_what_is_in_quarantine_is_not_served(tmp_path: Path, sources: tuple[str, str]) -> None:
    one, two = sources
    for source in (one, two):
        with opened(tmp_path, source):
            pass
    with known(tmp_path) as (registry, _):
        registry.quarantine(2, "poisoned")
    for config in (dict[str, Any](), {"also": (f"{one}=0.5",)}):
        with (
            pytest.raises(UsageError, match=r"(?s)version 2 .* is in quarantine.*poisoned.*Fix"),
            opened(tmp_path, two, **config),
        ):
            pass
    with opened(tmp_path, one) as d:
        assert d.version.number == 1


def test_shares_by_hand_leave_the_log_alone(tmp_path: Path, sources: tuple[str, str]) -> None:
    one, two = sources
    with opened(tmp_path, two):
        pass
    with opened(tmp_path, one, also=(f"{two}=0.25",)) as d:
        assert not d.follows and {m.number: d.fleet.share(m) for m in d.fleet.members} == {2: 0.75, 1: 0.25}
    with known(tmp_path) as (registry, _):
        assert course(registry.store.events()) == Course({1: 1.0})


def test_numbers_of_before_there_was_a_registry_stay(tmp_path: Path, sources: tuple[str, str]) -> None:
    one, two = sources
    digests = [weights_digest(load(source).model) for source in (one, two)]
    kept = [
        {"number": n, "digest": digest, "source": source, "since": 1.0}
        for n, (digest, source) in enumerate([("f" * 64, "runs/old"), (digests[1], two), (digests[0], one)], 1)
    ]
    (Path(one) / "serve").mkdir()
    (Path(one) / "serve" / "versions.json").write_text(json.dumps(kept))
    with opened(tmp_path, one) as d:
        assert d.version.number == 3
    with known(tmp_path) as (_, book):
        assert [v.source for v in book.versions.values()] == ["runs/old", two, one] and book.aliases == {"release": 3}


def test_a_checkpoint_that_was_served_is_still_a_checkpoint(tmp_path: Path, sources: tuple[str, str]) -> None:
    one, _ = sources
    for _ in range(2):  # its experience lies in its own folder, as a run's does
        with opened(tmp_path, one, store="") as d:
            assert d.version.number == 1
