"""The registry: lineage, aliases and quarantine follow from the log, and the log cannot be changed unseen."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journeyman.errors import UnknownName, UsageError
from journeyman.experience import Store
from journeyman.experience.journal import as_runs, overlap, union, without
from journeyman.release.book import differences
from journeyman.release.registry import Registry
from tests.experience.helpers import make

NUMBERS = st.sets(st.integers(1, 40))


def numbers(runs: tuple[tuple[int, int], ...]) -> set[int]:
    return {n for first, last in runs for n in range(first, last + 1)}


@given(NUMBERS, NUMBERS)
def test_runs_are_sets_of_numbers(one: set[int], other: set[int]) -> None:
    a, b = as_runs(one), as_runs(other)
    assert numbers(overlap(a, b)) == one & other and overlap(a, b) == as_runs(one & other)
    assert union([a, b]) == as_runs(one | other) and without(a, b) == as_runs(one - other)


def family(registry: Registry) -> None:
    """1 begot 2, which begot 3 and 4; 5 is a merge of 1 and 4. Each learned from an episode of its own, 1 from none."""
    registry.store.add([make(name) for name in "abcd"])
    registry.add("d" * 64, "runs/one", config={"update": {"rate": 1e-3}})
    for digest, parents, episode in (("a", [1], "a"), ("b", [2], "b"), ("c", [2], "c"), ("e", [1, 4], "d")):
        entries = registry.store.entries_of([episode])
        config = {"update": {"rate": 2e-3}}
        registry.add(digest * 64, f"runs/{digest}", parents=parents, entries=entries, config=config)


def test_a_version_is_known_once_and_by_every_name(registry: Registry) -> None:
    family(registry)
    again = registry.add("a" * 64, "elsewhere", parents=[1])
    assert (again.number, again.source, again.parents) == (2, "runs/a", (1,))
    registry.point("release", 2)
    book = registry.book()
    assert {book.find(name).number for name in ("2", 2, "release", "aaaaaa")} == {2}
    with pytest.raises(UnknownName, match="unknown version 'aaa'"):
        book.find("aaa")
    with pytest.raises(UnknownName, match="unknown version '9'"):
        registry.add("f" * 64, "", parents=[9])
    assert len(registry.book().versions) == 5 and registry.store.verify() == []


def test_lineage_goes_both_ways(registry: Registry) -> None:
    family(registry)
    book = registry.book()
    assert book.descendants(2) == {3, 4, 5} and book.ancestors(5) == {1, 2, 4}
    found = differences(book.versions[1], book.versions[2])
    assert found["config.update.rate"] == (1e-3, 2e-3) and found["entries"] == (0, 1) and "code" not in found
    assert book.learned(5) == registry.store.entries_of(["a", "c", "d"])


def test_what_was_learned_from_is_fixed_by_its_hash_and_stays_so_when_erased(registry: Registry) -> None:
    family(registry)
    before = registry.book().versions[2]
    assert registry.store.erase(episodes=["a"]) == 1
    assert registry.store.content_of(before.entries) == before.data and registry.store.verify() == []


def test_a_deletion_reaches_what_was_trained_on_it(registry: Registry) -> None:
    family(registry)
    assert registry.reached() == {}
    entries = registry.store.entries_of(["c"])
    registry.store.erase(episodes=["c"])
    assert registry.reached() == {4: entries, 5: entries}


def test_roll_back_goes_to_the_release_before(registry: Registry) -> None:
    family(registry)
    with pytest.raises(UsageError, match="nothing to roll back to"):
        registry.roll_back("")
    for number in (1, 2, 3):
        registry.point("release", number, "better")
    assert registry.roll_back("worse at night").number == 2
    assert registry.book().moves[-1].why == "worse at night"
    assert registry.point("canary", 4) is not None and registry.point("canary", None) is None
    assert registry.book().aliases == {"release": 2}


def test_quarantine_takes_descendants_and_data_along_and_the_release_back(registry: Registry) -> None:
    family(registry)
    for number in (1, 2, 4):
        registry.point("release", number)
    registry.point("canary", 3)
    held = registry.quarantine(2, "learned a wrong answer")
    assert held.versions == (2, 3, 4, 5) and registry.barred() == {"a", "b", "c", "d"}
    book = registry.book()
    assert book.aliases == {"release": 1} and book.distrust(1) is None and book.distrust(4) == held.why
    later = registry.add("8" * 64, "", parents=[4])
    assert "it was made of" in (registry.book().distrust(later.number) or "")
    with pytest.raises(UsageError, match="version 4 is in quarantine"):
        registry.point("release", 4)
    with pytest.raises(UsageError, match="they are in quarantine"):
        registry.add("9" * 64, "", parents=[1], entries=registry.store.entries_of(["b"]))
    registry.lift(held.id, "it was right after all")
    assert registry.book().quarantined == set() and registry.barred() == set()
    with pytest.raises(UnknownName, match="unknown quarantine"):
        registry.lift(held.id, "")


def test_a_bad_child_leaves_its_parents_data_alone(registry: Registry) -> None:
    family(registry)
    registry.point("release", 4)
    with pytest.raises(UsageError, match="nothing to roll back to"):
        registry.quarantine(4, "the only release there ever was")
    assert registry.book().quarantines == ()
    registry.point("release", 2)
    held = registry.quarantine(4, "worse")
    assert held.versions == (4, 5) and registry.barred() == {"c", "d"}
    assert registry.book().aliases == {"release": 2}


def test_episodes_can_be_barred_alone(registry: Registry) -> None:
    family(registry)
    registry.bar(["b"], "one key sent all of it")
    assert registry.barred() == {"b"} and registry.book().quarantined == set()
    assert set(registry.reached()) == {3}
    with pytest.raises(UsageError, match="none of these episodes"):
        registry.bar(["nobody"], "")


def test_notes_and_evidence_stay_with_their_version(registry: Registry) -> None:
    family(registry)
    registry.note("2", "the first with hops")
    registry.attach(2, {"verdict": "pass"})
    with pytest.raises(UsageError, match="says nothing"):
        registry.note(2, " ")
    book = registry.book()
    assert [text for _, text in book.notes[2]] == ["the first with hops"] and book.evidence[2] == ({"verdict": "pass"},)


def test_nobody_comes_in_between(tmp_path: Path) -> None:
    """Eight threads of two stores on one file add the same ten weights: each has one number."""
    path = tmp_path / "experience.sqlite"
    with Store(path) as one, Store(path) as other, ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda i: Registry((one, other)[i % 2]).add(f"{i % 10}" * 64, "").number, range(40)))
        assert sorted(Registry(one).book().versions) == list(range(1, 11)) and set(made) == set(range(1, 11))


def test_a_changed_decision_is_found(registry: Registry, tmp_path: Path) -> None:
    family(registry)
    raw = sqlite3.connect(tmp_path / "experience.sqlite")
    raw.execute("""UPDATE log SET record = replace(record, 'runs/b', 'runs/x') WHERE kind = 'event'""")
    raw.commit()
    raw.close()
    (problem,) = registry.store.verify()
    assert problem.startswith("the event ") and problem.endswith("is not as it was written")


def test_what_servers_had_numbered_themselves_keeps_its_numbers(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "versions.json"
    registry.take_over(file)  # there is none
    kept = [{"number": n, "digest": f"{n}" * 64, "source": f"runs/{n}", "since": 1.0} for n in (1, 2)]
    file.write_text(json.dumps(kept))
    registry.take_over(file)
    registry.take_over(file)  # once is enough
    new = registry.add("3" * 64, "runs/3", parents=[2])
    known = registry.book().versions
    assert {n: v.source for n, v in known.items()} == {1: "runs/1", 2: "runs/2", 3: "runs/3"} and new.number == 3
    assert registry.add("2" * 64, "elsewhere") == known[2]
    file.write_text("{}x")
    with pytest.raises(UsageError, match="cannot be read"):
        registry.take_over(file)
