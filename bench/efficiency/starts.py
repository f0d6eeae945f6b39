"""The checkpoints that every method starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.efficiency.subjects import School, Subject
from journeyman.jobs import resolve
from journeyman.jobs.base import Env, Job
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.school import SchoolConfig, demonstrations, school
from journeyman.model.load import save
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh
from journeyman.types import StepResult, Task

PUPIL = "tiny,width=96,layers=3"


class Careless(Job):
    """A job of one turn whose expert sometimes gives the answer to another task."""

    def __init__(self, job: Job, slips: float) -> None:
        assert job.max_turns == 1, "with several turns the rest would follow from the slip"
        self.job, self.slips = job, slips
        self.name, self.splits, self.max_turns = job.name, job.splits, job.max_turns
        self.rng = np.random.default_rng(0)

    def task(self, split: str, index: int) -> Task:
        return self.job.task(split, index)

    def env(self, task: Task) -> Env:
        asked = self.job.env(task)
        if self.rng.random() >= self.slips:
            return asked
        return Slip(asked, self.job.env(self.job.task("train", int(self.rng.integers(self.splits["train"])))))


class Slip(Env):
    """One task, and what the expert says to another."""

    def __init__(self, asked: Env, other: Env) -> None:
        self.asked, self.other = asked, other

    def step(self, reply: str) -> StepResult:
        return self.asked.step(reply)

    def expert(self) -> str | None:
        return self.other.expert()


def start(subject: Subject, cache: Path) -> str:
    """The checkpoint that a job is started from; schooled once, and kept in the cache."""
    if subject.school is None:
        return "apprentice"
    taught = subject.school
    told = f"{subject.spec}-{PUPIL}-{taught.demonstrations}-{taught.updates}-{taught.slips}"
    folder = cache / "start" / "".join(c if c.isalnum() or c in "=-_." else "-" for c in told)
    if not folder.exists():
        pupil(resolve(subject.spec), taught, folder)
    return str(folder)


def pupil(job: Job, taught: School, folder: Path) -> None:
    """School a model from scratch and write it to the folder."""
    torch.manual_seed(0)
    loaded = fresh(PUPIL, [job])
    teacher = Careless(job, taught.slips) if taught.slips else job
    shown = demonstrations([teacher], taught.demonstrations, 0, Renderer(loaded.tokenizer))
    learner = Learner(loaded.model, None, UpdateConfig(), keep_reference=False)
    for _ in school(learner, shown, SchoolConfig(), taught.updates, seed=0):
        pass
    save(folder, loaded.model, loaded.tokenizer)
