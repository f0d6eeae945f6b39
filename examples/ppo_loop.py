"""The whole algorithm in one file: PPO with a value function, on the library's primitives.

What it is not: it does not resume, record, examine between steps, or write a report; `journeyman learn` does.
It is for those who learn by reading. Run it: python examples/ppo_loop.py  (about two minutes on two cores)

    a tiny model imitates a few demonstrations of a maze's expert, then
      plays episodes            engine + environment   -> tokens, log-probabilities, outcome
      is told how it was doing  value function         -> V after every token
      gives credit              GAE over turns         -> one advantage per reply
      learns                    V towards the outcome, the policy by the clipped surrogate
"""

from __future__ import annotations

import numpy as np
import torch

from journeyman.engine.native import NativeEngine
from journeyman.jobs import resolve
from journeyman.learn.credit import gae, lambda_returns
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.school import SchoolConfig, demonstrations, school
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh
from journeyman.model.value import ValueConfig
from journeyman.rollout import attempts, rollout

JOB, STEPS, TASKS, REPEATS, WARMUP, SEED = "maze,size=4", 40, 16, 8, 4, 0


def main() -> None:
    torch.manual_seed(SEED)
    job = resolve(JOB)
    jobs = {job.name: job}

    # A model from scratch that has seen sixty demonstrations: it knows the rules, not yet the building.
    model = fresh("tiny,width=64,layers=3", [job])
    renderer = Renderer(model.tokenizer)
    pupil = Learner(model.model, None, UpdateConfig(), keep_reference=False)
    for _ in school(pupil, demonstrations([job], 60, SEED, renderer), SchoolConfig(), updates=150, seed=SEED):
        pass

    config = UpdateConfig(policy=OptimizerConfig(learning_rate=1e-3), critic=OptimizerConfig(learning_rate=2e-3))
    learner = Learner.start(model.model, ValueConfig(placement="twin", target="bernoulli"), config)
    engine = NativeEngine(learner.policy, slots=128, context=512)

    for step in range(STEPS):
        rng = np.random.default_rng((SEED, step))

        # 1. collect: the same task several times, all episodes at once
        picks = rng.choice(job.splits["train"], TASKS)
        orders = attempts([job.task("train", int(i)) for i in picks], repeats=REPEATS, prefix=f"{step}", seed=SEED)
        episodes = list(rollout(engine, renderer, jobs, orders))

        # 2. how was it doing? V after each token, before V learns from these outcomes
        episodes = learner.score(episodes)

        # 3. credit: did this reply make success more or less likely than V thought?
        advantages = gae(episodes, gamma=1.0, lam=0.9, unit="turn", bootstrap_truncated=False)

        # 4. learn: V from what became of the episodes, then the policy
        targets = lambda_returns(episodes, lam=1.0, unit="turn", bootstrap_truncated=False)
        learner.update_value(episodes, targets, rng)
        if step >= WARMUP:  # a value function has to be good before it is used
            learner.update_policy(episodes, advantages, rng)
            engine.load(learner.policy, learner.version)

        success = np.mean([t.outcome.success for t in episodes])
        print(f"step {step:3d}  success {success:5.1%}  tokens {sum(len(t) for t in episodes):6d}", flush=True)


if __name__ == "__main__":
    main()
