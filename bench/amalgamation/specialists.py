"""Four instances of one model, each deployed on a job of its own: they are shown it, and then practise with V."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from journeyman.config import LearnConfig
from journeyman.exam.exam import ExamConfig
from journeyman.learn.school import SchoolConfig
from journeyman.loop import learn
from journeyman.model.load import LoadedModel, load

BASE = "apprentice"


@dataclass(frozen=True)
class Specialty:
    """A job, and how it is learned and examined here."""

    spec: str
    demonstrations: int
    updates: int
    """Of imitation."""
    steps: int
    """Of trial and error."""
    tasks: int
    """In an exam."""
    attempts: int = 1
    """At each of them; more where a split has few tasks."""


SPECIALTIES: Mapping[str, Specialty] = {
    "maze": Specialty("maze,size=4", 200, 60, 6, 48, attempts=6),
    "hops": Specialty("hops,min_hops=2", 500, 40, 6, 120),
    "countdown": Specialty("countdown,numbers=2,largest=9,largest_target=20", 4000, 400, 4, 400),
    "chain_sum": Specialty(
        "reasoning_gym:chain_sum,max_terms=2,min_digits=1,max_digits=1,max_reply_tokens=16", 4000, 400, 4, 400
    ),
}


def specialist(name: str, seed: int, cache: Path) -> LoadedModel:
    """The model that learned this job, and no other; learned once, and kept in the cache."""
    place = cache / f"{name}-{seed}"
    if not (place / "done").exists():
        taught = SPECIALTIES[name]
        config = LearnConfig(
            jobs=(taught.spec,),
            model=BASE,
            seed=seed,
            school=SchoolConfig(demonstrations=taught.demonstrations, updates=taught.updates),
            steps=taught.steps,
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
