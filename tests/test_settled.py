"""What is left open in a configuration is settled by the jobs; what is given stays."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from journeyman.config import AUTO, LEFT_OPEN, LearnConfig, settled
from journeyman.errors import UsageError
from journeyman.jobs import resolve
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import UpdateConfig
from journeyman.learn.losses.policy import PolicyLossConfig
from journeyman.types import Verdict
from journeyman.watching import pace
from tests.learn.helpers import make_trajectory

MAZE, SUMS = resolve("maze"), resolve("countdown")


def test_a_job_of_several_turns_is_played_once_a_task_and_learned_from_again() -> None:
    config = settled(LearnConfig(("maze",)), [MAZE])
    assert (config.credit.rule, config.credit.unit, config.credit.gamma) == ("blend", "turn", 0.95)
    assert (config.tasks, config.repeats, config.replay, config.policy_replay, config.value_warmup) == (32, 1, 3, 3, 0)
    assert config.update.loss.negative == 0.1 and config.update.minibatches == 4


def test_a_job_of_one_turn_is_compared_with_its_group() -> None:
    config = settled(LearnConfig(("countdown",)), [SUMS])
    assert (config.credit.rule, config.credit.unit, config.credit.gamma) == ("blend", "token", 1.0)
    assert (config.tasks, config.repeats, config.replay, config.policy_replay, config.value_warmup) == (16, 8, 1, 0, 0)


def test_groups_stay_groups_where_the_rule_compares_them() -> None:
    config = settled(LearnConfig(("maze",), credit=CreditConfig(rule="grpo")), [MAZE])
    assert (config.tasks, config.repeats, config.policy_replay) == (16, 8, 0)
    assert config.update.loss.negative is None and config.update.minibatches is None


def test_what_is_given_stays() -> None:
    given = LearnConfig(("maze",), tasks=5, repeats=4, replay=0, policy_replay=1, value_warmup=0)
    given = replace(given, credit=CreditConfig(gamma=0.9))
    config = settled(given, [MAZE])
    assert [getattr(config, name) for name in LEFT_OPEN] == [5, 4, 0, 1, 0, 0.0]
    assert (config.credit.rule, config.credit.gamma, config.credit.lambda_policy) == ("blend", 0.9, 0.5)
    both = UpdateConfig(loss=PolicyLossConfig(negative=1.0), minibatches=1)
    assert settled(LearnConfig(("maze",), update=both), [MAZE]).update == both
    explicit = LearnConfig(("maze",), credit=CreditConfig(rule="gae"))
    config = settled(explicit, [MAZE])
    assert config.credit == explicit.credit and config.value_warmup == 8


@pytest.mark.parametrize("job", [MAZE, SUMS])
def test_nothing_stays_open_and_settling_again_changes_nothing(job) -> None:  # type: ignore[no-untyped-def]
    config = settled(LearnConfig((job.name,)), [job])
    assert AUTO not in [asdict(config)[name] for name in LEFT_OPEN] and config.credit.rule != "auto"
    assert settled(config, [job]) == config


@pytest.mark.parametrize("name", LEFT_OPEN)
def test_below_auto_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be at least ., got -2"):
        LearnConfig(("maze",), **{name: -2})  # type: ignore[arg-type]


def test_the_pace_follows_what_there_is_to_learn() -> None:
    open_end, foreseen = make_trajectory([0.5] * 4, [(2, 4)], [1.0]), make_trajectory([0.5] * 4, [(2, 4)], [1.0])
    foreseen = replace(foreseen, verdict=Verdict(2, 0.9, 0.1))
    assert pace([0.5, 0.3], 0.2, [open_end]) == 1, "more than a fifth fails"
    assert pace([0.05, 0.15], 0.2, [open_end]) == pytest.approx(0.5)
    assert pace([0.05, 0.15], 0.0, [open_end]) == 1, "switched off"
    assert pace([-0.1], 0.2, [open_end]) == 0, "an estimate may be below 0"
    assert pace([0.5], 0.2, [open_end, foreseen, foreseen, foreseen]) == 0.25
    assert pace([0.1], 0.2, [open_end, foreseen, foreseen, foreseen]) == 0.25, "the lesser of both"
    with pytest.raises(UsageError, match=r"ease must be a share of the attempts, 0 to 1, got 1\.5"):
        LearnConfig(("maze",), ease=1.5)
