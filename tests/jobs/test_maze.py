"""Maze: buildings in which every room can be reached, and a walk that is paid on arrival alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs.maze import MOVES, Maze, distances, doors, moved, room_name
from journeyman.types import Task

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
SIZES = st.integers(3, 10)
SEEDS = st.integers(0, 2**62)


@given(SIZES, SEEDS)
def test_doors_lead_both_ways_and_never_out(size: int, seed: int) -> None:
    building = doors(size, seed)
    assert len(building) == size * size
    for room, ways in building.items():
        for way in ways:
            assert OPPOSITE[way] in building[moved(room, way)]


@given(SIZES, SEEDS)
def test_every_room_can_be_reached_in_time(size: int, seed: int) -> None:
    """From a corner; within half of the turns allowed, since any two rooms are at most two such ways apart."""
    found = distances(size, seed, (0, 0))
    assert len(found) == size * size
    assert max(found.values()) <= Maze(size).max_turns


@given(SIZES, SEEDS)
def test_distances_are_those_of_the_doors(size: int, seed: int) -> None:
    found = distances(size, seed, (1, 2))
    for room, distance in found.items():
        near = [found[moved(room, way)] for way in doors(size, seed)[room]]
        assert distance == (0 if room == (1, 2) else 1 + min(near))


def test_pairs_are_divided_without_remainder_and_buildings_are_others() -> None:
    job = Maze(size=4)
    pairs = {
        split: [(t.data["start"], t.data["goal"]) for t in job.tasks(split)] for split in ("train", "valid", "test")
    }
    every = [str(pair) for own in pairs.values() for pair in own]
    assert len(every) == len(set(every)) == 16 * 15
    assert {split: len(own) for split, own in pairs.items()} == {"train": 168, "valid": 24, "test": 48}
    buildings = {task.data["building"] for task in job.tasks("buildings", 200)}
    assert 0 not in buildings and len(buildings) == 200


def test_the_building_follows_from_the_seed() -> None:
    assert doors(6, 1) != doors(6, 2)
    assert Maze(seed=1).task("train", 0) != Maze(seed=2).task("train", 0)
    doors.cache_clear()
    again = doors(6, 1)
    doors.cache_clear()
    assert again == doors(6, 1)


def walk(job: Maze, task: Task) -> list[str]:
    """The rooms that the expert's walk leads through."""
    env, rooms = job.env(task), list[str]()
    for _ in range(task.level):
        reply = env.expert()
        assert reply in MOVES
        result = env.step(reply)
        rooms.append(result.observation)
        assert (result.reward, result.terminated) == ((1, True) if len(rooms) == task.level else (0, False))
    return rooms


@pytest.mark.parametrize("split", ["test", "buildings"])
def test_the_shortest_walk_ends_in_the_room_asked_for(split: str) -> None:
    job = Maze()
    for task in job.tasks(split, 30):
        match = re.fullmatch(r"([A-F][1-6]) to ([A-F][1-6])", task.messages[0].content)
        assert match is not None
        rooms = walk(job, task)
        assert rooms[-1] == match[2] and match[1] not in rooms and len(set(rooms)) == len(rooms)


def test_walls_and_words_that_are_none_leave_one_where_one_is() -> None:
    job = Maze()
    task = next(t for t in job.tasks("train") if t.data["start"] == [0, 0] and t.level > 1)
    env = job.env(task)
    expected = env.expert()
    for reply, answer in [("north", "wall"), ("west", "wall"), ("", "what?"), ("go east", "what?"), ("North", "what?")]:
        result = env.step(reply)
        assert (result.observation, result.reward, result.terminated) == (answer, 0, False)
        assert env.expert() == expected
    assert room_name((0, 0)) == "A1" and room_name((9, 9)) == "J10"


@pytest.mark.parametrize(("size", "turns"), [(3, 30), (6, 48), (10, 80)])
def test_turns_grow_with_the_building(size: int, turns: int) -> None:
    assert Maze(size).max_turns == turns and Maze(size, max_turns=100).max_turns == 100


@pytest.mark.parametrize("options", [{"size": 2}, {"size": 11}, {"max_turns": -1}, {"max_turns": 201}, {"seed": -1}])
def test_mistakes(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))} must"):
        Maze(**options)


def test_places_that_are_not_there() -> None:
    with pytest.raises(UnknownName, match="buildings"):
        Maze().task("building", 0)
    for index in (-1, Maze().splits["test"]):
        with pytest.raises(UsageError):
            Maze().task("test", index)
