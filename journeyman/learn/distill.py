"""On-policy distillation: a student plays, and at every token of its own is pulled towards what its teacher would say.

    repeat:
      collect   play episodes of every job with the student's present weights
      value     teach V what became of them
      pull      make the divergence from the job's own teacher smaller, in the states the student came to

With one teacher for each job and the teachers' merged weights as the start, this brings specialists together in one
model (2606.30406). With one large teacher and a small student it makes a specialist: a student that knows nothing yet
first imitates episodes of the teacher (1606.07947), since in states where it babbles the teacher has no advice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from journeyman.engine.base import Engine
from journeyman.engine.native import NativeEngine
from journeyman.errors import UsageError
from journeyman.jobs.base import Job
from journeyman.learn.batch import collate, micro_batches, mini_batches, usable
from journeyman.learn.credit import CreditConfig, lambda_returns
from journeyman.learn.learner import Learner, Metrics, linear_decay
from journeyman.learn.losses.divergence import Direction, divergence_loss
from journeyman.learn.optimizer import Optimizer, OptimizerConfig
from journeyman.learn.school import SchoolConfig
from journeyman.model.decoder import Decoder
from journeyman.model.render import Renderer
from journeyman.rollout.runner import attempts, rollout
from journeyman.types import Task, Trajectory

Teachers = Mapping[str, Decoder]
"""By the job that each teaches."""

SLOTS = 128
"""Episodes at once."""


@dataclass(frozen=True)
class DistillConfig:
    """How long a student is taught, and in what portions."""

    steps: int = 40
    """Steps of playing and being graded token by token."""
    tasks: int = 16
    """Tasks of each job in one step, played once each."""
    minibatches: int = 1
    """Updates in one step."""
    watched: int = 4000
    """Episodes of each teacher whose successes the student is shown before it plays; 0: none."""
    school: SchoolConfig = field(default_factory=lambda: SchoolConfig(updates=2000, batch=16))
    """How it learns from them, a `batch` of each teacher in one update; `demonstrations` is not used."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(warmup=10))
    """The policy's, while it plays; a learning rate that is not given is half that of trial and error: at twice, with
    a few episodes of each job in an update, playing undid what was shown (docs/LOG.md)."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("tasks", 1), ("minibatches", 1), ("watched", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"distill: {name} must be at least {least}, got {getattr(self, name)}")


def distill(
    learner: Learner,
    engine: Engine,
    renderer: Renderer,
    jobs: Mapping[str, Job],
    teachers: Teachers,
    config: DistillConfig,
    credit: CreditConfig,
    *,
    seed: int,
) -> Iterator[Metrics]:
    """Teach the learner's policy, and V where it has one. Yields each step's metrics.

    Args:
        engine: samples from the learner's policy.
        jobs: what is played; each has a teacher of its own.
        credit: what V's targets are (gamma, lambda_value, unit).
    """
    for step in range(config.steps):
        rng = np.random.default_rng((seed, step))
        engine.load(learner.policy, learner.version)
        tasks = [task for job in jobs.values() for task in drawn(job, config.tasks, rng)]
        played = play(engine, renderer, jobs, tasks, f"distill{step:06d}", seed, step)
        metrics: Metrics = {}
        if learner.value is not None and played:
            returns = partial(
                lambda_returns, gamma=credit.gamma, lam=credit.lambda_value, unit=credit.unit, bootstrap_truncated=False
            )
            scored = learner.score(played)
            metrics = learner.update_value(scored, returns(scored), rng)
        metrics |= {f"{name}/success": success(played, name) for name in jobs}
        yield metrics | pull(learner, played, teachers, config.minibatches, rng)


def watch(
    learner: Learner,
    renderer: Renderer,
    jobs: Mapping[str, Job],
    teachers: Teachers,
    config: SchoolConfig,
    episodes: int,
    *,
    seed: int,
) -> Iterator[Metrics]:
    """Answer as the teachers did where they succeeded, and give what else they might have said the same
    probability (forward divergence; 1503.02531). An update sees `config.batch` episodes of each. Yields its metrics.

    Raises:
        UsageError: a teacher never succeeded, so there is nothing to imitate.
    """
    lessons: dict[str, list[Trajectory]] = {}
    for name, job in jobs.items():
        engine = NativeEngine(teachers[name], slots=SLOTS, dtype=getattr(torch, learner.precision))
        tasks = drawn(job, episodes, np.random.default_rng((seed, 79)))
        shown = play(engine, renderer, {name: job}, tasks, "watched", seed, -1)
        lessons[name] = [t for t in shown if t.outcome.success]
        if not lessons[name]:
            raise UsageError(
                f"distill: the teacher of {name} succeeded in none of {len(tasks)} episodes",
                fix="give a teacher that knows the job, or --distill.watched 0",
            )
    optimizer = Optimizer(config.optimizer.fitted(learner.policy.config.hidden_size, 6), [learner.policy])
    updates, rng = config.updates_for(from_scratch=True), np.random.default_rng((seed, 80))
    for update in range(updates):
        chosen = [own[i] for own in lessons.values() for i in rng.integers(len(own), size=config.batch)]
        found = add_divergence(learner, chosen, teachers, "forward")
        optimizer.step(linear_decay(update / updates))
        yield {"policy/divergence": found}


def pull(
    learner: Learner,
    trajectories: Sequence[Trajectory],
    teachers: Teachers,
    minibatches: int,
    rng: np.random.Generator,
    direction: Direction = "reverse",
) -> Metrics:
    """Updates of the policy towards each trajectory's teacher; how far it was from them before (nats per token)."""
    if not trajectories:
        return {}
    total, parts = 0.0, list(mini_batches(len(trajectories), minibatches, rng))
    for part in parts:
        total += add_divergence(learner, [trajectories[i] for i in part], teachers, direction)
        learner.step_policy()
    learner.version += 1
    return {"policy/divergence": total / len(parts)}


def add_divergence(
    learner: Learner,
    trajectories: Sequence[Trajectory],
    teachers: Teachers,
    direction: Direction,
    weight: float = 1.0,
) -> float:
    """Add `weight` times the gradient of the mean over jobs of the mean divergence per token from each job's teacher.

    Jobs count alike: where one says fifty tokens in an episode and another five, the mean over all tokens would be
    that of the first. Returns the mean over jobs.
    """
    by_job = {name: [t for t in trajectories if t.task.job == name] for name in teachers}
    by_job = {name: own for name, own in by_job.items() if any(t.mask.any() for t in own)}
    total = 0.0
    for name, own in by_job.items():
        share = 1 / (len(by_job) * sum(int(t.mask.sum()) for t in own))
        for rows in micro_batches(own, learner.token_budget):
            batch = collate([own[i] for i in rows], device=learner.device)
            with torch.no_grad():
                theirs = learner.states(teachers[name], batch)
            ours = learner.states(learner.policy, batch)
            with learner.autocast():
                loss, metrics = divergence_loss(
                    ours, learner.policy.head, theirs, teachers[name].head.detach(), batch.temperature_A, direction
                )
            (weight * share * loss).backward()
            total += share * metrics["divergence"]
    return total


def drawn(job: Job, count: int, rng: np.random.Generator) -> list[Task]:
    """Tasks of the split `train`, without replacement where there are enough."""
    size = job.splits["train"]
    return [job.task("train", int(index)) for index in rng.choice(size, count, replace=size < count)]


def play(
    engine: Engine,
    renderer: Renderer,
    jobs: Mapping[str, Job],
    tasks: Sequence[Task],
    prefix: str,
    seed: int,
    step: int,
    repeats: int = 1,
) -> list[Trajectory]:
    """Episodes of the tasks that can be learned from, in the order of their ids."""
    orders = attempts(tasks, repeats=repeats, prefix=prefix, seed=seed, step=step)
    return usable(rollout(engine, renderer, jobs, orders))


def success(played: Sequence[Trajectory], job: str) -> float:
    """Share of the job's episodes that succeeded; 0 where none could be played."""
    own = [float(t.outcome.success) for t in played if t.task.job == job]
    return float(np.mean(own)) if own else 0.0
