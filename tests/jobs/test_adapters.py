"""Jobs of other packages: text in and out, honest splits, errors in our own words."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import pytest

from journeyman.errors import UnknownName, UsageError
from journeyman.jobs import resolve
from journeyman.jobs.reasoning_gym import ReasoningGymEnv
from journeyman.jobs.validate import validate
from journeyman.types import SUCCESS


@pytest.fixture
def gymnasium() -> Any:
    return pytest.importorskip("gymnasium")


@pytest.fixture
def reasoning_gym() -> Any:
    return pytest.importorskip("reasoning_gym")


@pytest.mark.parametrize(
    "spec",
    [
        "gymnasium:FrozenLake-v1",
        "gymnasium:FrozenLake-v1,size=0",
        "gymnasium:FrozenLake-v1,is_slippery=true",
        "gymnasium:Taxi-v4",
        "gymnasium:CliffWalking-v1",
    ],
)
def test_gymnasium_keeps_the_contract(gymnasium: Any, spec: str) -> None:
    job = resolve(spec)
    assert job.name == spec
    same_map = job.id in ("CliffWalking-v1",) or "size=0" in spec  # one start: tasks differ by their seed alone
    found = validate(pickle.loads(pickle.dumps(job)), per_split=50)
    assert found.passed, found
    openings = {job.task("test", index).messages for index in range(20)}
    assert len(openings) == 1 if same_map else len(openings) > 10


def test_a_hole_ends_the_episode_without_reward(gymnasium: Any) -> None:
    job = resolve("gymnasium:FrozenLake-v1,size=0")
    env = job.env(job.task("test", 0))
    walk = [env.step(word) for word in ("right", " Down\n")]
    assert [(r.reward, r.terminated) for r in walk] == [(0, False), (0, True)]
    assert walk[0].observation == "row 0 column 1"


def test_what_is_no_action_is_answered_and_changes_nothing(gymnasium: Any) -> None:
    job = resolve("gymnasium:Taxi-v4")
    env = job.env(job.task("test", 0))
    before = env.expert()
    result = env.step("fly")
    assert "pickup" in result.observation and not result.terminated and result.reward == 0
    assert env.expert() == before


def test_falling_off_the_cliff_earns_nothing_and_goes_on(gymnasium: Any) -> None:
    job = resolve("gymnasium:CliffWalking-v1")
    result = job.env(job.task("test", 0)).step("right")
    assert (result.reward, result.terminated, result.observation) == (0, False, "row 3 column 0")


def test_episodes_side_by_side_do_not_disturb_each_other(gymnasium: Any) -> None:
    """They share one transition table; their states are their own."""
    job = resolve("gymnasium:Taxi-v4")
    envs = [job.env(job.task("test", index)) for index in range(4)]
    earned = [0.0] * len(envs)
    going = set(range(len(envs)))
    for _ in range(job.max_turns):
        for index in sorted(going):
            reply = envs[index].expert()
            assert reply is not None
            result = envs[index].step(reply)
            earned[index] += result.reward
            if result.terminated:
                going.remove(index)
    assert earned == [1.0] * len(envs)


def test_no_expert_where_chance_decides(gymnasium: Any) -> None:
    job = resolve("gymnasium:FrozenLake-v1,is_slippery=true")
    assert job.env(job.task("test", 0)).expert() is None


@pytest.mark.parametrize(("id", "why"), [("CartPole-v1", "not discrete"), ("FrozenLak-v1", "cannot make")])
def test_gymnasium_mistakes(gymnasium: Any, id: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        resolve(f"gymnasium:{id}")


@pytest.mark.parametrize(
    "spec", ["reasoning_gym:spell_backward", "reasoning_gym:chain_sum,max_terms=3", "reasoning_gym:leg_counting"]
)
def test_reasoning_gym_keeps_the_contract(reasoning_gym: Any, spec: str) -> None:
    job = resolve(spec)
    assert job.name == spec
    found = validate(pickle.loads(pickle.dumps(job)), per_split=100)
    assert found.passed, found


def test_no_question_is_both_practised_and_examined(reasoning_gym: Any) -> None:
    job = resolve("reasoning_gym:spell_backward,max_word_len=3")  # a few hundred words: chance alone would repeat
    seen = {split: {t.messages[0].content for t in job.tasks(split, 500)} for split in job.splits}
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["valid"]


def test_an_answer_may_stand_in_tags(reasoning_gym: Any) -> None:
    job = resolve("reasoning_gym:spell_backward")
    task = job.task("test", 0)
    gold = job.env(task).expert()
    assert job.env(task).step(f"Let me see. <answer> {gold} </answer>").reward >= SUCCESS
    assert job.env(task).step(f" {gold}\n").reward >= SUCCESS
    assert job.env(task).step(f"Let me see. {gold}").reward < SUCCESS


def test_a_reply_the_grader_cannot_read_earns_nothing(reasoning_gym: Any) -> None:
    """prime_factorization's grader raises at words."""
    job = resolve("reasoning_gym:prime_factorization")
    assert job.env(job.task("test", 0)).step("no idea").reward == 0


def test_a_grader_that_is_broken_is_not_hidden(reasoning_gym: Any) -> None:
    class Broken:
        def score_answer(self, answer: str, entry: dict[str, Any]) -> float:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        ReasoningGymEnv(Broken(), {"answer": "4"}).step("4")


@pytest.mark.parametrize(
    ("spec", "error", "why"),
    [
        ("reasoning_gym:spel_backward", UnknownName, "spell_backward"),
        ("reasoning_gym:spell_backward,max_word_length=6", UnknownName, "max_word_len"),
        ("reasoning_gym:spell_backward,min_word_len=0", UsageError, "min_word_len must be positive"),
    ],
)
def test_reasoning_gym_mistakes(reasoning_gym: Any, spec: str, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        resolve(spec)


@pytest.mark.parametrize(
    ("package", "spec"), [("gymnasium", "gymnasium:FrozenLake-v1"), ("reasoning_gym", "reasoning_gym:chain_sum")]
)
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str, spec: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"journeyman\[jobs\]"):
        resolve(spec)


@pytest.mark.parametrize("spec", ["gymnasium:FrozenLake-v1", "reasoning_gym:chain_sum"])
def test_places_that_are_not_there(spec: str) -> None:
    pytest.importorskip(spec.partition(":")[0])
    job = resolve(spec)
    with pytest.raises(UnknownName):
        job.task("exam", 0)
    for index in (-1, job.splits["test"]):
        with pytest.raises(UsageError):
            job.task("test", index)
