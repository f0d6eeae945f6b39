"""Hops: answers that can only be looked up, and splits that hold out what they say."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs.hops import HELD_OUT_PAIRS, NAMES, PLACES, RELATIONS, UNSEEN_NAMES, Hops, turn_limit
from journeyman.types import Task

JOB = Hops()
SAMPLE = 400


def asked(task: Task) -> tuple[list[str], str]:
    """The relations of a question, from the inside out, and the person it starts from: read from its words alone."""
    match = re.fullmatch(r"Where does ((?:the \w+ of )*)(\w+) work\?", task.messages[0].content)
    assert match is not None, task.messages[0].content
    return re.findall(r"the (\w+) of", match[1])[::-1], match[2]


def adjacent(task: Task) -> set[tuple[str, str]]:
    return {(outer, inner) for inner, outer in pairwise(asked(task)[0])}


@pytest.mark.parametrize("split", JOB.splits)
def test_the_answer_is_found_by_following_the_question(split: str) -> None:
    """Without the expert: whoever looks up each hop and copies what comes back is right."""
    for task in JOB.tasks(split, 20):
        relations, person = asked(task)
        env = JOB.env(task)
        for relation in [*relations, "work"]:
            result = env.step(f"lookup({person}, {relation})")
            assert result.role == "tool" and not (result.reward or result.terminated or result.truncated)
            person = result.observation
        assert person in PLACES
        result = env.step(f"answer({person})")
        assert (result.reward, result.terminated, result.truncated) == (1, True, False)


def test_splits_hold_out_what_they_say() -> None:
    tasks = {split: list(JOB.tasks(split, SAMPLE)) for split in JOB.splits}
    hops = {split: {task.level for task in own} for split, own in tasks.items()}
    assert all(task.level == len(asked(task)[0]) for own in tasks.values() for task in own)
    assert hops["train"] == hops["test"] == hops["names"] == {1, 2, 3}
    assert hops["more_hops"] == {4, 5, 6, 7, 8} and hops["combos"] == {2, 3}
    for split, own in tasks.items():
        assert {asked(task)[1] for task in own} <= set(UNSEEN_NAMES if split == "names" else NAMES)
        for task in own:
            assert bool(adjacent(task) & HELD_OUT_PAIRS) == (split == "combos")


def test_every_relation_is_trained_on_either_side_of_another() -> None:
    """Otherwise the split `combos` would ask for relations, not for their combinations."""
    pairs = {pair for task in JOB.tasks("train", 2 * SAMPLE) for pair in adjacent(task)}
    assert {outer for outer, _ in pairs} == {inner for _, inner in pairs} == set(RELATIONS)
    assert 4 <= len(HELD_OUT_PAIRS) <= 16
    assert not set(NAMES) & set(UNSEEN_NAMES) and (len(NAMES), len(UNSEEN_NAMES)) == (40, 20)


def test_unseen_names_are_met_all_along_the_way() -> None:
    for task in JOB.tasks("names", 20):
        env = JOB.env(task)
        relations, person = asked(task)
        for relation in relations:
            person = env.step(f"lookup({person}, {relation})").observation
            assert person in UNSEEN_NAMES


def test_records_are_fresh_and_stay_the_same_within_a_task() -> None:
    """The 320 records of two tasks agree by chance in one of 40; those of one task, always."""

    def records(index: int) -> list[str]:
        task = JOB.task("test", index)
        return [JOB.env(task).step(f"lookup({a}, {b})").observation for a in NAMES for b in RELATIONS]

    assert records(0) == records(0)
    assert sum(a == b for a, b in zip(records(0), records(1), strict=True)) < 32


@pytest.mark.parametrize(
    "reply",
    ["", "Oslo", "lookup(Ada)", "lookup(Nobody, boss)", "lookup(Ada, cousin)", "lookup(Ada, boss) answer(Oslo)"],
)
def test_what_cannot_be_looked_up_is_unknown_and_costs_a_turn(reply: str) -> None:
    task = JOB.task("test", 0)
    env = JOB.env(task)
    results = [env.step(reply) for _ in range(turn_limit(task.level))]
    assert {(r.observation, r.reward, r.terminated) for r in results} == {("unknown", 0, False)}
    assert [r.truncated for r in results] == [False] * (len(results) - 1) + [True]


def test_there_is_one_answer() -> None:
    for task in JOB.tasks("test", 20):
        results = [JOB.env(task).step(f"answer({place})") for place in PLACES]
        assert sorted(r.reward for r in results) == [0] * (len(PLACES) - 1) + [1]
        assert all(r.terminated for r in results)


@given(st.text(max_size=40))
def test_no_reply_raises(reply: str) -> None:
    JOB.env(JOB.task("test", 0)).step(reply)


def test_more_hops_are_asked_where_there_are_more() -> None:
    assert "more_hops" in JOB.splits and "more_hops" not in Hops(2, 8).splits


@pytest.mark.parametrize("bounds", [(0, 3), (3, 2), (1, 9)])
def test_mistakes(bounds: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="1 <= min_hops <= max_hops <= 8"):
        Hops(*bounds)


def test_places_that_are_not_there() -> None:
    with pytest.raises(UnknownName, match="more_hops"):
        JOB.task("more_hop", 0)
    for index in (-1, JOB.splits["test"]):
        with pytest.raises(UsageError):
            JOB.task("test", index)
