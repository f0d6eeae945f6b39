"""Countdown: a grader that reads arithmetic and nothing else, and splits that share no puzzle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs.countdown import LONGEST, Countdown, solves


@pytest.mark.parametrize("text", ["(7-3)*12", " ( 7 - 3 ) * 12 ", "12*(7-3)", "12/(1/(7-3))", "((12))*((7)-(3))"])
def test_right(text: str) -> None:
    numbers = [3, 7, 12, 1] if "1/" in text else [3, 7, 12]
    assert solves(text, numbers, 48)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "48",
        "(7-3)*12*1",  # a number too many
        "12*4",  # a number that was not given
        "(7-3)*1 2 +",
        "7-3*12",
        "(7-3)*12)",
        "((7-3)*12",
        "(7--3)*12",
        "(7-3)**12",
        "(7-3)*12/(3-3)",
        "(7-3)*12=48",
        "(7-3)*\u0661\u0662",  # digits, but not ours
        "(7-3)*12 " + " " * LONGEST,
        "(" * LONGEST,
        "__import__('os')",
    ],
)
def test_wrong(text: str) -> None:
    assert not solves(text, [3, 7, 12], 48)


@given(st.text(alphabet="0123456789+-*/() \n.x", max_size=2 * LONGEST))
def test_no_reply_raises(text: str) -> None:
    solves(text, [1, 2, 3], 6)


def test_division_is_exact() -> None:
    assert solves("7/3*6", [3, 6, 7], 14)
    assert not solves("7/3*6", [3, 6, 7], 12)


def test_splits_share_no_puzzle_and_ask_what_they_say() -> None:
    job = Countdown()
    puzzles = {
        split: {(tuple(sorted(t.data["numbers"])), t.data["target"]) for t in job.tasks(split, 300)}
        for split in job.splits
    }
    assert not puzzles["train"] & (puzzles["valid"] | puzzles["test"])
    assert not puzzles["valid"] & puzzles["test"]
    assert {len(numbers) for numbers, _ in puzzles["more_numbers"]} == {4}
    assert min(target for _, target in puzzles["larger_targets"]) > 100
    for split in ("train", "test"):
        assert {len(numbers) for numbers, _ in puzzles[split]} == {3}
        assert all(1 <= target <= 100 for _, target in puzzles[split])


def test_mistakes() -> None:
    for numbers in (1, 7):
        with pytest.raises(UsageError, match="2 to 6"):
            Countdown(numbers=numbers)
    with pytest.raises(UnknownName, match="more_numbers"):
        Countdown().task("more_number", 0)
    with pytest.raises(UsageError):
        Countdown().task("test", 1_000)
