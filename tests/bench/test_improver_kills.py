"""What counts the faults of a killed deployment sees them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.improver_kills import LATE, Answered, astray, half_released
from journeyman.experience import Store
from journeyman.experience.journal import Event
from journeyman.release.registry import Registry
from journeyman.release.rollout import RolloutPlan
from journeyman.release.steering import Rollout


@pytest.fixture
def events(tmp_path: Path) -> list[Event]:
    """Version 2 follows version 1, by way of 30% of the traffic."""
    with Store(tmp_path / "experience.sqlite") as store:
        registry, rollout = Registry(store), Rollout(store)
        registry.add("a" * 64, "one")
        registry.add("b" * 64, "two", parents=[1])
        registry.point("release", 1)
        rollout.begin(2, RolloutPlan(shares=(0.3, 1.0)))
        rollout.act("advance", "by hand")
        return store.events()


def test_a_release_and_its_rollout_belong_together(events: list[Event]) -> None:
    assert half_released(events) == []
    moved = [e for e in events if e.topic == "alias" and e.data == {**e.data, "alias": "release", "version": 2}]
    assert half_released([e for e in events if e not in moved]) == ["version 2"], "a rollout that released nothing"
    assert half_released([e for e in events if e.topic != "rollout"]) == ["version 2"], "a release without a rollout"


def test_a_version_answers_only_with_a_share(events: list[Event]) -> None:
    begun = next(e for e in events if e.topic == "rollout")
    before, after = begun.at - 100, events[-1].at + 100
    early = [replace(e, at=before - 2 * LATE) for e in events if e.number < begun.number]
    spread = [*early, *events[len(early) :]]
    good = [Answered("x", 1, before, before), Answered("y", 2, begun.at, begun.at + 1), Answered("z", 2, after, after)]
    assert astray(good, spread) == []
    bad = [Answered("x", 2, before, before), Answered("y", 1, after, after)]
    assert astray(bad, spread) == ["version 2 answered x", "version 1 answered y"]
