"""A stream of jobs, and what a stage of it is: imitation of some demonstrations, then a little trial and error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from bench.common import LETTERS
from journeyman.engine.native import NativeEngine
from journeyman.exam.exam import ExamConfig, examine
from journeyman.jobs import resolve
from journeyman.jobs.base import Job
from journeyman.learn.credit import CreditConfig, assign
from journeyman.learn.distill import drawn, play
from journeyman.learn.learner import Learner
from journeyman.learn.remember import memory_of
from journeyman.learn.school import SchoolConfig, demonstrations, school
from journeyman.model.decoder import Decoder
from journeyman.model.load import load
from journeyman.model.render import Renderer
from journeyman.types import Trajectory

BASE = "apprentice"
BUILDINGS = tuple(f"maze,size=4,seed={building}" for building in (1000, 1001))
PAST = ("hops,max_hops=1", *BUILDINGS)
"""What the apprentice watched before the stream begins (recipes/apprentice.py): none of it is a job of the stream."""
CONTRADICTED: Mapping[str, Sequence[str]] = {"maze": BUILDINGS}
"""What is remembered no longer once a job is met: rooms of the same names have other doors there. Until then, it keeps
the skill of finding a way."""
PAST_EPISODES = 300
CREDIT = CreditConfig(rule="rloo", unit="turn")
STEPS, TASKS, REPEATS = 3, 12, 4
"""Of trial and error: steps, tasks in each, episodes of each."""
FEW = 64
"""Episodes of each job, where few are remembered."""


@dataclass(frozen=True)
class Chapter:
    """A job of the stream."""

    spec: str
    demonstrations: int
    updates: int
    """Of imitation, with 32 demonstrations each."""
    tasks: int = 100
    """In an exam."""


CHAPTERS: Mapping[str, Chapter] = {
    "hops2": Chapter("hops,min_hops=2,max_hops=2", 500, 80, 150),
    "sort": Chapter(f"{LETTERS}:Sort", 4000, 500, 250),
    "maze": Chapter("maze,size=4", 168, 80, 48),
    "hops3": Chapter("hops,min_hops=3", 500, 80, 150),
    "reverse": Chapter(f"{LETTERS}:Reverse", 4000, 500, 250),
    "rise": Chapter(f"{LETTERS}:Rise", 4000, 500, 250),
}
ORDERS: Sequence[Sequence[str]] = (tuple(CHAPTERS), tuple(CHAPTERS)[::-1])

Look = Callable[[float], None]
"""Called in a stage with the share of its imitation that is done."""
MARKS = (0.0, 0.25, 0.5, 1.0)


def shown(name: str, seed: int, renderer: Renderer) -> list[Trajectory]:
    """The job's demonstrations."""
    chapter = CHAPTERS[name]
    return demonstrations([resolve(chapter.spec)], chapter.demonstrations, seed, renderer)


@cache
def past() -> dict[str, list[Trajectory]]:
    """The apprentice's own successes at what it watched, by job: its memory before the stream."""
    loaded = load(BASE)
    jobs = {job.name: job for job in map(resolve, PAST)}
    rng = np.random.default_rng(0)
    tasks = [task for job in jobs.values() for task in drawn(job, PAST_EPISODES, rng)]
    engine = NativeEngine(loaded.model, slots=128, context=1024)
    return memory_of(play(engine, Renderer(loaded.tokenizer), jobs, tasks, "past", 0, -1))


def imitate(learner: Learner, lessons: Sequence[Trajectory], updates: int, seed: int, look: Look | None = None) -> None:
    """Learn the lessons; `look` is called at each of `MARKS`."""
    due = [round(mark * updates) for mark in MARKS]
    for number, _ in enumerate(school(learner, lessons, SchoolConfig(), updates, seed=seed)):
        for mark, update in zip(MARKS, due, strict=True):
            if look is not None and update == number:
                look(mark)
    if look is not None:
        look(1.0)


def practise(learner: Learner, names: Sequence[str], renderer: Renderer, seed: int) -> None:
    """Learn by trial and error, on the policy's own episodes, without a value function to keep it short."""
    jobs = resolved(names)
    engine = NativeEngine(learner.policy, slots=128, context=1024)
    for step in range(STEPS):
        rng = np.random.default_rng((seed, step))
        tasks = [task for job in jobs.values() for task in drawn(job, TASKS, rng)]
        played = play(engine, renderer, jobs, tasks, f"practice{step}", seed, step, REPEATS)
        learner.update_policy(played, assign(played, CREDIT), rng)
        engine.load(learner.policy, learner.version)


def success(policy: Decoder, names: Sequence[str], renderer: Renderer, split: str, share: int = 1) -> list[float]:
    """Of each job, the share of episodes that succeeded: the same tasks and draws every time."""
    found: list[float] = []
    engine = NativeEngine(policy, slots=128, context=1024)
    for name in names:
        chapter = CHAPTERS[name]
        config = ExamConfig(tasks=chapter.tasks // share, attempts=2 if name == "maze" else 1, splits=(split,))
        job = resolve(chapter.spec)
        [result], _ = examine(engine, renderer, list, {job.name: job}, config, step=0)
        found.append(result.success)
    return found


def resolved(names: Sequence[str]) -> dict[str, Job]:
    """The jobs by their own names."""
    return {job.name: job for job in (resolve(CHAPTERS[name].spec) for name in names)}
