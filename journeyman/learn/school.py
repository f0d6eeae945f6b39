"""Schooling: before trial and error, some teaching. Demonstrations of a job's expert, or plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from journeyman.errors import JobError, UsageError
from journeyman.jobs.base import Job
from journeyman.learn.learner import Learner, Metrics, linear_decay
from journeyman.learn.optimizer import Optimizer, OptimizerConfig
from journeyman.model.render import Renderer
from journeyman.types import Ending, Outcome, Task, Trajectory, Turn

FROM_SCRATCH = 300
"""Updates that teach a tiny model the form of a job's replies, and seldom more."""


@dataclass(frozen=True)
class SchoolConfig:
    """How long a model is taught before it learns by trial and error."""

    demonstrations: int = 200
    """Episodes shown by each job's expert, from the split `train`."""
    updates: int | None = None
    """Optimizer steps; when not given, 300 for a model from scratch and none for any other."""
    batch: int = 32
    """Demonstrations (or pieces of text) in one step."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(warmup=20))
    """Its learning rate falls linearly to 0; when not given, it is six times that of trial and error."""

    def __post_init__(self) -> None:
        if self.demonstrations < 0 or (self.updates or 0) < 0:
            raise UsageError(
                f"school: demonstrations and updates must be at least 0, got {self.demonstrations} and {self.updates}"
            )
        if self.batch < 1:
            raise UsageError(f"school: batch must be at least 1, got {self.batch}")

    def updates_for(self, *, from_scratch: bool) -> int:
        """Optimizer steps for such a model."""
        if self.updates is not None:
            return self.updates
        return FROM_SCRATCH if from_scratch else 0


def demonstrate(job: Job, task: Task, renderer: Renderer) -> Trajectory:
    """One episode as the job's expert would play it, masked so that the expert's replies are what is learned.

    Raises:
        JobError: the job has no expert.
    """
    env = job.env(task)
    tokens = list(renderer.open(task.messages))
    mask = [False] * len(tokens)
    turns: list[Turn] = []
    ending = Ending.TRUNCATED
    for _ in range(job.max_turns):
        reply = env.expert()
        if reply is None:
            raise JobError(
                f"the job {job.name!r} has no expert to learn from",
                reason="its environments' expert() gives None",
                fix="give it one, school on another job, or start from a model that already succeeds at times",
            )
        said = renderer.reply_ids(reply)
        start = len(tokens)
        tokens += said
        mask += [True] * len(said)
        result = env.step(reply)
        turns.append(Turn(start, len(tokens), reply, result.observation, float(result.reward)))
        if result.terminated or result.truncated:
            ending = Ending.TERMINATED if result.terminated else Ending.TRUNCATED
            break
        shown = renderer.observe(result.observation, result.role)
        tokens += shown
        mask += [False] * len(shown)
    reward = sum(turn.reward for turn in turns)
    return taught(f"demonstration-{task.id}", task, tokens, mask, tuple(turns), Outcome(reward, ending))


def demonstrations(jobs: Sequence[Job], count: int, seed: int, renderer: Renderer) -> list[Trajectory]:
    """`count` demonstrations of each job (or as many as it has tasks), on tasks drawn from its split `train`.

    Raises:
        JobError: a job has no expert.
    """
    shown: list[Trajectory] = []
    for job in jobs:
        size = job.splits["train"]
        rng = np.random.default_rng((seed, 77))
        chosen = rng.choice(size, min(count, size), replace=False)
        shown += [demonstrate(job, job.task("train", int(index)), renderer) for index in chosen]
    return shown


def read_text(path: Path, renderer: Renderer, length: int) -> list[Trajectory]:
    """A text file as pieces of `length` tokens, all of them to be learned.

    Raises:
        UsageError: the file cannot be read or holds less than two tokens.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the text {path}", reason=str(error)) from error
    ids = renderer.encode(text)
    if len(ids) < 2:
        raise UsageError(f"the text {path} is too short to learn from: {len(ids)} tokens")
    pieces: list[Trajectory] = []
    for start in range(0, len(ids) - 1, length):
        piece = ids[start : start + length + 1]
        task = Task(f"text:{path.name}", "train", start, ())
        mask = [False] + [True] * (len(piece) - 1)
        pieces.append(taught(f"text-{start}", task, piece, mask, (), Outcome(0.0, Ending.TERMINATED)))
    return [piece for piece in pieces if piece.mask.any()]


def school(
    learner: Learner, lessons: Sequence[Trajectory], config: SchoolConfig, updates: int, *, seed: int
) -> Iterator[Metrics]:
    """Learn the lessons; yields each update's metrics. The learner's reference is what it knows afterwards."""
    if not lessons:
        return
    optimizer = Optimizer(config.optimizer.fitted(learner.policy.config.hidden_size, 6), [learner.policy])
    rng = np.random.default_rng((seed, 78))
    order: list[int] = []
    for update in range(updates):
        while len(order) < config.batch:
            order += rng.permutation(len(lessons)).tolist()
        chosen, order = order[: config.batch], order[config.batch :]
        yield learner.school([lessons[i] for i in chosen], optimizer, linear_decay(update / updates))


def taught(
    id: str,
    task: Task,
    tokens: Sequence[int],
    mask: Sequence[bool],
    turns: tuple[Turn, ...],
    outcome: Outcome,
) -> Trajectory:
    """Something to be imitated where the mask says so."""
    length = len(tokens)
    return Trajectory(
        id=id,
        task=task,
        group=id,
        step=-1,
        policy_version=-1,
        temperature=1.0,
        tokens=np.asarray(tokens, np.int32),
        mask=np.asarray(mask, bool),
        logprobs=np.zeros(length, np.float32),
        values=np.full(length, np.nan, np.float32),
        turns=turns,
        outcome=outcome,
    )
