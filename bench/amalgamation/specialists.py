"""Four instances of one model, each deployed on its own job: they are shown more of it, and then practise with V."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.common import LETTERS
from journeyman.config import LearnConfig
from journeyman.exam.exam import ExamConfig
from journeyman.jobs import resolve
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.school import SchoolConfig, demonstrations, school
from journeyman.loop import learn
from journeyman.model.load import LoadedModel, load, save
from journeyman.model.render import Renderer

PUPIL = "apprentice"
BASE_UPDATES = 200
"""Of the base's schooling, on all jobs at once."""
PRACTICE = UpdateConfig(policy=OptimizerConfig(learning_rate=1e-4, warmup=10))
"""Smaller steps than usual, so that what was just imitated stays."""


@dataclass(frozen=True)
class Specialty:
    """A job, and how it is learned and examined here."""

    spec: str
    glimpse: int
    """Demonstrations that the base has seen."""
    demonstrations: int
    """That the specialist is shown."""
    updates: int
    """Of imitating them."""
    steps: int
    """Of trial and error."""
    tasks: int
    """In an exam."""
    attempts: int = 1
    """At each of them; more where a split has few tasks."""


SPECIALTIES: Mapping[str, Specialty] = {
    "maze": Specialty("maze,size=5", 20, 400, 150, 2, 120, attempts=4),
    "hops": Specialty("hops,min_hops=2", 20, 500, 60, 2, 250),
    "sort": Specialty(f"{LETTERS}:Sort", 1000, 4000, 800, 2, 500),
    "reverse": Specialty(f"{LETTERS}:Reverse", 1000, 4000, 800, 2, 500),
}


def taught_a_little(cache: Path) -> Path:
    """What all specialists begin as: the apprentice after a glimpse of each of the jobs; made once."""
    place = cache / "base"
    if not place.exists():
        torch.manual_seed(0)
        begun = load(PUPIL)
        renderer = Renderer(begun.tokenizer)
        lessons = [
            lesson
            for taught in SPECIALTIES.values()
            for seen in [demonstrations([resolve(taught.spec)], taught.glimpse, 0, renderer)]
            for lesson in (seen * (1000 // len(seen)))
        ]
        learner = Learner(begun.model, None, UpdateConfig(), keep_reference=False)
        for _ in school(learner, lessons, SchoolConfig(), BASE_UPDATES, seed=0):
            pass
        save(place, learner.policy, begun.tokenizer)
    return place


def specialist(name: str, seed: int, cache: Path) -> LoadedModel:
    """The model that learned this job, and no other; learned once, and kept in the cache."""
    place = cache / f"{name}-{seed}"
    if not (place / "done").exists():
        taught = SPECIALTIES[name]
        config = LearnConfig(
            jobs=(taught.spec,),
            model=str(taught_a_little(cache)),
            seed=seed,
            school=SchoolConfig(taught.demonstrations, taught.updates),
            steps=taught.steps,
            update=PRACTICE,
            exam=ExamConfig(tasks=1, splits=("test",)),
            checkpoint_every=2,
            threads=1,
        )
        for _ in learn(config, place / "run"):
            pass
        shutil.move(place / "run" / "model", place / "model")
        shutil.rmtree(place / "run")
        (place / "done").touch()
    return load(place / "model")
