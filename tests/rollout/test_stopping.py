"""Stopping: who is stopped, that the coin is fair, and that figures stay what they would have been without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from journeyman.engine.fake import ScriptedEngine
from journeyman.errors import UsageError
from journeyman.jobs.base import Env, Job
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.rollout.oversight import GO_ON, Oversight, Watched
from journeyman.rollout.runner import attempts, rollout
from journeyman.rollout.stopping import (
    LATEST,
    REMEMBERED,
    Doubt,
    Prospect,
    Stopping,
    StoppingConfig,
    as_stopped,
    completed,
    doubt,
    prospects,
    stopping_report,
    threshold,
)
from journeyman.types import Ending, Message, Outcome, StepResult, Task, Trajectory, Verdict
from tests.learn.helpers import make_trajectory

RENDERER = Renderer(load("apprentice").tokenizer)
SAID = RENDERER.reply_ids("north")


class Long(Job):
    """Eight turns; every third task ends well."""

    name, max_turns, max_reply_tokens = "long", 8, 8
    splits = {"train": 30}  # noqa: RUF012

    def task(self, split: str, index: int) -> Task:
        return Task(self.name, split, index, (Message("user", "A1 to B1"),))

    def env(self, task: Task) -> Env:
        return LongEnv(task.index % 3 == 0)


class LongEnv(Env):
    def __init__(self, good: bool) -> None:
        self.good, self.turn = good, 0

    def step(self, reply: str) -> StepResult:
        self.turn += 1
        over = self.turn == 8
        return StepResult(f"C{self.turn}", float(over and self.good), terminated=over)


def says(value: Callable[[Trajectory], float]) -> Callable[[Sequence[Trajectory]], list[Trajectory]]:
    """A V that says the same after every token."""
    return lambda ts: [replace(t, values=np.full(len(t), value(t), np.float32)) for t in ts]


def play(config: StoppingConfig | None, value: Callable[[Trajectory], float], repeats: int = 4) -> list[Trajectory]:
    job = Long()
    rules = [] if config is None else [Stopping(config, {"long": Doubt(low=0.1)})]
    orders = attempts(list(job.tasks("train")), repeats=repeats, prefix="t", seed=0)
    oversight = Oversight(says(value), rules)
    played = rollout(ScriptedEngine(lambda read: SAID), RENDERER, {"long": job}, orders, oversight=oversight)
    return sorted(played, key=lambda t: t.id)


def falling(t: Trajectory) -> float:
    """Hopeless from the fifth turn on, whatever the task."""
    return 0.5 if len(t.turns) < 5 else 0.01


def test_a_stopped_episode_ends_at_its_verdict_and_a_played_on_one_as_if_nothing_had_been_said() -> None:
    free, watched = play(None, falling), play(StoppingConfig(every=1, play_out=0.3), falling)
    stopped = [t for t in watched if t.outcome.ending is Ending.STOPPED]
    assert 0 < len(stopped) < len(watched)
    for alone, t in zip(free, watched, strict=True):
        assert t.verdict is not None and t.verdict.value == pytest.approx(0.01) and t.verdict.share == 0.3
        assert t.tokens.tolist() == alone.tokens[: len(t)].tolist()
        after_five = alone.turns[5].start
        assert t.verdict.at == after_five, "the answer of the fifth turn was read, the sixth reply was not sampled"
        if t.outcome.ending is Ending.STOPPED:
            assert len(t) == after_five and len(t.turns) == 5 and t.weight == 0
        else:
            assert t.outcome == alone.outcome and len(t) == len(alone) and t.weight == pytest.approx(1 / 0.3)
    assert all(t.verdict is None and t.weight == 1 for t in free)


def test_looks_are_made_when_due_only() -> None:
    seen: list[list[int]] = []

    def score(ts: Sequence[Trajectory]) -> list[Trajectory]:
        seen.append([len(t.turns) for t in ts])
        return says(lambda t: 0.5)(ts)

    job = Long()
    orders = attempts(list(job.tasks("train", 2)), repeats=2, prefix="t", seed=0)
    for open_at, looks in (
        ({"long": Doubt(low=0.1)}, [[3] * 4, [6] * 4]),
        ({"long": Doubt(high=0.9)}, [[3] * 4, [6] * 4]),
        ({"long": Doubt()}, []),
        ({}, []),
    ):
        seen.clear()
        oversight = Oversight(score, [Stopping(StoppingConfig(every=3), open_at)])
        played = list(rollout(ScriptedEngine(lambda read: SAID), RENDERER, {"long": job}, orders, oversight=oversight))
        assert seen == looks, "those that are due together are read in one batch"
        assert len(played) == 4


def test_what_is_neither_hopeless_nor_certain_goes_on() -> None:
    low, high = np.float32(0.1), np.float32(0.9)
    rule = Stopping(StoppingConfig(every=1, play_out=1e-9), {"job": Doubt(float(low), float(high))})
    values = [0.0, 0.09, low, 0.5, high, 0.91, 1.0]
    decisions = rule.decide([Watched(i, make_trajectory([float(v)], [], [])) for i, v in enumerate(values)])
    assert [d.stop for d in decisions] == [True, True, False, False, False, True, True]
    assert decisions[3] is GO_ON


def test_certain_is_where_hardly_any_failed() -> None:
    config = StoppingConfig(every=1, certain=0.1)
    solved = [Prospect(0.0, 0.5 + 0.01 * i, 1.0, 1.0) for i in range(30)]
    failed = [Prospect(0.0, 0.3 + 0.001 * i, 0.0, 1.0) for i in range(30)]
    assert doubt([[*solved[:18], *failed[:18]]], config).high == math.inf, "one more would be one in 19, of half"
    high = doubt([[*solved], [*failed]], config).high
    assert high < 0.5 == solved[0].highest and high == pytest.approx(0.5), "the lowest of the certain is beyond it"
    assert doubt([[*solved, *failed]], StoppingConfig(every=1)).high == math.inf, "it has to be asked for"
    assert doubt([solved], config) == Doubt(), "where all succeed, none is more certain than the others"
    worst = Prospect(0.0, 1.0, 0.0, 10.0)
    assert doubt([[*solved, *failed, worst]], config).high == math.inf, "a failure at the very top, that speaks for ten"


def test_hopeless_is_said_of_what_episodes_earn_on_average() -> None:
    """Where a tenth succeeds, those of which one in forty does are not hopeless; where half do, they are."""
    config = StoppingConfig(every=1, hopeless=0.1)
    low = [Prospect(0.1, 0.1, float(i == 0), 1.0) for i in range(100)]
    half, tenth = [Prospect(0.9, 0.9, 1.0, 1.0)] * 100, [Prospect(0.9, 0.9, 1.0, 1.0)] * 10
    assert doubt([[*low], half], config).low == pytest.approx(0.1)
    assert doubt([[*low, *tenth]], config) == Doubt()
    assert doubt([low], config) == Doubt() == doubt([], config) == doubt([[]], config)
    assert doubt([[list(p) for p in [*low, *half]]], config).low == pytest.approx(0.1), (
        "as a checkpoint gives them back"
    )  # type: ignore[misc]
    assert doubt([[*low, *half]], StoppingConfig(every=1, hopeless=0.0)) == Doubt()
    many = [p._replace(weight=10.0) for p in low]
    assert doubt([[*many, *half]], config) == Doubt(), "a thousand of which ten succeed, and half of a hundred"


def test_what_all_earn_is_read_off_the_very_last_steps() -> None:
    """Where half failed, one in ten is certain; of a policy that now hardly ever does it is not."""
    config = StoppingConfig(every=1, certain=0.5)
    before = [Prospect(0.0, 0.9, float(i % 10 > 0), 1.0) for i in range(50)] + [Prospect(0.0, 0.1, 0.0, 1.0)] * 50
    now = [Prospect(0.0, 0.9, float(i > 0), 1.0) for i in range(50)]
    assert doubt([before], config).high < 0.9
    assert doubt([before, *[now] * LATEST], config).high == math.inf


def below(seen: Sequence[tuple[float, float, float]], least: float) -> float:
    """The threshold of so many episodes' lowest V, return and weight."""
    return threshold(np.array(seen, float).reshape(-1, 3), least)


def test_hopeless_is_where_hardly_any_succeeded() -> None:
    failed = [(0.01 * i, 0.0, 1.0) for i in range(30)]
    assert below(failed[:19], 0.05) == -math.inf, "one success more would be one in 20"
    assert 0.19 < below(failed[:20], 0.05) == pytest.approx(0.19)
    better = [*failed, *((0.01 * i, 1.0, 1.0) for i in range(30, 60))]
    assert below(better, 0.05) == pytest.approx(0.29)
    assert below(better[::-1], 0.05) == below(better, 0.05) < below(better, 0.2)
    assert below([(0.01, 1.0, 1.0), *failed], 0.05) == -math.inf, "a success at the very bottom"
    assert below([], 0.5) == -math.inf
    alike = [(0.1, float(i == 29), 1.0) for i in range(30)]
    assert below(alike, 0.05) == -math.inf, "where V says the same of all, none is below the others"


def test_those_played_on_speak_for_those_that_were_stopped() -> None:
    """Ten of weight 10 are no more evidence than ten, and one success among them is as one in ten."""
    many = [(0.01 * i, float(i == 30), 10.0) for i in range(60)]
    same = [(0.01 * i, float(i == 30), 1.0) for i in range(60)]
    assert below(many, 0.05) == below(same, 0.05) == pytest.approx(0.59)
    mixed = [*((0.1, 0.0, 1.0) for _ in range(100)), *((0.0, 1.0, 10.0) for _ in range(1))]
    assert below(mixed, 0.05) == -math.inf < below([*mixed[:100], (0.0, 1.0, 1.0)], 0.05)


def test_a_threshold_lasts_although_stopping_hides_what_it_rests_on() -> None:
    """32 of 128 episodes a step are hopeless, and V knows. A step's threshold fails where fewer than 19 of them were
    played on in the 16 before: of 512 at a share of 0.1 that happens once in a million windows; the seed is fixed."""
    rng = np.random.default_rng(0)
    steps: list[list[tuple[float, float, float]]] = []
    for step in range(60):
        limit = below([p for kept in steps[-REMEMBERED:] for p in kept], 0.05)
        assert step == 0 or 0.01 < limit < 0.9, f"step {step}: {limit}"
        stops = rng.random(32) >= 0.1 if limit > 0.01 else np.zeros(32, bool)
        weight = 10.0 if limit > 0.01 else 1.0
        steps.append([(0.01, 0.0, weight) for stopped in stops if not stopped] + [(0.9, 1.0, 1.0)] * 96)


def test_prospects_are_the_lowest_and_the_highest_looks_of_what_was_seen() -> None:
    values = [0.9, 0.8, 0.2, 0.7, 0.5, 0.6, 0.4, 0.1]
    t = make_trajectory(values, [(1, 2), (3, 4), (5, 6), (7, 8)], [0.0, 0.0, 0.0, 1.0])  # looks at V of 2, 4 and 6
    assert prospects([t], 1) == [(pytest.approx(0.2), pytest.approx(0.5), 1.0, 1.0)]
    assert prospects([t], 2) == [(pytest.approx(0.5), pytest.approx(0.5), 1.0, 1.0)]
    assert prospects([t], 4) == [], "it ended before a look"
    verdict = Verdict(7, 0.4, 0.25)
    stopped = replace(t, verdict=verdict, outcome=Outcome(0.0, Ending.STOPPED))
    assert prospects([replace(t, verdict=verdict), stopped], 1) == [(pytest.approx(0.2), pytest.approx(0.5), 1.0, 4.0)]


def test_as_stopped_is_the_episode_up_to_its_verdict() -> None:
    t = play(StoppingConfig(every=1, play_out=1.0), falling)[0]
    early = as_stopped(t)
    assert t.verdict and len(early) == t.verdict.at and early.turns == t.turns[:5]
    assert early.outcome == Outcome(0.0, Ending.STOPPED) and as_stopped(early) is early
    assert early.tokens.tolist() == t.tokens[: len(early)].tolist() and len(early.values) == len(early)
    free = play(None, falling)[0]
    assert as_stopped(free) is free


def test_the_coin_follows_from_the_episodes_seed_alone() -> None:
    rule = Stopping(StoppingConfig(every=1, play_out=0.5), {"job": Doubt(low=0.1)})
    watched = [Watched(seed, make_trajectory([0.01], [], [])) for seed in range(64)]
    together = [d.stop for d in rule.decide(watched)]
    assert together == [rule.decide([w])[0].stop for w in watched]
    assert 10 < sum(together) < 54  # a fair coin leaves this range once in 100 million times


@pytest.mark.parametrize("value", [0.01, 0.6])
def test_figures_are_unbiased_however_wrong_v_is(value: float) -> None:
    """Of 20,000 episodes that V would stop, 40% end well. The estimate's standard error is at most
    sqrt((1 - share) / share * max(value, 1 - value)^2 / 20,000) = 0.021; five of them are exceeded once in two
    million times."""
    config, n = StoppingConfig(every=1, play_out=0.1), 20_000
    rewards = (np.random.default_rng(1).random(n) < 0.4).astype(float)
    rule = Stopping(config, {"job": Doubt(low=1.0)})
    decisions = rule.decide([Watched(seed, make_trajectory([value], [], [])) for seed in range(n)])
    estimates: list[float] = []
    weights: list[float] = []
    for reward, decision in zip(rewards, decisions, strict=True):
        outcome = Outcome(0.0, Ending.STOPPED) if decision.stop else Outcome(float(reward), Ending.TERMINATED)
        t = replace(make_trajectory([value], [], []), outcome=outcome, verdict=decision.verdict)
        weights.append(t.weight)
        estimates.append(completed(t, t.outcome.reward))
    error = np.sqrt((1 - config.play_out) / config.play_out / n) * max(value, 1 - value)
    assert abs(np.mean(estimates) - rewards.mean()) < 5 * error
    # without the correction it would be far off: stopped episodes have earned nothing
    assert abs(np.mean([r * (w > 0) for r, w in zip(rewards, weights, strict=True)]) - rewards.mean()) > 0.3
    # the weights of those that were seen add up to all of them: sd sqrt(0.9 / 0.1 / n) = 0.021
    assert abs(np.mean(weights) - 1) < 5 * np.sqrt((1 - config.play_out) / config.play_out / n)


def test_what_is_reported_is_what_those_played_on_tell() -> None:
    free = play(None, falling, repeats=20)
    watched = play(StoppingConfig(every=1, play_out=0.5), falling, repeats=20)
    report = stopping_report(watched)
    played_on = [t for t in watched if t.outcome.ending is not Ending.STOPPED]
    assert report["stopped"] == 1 - len(played_on) / 600
    # all are equally long here, so the estimate errs by the coin alone: 300 of 600 +- 12 (sd)
    whole = sum(len(t) for t in free)
    assert report["stopped_saved"] == pytest.approx(1 - sum(len(t) for t in watched) / whole, abs=5 * 12 / 600)
    expected = 0.01 - np.mean([t.outcome.reward for t in played_on])
    assert report["stopped_bias"] == pytest.approx(expected, abs=1e-6)
    assert stopping_report(free) == {"stopped": 0.0, "stopped_saved": 0.0, "stopped_bias": None}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"play_out": 0.0}, "play_out must lie above 0"),
        ({"every": -1}, "at least 0, got -1"),
        ({"hopeless": -0.1}, "hopeless must be at least 0 and below 1, got -0.1"),
        ({"certain": 1.0}, "certain must be at least 0 and below 1, got 1.0"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        StoppingConfig(**wrong)  # type: ignore[arg-type]
