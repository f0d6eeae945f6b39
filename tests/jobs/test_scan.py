"""SCAN: the whole language, the published sizes, and splits that hold out what they say."""

from __future__ import annotations

from collections import Counter

import pytest

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs.scan import SIZES, TRAIN_ACTIONS, Scan, commands, interpret

PUBLISHED = {
    "simple": (16_728, 4_182),
    "length": (16_990, 3_920),
    "addprim_jump": (14_670, 7_706),
    "addprim_turn_left": (21_890, 1_208),
}


def lines(split: str, part: str) -> list[str]:
    job = Scan(split)
    return [job.task(part, index).messages[0].content for index in range(job.splits[part])]


def test_the_language_is_complete() -> None:
    assert len(commands()) == len(set(commands())) == 20_910
    assert max(len(interpret(command)) for command in commands()) == 48


@pytest.mark.parametrize(
    ("command", "actions"),
    [  # the examples of figure 1 of the paper
        ("jump", "I_JUMP"),
        ("jump left", "I_TURN_LEFT I_JUMP"),
        ("jump around right", "I_TURN_RIGHT I_JUMP " * 4),
        ("turn left twice", "I_TURN_LEFT I_TURN_LEFT"),
        ("jump thrice", "I_JUMP I_JUMP I_JUMP"),
        ("jump opposite left and walk thrice", "I_TURN_LEFT I_TURN_LEFT I_JUMP I_WALK I_WALK I_WALK"),
        (
            "jump opposite left after walk around left",
            "I_TURN_LEFT I_WALK " * 4 + "I_TURN_LEFT I_TURN_LEFT I_JUMP",
        ),
    ],
)
def test_the_papers_examples(command: str, actions: str) -> None:
    assert interpret(command) == actions.split()


@pytest.mark.parametrize("command", ["", "turn", "hop", "jump left left", "twice", "jump and", "turn around"])
def test_what_is_no_command_is_refused(command: str) -> None:
    with pytest.raises(ValueError, match="no SCAN command"):
        interpret(command)


@pytest.mark.parametrize("split", PUBLISHED)
def test_sizes_are_the_published_ones_and_train_and_test_share_nothing(split: str) -> None:
    train, test = lines(split, "train"), lines(split, "test")
    assert (len(train), len(test)) == PUBLISHED[split] == SIZES[split]
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(commands())
    assert len(set(test)) == len(test)


def test_the_split_by_length_tests_on_the_longer_ones() -> None:
    assert max(len(interpret(c)) for c in lines("length", "train")) == TRAIN_ACTIONS
    assert min(len(interpret(c)) for c in lines("length", "test")) > TRAIN_ACTIONS


@pytest.mark.parametrize(("primitive", "times"), [("jump", 1_467), ("turn left", 2_189)])
def test_an_added_primitive_is_practised_alone_in_a_tenth_of_the_lines(primitive: str, times: int) -> None:
    split = f"addprim_{primitive.replace(' ', '_')}"
    train = Counter(lines(split, "train"))
    assert [(c, n) for c, n in train.items() if primitive in c or n > 1] == [(primitive, times)]
    assert times == round(sum(train.values()) / 10)
    assert all(primitive in c for c in lines(split, "test"))


def test_only_the_exact_actions_earn() -> None:
    job = Scan()
    task = next(t for t in job.tasks("test") if t.level > 2)
    gold = job.env(task).expert()
    assert gold is not None

    def earns(reply: str) -> float:
        return job.env(task).step(reply).reward

    assert earns(gold) == earns(f"  {gold.replace(' ', '  ')}\n") == 1
    assert earns("") == earns(gold.lower()) == earns(f"{gold} I_WALK") == earns(gold.rpartition(" ")[0]) == 0


def test_mistakes() -> None:
    with pytest.raises(UnknownName, match="addprim_jump"):
        Scan("addprim_jmp")
    with pytest.raises(UnknownName, match="test"):
        Scan().task("tests", 0)
    with pytest.raises(UsageError):
        Scan().task("test", 4_182)
    with pytest.raises(UsageError):
        Scan().task("test", -1)
