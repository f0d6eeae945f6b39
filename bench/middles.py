"""The true value in the middle of an episode: what the same policy comes to that goes on from there, many times over.

Between two turns where the job has several, as branches go on (journeyman/rollout/branch.py); in the reply where it has
one. The mean of n continuations is off by their variance over n, which is taken off V's error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from journeyman.engine.base import Sampling
from journeyman.engine.native import NativeEngine
from journeyman.exam.calibration import position_at
from journeyman.jobs import resolve
from journeyman.jobs.base import Job
from journeyman.model.load import LoadedModel
from journeyman.model.render import Renderer
from journeyman.rollout.branch import Fork, continuations
from journeyman.rollout.runner import rollout, seed_of
from journeyman.types import Ending, Trajectory


@dataclass(frozen=True)
class Middle:
    """A state in the middle of an episode, and what became of those who went on from it.

    Attributes:
        id: of the episode.
        position: V there is V of the state.
        rewards: what each continuation earned.
    """

    id: str
    position: int
    rewards: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.rewards))

    @property
    def noise(self) -> float:
        """The variance of that mean, estimated without bias."""
        return float(np.var(self.rewards, ddof=1)) / len(self.rewards)


def errors(found: Sequence[Middle], scored: Mapping[str, Trajectory]) -> tuple[float, float]:
    """The root of V's mean square error against the true values, and of that of their mean; noise taken off both.

    Args:
        scored: the episodes by their ids, with V.
    """
    values = np.array([scored[m.id].values[m.position] for m in found])
    means, noise = np.array([m.mean for m in found]), np.mean([m.noise for m in found])
    off, apart = np.mean((values - means) ** 2) - noise, np.var(means, ddof=1) - noise
    return math.sqrt(max(float(off), 0.0)), math.sqrt(max(float(apart), 0.0))


def middles(
    model: LoadedModel, spec: str, episodes: Sequence[Trajectory], continued: int, seed: int, slots: int
) -> list[Middle]:
    """The middle of each episode that has one, gone on from `continued` times.

    Args:
        slots: sequences at a time.
    """
    job, renderer = resolve(spec), Renderer(model.tokenizer)
    engine = NativeEngine(model.model, slots=slots, context=1024)
    go_on = partial(_replies if job.max_turns == 1 else _turns, engine, renderer, job)
    return go_on(episodes, continued, seed)


def _turns(
    engine: NativeEngine, renderer: Renderer, job: Job, episodes: Sequence[Trajectory], continued: int, seed: int
) -> list[Middle]:
    """Before the turn after half of them; its continuation earns what the whole episode would have."""
    forks = [Fork(t, len(t.turns) // 2, (t.id,)) for t in episodes if len(t.turns) > 1]
    rewards: dict[str, list[float]] = {}
    for t in rollout(engine, renderer, {job.name: job}, continuations(forks, continued, seed)):
        if t.outcome.ending is not Ending.FAILED:
            rewards.setdefault(t.group, []).append(t.outcome.reward)
    return [Middle(f.parent.id, f.position, tuple(rewards[f.group])) for f in forks if len(rewards[f.group]) > 1]


def _replies(
    engine: NativeEngine, renderer: Renderer, job: Job, episodes: Sequence[Trajectory], continued: int, seed: int
) -> list[Middle]:
    """In the middle of the only reply, where V at half of it is read."""
    found: list[Middle] = []
    for t in episodes:
        position = position_at(t, 0.5)
        if position is None or position == t.actions[-1]:
            continue
        begun = t.tokens[t.actions[0] : position + 1].tolist()
        sampling = Sampling(max_tokens=job.max_reply_tokens - len(begun), stop=renderer.end_ids)
        for number in range(continued):
            sequence = engine.open(seed_of(f"{t.id}-c{number:02d}", t.task, seed))
            engine.submit(sequence, t.tokens[: position + 1].tolist(), sampling)
        rewards: list[float] = []
        while engine.busy:
            for reply in engine.step():
                engine.close(reply.sequence)
                rewards.append(job.env(t.task).step(renderer.text([*begun, *reply.tokens])).reward)
        found.append(Middle(t.id, position, tuple(rewards)))
    return found
