"""Plays many episodes at once against one engine.

Contract of the loop in :func:`rollout`: it consumes the engine's finished replies, steps the environment of
each, and submits the next turn at once, so that the engine's batch stays full; it waits for nothing but the
engine's step; it yields every trajectory as soon as its episode ends. A failing environment ends its own
episode as `failed` and disturbs no other.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from journeyman.engine.base import Engine, Reply, Sampling
from journeyman.errors import UsageError
from journeyman.jobs.base import Env, Job
from journeyman.model.render import Renderer
from journeyman.rollout.guard import FAILURES, TimeLimitExceeded, call_within
from journeyman.types import Ending, Outcome, StepResult, Task, Trajectory, Turn


@dataclass(frozen=True)
class RolloutConfig:
    """How episodes are played."""

    temperature: float = 1.0
    """Sampling temperature; learning wants 1."""
    top_p: float = 1.0
    """Nucleus sampling; learning wants 1, so that the log-probabilities are those of what was sampled."""
    max_turns: int | None = None
    """Overrides the job's limit of turns."""
    max_reply_tokens: int | None = None
    """Overrides the job's limit of tokens in one reply."""
    seconds_per_step: float = 10.0
    """An environment or grader that takes longer than this for one reply fails its episode."""

    def __post_init__(self) -> None:
        if self.seconds_per_step <= 0:
            raise UsageError(f"seconds_per_step must be above 0, got {self.seconds_per_step}")


@dataclass(frozen=True)
class Attempt:
    """An order for one episode. `seed` fixes the sampling; `step` is the learning step that asks (-1: none)."""

    id: str
    task: Task
    group: str
    seed: int
    step: int = -1


@dataclass
class _Episode:
    """One episode under way."""

    attempt: Attempt
    sampling: Sampling
    max_turns: int
    env: Env | None = None
    tokens: list[int] = field(default_factory=list[int])
    mask: list[bool] = field(default_factory=list[bool])
    logprobs: list[float] = field(default_factory=list[float])
    turns: list[Turn] = field(default_factory=list[Turn])

    def read(self, tokens: Sequence[int]) -> None:
        self.tokens.extend(tokens)
        self.mask.extend([False] * len(tokens))
        self.logprobs.extend([0.0] * len(tokens))

    def sampled(self, reply: Reply) -> int:
        start = len(self.tokens)
        self.tokens.extend(reply.tokens)
        self.mask.extend([True] * len(reply.tokens))
        self.logprobs.extend(reply.logprobs)
        return start


def rollout(
    engine: Engine,
    renderer: Renderer,
    jobs: Mapping[str, Job],
    attempts: Sequence[Attempt],
    config: RolloutConfig | None = None,
) -> Iterator[Trajectory]:
    """Play the attempts; yield each trajectory when its episode ends (not in the order asked).

    Args:
        jobs: by the name that `Task.job` holds.
    """
    config = config or RolloutConfig()
    episodes: dict[int, _Episode] = {}
    try:
        for attempt in attempts:
            failed = _open(engine, renderer, jobs, attempt, config, episodes)
            if failed is not None:
                yield failed
        while episodes:
            for reply in engine.step():
                episode = episodes[reply.sequence]
                outcome = _advance(engine, renderer, episode, reply, config)
                if outcome is not None:
                    engine.close(reply.sequence)
                    del episodes[reply.sequence]
                    yield _trajectory(episode, outcome, engine.version, config.temperature)
    finally:
        for sequence in episodes:  # the caller stopped listening
            engine.close(sequence)


def _open(
    engine: Engine,
    renderer: Renderer,
    jobs: Mapping[str, Job],
    attempt: Attempt,
    config: RolloutConfig,
    episodes: dict[int, _Episode],
) -> Trajectory | None:
    """Start one episode; return its trajectory at once where it cannot start."""
    job = jobs[attempt.task.job]
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_reply_tokens or job.max_reply_tokens,
        stop=renderer.end_ids,
    )
    episode = _Episode(attempt, sampling, config.max_turns or job.max_turns)
    prompt = renderer.open(attempt.task.messages)
    episode.read(prompt)
    failure = None
    if len(prompt) >= engine.context:
        error = f"the prompt has {len(prompt)} tokens and the context holds {engine.context}"
        failure = Outcome(0.0, Ending.FAILED, error, "engine")
    else:
        try:
            episode.env = call_within(config.seconds_per_step, lambda: job.env(attempt.task))
        except FAILURES as error:
            failure = Outcome(0.0, Ending.FAILED, f"{type(error).__name__}: {error}", "environment")
    if failure is not None:
        return _trajectory(episode, failure, engine.version, config.temperature)
    sequence = engine.open(attempt.seed)
    engine.submit(sequence, prompt, sampling)
    episodes[sequence] = episode
    return None


def _advance(
    engine: Engine, renderer: Renderer, episode: _Episode, reply: Reply, config: RolloutConfig
) -> Outcome | None:
    """Take in one reply; answer it. Returns the outcome when that ended the episode."""
    start = episode.sampled(reply)
    text = renderer.text(reply.tokens)
    env = episode.env
    assert env is not None
    try:
        result = _checked(call_within(config.seconds_per_step, lambda: env.step(text)))
    except FAILURES as error:
        episode.turns.append(Turn(start, len(episode.tokens), text, "", 0.0))
        late = isinstance(error, TimeLimitExceeded)
        message = f"the grader gave {error}" if late else f"{type(error).__name__}: {error}"
        return Outcome(0.0, Ending.FAILED, message, "grader")
    episode.turns.append(Turn(start, len(episode.tokens), text, result.observation, result.reward))
    earned = sum(turn.reward for turn in episode.turns)
    if result.terminated:
        return Outcome(earned, Ending.TERMINATED)
    if result.truncated or len(episode.turns) >= episode.max_turns or reply.finish == "context":
        return Outcome(earned, Ending.TRUNCATED)
    fresh = renderer.observe(result.observation, result.role, ended=reply.finish == "stop")
    if len(episode.tokens) + len(fresh) >= engine.context:
        return Outcome(earned, Ending.TRUNCATED)
    episode.read(fresh)
    engine.submit(reply.sequence, fresh, episode.sampling)
    return None


def _checked(result: StepResult) -> StepResult:
    """The environment's answer, or an error that names what is wrong with it."""
    reward: Any = result.reward  # a user's environment may return anything
    if not isinstance(reward, int | float | np.number | np.bool_):
        raise TypeError(f"a reward must be a number, got {reward!r}")
    if not math.isfinite(result.reward):
        raise ValueError(f"a reward must be finite, got {result.reward!r}")
    return StepResult(
        str(result.observation),
        float(result.reward),
        bool(result.terminated),
        bool(result.truncated),
        result.role,
    )


def _trajectory(episode: _Episode, outcome: Outcome, version: int, temperature: float) -> Trajectory:
    return Trajectory(
        id=episode.attempt.id,
        task=episode.attempt.task,
        group=episode.attempt.group,
        step=episode.attempt.step,
        policy_version=version,
        temperature=temperature,
        tokens=np.asarray(episode.tokens, np.int32),
        mask=np.asarray(episode.mask, bool),
        logprobs=np.asarray(episode.logprobs, np.float32),
        values=np.full(len(episode.tokens), np.nan, np.float32),
        turns=tuple(episode.turns),
        outcome=outcome,
    )


def attempts(tasks: Sequence[Task], *, repeats: int, prefix: str, seed: int, step: int = -1) -> list[Attempt]:
    """`repeats` attempts at each task, with ids and seeds that follow from the arguments alone."""
    orders: list[Attempt] = []
    for number, task in enumerate(tasks):
        group = f"{prefix}-g{number:04d}"
        for member in range(repeats):
            name = f"{group}-m{member:02d}"
            digest = zlib.crc32(name.encode()) | (zlib.crc32(task.id.encode()) << 32)
            orders.append(Attempt(name, task, group, digest ^ (seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1), step))
    return orders
