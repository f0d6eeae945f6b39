"""A candidate learns: each kind of evidence by what fits it, and then by practice. One function per kind.

    value      V: lambda-returns of all episodes; what is not known yet ends in V itself
    imitate    the policy: corrections, teachers' answers, its own successes (learn/lessons.py)
    prefer     the policy: preferences, by DPO (learn/losses/preference.py)
    reinforce  the policy: outcomes, by V's credit; importance weights correct for the versions that answered
    practise   both: trial and error on the jobs' environments, with a teacher's grades where there is one

What the release knows is kept meanwhile by `keepers` (learn/remember.py), beside every update of the policy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import torch

from journeyman.engine.base import Engine
from journeyman.exam.platt import calibrate
from journeyman.improve.config import ImproveConfig
from journeyman.improve.evidence import Evidence
from journeyman.jobs.base import Job
from journeyman.learn.credit import CreditConfig, assign, foresight, lambda_returns, trust
from journeyman.learn.distill import drawn, play, pull, success
from journeyman.learn.learner import Learner, Metrics
from journeyman.learn.prefer import Pair, prefer
from journeyman.learn.remember import Memory, keepers, memory_of
from journeyman.learn.school import school
from journeyman.model.calibration import Calibration
from journeyman.model.decoder import Decoder
from journeyman.model.load import LoadedModel
from journeyman.model.lora import plain_copy
from journeyman.model.render import Renderer
from journeyman.model.value import ValueFunction
from journeyman.stages import Record, native_engine
from journeyman.types import FloatArray, Trajectory

SLOTS = 128
"""Episodes of practice at once."""


@dataclass
class Student:
    """A copy of the release that learns.

    Attributes:
        release: the model that is served; it does not change.
        jobs: those with an environment, by name.
        weak: names of those that are to get better.
        credit: what V was taught by.
        teacher: grades practice, where there is one.
        going: called between two pieces of work; false when the time is over.
    """

    release: LoadedModel
    learner: Learner
    engine: Engine
    renderer: Renderer
    jobs: Mapping[str, Job]
    weak: Sequence[str]
    credit: CreditConfig
    config: ImproveConfig
    teacher: Decoder | None
    going: Callable[[], bool]
    seed: int

    @staticmethod
    def of(
        release: LoadedModel,
        jobs: Mapping[str, Job],
        weak: Sequence[str],
        credit: CreditConfig,
        config: ImproveConfig,
        *,
        teacher: Decoder | None,
        going: Callable[[], bool],
        seed: int,
    ) -> Student:
        """At its beginning: with the release's weights, and a fresh V where that has none."""
        torch.manual_seed(seed)
        policy, value = plain_copy(release.model), copy.deepcopy(release.value)
        if value is None:
            value = ValueFunction.start(config.value, policy)
        learner = Learner(policy, value, config.update)
        context = min(config.context, policy.config.max_positions)
        engine = native_engine(learner, slots=SLOTS, context=context)
        renderer = Renderer(release.tokenizer)
        return Student(release, learner, engine, renderer, jobs, weak, credit, config, teacher, going, seed)

    def concerns(self, t: Trajectory) -> bool:
        """Whether the policy is to learn from it: where some jobs are weak, the others are left to what keeps them."""
        return not self.weak or t.task.job in self.weak

    def rng(self, *place: int) -> np.random.Generator:
        """Draws that follow from the seed and the place."""
        return np.random.default_rng((self.seed, *place))


def learn(s: Student, evidence: Evidence, memory: Memory) -> Iterator[Record]:
    """All of it, in the order of the module's head. Yields a record after each part.

    Args:
        memory: episodes of earlier jobs, beside those that the release plays here.
    """
    known = {**memory, **rehearsed(s)}
    s.learner.keepers = keepers(s.release.model, known, seed=s.seed) if any(known.values()) else []
    parts: dict[str, Callable[[], Metrics]] = {
        "value": lambda: learn_value(s, [*evidence.outcomes, *evidence.pending]),
        "imitate": lambda: imitate(s, evidence.lessons),
        "prefer": lambda: learn_preferences(s, evidence.pairs),
        "reinforce": lambda: reinforce(s, [*evidence.outcomes, *evidence.pending]),
    }
    for name, part in parts.items():
        if s.going():
            yield {"part": name, **part()}
    for step in range(s.config.practice.steps if s.weak else 0):
        if not s.going():
            return
        yield {"part": "practise", "step": step, **practise(s, step)}


def rehearsed(s: Student) -> Memory:
    """What the release does right at the jobs, played anew: of what users asked too little may be kept."""
    jobs = {name: job for name, job in s.jobs.items() if name not in s.weak}
    tasks = [task for job in jobs.values() for task in drawn(job, s.config.practice.rehearsal, s.rng(1))]
    s.engine.load(s.release.model, 0)
    return memory_of(play(s.engine, s.renderer, jobs, tasks, "rehearsal", s.seed, -1), len(tasks) or 1)


def learn_value(s: Student, episodes: Sequence[Trajectory]) -> Metrics:
    """Teach V what became of the episodes, and where those stand that nothing has become of yet."""
    metrics: Metrics = {}
    for number in range(s.config.value_passes if episodes else 0):
        if not s.going():
            break
        scored = s.learner.score(episodes)
        metrics = s.learner.update_value(scored, returns(s, scored), s.rng(2, number))
    return metrics


def returns(s: Student, scored: Sequence[Trajectory]) -> list[FloatArray]:
    """V's targets."""
    c = s.credit
    return lambda_returns(scored, gamma=c.gamma, lam=c.lambda_value, unit=c.unit, bootstrap_truncated=True)


def imitate(s: Student, lessons: Sequence[Trajectory]) -> Metrics:
    """Say what should have been said, and again what was said well. What others said is half of the lessons, however
    much the policy did right itself."""
    chosen = [t for t in lessons if s.concerns(t)]
    shown = [t for t in chosen if any(turn.by == "teacher" for turn in t.turns)]
    own = [t for t in chosen if all(turn.by != "teacher" for turn in t.turns)]
    if shown and len(shown) < len(own):
        shown = [shown[i % len(shown)] for i in range(len(own))]
    updates = s.config.imitation if chosen else 0
    taught = school(s.learner, [*shown, *own], s.config.school, updates, seed=s.seed)
    losses = [metrics["loss"] for metrics in takewhile(lambda _: s.going(), taught)]
    s.learner.version += bool(losses)
    return {"policy/lesson_loss": losses[-1], "lessons": len(chosen)} if losses else {}


def learn_preferences(s: Student, pairs: Sequence[Pair]) -> Metrics:
    """Prefer what was preferred."""
    return prefer(s.learner, pairs, s.rng(3), epochs=max(s.config.preference_epochs, 1)) if pairs else {}


def reinforce(s: Student, episodes: Sequence[Trajectory]) -> Metrics:
    """Follow the outcomes. Answers of temperature 0 were not drawn, so there is nothing to weigh them by: they teach V,
    and imitation. How far V is trusted in one half of the episodes, the other half says, by the V that each episode was
    answered with, before anybody knew."""
    drawn_ones = [t for t in episodes if t.temperature > 0 and s.concerns(t)]
    if len(drawn_ones) < LEAST:
        return {}
    scored = s.learner.score(drawn_ones)
    advantages: list[FloatArray] = []
    halves = [slice(0, None, 2), slice(1, None, 2)]
    learned: list[Trajectory] = []
    for half, other in zip(halves, reversed(halves), strict=True):
        advantages += assign(scored[half], replace(s.credit, bootstrap_truncated=True), trusted(s, drawn_ones[other]))
        learned += scored[half]
    return s.learner.update_policy(learned, advantages, s.rng(4))


LEAST = 8
"""Outcomes from which on the policy follows them."""


def trusted(s: Student, episodes: Sequence[Trajectory]) -> dict[str, float]:
    """By job, how far the V that was served has proved right."""
    c, weights = s.credit, dict[str, float]()
    for job in {t.task.job for t in episodes}:
        own = [t for t in episodes if t.task.job == job and not np.isnan(t.values).any()]
        found = foresight(own, gamma=c.gamma, unit=c.unit, bootstrap_truncated=True)
        weights[job] = trust([found] if found is not None else [])
    return weights


def practise(s: Student, step: int) -> Metrics:
    """One step of trial and error on the weak jobs, where nobody is kept waiting by a mistake."""
    jobs = {name: s.jobs[name] for name in s.weak if name in s.jobs}
    if not jobs:
        return {}
    c, rng = s.config.practice, s.rng(5, step)
    s.engine.load(s.learner.policy, s.learner.version)
    tasks = [task for job in jobs.values() for task in drawn(job, c.tasks, rng)]
    played = s.learner.score(play(s.engine, s.renderer, jobs, tasks, f"practice{step:04d}", s.seed, -1, c.repeats))
    metrics: Metrics = {f"{name}/success": success(played, name) for name in jobs}
    if not played:
        return metrics
    metrics |= s.learner.update_value(played, returns(s, played), rng)
    if s.teacher is not None:
        return metrics | pull(s.learner, played, dict.fromkeys(jobs, s.teacher), 2, rng)
    credit = replace(s.credit, rule="rloo") if c.repeats > 1 else s.credit
    return metrics | s.learner.update_policy(played, assign(played, credit), rng)


def calibrated(s: Student) -> Calibration | None:
    """V's calibration, on tasks of its own."""
    if s.learner.value is None or not s.jobs or not s.config.practice.calibration:
        return None
    s.engine.load(s.learner.policy, s.learner.version)
    tasks = [task for job in s.jobs.values() for task in drawn(job, s.config.practice.calibration, s.rng(6))]
    played = play(s.engine, s.renderer, s.jobs, tasks, "calibration", s.seed, -1)
    return calibrate(s.learner.score(played), seed=s.seed)
