"""Practice: with which chance each candidate is chosen, and what a V that knows nothing makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from journeyman.errors import UsageError
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.rollout.practice import PracticeConfig, chances, opening, practice_report, practised
from journeyman.types import Message, Task, Trajectory

RENDERER = Renderer(load("apprentice").tokenizer)


def candidates(values: Sequence[float]) -> list[Trajectory]:
    """Openings of different tasks of which V says this at the end, and nonsense before."""
    found: list[Trajectory] = []
    for index, value in enumerate(values):
        t = opening(Task("maze", "train", index, (Message("user", "A1 to B1"),)), RENDERER)
        written = np.full(len(t), 7.0, np.float32)
        written[-1] = value
        found.append(replace(t, values=written))
    return found


def chosen(values: Sequence[float], count: int, config: PracticeConfig, seed: int = 0, high: float = 1.0) -> list[int]:
    rng = np.random.default_rng(seed)
    return [task.index for task in practised(candidates(values), count, config, rng, high=high)]


def test_an_opening_is_what_an_episode_begins_with() -> None:
    task = Task("maze", "train", 3, (Message("user", "A1 to B1"),))
    t = opening(task, RENDERER)
    assert t.tokens.tolist() == RENDERER.open(task.messages) and t.task is task
    assert t.prompt_length == len(t) and not t.mask.any() and not t.logprobs.any() and np.isnan(t.values).all()


def test_chances_by_hand() -> None:
    # variances 0.25, 0.16 and 0 share 80%, 20% go to all alike
    found = chances([0.25, 0.16, 0.0], 0.2)
    assert found == pytest.approx([0.8 * 0.25 / 0.41 + 0.2 / 3, 0.8 * 0.16 / 0.41 + 0.2 / 3, 0.2 / 3])
    assert chances([0.25, 0.16, 0.0], 1.0) == pytest.approx([1 / 3] * 3)
    assert chances([0.0, 0.0], 0.1) == pytest.approx([0.5, 0.5]), "V is sure of everything"
    assert chances([0.09] * 5, 0.1) == pytest.approx([0.2] * 5), "V knows nothing"
    assert chances([1e-300, 0.0], 0.2) == pytest.approx([0.9, 0.1])


def test_who_is_chosen_follows_the_chances() -> None:
    """10,000 first draws among V = 0, 0.5, 0.9, 1: each count within five standard deviations. By chance one of
    the four is not once in 400,000 times, and the seed is fixed."""
    n, values = 10_000, [0.0, 0.5, 0.9, 1.0]
    expected = chances([0.0, 0.25, 0.09, 0.0], 0.2)
    rng, config, offered = np.random.default_rng(0), PracticeConfig(candidates=4), candidates(values)
    counts = Counter(practised(offered, 1, config, rng)[0].index for _ in range(n))
    for index, chance in enumerate(expected):
        assert abs(counts[index] - n * chance) < 5 * np.sqrt(n * chance * (1 - chance)), (index, counts)


def test_a_v_that_knows_nothing_gives_uniform_choice() -> None:
    """Of 40 candidates with equal V, and of those of a uniform share of 1, the same are chosen: the draws are one."""
    blind = chosen([0.3] * 40, 10, PracticeConfig(uniform=0.1))
    assert blind == chosen(list(np.linspace(0, 1, 40)), 10, PracticeConfig(uniform=1.0))
    assert blind != chosen(list(np.linspace(0, 1, 40)), 10, PracticeConfig(uniform=0.1))


def test_none_is_chosen_twice_and_all_where_all_are_asked_for() -> None:
    values = [0.5, *[0.0] * 9]
    assert sorted(chosen(values, 10, PracticeConfig(uniform=0.01))) == list(range(10))
    assert chosen(values, 5, PracticeConfig(), seed=3) == chosen(values, 5, PracticeConfig(), seed=3)
    assert chosen(values, 5, PracticeConfig(), seed=3) != chosen(values, 5, PracticeConfig(), seed=4)


def test_returns_may_lie_anywhere() -> None:
    """Between 0 and 4 the middle is 2; what V says beyond the ends counts as the end."""
    report = practice_report(candidates([2.0, 1.0, 4.5, -1.0]), {"maze/train/0", "maze/train/2"}, high=4.0)
    assert report == {"practice/offered": pytest.approx((4 + 3) / 4), "practice/chosen": pytest.approx(2.0)}
    assert chosen([2.0, 4.0, 0.0], 1, PracticeConfig(uniform=1e-9), high=4.0) == [0]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"uniform": 0.0}, "uniform must lie above 0 and at most at 1, got 0.0"),
        ({"uniform": 1.5}, "uniform must lie above 0 and at most at 1, got 1.5"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        PracticeConfig(**wrong)  # type: ignore[arg-type]
