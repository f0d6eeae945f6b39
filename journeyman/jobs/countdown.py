"""Reach a target with the given numbers, each used exactly once.

Reward 1 for an expression that does, 0 for everything else.

    user       3 7 12 make 48
    assistant  (7-3)*12
"""

from __future__ import annotations

import zlib
from fractions import Fraction

import numpy as np

from journeyman.errors import UsageError
from journeyman.jobs._common import check_place, specification
from journeyman.jobs.base import Env, Job
from journeyman.types import Message, StepResult, Task

LONGEST = 200
"""Characters of an expression that are looked at."""
MOST_TRIES = 1000


class Countdown(Job):
    """Arithmetic puzzles, made backwards from a random expression so that each has a solution.

    Args:
        numbers: how many are given, 2 to 6.
        largest: the greatest of them.
        largest_target: the greatest target.
    """

    about = "reach a target with given numbers, each used once"
    max_turns = 1
    max_reply_tokens = 48

    def __init__(self, numbers: int = 3, largest: int = 20, largest_target: int = 100) -> None:
        if not 2 <= numbers <= 6:
            raise UsageError(f"countdown: numbers must lie in 2 to 6, got {numbers}")
        if largest < 4 or largest_target < 10:
            raise UsageError(f"countdown: need largest >= 4 and largest_target >= 10, got {largest}, {largest_target}")
        self.numbers, self.largest, self.largest_target = numbers, largest, largest_target
        options = {"numbers": numbers, "largest": largest, "largest_target": largest_target}
        self.name = specification("countdown", options, {"numbers": 3, "largest": 20, "largest_target": 100})
        self.splits = {"train": 50_000, "valid": 1000, "test": 1000, "larger_targets": 1000}
        if numbers < 6:
            self.splits["more_numbers"] = 1000

    def task(self, split: str, index: int) -> Task:
        check_place(self.name, self.splits, split, index)
        rng = self.rng(split, index)
        count = self.numbers + (split == "more_numbers")
        low, high = 1, self.largest_target
        if split == "larger_targets":
            low, high = self.largest_target + 1, 3 * self.largest_target
        for _ in range(MOST_TRIES):
            given, expression, target = self._draw(rng, count)
            fits = low <= target <= high
            if fits and (split not in SHARES or _share(given, target) in SHARES[split]):
                break
        else:
            raise UsageError(f"{self.name} has no task {split}/{index}: its limits leave too few targets")
        text = f"{' '.join(map(str, given))} make {target}"
        data = {"numbers": given, "target": target, "solution": expression}
        return Task(self.name, split, index, (Message("user", text),), data, count)

    def _draw(self, rng: np.random.Generator, count: int) -> tuple[list[int], str, int]:
        """Numbers, an expression of them, and its value (0 where it is not a whole number)."""
        given = [int(n) for n in rng.integers(1, self.largest + 1, count)]
        terms = [(Fraction(n), str(n)) for n in given]
        while len(terms) > 1:
            i, j = (int(k) for k in rng.choice(len(terms), 2, replace=False))
            (a, left), (b, right) = terms[i], terms[j]
            sign = "+-*/"[int(rng.choice(4, p=[0.35, 0.25, 0.3, 0.1]))]
            if sign == "/" and (b == 0 or (a / b).denominator != 1):
                sign = "+"
            value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]
            terms = [t for k, t in enumerate(terms) if k not in (i, j)]
            terms.append((value, f"({left}{sign}{right})" if terms else f"{left}{sign}{right}"))
        value, expression = terms[0]
        return sorted(given), expression, int(value) if value.denominator == 1 else 0

    def env(self, task: Task) -> Env:
        return CountdownEnv(list(task.data["numbers"]), int(task.data["target"]), str(task.data["solution"]))


SHARES = {"train": range(8), "valid": range(8, 9), "test": range(9, 10)}
"""A puzzle belongs to one split, by a hash of its numbers and target: no puzzle is in two."""


def _share(given: list[int], target: int) -> int:
    return zlib.crc32(f"{given} {target}".encode()) % 10


class CountdownEnv(Env):
    """Grades one expression."""

    def __init__(self, numbers: list[int], target: int, solution: str) -> None:
        self.numbers, self.target, self.solution = numbers, target, solution

    def step(self, reply: str) -> StepResult:
        return StepResult(reward=float(solves(reply, self.numbers, self.target)), terminated=True)

    def expert(self) -> str:
        return self.solution


def solves(text: str, numbers: list[int], target: int) -> bool:
    """Whether the text is an expression of exactly these numbers with this value. Never evaluates code."""
    if len(text) > LONGEST:
        return False
    try:
        value, used = Expression(text).read()
    except (ValueError, ZeroDivisionError, RecursionError):
        return False
    return sorted(used) == sorted(numbers) and value == target


class Expression:
    """A reader of whole numbers, + - * / and parentheses, by recursive descent."""

    def __init__(self, text: str) -> None:
        self.text = "".join(text.split(" "))
        self.at = 0
        self.used: list[int] = []

    def read(self) -> tuple[Fraction, list[int]]:
        """The value, and the numbers in the order they stand.

        Raises:
            ValueError: it is no expression.
            ZeroDivisionError: it divides by zero.
        """
        value = self._sum()
        if self.at != len(self.text):
            raise ValueError("something is left over")
        return value, self.used

    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _sum(self) -> Fraction:
        value = self._product()
        while self._next() in ("+", "-"):
            sign = self._take()
            term = self._product()
            value = value + term if sign == "+" else value - term
        return value

    def _product(self) -> Fraction:
        value = self._atom()
        while self._next() in ("*", "/"):
            sign = self._take()
            factor = self._atom()
            value = value * factor if sign == "*" else value / factor
        return value

    def _atom(self) -> Fraction:
        if self._next() == "(":
            self._take()
            value = self._sum()
            if self._take() != ")":
                raise ValueError("a parenthesis is not closed")
            return value
        start = self.at
        while self._next().isascii() and self._next().isdigit():
            self.at += 1
        if start == self.at:
            raise ValueError("a number is missing")
        self.used.append(int(self.text[start : self.at]))
        return Fraction(self.used[-1])

    def _take(self) -> str:
        character = self._next()
        self.at += 1
        return character
