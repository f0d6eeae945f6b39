"""What bench/stopping.py and bench/asking.py say follows from what was played."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from bench import asking, stopping
from bench.common import Results
from bench.efficiency.stats import Curve
from bench.stopping import RULES, bias, judged
from bench.uses import runs
from bench.uses.runs import Played, learning, played
from journeyman.rollout.stopping import Doubt
from journeyman.types import Ending, Outcome, Trajectory
from tests.learn.helpers import make_trajectory

RULE = RULES["maze"]


def run(*success: float, tokens: int = 100, taught: float = 0.0) -> Played:
    spent = tuple(range(len(success)))
    return Played(Curve(spent, tuple(tokens * i for i in spent), tuple(map(float, spent)), success), taught)


def test_a_run_is_played_once_and_again_when_its_settings_differ(tmp_path: Path) -> None:
    base = learning("maze,size=3", 0, 256, exam_every=256, attempts=1)
    tiny = replace(base, tasks=4, exam=replace(base.exam, tasks=4), steps=2, exam_every=2)
    first = played(tiny, "maze", tmp_path)
    assert first.taught == 0 and first.curve.trajectories == (0, 8) and first.curve.tokens[1] > 0
    with patch.object(runs, "learn", side_effect=AssertionError("played again")):
        assert played(tiny, "maze", tmp_path) == first
        with pytest.raises(AssertionError, match="played again"):
            played(replace(tiny, seed=1), "maze", tmp_path)


def test_the_least_share_is_that_of_the_cheapest_arm_that_is_enough() -> None:
    found = {
        "taught": {0: run(0.2, 1.0), 1: run(0.2, 0.9)},
        "alone": {0: run(0.2, 0.5), 1: run(0.2, 0.4)},
        "v_1": {0: run(0.2, 0.9, taught=0.008), 1: run(0.2, 0.82, taught=0.01)},
        "v_5": {0: run(0.2, 0.99, taught=0.04), 1: run(0.2, 0.99, taught=0.05)},
        "any_0.5": {0: run(0.2, 0.95, taught=0.005), 1: run(0.2, 0.95, taught=0.005)},
    }
    share, seeds = asking.shares(found, 0.9 * asking.success(found["taught"])) or (0.0, [])
    assert share == pytest.approx(0.9) and seeds == pytest.approx([0.8, 1.0]), "the control does not count"
    assert asking.shares(found, 0.999) is None
    assert (asking.shares({**found, "alone": found["v_5"]}, 0.99) or (0.0, []))[0] == pytest.approx(4.5)


def test_every_arm_differs_in_asking_alone() -> None:
    subject = asking.JOBS["hops"]
    arms = asking.arms(quick=False)
    configs = {name: asking.configured(subject, how, 0, False) for name, how in arms.items()}
    taught = configs.pop("taught")
    assert taught.steps == 0 and taught.school.demonstrations == 2000
    assert configs["alone"].asking.budget == 0 and configs["any_2"].asking.whom == "any"
    assert len({str(replace(c, asking=configs["alone"].asking)) for c in configs.values()}) == 1


def test_the_fully_taught_are_played_with_whatever_arms_are_asked_for(tmp_path: Path) -> None:
    options = Namespace(quick=False, cache=tmp_path, seeds=[0, 1], arms=["v_5"])
    with patch.object(asking, "played", return_value=run(0.5)) as play:
        found = asking.play("hops", options)
    assert {arm: list(by_seed) for arm, by_seed in found.items()} == {"taught": [0, 1], "v_5": [0, 1]}
    assert [call.args[0].asking.budget for call in play.call_args_list] == [0, 0.05, 0, 0.05]
    asking.draw({"hops": found}, tmp_path / "asking.png")
    assert (tmp_path / "asking.png").exists()


def test_saved_is_of_all_tokens_and_the_headline_has_no_job(tmp_path: Path) -> None:
    results = Results("stopping", folder=tmp_path)
    stopping.record(results, stopping.HEADLINE, 0, (run(0.5, 0.9, tokens=200).curve, run(0.5, 0.88, tokens=150).curve))
    figures = {name: f["value"] for name, f in results._merged({})["figures"].items()}
    assert figures["stopping_tokens_saved_percent"] == figures["stopping_tokens_saved_percent_hops"] == 25
    assert figures["stopping_success_lost_points_hops"] == pytest.approx(2)


def test_at_equal_success_is_where_the_mean_of_the_stopped_crosses_the_end_of_the_others(tmp_path: Path) -> None:
    full = [Curve((0, 1, 2), (0, 100, 200), (0, 1, 2), success) for success in ((0.2, 0.6, 0.7), (0.2, 0.8, 0.9))]
    stopped = [Curve((0, 1, 2), (0, 80, 120), (0, 1, 2), success) for success in ((0.2, 0.7, 0.8), (0.2, 0.7, 1.0))]
    # 0.8 of 200 tokens; stopped: 0.7 after 80, 0.9 after 120, so 0.8 after 100
    assert stopping.saved_at_equal_success(list(zip(full, stopped, strict=True))) == pytest.approx(50)
    assert stopping.saved_at_equal_success(list(zip(stopped, full, strict=True))) == 0, "never"
    results = Results("stopping", folder=tmp_path)
    stopping.equal_success(results, "maze", list(zip(full, stopped, strict=True)))
    found = results._merged({})["figures"]["stopping_saved_at_equal_success_percent_maze"]
    # by seeds: 0.7 after 80 of 200; 0.9 after 80 + 40 * 2 / 3
    assert (found["low"], found["high"]) == (pytest.approx(100 * (1 - (80 + 80 / 3) / 200)), pytest.approx(60))


def falling(value: float, reward: float) -> Trajectory:
    """V is `value` at every look; twice as many turns as there are between looks, with a token each."""
    turns = [(1 + 2 * k, 2 + 2 * k) for k in range(2 * RULE.every)]
    values = [value] * (2 * turns[-1][1])
    t = make_trajectory(values[: turns[-1][1] + 1], turns, [0.0] * (len(turns) - 1) + [reward])
    return replace(t, outcome=Outcome(reward, Ending.TERMINATED))


def test_a_verdict_is_the_first_look_outside() -> None:
    t = falling(0.1, 0.0)
    verdict = judged(t, RULE, Doubt(low=0.2)).verdict
    assert verdict is not None and verdict.value == pytest.approx(0.1)
    assert verdict.at == t.turns[RULE.every].start
    assert judged(t, RULE, Doubt(low=0.05)) is t
    assert judged(falling(0.9, 1.0), RULE, Doubt(low=0.2, high=0.8)).verdict is not None


def test_the_estimate_is_unbiased_and_the_naive_one_is_not(tmp_path: Path) -> None:
    """A wrong V: 0.1 where 50 of 100 succeed. The mean of 400 coins over 200 episodes has a standard error of at most
    100 sqrt(9 / 200 / 400) * 0.9 = 0.95 points; five of them are exceeded once in two million times."""
    episodes = [falling(0.1, float(i % 2)) for i in range(100)] + [falling(0.9, 1.0) for _ in range(100)]
    results = Results("stopping", folder=tmp_path)
    bias(results, "maze", 0, [judged(t, RULE, Doubt(low=0.2)) for t in episodes])
    figures: dict[str, Any] = {name: f["value"] for name, f in results._merged({})["figures"].items()}
    assert abs(figures["stopping_bias_points_maze"]) < 5 * 0.95
    assert figures["stopping_naive_bias_points_maze"] == pytest.approx(-25 * (1 - RULE.play_out), abs=1)
    assert figures["stopping_fixed_policy_saved_percent_maze"] > 15


def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    pairs = [(run(0.2, 0.9, tokens=9).curve, run(0.3, 0.9, tokens=7).curve)] * 2
    stopping.draw({"maze": pairs, "maze_large": pairs}, tmp_path / "stopping.png")
    arms = {name: {0: run(0.2, 0.5 + 0.1 * i, taught=i / 100)} for i, name in enumerate(("alone", "v_1", "v_2"))}
    found = {"hops": {**arms, "any_1": arms["v_1"], "taught": {0: run(0.9)}}}
    asking.draw(found, tmp_path / "asking.png")
    assert (tmp_path / "stopping.png").stat().st_size > 5000 < (tmp_path / "asking.png").stat().st_size


def test_a_pair_differs_in_stopping_alone(tmp_path: Path) -> None:
    options = Namespace(quick=True, cache=tmp_path)
    with patch.object(stopping, "played", return_value=run(0.5)) as play:
        stopping.pair("maze_large", 0, options)
    full, stopped = (call.args[0] for call in play.call_args_list)
    assert full.steps == stopped.steps == 12
    assert not full.stopping.every and replace(stopped, stopping=full.stopping) == full
