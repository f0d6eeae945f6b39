"""What deployment says, sorted: each kind of feedback becomes what it is worth, and poison nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from journeyman.experience import Feedback, Metric, ServedTurn, Store
from journeyman.improve.evidence import Evidence, heard, sorted_out, speaks
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.types import Ending
from tests.experience.helpers import served

RENDERER = Renderer(load("apprentice").tokenizer)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "experience.sqlite") as kept:
        yield kept


def keep(store: Store, *turns: ServedTurn, **feedback: Any) -> str:
    """Record the turns of one episode, and say something of it."""
    for turn in turns:
        store.record([turn]).result()
    if feedback:
        store.give(Feedback(turns[0].episode, **feedback)).result()
    return turns[0].episode


def sort_out(store: Store, **options: Any) -> Evidence:
    return sorted_out(heard(store, 0, 100)[0], RENDERER, **options)


def test_each_kind_becomes_what_it_is_worth(store: Store) -> None:
    good = keep(store, served(job="a"), value=1.0)
    cut = keep(store, served(job="a", finish="length"), value=0.0)
    silent = keep(store, served(job="a"))
    wrong = served(job="b")
    keep(store, wrong, correction="quite another")
    evidence = sort_out(store)

    outcomes = {t.id: t.outcome for t in evidence.outcomes}
    assert outcomes.keys() == {good, cut}
    assert outcomes[good].reward == 1 and outcomes[cut].reward == 0
    assert outcomes[cut].ending is Ending.TERMINATED, "feedback has said what it came to: V is not asked"

    pending = {t.id: t.outcome for t in evidence.pending}
    assert pending.keys() == {silent, wrong.episode}
    assert {o.ending for o in pending.values()} == {Ending.TRUNCATED}, "so that credit goes on in V"

    corrected = next(t for t in evidence.lessons if t.task.job == "b")
    start = len(wrong.prompt)
    assert corrected.tokens[:start].tolist() == wrong.prompt.tolist()
    assert corrected.tokens[start:].tolist() == RENDERER.reply_ids("quite another")
    assert corrected.mask.tolist() == [False] * start + [True] * (len(corrected) - start)
    own = next(t for t in evidence.lessons if t.id == good)
    assert own.mask.tolist() == [False] * 3 + [True] * 2, "what succeeded is worth saying again"
    assert len(evidence.lessons) == 2
    assert evidence.success() == {"a": 0.5}


def test_a_correction_is_of_the_episode_that_it_is_about(store: Store) -> None:
    """Also where it comes with a preference, which is known to the worse episode, too."""
    worse, better = keep(store, served(job="a")), served(job="b")
    keep(store, better, preferred_to=worse, correction="better still")
    [lesson] = sort_out(store).lessons
    assert lesson.task.job == "b" and lesson.turns[0].reply == "better still"


def test_preferences_become_pairs(store: Store) -> None:
    worse = keep(store, served(completion=[6, 7]))
    better = keep(store, served(completion=[4, 5]), preferred_to=worse)
    [pair] = sort_out(store).pairs
    assert (pair.better.id, pair.worse.id) == (better, worse)
    assert pair.better.tokens[pair.better.mask].tolist() == [4, 5]


def test_a_teachers_answer_is_a_lesson_and_no_outcome(store: Store) -> None:
    keep(store, served(by="teacher", spans=()))
    evidence = sort_out(store)
    assert not evidence.outcomes and not evidence.pending
    assert evidence.lessons[0].mask.tolist() == [False] * 3 + [True] * 2


def test_what_came_late_is_heard_late_and_once_more(store: Store) -> None:
    early = keep(store, served())
    episodes, cursor = heard(store, 0, 100)
    assert [e.summary.id for e in episodes] == [early] and not any(map(speaks, episodes))
    assert heard(store, cursor, 100)[0] == []
    store.give(Feedback(early, value=1.0)).result()
    again, later = heard(store, cursor, 100)
    assert [e.summary.id for e in again] == [early] and speaks(again[0]) and later > cursor
    for _ in range(3):
        keep(store, served())
    assert len(heard(store, 0, 2)[0]) == 2, "only the newest"


def test_what_is_barred_broken_or_too_long_is_left_out(store: Store) -> None:
    barred = keep(store, served(), value=1.0)
    keep(store, served(finish="error", error="the engine broke"), value=1.0)
    keep(store, served(prompt=range(1, 60)), value=1.0)
    kept = keep(store, served(), value=1.0)
    evidence = sort_out(store, barred={barred}, longest=30)
    assert [t.id for t in evidence.outcomes] == [kept]
    assert barred not in evidence.episodes


def test_other_metrics_are_no_lesson(store: Store) -> None:
    store.declare(Metric("speed", "float", "episode", "max"))
    keep(store, served(), metric="speed", value=3.0)
    assert not sort_out(store).outcomes
    assert not any(map(speaks, heard(store, 0, 100)[0]))


def test_one_user_does_not_outweigh_all_others(store: Store) -> None:
    for number in range(80):
        keep(store, served(), value=1.0, user="loud", at=1e9 + 10 * number)
    for number in range(20):
        keep(store, served(), value=0.0, user=f"other {number}", at=1e9 + 10 * number)
    evidence = sort_out(store)
    assert len(evidence.outcomes) == 50 + 20, "the limit of the sieve for a single voice"
    assert len(evidence.pending) == 30
    assert [s.kind for s in evidence.suspicions] == ["limit"]


def test_a_lone_user_is_believed(store: Store) -> None:
    for _ in range(120):
        keep(store, served(), value=1.0)
    assert len(sorted_out(heard(store, 0, 200)[0], RENDERER).outcomes) == 120


def test_who_contradicts_the_grader_is_not_believed(store: Store) -> None:
    for number in range(40):
        episode = keep(store, served(), value=1.0, source="code", key="grader")
        store.give(Feedback(episode, value=0.0, user="liar", at=1e9 + 10 * number)).result()
        other = keep(store, served(), value=1.0, source="code", key="grader")
        store.give(Feedback(other, value=1.0, user="honest", at=1e9 + 10 * number)).result()
    evidence = sort_out(store)
    assert {s.kind for s in evidence.suspicions} == {"contradiction"}
    assert {t.outcome.reward for t in evidence.outcomes} == {1.0}


def test_a_failed_turn_is_never_pending(store: Store) -> None:
    keep(store, served(finish="error", error="it broke"))
    assert not sort_out(store).pending


def test_values_are_those_of_the_time(store: Store) -> None:
    """Which the trust in V is measured by: what it said before anybody knew."""
    turn = replace(served(), values=np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32))
    keep(store, turn, value=1.0)
    assert sort_out(store).outcomes[0].values.tolist() == turn.values.tolist()
