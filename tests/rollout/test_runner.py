"""Episodes as they are played: exact tokens, every way to end, and no failure that spreads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from journeyman.engine.base import Engine, Reply, Sampling
from journeyman.engine.fake import ScriptedEngine
from journeyman.engine.native import NativeEngine
from journeyman.jobs.base import Env, Job
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.rollout.runner import RolloutConfig, attempts, rollout
from journeyman.types import Ending, Message, StepResult, Task, Trajectory

RENDERER = Renderer(load("apprentice").tokenizer)
ASK = (Message("user", "A1 to B1"),)
OPENING, SAID = RENDERER.open(ASK), RENDERER.reply_ids("north")
Play = Callable[[int, str], StepResult]
"""(turn, reply) to the environment's answer."""


class Scripted(Env):
    def __init__(self, play: Play) -> None:
        self.play, self.turn = play, -1

    def step(self, reply: str) -> StepResult:
        self.turn += 1
        return self.play(self.turn, reply)


class Place(Job):
    """A job whose environments do what the test wants, by the task's index."""

    name, max_turns, max_reply_tokens = "place", 4, 8

    def __init__(self, *plays: Play) -> None:
        self.plays = plays
        self.splits = {"train": len(plays)}

    def task(self, split: str, index: int) -> Task:
        return Task(self.name, split, index, ASK)

    def env(self, task: Task) -> Env:
        play = self.plays[task.index]
        if play is broken:
            broken(0, "")
        return Scripted(play)


class Noting(ScriptedEngine):
    """Gives every token a log-probability of its own, and notes what was asked, answered and closed."""

    def __init__(self, script: Callable[[list[int]], Sequence[int]]) -> None:
        super().__init__(script)
        self.asked, self.logprobs, self.closed = list[Sampling](), list[float](), list[int]()

    def submit(self, sequence: int, tokens: Sequence[int], sampling: Sampling) -> None:
        self.asked.append(sampling)
        super().submit(sequence, tokens, sampling)

    def step(self) -> list[Reply]:
        replies: list[Reply] = []
        for reply in super().step():
            fresh = [-(len(self.logprobs) + i) / 8 for i in range(1, len(reply.tokens) + 1)]
            self.logprobs += fresh
            replies.append(replace(reply, logprobs=tuple(fresh)))
        return replies

    def close(self, sequence: int) -> None:
        self.closed.append(sequence)
        super().close(sequence)


def go_on(turn: int, reply: str) -> StepResult:
    return StepResult("C1")


def done(turn: int, reply: str) -> StepResult:
    return StepResult("B1", reward=1.0, terminated=True)


def third_time(turn: int, reply: str) -> StepResult:
    return done(turn, reply) if turn == 2 else StepResult("wall")


def broken(turn: int, reply: str) -> StepResult:
    raise ValueError("the map is lost")


def late(turn: int, reply: str) -> StepResult:
    return broken(turn, reply) if turn else StepResult("C1")


def hangs(turn: int, reply: str) -> StepResult:
    while True:
        time.sleep(0.001)


def play(
    *plays: Play, config: RolloutConfig | None = None, engine: Engine | None = None, repeats: int = 1
) -> list[Trajectory]:
    job = Place(*plays)
    orders = attempts(list(job.tasks("train")), repeats=repeats, prefix="t", seed=0)
    played = rollout(engine or ScriptedEngine(lambda read: SAID), RENDERER, {"place": job}, orders, config)
    return sorted(played, key=lambda t: t.id)


def test_tokens_are_what_was_shown_and_what_was_sampled_and_nothing_else() -> None:
    (t,) = play(third_time)
    shown = RENDERER.observe("wall", "tool")
    unsaid, said = [False] * len(shown), [True] * len(SAID)
    assert t.tokens.tolist() == OPENING + SAID + shown + SAID + shown + SAID
    assert t.mask.tolist() == [False] * len(OPENING) + said + unsaid + said + unsaid + said
    assert (t.logprobs[t.mask] == -1).all() and (t.logprobs[~t.mask] == 0).all()
    assert np.isnan(t.values).all()
    assert [turn.reply for turn in t.turns] == ["north"] * 3
    assert [t.tokens[turn.start : turn.stop].tolist() for turn in t.turns] == [SAID] * 3
    assert (t.outcome.reward, t.outcome.ending, t.outcome.success) == (1.0, Ending.TERMINATED, True)


def test_a_spelling_the_tokenizer_would_not_choose_is_kept_with_its_logprobs() -> None:
    spelled = [token for letter in "north" for token in RENDERER.encode(letter)] + [RENDERER.end_id]
    assert spelled != SAID
    engine = Noting(lambda read: spelled)
    (t,) = play(third_time, config=RolloutConfig(temperature=0.5, top_p=0.9, max_reply_tokens=7), engine=engine)
    assert [turn.reply for turn in t.turns] == ["north"] * 3
    assert t.tokens[t.mask].tolist() == spelled * 3
    assert t.logprobs[t.mask].tolist() == engine.logprobs
    assert engine.asked == [Sampling(0.5, 0.9, 7, RENDERER.end_ids)] * 3 and t.temperature == 0.5


def test_rewards_add_up_and_observations_are_shown_as_their_role() -> None:
    (t,) = play(lambda turn, reply: StepResult("C1", 0.25, terminated=turn == 2, role="user"))
    assert [turn.reward for turn in t.turns] == [0.25] * 3 and t.outcome.reward == 0.75
    assert t.tokens[t.turns[0].stop : t.turns[1].start].tolist() == RENDERER.observe("C1", "user")


def test_every_limit_truncates() -> None:
    def cut(turn: int, reply: str) -> StepResult:
        return StepResult("C1", truncated=turn == 1)

    (by_env,), (by_job,) = play(cut), play(go_on)
    (by_config,) = play(go_on, config=RolloutConfig(max_turns=2))
    room = len(OPENING) + len(SAID) + len(RENDERER.observe("C1", "tool")) + 1
    (by_context,) = play(go_on, engine=ScriptedEngine(lambda read: SAID, context=room))
    assert {t.outcome.ending for t in (by_env, by_job, by_config, by_context)} == {Ending.TRUNCATED}
    assert [len(t.turns) for t in (by_env, by_job, by_config, by_context)] == [2, 4, 2, 2]
    assert len(by_context) == room
    (no_room,) = play(go_on, engine=ScriptedEngine(lambda read: SAID, context=room - 1))
    assert (len(no_room.turns), no_room.outcome.ending) == (1, Ending.TRUNCATED)
    assert len(no_room) == len(OPENING + SAID), "an observation nobody can answer is not read"


def test_a_reply_ends_at_a_text_and_is_closed_for_the_next_turn() -> None:
    (t,) = play(go_on, config=RolloutConfig(stop=("nort", "south"), max_turns=2))
    first = t.turns[0]
    assert "nort" in first.reply and first.stop - first.start < len(SAID)
    assert t.tokens[first.stop] == RENDERER.end_id and not t.mask[first.stop]


def test_a_reply_that_never_stops_is_cut_and_closed_for_the_next_turn() -> None:
    word = SAID[0]
    (t,) = play(third_time, engine=ScriptedEngine(lambda read: [word] * 100))
    assert [turn.stop - turn.start for turn in t.turns] == [8, 8, 8]
    between = t.tokens[t.turns[0].stop : t.turns[1].start].tolist()
    assert between == RENDERER.observe("wall", "tool", ended=False) != RENDERER.observe("wall", "tool")


@pytest.mark.parametrize(
    ("reward", "why"), [(math.nan, "must be finite"), (math.inf, "must be finite"), ("1", "must be a number")]
)
def test_a_reward_that_is_no_number_fails_its_episode(reward: Any, why: str) -> None:
    (t,) = play(lambda turn, reply: StepResult("B1", reward=reward, terminated=True))
    assert t.outcome.ending is Ending.FAILED and why in (t.outcome.error or "") and t.outcome.reward == 0


def test_failures_name_their_boundary_and_disturb_no_other_episode() -> None:
    lost, mid, stuck, well = play(broken, late, hangs, third_time, config=RolloutConfig(seconds_per_step=0.05))
    assert [t.outcome.ending for t in (lost, mid, stuck)] == [Ending.FAILED] * 3
    assert lost.outcome.error == mid.outcome.error == "ValueError: the map is lost"
    assert [t.outcome.boundary for t in (lost, mid, stuck)] == ["environment", "grader", "grader"]
    assert stuck.outcome.error == "the grader gave no answer within 0.05 s"
    assert (len(lost.turns), len(mid.turns), len(stuck.turns)) == (0, 2, 1)
    assert well.outcome.success


def test_a_prompt_that_does_not_fit_never_reaches_the_engine() -> None:
    def refuse(read: list[int]) -> list[int]:
        raise AssertionError("the engine was asked")

    (t,) = play(done, engine=ScriptedEngine(refuse, context=len(OPENING)))
    assert (t.outcome.ending, t.outcome.boundary) == (Ending.FAILED, "engine")
    assert t.outcome.error == f"the prompt has {len(OPENING)} tokens and the context holds {len(OPENING)}"


def test_sequences_are_closed_when_nobody_listens_any_more() -> None:
    engine = Noting(lambda read: SAID)
    job = Place(go_on, done)  # in this order: the first is asked again before the second ends
    orders = attempts(list(job.tasks("train")), repeats=2, prefix="t", seed=0)
    records = rollout(engine, RENDERER, {"place": job}, orders)
    assert next(records).outcome.success and engine.busy
    records.close()  # type: ignore[attr-defined]
    assert not engine.busy and sorted(engine.closed) == [0, 1, 2, 3]


def test_every_order_is_answered_once_under_its_own_name() -> None:
    job = Place(go_on, third_time, done, late, broken)
    orders = attempts(list(job.tasks("train")), repeats=40, prefix="t", seed=0, step=7)
    engine = Noting(lambda read: SAID)
    engine.version = 3
    played = list(rollout(engine, RENDERER, {"place": job}, orders))
    found = sorted((t.id, t.group, t.task.id, t.step, t.policy_version) for t in played)
    assert found == sorted((o.id, o.group, o.task.id, 7, 3) for o in orders) and len(found) == 200
    assert sorted(engine.closed) == list(range(160)), "all are closed but those that never began"


def test_every_attempt_is_yielded_once_and_a_real_engine_samples_what_the_seed_says() -> None:
    engine = NativeEngine(load("apprentice").model, slots=3, context=128)
    first, again = (play(go_on, third_time, done, engine=engine, repeats=4) for _ in range(2))
    assert len({t.id for t in first}) == len(first) == 12
    assert [t.tokens.tolist() for t in first] == [t.tokens.tolist() for t in again]
    assert len({tuple(t.tokens.tolist()) for t in first[:4]}) > 1, "members of a group are sampled apart"


def test_seeds_differ_by_member_task_step_and_run() -> None:
    tasks = list(Place(done, done).tasks("train"))
    runs = [(prefix, seed) for prefix in ("step000000", "step000001") for seed in (0, 1)]
    orders = [o for prefix, seed in runs for o in attempts(tasks, repeats=3, prefix=prefix, seed=seed)]
    assert len({o.seed for o in orders}) == len(orders) == 24
    assert orders == [o for prefix, seed in runs for o in attempts(tasks, repeats=3, prefix=prefix, seed=seed)]
    (one,), (other,) = (attempts([task], repeats=1, prefix="t", seed=0) for task in tasks)
    assert one.id == other.id and one.seed != other.seed, "another task in the same place is sampled anew"


def test_a_grader_that_exits_or_swallows_errors_fails_its_own_episode() -> None:
    def leaves(turn: int, reply: str) -> StepResult:
        raise SystemExit(3)

    def swallows(turn: int, reply: str) -> StepResult:
        while True:
            try:
                time.sleep(0.001)
            except Exception:
                continue

    left, stuck, well = play(leaves, swallows, done, config=RolloutConfig(seconds_per_step=0.05))
    assert left.outcome.error == "SystemExit: 3" and "no answer within" in stuck.outcome.error
    assert well.outcome.success


def test_a_listener_who_leaves_at_a_failed_start_leaves_nothing_open() -> None:
    engine = Noting(lambda read: SAID)
    job = Place(done, broken)
    records = rollout(
        engine, RENDERER, {"place": job}, attempts(list(job.tasks("train")), repeats=1, prefix="t", seed=0)
    )
    assert next(records).outcome.ending is Ending.FAILED and engine.busy
    records.close()  # type: ignore[attr-defined]
    assert not engine.busy
