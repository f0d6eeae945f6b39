"""Questions over records that only a tool can reach: "Where does the boss of the sister of Ada work?"

Every task has a fresh set of records, so an answer can be found only by looking up, hop by hop, and by copying
what came back into the next call. Reward 1 for the right answer at the end, 0 for everything else.

    user       Where does the boss of the sister of Ada work?
    assistant  lookup(Ada, sister)
    tool       Kim
    assistant  lookup(Kim, boss)
    tool       Leo
    assistant  lookup(Leo, work)
    tool       Oslo
    assistant  answer(Oslo)
"""

from __future__ import annotations

import re
import zlib
from itertools import pairwise
from typing import Any

import numpy as np

from journeyman.errors import UsageError
from journeyman.jobs._common import check_place, specification
from journeyman.jobs.base import Env, Job
from journeyman.types import Message, StepResult, Task

RELATIONS = ("boss", "friend", "sister", "brother", "mother", "father", "neighbor", "teacher")
PLACES = (  # noqa: SIM905
    "Oslo Rome Paris Lima Cairo Delhi Kyoto Quito Milan Tunis Dakar Bern Accra Amman Baku Bonn Cork "
    "Doha Dover Essen Fez Genoa Ghent Graz Hanoi Havana Izmir Jena Kabul Kyiv Lagos Leeds Lyon Macao "
    "Malmo Minsk Mosul Nice Omaha Osaka Perth Pisa Porto Reno Riga Seoul Sofia Turin"
).split()
NAMES = (  # noqa: SIM905
    "Ada Bea Cal Dan Eve Fay Gus Hal Ida Jon Kim Leo Mia Ned Oda Pam Quin Ray Sue Tom "
    "Una Val Wes Xia Yan Zoe Abe Bob Cleo Dora Emil Finn Gita Hans Iris Jack Kurt Lara Max Nora"
).split()
UNSEEN_NAMES = (  # noqa: SIM905
    "Otto Pia Rex Saul Tess Uma Vera Will Yara Zane Alma Bram Cora Dirk Elsa Fritz Gwen Hugo Ines Jules"
).split()
HELD_OUT_PAIRS = frozenset((a, b) for a in RELATIONS for b in RELATIONS if zlib.crc32(f"{a} of {b}".encode()) % 7 == 0)
"""Pairs (outer, inner) of relations that never stand side by side in training."""

_LOOKUP = re.compile(r"\s*lookup\(\s*(\w+)\s*,\s*(\w+)\s*\)\s*")
_ANSWER = re.compile(r"\s*answer\(\s*(\w+)\s*\)\s*")


class Hops(Job):
    """Multi-hop questions answered by a lookup tool.

    Args:
        min_hops, max_hops: relations between the person named and the person asked about, in training.
    """

    about = "multi-hop questions over records that only a lookup tool can reach"
    max_reply_tokens = 24

    def __init__(self, min_hops: int = 1, max_hops: int = 3) -> None:
        if not 1 <= min_hops <= max_hops <= 8:
            raise UsageError(f"hops: need 1 <= min_hops <= max_hops <= 8, got {min_hops} and {max_hops}")
        self.min_hops, self.max_hops = min_hops, max_hops
        options = {"min_hops": min_hops, "max_hops": max_hops}
        self.name = specification("hops", options, {"min_hops": 1, "max_hops": 3})
        self.splits = {"train": 100_000, "valid": 2000, "test": 2000, "combos": 2000, "names": 2000}
        if max_hops < 8:
            self.splits["more_hops"] = 2000
        self.max_turns = turn_limit(8)

    def task(self, split: str, index: int) -> Task:
        check_place(self.name, self.splits, split, index)
        rng = self.rng(split, index)
        low, high = (self.max_hops + 1, 8) if split == "more_hops" else (self.min_hops, self.max_hops)
        if split == "combos":
            low, high = 2, max(self.max_hops, 2)
        hops = int(rng.integers(low, high + 1))
        while True:  # seldom more than a few rounds: one pair in seven is held out
            relations = [RELATIONS[i] for i in rng.integers(0, len(RELATIONS), hops)]
            held_out = any((b, a) in HELD_OUT_PAIRS for a, b in pairwise(relations))
            if held_out == (split == "combos"):
                break
        people = UNSEEN_NAMES if split == "names" else NAMES
        start = people[int(rng.integers(len(people)))]
        path = "".join(f"the {relation} of " for relation in reversed(relations))
        data = {
            "start": start,
            "relations": relations,
            "records": int(rng.integers(1 << 31)),
            "unseen": split == "names",
        }
        question = f"Where does {path}{start} work?"
        return Task(self.name, split, index, (Message("user", question),), data, hops)

    def env(self, task: Task) -> Env:
        return HopsEnv(task.data, task.level)


def turn_limit(hops: int) -> int:
    """Turns before the episode is cut: an expert needs hops + 2."""
    return 2 * hops + 3


class HopsEnv(Env):
    """Answers lookups from the task's records; grades the answer."""

    def __init__(self, data: Any, hops: int) -> None:
        self.relations: list[str] = list(data["relations"])
        self.seed: int = data["records"]
        self.people = UNSEEN_NAMES if data["unseen"] else NAMES
        self.turns_left = turn_limit(hops)
        self.path = [str(data["start"])]
        for relation in self.relations:
            self.path.append(self.look_up(self.path[-1], relation))
        self.answer = self.look_up(self.path[-1], "work")
        self.known = 0  # how many of the path's people have been found

    def look_up(self, person: str, relation: str) -> str:
        """What the records hold, or `unknown`."""
        if person not in self.people or (relation != "work" and relation not in RELATIONS):
            return "unknown"
        rng = np.random.default_rng((self.seed, zlib.crc32(f"{person}.{relation}".encode())))
        choices = PLACES if relation == "work" else self.people
        return choices[int(rng.integers(len(choices)))]

    def step(self, reply: str) -> StepResult:
        self.turns_left -= 1
        if match := _ANSWER.fullmatch(reply):
            return StepResult(reward=float(match[1] == self.answer), terminated=True)
        match = _LOOKUP.fullmatch(reply)
        found = self.look_up(match[1], match[2]) if match else "unknown"
        if match and (match[1], match[2]) == self._next():
            self.known += 1
        return StepResult(found, truncated=self.turns_left <= 0)

    def _next(self) -> tuple[str, str] | None:
        if self.known > len(self.relations):
            return None
        return self.path[self.known], [*self.relations, "work"][self.known]

    def expert(self) -> str:
        wanted = self._next()
        return f"answer({self.answer})" if wanted is None else f"lookup({wanted[0]}, {wanted[1]})"
