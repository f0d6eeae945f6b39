"""Recipes: functions that return complete configurations. Copy one and change it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

from journeyman.config import AUTO, LEFT_OPEN, LearnConfig
from journeyman.exam.exam import ExamConfig
from journeyman.jobs.base import Job
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import UpdateConfig
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.school import SchoolConfig
from journeyman.model.value import ValueConfig

TURNS = CreditConfig(rule="gae", unit="turn", gamma=0.95, lambda_policy=0.5, lambda_value=0.7)
"""Credit of jobs with several turns: from V alone. docs/value.md has the reasons."""
ONE_TURN = CreditConfig(rule="blend", unit="token")
"""Credit of jobs with one turn: by the group, and by V as far as it knows more."""
WARMUP = 256
"""Episodes of a job from which V learns before the policy does."""


def settled(config: LearnConfig, jobs: Iterable[Job]) -> LearnConfig:
    """The configuration with everything in it that was left open: what measured best for such jobs (docs/value.md).

    With credit from V alone, each task is played once in a step, steps are small, and policy and V learn again from
    the last ones. Wherever episodes are compared with their group, tasks are played eight times and learned from once.
    """
    credit, several = config.credit, any(job.max_turns > 1 for job in jobs)
    if credit.rule == "auto":
        best = TURNS if several else ONE_TURN
        given = {f.name: getattr(credit, f.name) for f in fields(credit) if getattr(credit, f.name) != f.default}
        credit = replace(best, **given)
    alone = several and credit.rule == "gae" and config.repeats in (AUTO, 1)
    repeats = config.repeats if config.repeats != AUTO else 1 if alone else 8
    tasks = config.tasks if config.tasks != AUTO else 32 if alone else 16
    measured = {
        "tasks": tasks,
        "repeats": repeats,
        "replay": 3 if alone else 1,
        "policy_replay": 3 if alone else 0,
        "value_warmup": -(-WARMUP // (tasks * repeats)),
    }
    left_open = {name: measured[name] for name in LEFT_OPEN if getattr(config, name) == AUTO}
    return replace(config, credit=credit, **left_open)


def demo(seed: int = 0) -> LearnConfig:
    """`make demo`: the apprentice (recipes/apprentice.py) learns to ask the right questions and to find its way.

    It has watched a careless colleague look things up (`hops`), and guides in other buildings (`maze`). All the rest
    is trial and error, rewarded at the end of an episode alone.
    """
    return LearnConfig(
        jobs=("hops,min_hops=2", "maze,size=5,max_turns=30"),
        model="apprentice",
        steps=80,
        tasks=16,
        repeats=8,
        seed=seed,
        credit=CreditConfig(rule="gae", unit="turn", lambda_policy=0.95),
        value=ValueConfig(placement="twin", target="bernoulli"),
        replay=0,
        exam=ExamConfig(tasks=200, attempts=4),
        context=512,
    )


def demo_llm(seed: int = 0) -> LearnConfig:
    """`make demo-llm`: SmolLM2-135M-Instruct learns sums of one- and two-digit numbers, on a laptop's processor.

    It knows some of them, but answers in sentences where the grader wants a number: ten updates on worked sums show
    it the form, trial and error does the rest.
    """
    return LearnConfig(
        jobs=("reasoning_gym:chain_sum,max_terms=2,min_digits=1,max_digits=2,max_reply_tokens=16",),
        model="smollm2-135m",
        steps=40,
        tasks=16,
        repeats=8,
        seed=seed,
        school=SchoolConfig(
            demonstrations=160, updates=10, batch=16, optimizer=OptimizerConfig(learning_rate=3e-5, warmup=5)
        ),
        credit=CreditConfig(rule="gae", unit="turn", lambda_policy=0.95),
        value=ValueConfig(placement="head"),
        update=UpdateConfig(policy=OptimizerConfig(learning_rate=2e-5, warmup=5), minibatches=1),
        value_warmup=2,
        exam=ExamConfig(tasks=200, attempts=2),
        checkpoint_every=20,
        slots=128,
        context=256,
    )
