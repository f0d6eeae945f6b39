"""A candidate learns: each kind of evidence by what fits it, and then by practice. One function per kind.

    value      V: lambda-returns of all episodes; what is not known yet ends in V itself
    study      the policy: corrections, teachers' answers, its own successes (learn/lessons.py)
    practise   both: attempts at the weak jobs' own tasks, whose successes join the lessons, and all are studied anew
    grade      the policy: a teacher's view of each token of such attempts, where there is a teacher (learn/distill.py)
    prefer     the policy: preferences, by DPO (learn/losses/preference.py)
    reinforce  the policy: outcomes, by V's credit; importance weights correct for the versions that answered
    look       V: what the candidate does now, which is not what was served

What the release knows is kept meanwhile by `keepers` (learn/remember.py), beside every update of the policy. Practice
is by imitation of successes and not by the policy gradient: where a policy is nearly sure, that makes it worse, and
this does not (docs/LOG.md, 2026-11-21).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
from journeyman.learn.lessons import lessons as own_lessons
from journeyman.learn.lessons import study as study_anew
from journeyman.learn.prefer import prefer
from journeyman.learn.remember import Memory, keepers, memory_of
from journeyman.model.calibration import Calibration
from journeyman.model.decoder import Decoder
from journeyman.model.load import LoadedModel
from journeyman.model.lora import plain_copy
from journeyman.model.render import Renderer
from journeyman.model.value import ValueFunction
from journeyman.stages import Record, native_engine
from journeyman.types import FloatArray, Task, Trajectory

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
    known = {job: [*memory.get(job, ()), *played] for job, played in rehearsed(s).items()}
    s.learner.keepers = keepers(s.release.model, {**memory, **known}, seed=s.seed)
    served = [*evidence.outcomes, *evidence.pending]
    yield {"part": "value", **learn_value(s, served)}
    lessons = [t for t in evidence.lessons if s.concerns(t)]
    yield {"part": "study", **study(s, lessons)}
    for number in range(s.config.practice.rounds if s.weak else 0):
        if not s.going():
            return
        attempts = practise(s, number)
        successes = {f"{name}/success": success(attempts, name) for name in s.weak}
        lessons += own_lessons(attempts)
        yield {"part": "practise", "round": number, **successes, **learn_value(s, attempts)}
        yield {"part": "study", **study(s, lessons)}
    if s.teacher is not None and s.going():
        yield {"part": "grade", **grade(s, s.teacher)}
    for name, part in (("prefer", prefer_of), ("reinforce", reinforce_of)):
        if s.going():
            yield {"part": name, **part(s, evidence)}


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


def study(s: Student, lessons: Sequence[Trajectory]) -> Metrics:
    """Say what should have been said, and again what was said well. What others said is half of the lessons, however
    much the policy did right itself."""
    shown = [t for t in lessons if any(turn.by == "teacher" for turn in t.turns)]
    own = [t for t in lessons if all(turn.by != "teacher" for turn in t.turns)]
    if shown and len(shown) < len(own):
        shown = [shown[i % len(shown)] for i in range(len(own))]
    if not (lessons and s.config.imitation):
        return {}
    rate = s.config.school.optimizer.fitted(s.learner.policy.config.hidden_size, GENTLY)
    gentle = replace(s.config.school, optimizer=rate)
    found = study_anew(s.learner, [*shown, *own], gentle, s.config.imitation, s.seed, s.going)
    return {**found, "lessons": len(lessons)}


GENTLY = 2
"""Times the learning rate of trial and error. School takes 6 (learn/school.py), which costs a model what it knows
otherwise (docs/LOG.md, 2026-11-21)."""


def practise(s: Student, number: int) -> list[Trajectory]:
    """Attempts at tasks of the weak jobs, where nobody is kept waiting by a mistake."""
    jobs = {name: s.jobs[name] for name in s.weak if name in s.jobs}
    tasks = [task for job in jobs.values() for task in drawn(job, s.config.practice.tasks, s.rng(5, number))]
    return played(s, jobs, tasks, f"practice{number:04d}", s.config.practice.repeats)


def played(s: Student, jobs: Mapping[str, Job], tasks: Sequence[Task], name: str, repeats: int = 1) -> list[Trajectory]:
    """Episodes of the policy as it is now."""
    s.engine.load(s.learner.policy, s.learner.version)
    return play(s.engine, s.renderer, jobs, tasks, name, s.seed, -1, repeats)


def grade(s: Student, teacher: Decoder) -> Metrics:
    """On-policy distillation: one pass over fresh attempts at the weak jobs."""
    jobs = {name: s.jobs[name] for name in s.weak if name in s.jobs}
    return pull(s.learner, practise(s, -1), dict.fromkeys(jobs, teacher), 8, s.rng(6)) if jobs else {}


def prefer_of(s: Student, evidence: Evidence) -> Metrics:
    """Prefer what was preferred."""
    epochs = s.config.preference_epochs
    return prefer(s.learner, evidence.pairs, s.rng(3), epochs=epochs) if epochs else {}


def reinforce_of(s: Student, evidence: Evidence) -> Metrics:
    """Follow the outcomes."""
    return reinforce(s, [*evidence.outcomes, *evidence.pending])


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


def look(s: Student) -> Calibration | None:
    """Let V see what the candidate does at the jobs now; its calibration, by other tasks."""
    if s.learner.value is None or not s.jobs or not s.config.practice.looks:
        return None
    tasks = [task for job in s.jobs.values() for task in drawn(job, s.config.practice.looks, s.rng(7))]
    seen = played(s, s.jobs, tasks, "look")
    learn_value(s, seen[::2])
    return calibrate(s.learner.score(seen[1::2]), seed=s.seed)
