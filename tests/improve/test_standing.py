"""Where an improver stands follows from the journal alone, at every moment that it may be killed in."""

from __future__ import annotations

from collections.abc import Sequence

from journeyman.experience.journal import Event
from journeyman.improve.standing import TOPIC, Doing, Standing
from journeyman.release.book import Alias
from journeyman.release.evidence import Sample
from journeyman.release.gate import GateConfig, Judgement, judge

PASSED = judge([Sample("rules", "r", (1.0,) * 2000)], GateConfig(demands=("rules",)))
FAILED = judge([Sample("rules", "r", (0.0,) * 10)], GateConfig(demands=("rules",)))


def version(number: int, *parents: int) -> Event:
    kept = {"number": number, "digest": f"{number:064d}", "source": "s", "parents": list(parents), "entries": []}
    return Event("version", {**kept, "data": "", "config": {}, "code": ""})


def alias(name: Alias, number: int | None) -> Event:
    return Event("alias", {"alias": name, "version": number, "why": ""})


def learned(number: int, cursor: int) -> Event:
    return Event(TOPIC, {"what": "learned", "version": number, "cursor": cursor, "why": ""})


def judged(number: int, judgement: Judgement) -> Event:
    return Event("evidence", {"version": number, "findings": judgement.as_dict()})


def stands(events: Sequence[Event]) -> Standing:
    return Standing.of(events)


FIRST = [version(1), alias("release", 1)]
PROPOSED = [*FIRST, version(2, 1), learned(2, 40), alias("candidate", 2)]


def test_nothing_is_known_at_the_beginning() -> None:
    now = stands([])
    assert now.doing is Doing.WAITING and now.release is None and now.learned == now.tried == 0


def test_a_candidate_is_examined_then_begun_or_settled() -> None:
    now = stands(PROPOSED)
    assert (now.doing, now.candidate, now.judged) == (Doing.EXAMINING, 2, 0)
    now = stands([*PROPOSED, judged(2, PASSED)])
    assert now.doing is Doing.BEGINNING and now.judgement == PASSED
    now = stands([*PROPOSED, judged(2, FAILED)])
    assert now.doing is Doing.SETTLING and "fail" in now.why
    now = stands([*PROPOSED, judged(2, FAILED), alias("candidate", None)])
    assert now.doing is Doing.WAITING and now.candidate is None


def test_other_findings_are_no_judgement() -> None:
    other = Event("evidence", {"version": 2, "findings": {"latency": 0.2}})
    now = stands([*PROPOSED, other])
    assert (now.doing, now.judged) == (Doing.EXAMINING, 0)
    now = stands([*PROPOSED, judged(2, PASSED), other])
    assert (now.doing, now.judged) == (Doing.BEGINNING, 1)


def test_killed_before_it_was_proposed_it_learns_again() -> None:
    now = stands([*FIRST, version(2, 1)])
    assert now.doing is Doing.WAITING and now.tried == 0


def test_a_candidate_that_failed_leaves_its_lessons_to_be_learned_again() -> None:
    now = stands([*PROPOSED, judged(2, FAILED), alias("candidate", None)])
    assert now.tried == 40, "not at once, but when there is more"
    assert now.learned == 0, "the release has learned from none of them"
    now = stands([*PROPOSED, judged(2, PASSED), alias("candidate", None), alias("release", 2)])
    assert now.learned == now.tried == 40
    assert (now.judged, now.released) == (1, 1)


def test_what_an_ancestor_learned_is_learned() -> None:
    line = [*PROPOSED, alias("release", 2), version(3, 2), learned(3, 90), alias("release", 3)]
    assert stands(line).learned == 90
    assert stands([*line, alias("release", 2)]).learned == 40, "after a roll back it is not"


def test_in_quarantine_it_is_settled() -> None:
    bad = Event("quarantine", {"versions": [2], "entries": [], "why": "poison"})
    assert stands([*PROPOSED, bad]).doing is Doing.SETTLING


def test_pause_and_resume() -> None:
    pause, resume = (Event(TOPIC, {"what": what, "why": ""}) for what in ("pause", "resume"))
    assert stands([pause]).paused and not stands([pause, resume]).paused and stands([resume, pause]).paused
