"""Recipes: functions that return complete configurations. Copy one and change it."""

from __future__ import annotations

from journeyman.config import LearnConfig
from journeyman.exam.exam import ExamConfig
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import UpdateConfig
from journeyman.learn.losses.policy import PolicyLossConfig
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.school import SchoolConfig
from journeyman.model.value import ValueConfig


def demo(seed: int = 0) -> LearnConfig:
    """`make demo`: a 0.2M-parameter model learns its way around a building it was never shown (maze).

    Twenty-five demonstrations teach it how replies look; all the rest is trial and error, rewarded on arrival alone.
    """
    return LearnConfig(
        jobs=("maze,size=4",),
        model="tiny,width=64,layers=3",
        steps=60,
        tasks=16,
        repeats=8,
        seed=seed,
        school=SchoolConfig(demonstrations=(25,), updates=100),
        credit=CreditConfig(rule="gae", unit="turn", gamma=0.95, lambda_policy=0.95),
        value=ValueConfig(placement="twin", target="bernoulli"),
        update=UpdateConfig(
            policy=OptimizerConfig(learning_rate=1e-3),
            critic=OptimizerConfig(learning_rate=2e-3),
            policy_epochs=2,
            minibatches=8,
        ),
        value_warmup=3,
        replay=1,
        exam=ExamConfig(tasks=200, attempts=4),
        exam_every=10,
        context=512,
    )


def demo_llm(seed: int = 0) -> LearnConfig:
    """`make demo-llm`: SmolLM2-135M-Instruct learns to spell words backwards, on a laptop's processor."""
    return LearnConfig(
        jobs=("reasoning_gym:spell_backward",),
        model="smollm2-135m",
        steps=60,
        tasks=16,
        repeats=8,
        seed=seed,
        credit=CreditConfig(rule="gae", unit="token", lambda_policy=0.95),
        value=ValueConfig(placement="head"),
        update=UpdateConfig(
            policy=OptimizerConfig(learning_rate=1e-5),
            critic=OptimizerConfig(learning_rate=1e-3),
            loss=PolicyLossConfig(),
            minibatches=2,
            precision="bfloat16",
            token_budget=4096,
        ),
        exam=ExamConfig(tasks=200),
        checkpoint_every=20,
        slots=64,
        context=512,
    )
