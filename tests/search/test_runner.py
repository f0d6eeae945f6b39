"""Searches on the real engine and in exams: reproducible, the same however many run at once, and refused with a fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import journeyman as jm
from journeyman.engine.native import NativeEngine
from journeyman.errors import UsageError
from journeyman.exam.exam import ExamConfig, examine
from journeyman.jobs import resolve
from journeyman.model.load import load, save
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.rollout.runner import attempts, rollout
from journeyman.search.runner import Found, search
from journeyman.search.strategies import STRATEGIES, Name, SearchConfig
from journeyman.types import Ending, Trajectory
from tests.search.words import RENDERER, Speaker, Words, find, orders, said, scorer, whole

MODEL = load("apprentice").model
JOB = resolve("maze,size=3,max_turns=6")


def opinion(ts: Sequence[Trajectory]) -> list[Trajectory]:
    """A V with an opinion on everything that was read, which neither training nor chance made."""
    return [replace(t, values=np.sin(np.cumsum(t.tokens, dtype=np.float64)).astype(np.float32)) for t in ts]


def likes_east(ts: Sequence[Trajectory]) -> list[Trajectory]:
    return [replace(t, values=np.full(len(t), t.turns[-1].reply == "east", np.float32)) for t in ts]


def answers(name: Name, *, seed: int = 0, slots: int = 64, think: int = 4) -> list[Found]:
    """Six tasks of the maze on the real engine; that it holds nothing afterwards."""
    engine = NativeEngine(MODEL, slots=slots, context=256)
    asked = attempts(list(JOB.tasks("test", 6)), repeats=1, prefix="s", seed=seed)
    found = search(engine, RENDERER, opinion, {JOB.name: JOB}, asked, SearchConfig(think, name), plain=45.0)
    assert [one.trajectory.task.id for one in found] == [order.task.id for order in asked], "in the order asked"
    assert not engine.sequences and not engine.busy
    return found


def told(found: list[Found]) -> list[tuple[list[int], int, int]]:
    return [(one.trajectory.tokens.tolist(), one.tokens, one.value_tokens) for one in found]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_seed_gives_the_same_answers_however_many_are_searched_for_at_once(name: Name) -> None:
    first = told(answers(name))
    assert told(answers(name)) == first
    assert told(answers(name, slots=4)) == first, "one search after the other"
    assert told(answers(name, seed=1)) != first


@pytest.mark.parametrize("name", STRATEGIES)
def test_think_1_plays_the_attempts_of_a_rollout(name: Name) -> None:
    engine = NativeEngine(MODEL, slots=8, context=256)
    asked = attempts(list(JOB.tasks("test", 6)), repeats=1, prefix="s", seed=0)
    plain = sorted(rollout(engine, RENDERER, {JOB.name: JOB}, asked), key=lambda t: t.id)
    found = answers(name, think=1)
    assert [one.trajectory.tokens.tolist() for one in found] == [t.tokens.tolist() for t in plain]
    assert [one.trajectory.outcome for one in found] == [t.outcome for t in plain]
    assert [one.tokens for one in found] == [len(t) for t in plain]


def test_log_probabilities_of_an_answer_are_those_of_the_trainer() -> None:
    """Also where it was put together from forks, in the middle of which it was gone back to."""
    for one in answers("correct", think=8):
        t = one.trajectory
        row = torch.from_numpy(t.tokens[None].astype(np.int64))
        theirs = MODEL.logits(MODEL.hidden(row)).detach().float().log_softmax(-1)[0]
        expected = [float(theirs[i - 1, t.tokens[i]]) for i in t.actions]
        assert np.allclose(t.logprobs[t.actions], expected, atol=1e-4)


def test_a_search_needs_slots_for_all_that_it_tries_at_once() -> None:
    job = Words()
    with pytest.raises(UsageError, match=r"takes 8 slots.*\n.*it has 4\nFix: "):
        search(Speaker("", slots=4), RENDERER, list, {job.name: job}, orders(job), SearchConfig(8, "beam"), 1.0)
    search(Speaker("east " * 9, slots=2), RENDERER, scorer(lambda _: 1.0), {job.name: job}, orders(job, range(3)),
           SearchConfig(8, "correct"), plain=whole(3))  # fmt: skip


def test_tasks_whose_prompt_does_not_fit_fail_alone_and_cost_nothing() -> None:
    job, engine = Words(), Speaker("")
    engine.context = 5
    (found,) = search(engine, RENDERER, list, {job.name: job}, orders(job), SearchConfig(4, "vote"), plain=20.0)
    assert (found.tokens, found.trajectory.outcome.ending) == (0, Ending.FAILED)
    assert "the context holds 5" in found.trajectory.outcome.error


def test_what_was_earned_shows_once_the_answer_is_chosen() -> None:
    found, _ = find(SearchConfig(2, "best"), "east west east west east west", lambda replies: 0.5)
    outcome, turns = found.trajectory.outcome, found.trajectory.turns
    assert said(found) == "eee" and outcome.success and outcome.ending is Ending.TERMINATED
    assert (turns[-1].reward, turns[-1].observation) == (1.0, "over")


def test_an_exam_counts_every_token_and_says_how_it_searched() -> None:
    job = Words()
    engine = Speaker("west west " * 3 + "west east west east " * 3)  # two plain attempts, then two for each task
    config = ExamConfig(tasks=2)
    (result,), episodes = examine(
        engine, RENDERER, likes_east, {job.name: job}, config, step=0, thinking=SearchConfig(2, "best")
    )
    assert not engine.left
    assert (result.success, result.think, result.strategy) == (1.0, 2, "best")
    assert result.tokens == 2 * 2 * whole(3) and result.value_tokens == 2 * 2 * whole(3)
    assert result.value is None and len(episodes) == 2


def test_an_exam_at_temperature_0_has_nothing_to_search_among() -> None:
    job = Words()
    with pytest.raises(UsageError, match=r"temperature 0.*\nWhy: .*\nFix: "):
        examine(
            Speaker(""), RENDERER, list, {job.name: job}, ExamConfig(temperature=0), step=0, thinking=SearchConfig(2)
        )


def test_a_model_without_a_value_function_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"the strategy best needs a value function.*\nWhy: .*\nFix: .*vote"):
        list(jm.exam("apprentice", "maze,size=3", search=jm.SearchConfig(2)))
    job = Words()
    with pytest.raises(UsageError, match="the strategy beam needs a value function"):
        search(Speaker("east " * 9), RENDERER, list, {job.name: job}, orders(job), SearchConfig(2, "beam"), plain=9.0)


def test_exam_searches_from_python(tmp_path: Path) -> None:
    loaded = load("apprentice")
    save(tmp_path, loaded.model, loaded.tokenizer, ValueFunction.start(ValueConfig(), loaded.model))
    config = ExamConfig(tasks=4, splits=("test",))
    (plain,) = jm.exam(tmp_path, "maze,size=3,max_turns=6", config, context=256)
    (best,) = jm.exam(
        tmp_path, "maze,size=3,max_turns=6", config, search=jm.SearchConfig(3, "best"), slots=1, context=256
    )
    assert (plain.think, plain.strategy, plain.value_tokens) == (1, None, 0)
    assert (best.think, best.strategy) == (3, "best") and best.value_tokens == best.tokens > 2 * plain.tokens
