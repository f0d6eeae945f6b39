"""Find a room in a building nobody has shown you. Reward only on arrival.

The building is fixed by the job's seed, so that what was learned in one episode helps in the next; the doors are
never shown, only what lies behind them when they open.

    user       C3 to E5
    assistant  north
    tool       C2
    assistant  east
    tool       wall
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache

import numpy as np

from journeyman.errors import UsageError
from journeyman.jobs._common import check_place, specification
from journeyman.jobs.base import Env, Job
from journeyman.types import Message, StepResult, Task

Room = tuple[int, int]
MOVES: dict[str, Room] = {"north": (0, -1), "east": (1, 0), "south": (0, 1), "west": (-1, 0)}
OTHER_BUILDINGS = 2000
EXTRA_DOORS = 0.15
"""Share of the walls of a perfect maze that get a door, so that there is more than one way."""


class Maze(Job):
    """Start-goal pairs in one building; other buildings to see whether exploring itself was learned.

    Args:
        size: rooms along each side, 3 to 10.
        seed: which building, 0 or more.
        max_turns: moves before the episode is cut, 1 to 200; 0: eight times the size, within 30 to 100.
    """

    about = "find a room in an unknown building; reward only on arrival"
    max_reply_tokens = 8

    def __init__(self, size: int = 6, seed: int = 0, max_turns: int = 0) -> None:
        if not 3 <= size <= 10:
            raise UsageError(f"maze: size must lie in 3 to 10, got {size}")
        if not 0 <= max_turns <= 200:
            raise UsageError(f"maze: max_turns must lie in 0 to 200, got {max_turns}")
        if seed < 0:
            raise UsageError(f"maze: seed must not be negative, got {seed}")
        options = {"size": size, "seed": seed, "max_turns": max_turns}
        self.name = specification("maze", options, {"size": 6, "seed": 0, "max_turns": 0})
        self.size, self.seed = size, seed
        self.max_turns = max_turns or min(max(8 * size, 30), 100)
        pairs = size * size * (size * size - 1)
        test, valid = pairs // 5, pairs // 10
        self.splits = {
            "train": pairs - test - valid,
            "valid": valid,
            "test": test,
            "buildings": OTHER_BUILDINGS,
        }

    def task(self, split: str, index: int) -> Task:
        check_place(self.name, self.splits, split, index)
        if split == "buildings":
            rng = self.rng(split, index)
            seed = self.seed + 1 + int(rng.integers(1 << 30))
            number = int(rng.integers(len(all_pairs(self.size, seed))))
        else:
            first = {
                "train": 0,
                "valid": self.splits["train"],
                "test": self.splits["train"] + self.splits["valid"],
            }
            seed, number = self.seed, first[split] + index
        start, goal = all_pairs(self.size, seed)[number]
        opening = Message("user", f"{room_name(start)} to {room_name(goal)}")
        data = {"building": seed, "start": list(start), "goal": list(goal)}
        return Task(self.name, split, index, (opening,), data, distances(self.size, seed, goal)[start])

    def env(self, task: Task) -> Env:
        start, goal = task.data["start"], task.data["goal"]
        return MazeEnv(self.size, task.data["building"], (start[0], start[1]), (goal[0], goal[1]))


class MazeEnv(Env):
    """One walk."""

    def __init__(self, size: int, seed: int, start: Room, goal: Room) -> None:
        self.size, self.seed, self.room, self.goal = size, seed, start, goal
        self.doors = doors(size, seed)

    def step(self, reply: str) -> StepResult:
        word = reply.strip()
        if word not in MOVES:
            return StepResult("what?")
        if word not in self.doors[self.room]:
            return StepResult("wall")
        self.room = moved(self.room, word)
        if self.room == self.goal:
            return StepResult(room_name(self.room), reward=1.0, terminated=True)
        return StepResult(room_name(self.room))

    def expert(self) -> str:
        distance = distances(self.size, self.seed, self.goal)
        return min(self.doors[self.room], key=lambda word: distance[moved(self.room, word)])


def room_name(room: Room) -> str:
    """Column as a letter, row as a number: (2, 0) is C1."""
    return f"{'ABCDEFGHIJ'[room[0]]}{room[1] + 1}"


def moved(room: Room, word: str) -> Room:
    """The room that lies this way."""
    step = MOVES[word]
    return room[0] + step[0], room[1] + step[1]


@lru_cache(maxsize=4096)
def doors(size: int, seed: int) -> dict[Room, tuple[str, ...]]:
    """The ways out of each room: a depth-first maze with some extra doors, so every room can be reached."""
    rng = np.random.default_rng((size, seed))
    back = {"north": "south", "south": "north", "east": "west", "west": "east"}
    ways: dict[Room, set[str]] = {(x, y): set() for x in range(size) for y in range(size)}
    seen, stack = {(0, 0)}, [(0, 0)]
    while stack:
        room = stack[-1]
        fresh = [w for w in MOVES if moved(room, w) in ways and moved(room, w) not in seen]
        if not fresh:
            stack.pop()
            continue
        word = fresh[int(rng.integers(len(fresh)))]
        ways[room].add(word)
        ways[moved(room, word)].add(back[word])
        seen.add(moved(room, word))
        stack.append(moved(room, word))
    for room in ways:
        for word in ("east", "south"):
            if moved(room, word) in ways and rng.random() < EXTRA_DOORS:
                ways[room].add(word)
                ways[moved(room, word)].add(back[word])
    return {room: tuple(word for word in MOVES if word in open_ways) for room, open_ways in ways.items()}


@lru_cache(maxsize=4096)
def distances(size: int, seed: int, goal: Room) -> dict[Room, int]:
    """Moves from every room to the goal."""
    distance, queue = {goal: 0}, deque([goal])
    while queue:
        room = queue.popleft()
        for word in doors(size, seed)[room]:
            if moved(room, word) not in distance:
                distance[moved(room, word)] = distance[room] + 1
                queue.append(moved(room, word))
    return distance


@lru_cache(maxsize=64)
def all_pairs(size: int, seed: int) -> list[tuple[Room, Room]]:
    """All ordered pairs of different rooms, shuffled once: the splits are stretches of this list."""
    rooms = [(x, y) for x in range(size) for y in range(size)]
    pairs = [(a, b) for a in rooms for b in rooms if a != b]
    order = np.random.default_rng((size, seed, 1)).permutation(len(pairs))
    return [pairs[i] for i in order]
