"""SCAN (Lake & Baroni, 2018, arXiv:1711.00350): commands such as "jump left twice" to be turned into actions.

The data are generated here from the paper's grammar (its figure 6) and interpretation function (figure 7):

    C -> S and S | S after S | S
    S -> V twice | V thrice | V
    V -> D opposite | D around | D | U        ("opposite" and "around" stand before the direction)
    D -> U left | U right | turn left | turn right
    U -> walk | look | run | jump

That makes 34 phrases V, 102 sentences S and 102 + 2 * 102 * 102 = 20,910 commands, all distinct.
Actions are spelled as in the published files: I_TURN_LEFT, I_JUMP and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

import numpy as np

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs.base import Env, Job
from journeyman.types import Message, StepResult, Task

PRIMITIVES = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP", "turn": ""}
TURNS = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
REPEATS = {"twice": 2, "thrice": 3}
LONGEST = 48
"""Actions of the longest commands, e.g. "jump around left thrice and run around right thrice"."""

SIZES = {
    "simple": (16_728, 4_182),
    "length": (16_990, 3_920),
    "addprim_jump": (14_670, 7_706),
    "addprim_turn_left": (21_890, 1_208),
}
"""Lines of the published train and test files of each split."""

TRAIN_ACTIONS = 22
"""The split `length` trains on commands of up to this many actions and tests on the longer ones."""

SHUFFLE_SEED = 1711_00350
"""Of the order of tasks within each file, and of who is in train in the split `simple`."""


def interpret(command: str) -> list[str]:
    """The actions a command stands for: `interpret("jump left twice")` has four of them.

    Raises:
        ValueError: it is no command of the grammar.
    """
    if " and " in command:
        first, second = command.split(" and ", 1)
        return interpret(first) + interpret(second)
    if " after " in command:
        second, first = command.split(" after ", 1)
        return interpret(first) + interpret(second)
    words = command.split()
    times = REPEATS.get(words[-1], 1) if words else 1
    phrase = words[:-1] if times > 1 else words
    if not phrase or phrase[0] not in PRIMITIVES:
        raise ValueError(f"no SCAN command: {command!r}")
    act = [PRIMITIVES[phrase[0]]] if PRIMITIVES[phrase[0]] else []
    match phrase[1:]:
        case [] if act:
            actions = act
        case [side] if side in TURNS:
            actions = [TURNS[side], *act]
        case ["opposite", side] if side in TURNS:
            actions = [TURNS[side], TURNS[side], *act]
        case ["around", side] if side in TURNS:
            actions = [TURNS[side], *act] * 4
        case _:
            raise ValueError(f"no SCAN command: {command!r}")
    return actions * times


@lru_cache(maxsize=1)
def commands() -> tuple[str, ...]:
    """All 20,910 commands, in the grammar's order."""
    phrases = [word for word in PRIMITIVES if word != "turn"]
    for word, manner, side in product(PRIMITIVES, ("", "opposite ", "around "), TURNS):
        phrases.append(f"{word} {manner}{side}")
    sentences = [phrase + times for phrase in phrases for times in ("", " twice", " thrice")]
    joined = [f"{a} {word} {b}" for word in ("and", "after") for a, b in product(sentences, sentences)]
    return (*sentences, *joined)


def _added(primitive: str) -> tuple[list[str], list[str]]:
    """Train and test of a split that shows one primitive alone, and asks for it in company.

    The published train file holds every command without the primitive once, and the primitive itself as
    often as makes it a tenth of the lines: 13,203 + 1,467 lines for "jump", 19,701 + 2,189 for "turn left".
    """
    inside = f" {primitive} "
    test = [c for c in commands() if inside in f" {c} " and c != primitive]
    held = {*test, primitive}
    others = [c for c in commands() if c not in held]
    return others + [primitive] * round(len(others) / 9), test


def _shuffled(lines: Sequence[str]) -> list[str]:
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(lines))
    return [lines[int(i)] for i in order]


@lru_cache(maxsize=len(SIZES))
def _tables(split: str) -> dict[str, tuple[str, ...]]:
    """The commands of train and test in the order of their indices."""
    shuffled = _shuffled(commands())
    if split == "simple":
        border = SIZES["simple"][0]
        train, test = shuffled[:border], shuffled[border:]
    elif split == "length":
        short = {c for c in commands() if len(interpret(c)) <= TRAIN_ACTIONS}
        train = [c for c in shuffled if c in short]
        test = [c for c in shuffled if c not in short]
    else:
        lines, asked = _added(split.removeprefix("addprim_").replace("_", " "))
        train, test = _shuffled(lines), _shuffled(asked)
    assert (len(train), len(test)) == SIZES[split], "sizes differ from the published ones"
    return {"train": tuple(train), "test": tuple(test)}


class ScanEnv(Env):
    """One command; a reply earns 1 when its words are exactly the actions, else 0."""

    def __init__(self, command: str) -> None:
        self.gold = interpret(command)

    def step(self, reply: str) -> StepResult:
        return StepResult(reward=float(reply.split() == self.gold), terminated=True)

    def expert(self) -> str | None:
        return " ".join(self.gold)


class Scan(Job):
    """One of SCAN's published splits, whole: `split` names it, and its files are our train and test.

    `simple` divides at random (the division is ours, its sizes are the published ones); `length` asks for
    more actions than any seen; `addprim_jump` and `addprim_turn_left` ask for compositions of a primitive
    seen only alone. There is no `valid`: it could only be cut out of train or test, and then figures would no
    longer be comparable with published ones. Choose models on another job, or on another of SCAN's splits.

    The level of a task is its number of actions (1 to 48).

    Raises:
        UnknownName: SCAN has no such split.
    """

    about = "SCAN commands to action sequences, with the published splits"
    max_turns = 1
    max_reply_tokens = LONGEST * 6

    def __init__(self, split: str = "simple") -> None:
        if split not in SIZES:
            raise UnknownName("split of SCAN", split, SIZES)
        self.split = split
        self.name = "scan" if split == "simple" else f"scan,split={split}"
        self.splits = dict(zip(("train", "test"), SIZES[split], strict=True))

    def task(self, split: str, index: int) -> Task:
        if split not in self.splits:
            raise UnknownName(f"split of {self.name}", split, self.splits)
        if not 0 <= index < self.splits[split]:
            raise UsageError(f"{self.name}/{split}/{index}: no such task", fix=f"0 <= index < {self.splits[split]}")
        command = _tables(self.split)[split][index]
        messages = (Message("user", command),)
        return Task(self.name, split, index, messages, {"command": command}, level=len(interpret(command)))

    def env(self, task: Task) -> Env:
        return ScanEnv(str(task.data["command"]))
