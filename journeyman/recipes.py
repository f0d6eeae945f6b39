"""Recipes: functions that return complete configurations. Copy one and change it."""

from __future__ import annotations

from journeyman.config import LearnConfig
from journeyman.exam.exam import ExamConfig
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import UpdateConfig
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.school import SchoolConfig
from journeyman.model.value import ValueConfig


def demo(seed: int = 0) -> LearnConfig:
    """`make demo`: the apprentice (recipes/apprentice.py) learns to ask the right questions and to find its way.

    It has watched a careless colleague look things up (`hops`), and guides in other buildings (`maze`). All the rest
    is trial and error, rewarded at the end of an episode alone: 32 attempts at each job in a step, as jobs of several
    turns are learned where nothing else is said (config.py, `settled`).
    """
    return LearnConfig(
        jobs=("hops,min_hops=2", "maze,size=5,max_turns=30"),
        model="apprentice",
        steps=80,
        seed=seed,
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
