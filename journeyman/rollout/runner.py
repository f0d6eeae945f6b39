"""Plays many episodes at once against one engine.

Contract of the loop in :func:`rollout`: it consumes the engine's finished replies and the environments' answers, hands
each to the other side at once, so that the engine's batch stays full, and waits for nothing but the engine's step; for
an answer only while the engine has nothing to do. It yields every trajectory as soon as its episode ends. A failing
environment ends its own episode as `failed` and disturbs no other.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from journeyman.engine.base import Engine, Reply, Sampling
from journeyman.errors import UsageError
from journeyman.jobs.base import Job
from journeyman.model.render import Renderer
from journeyman.rollout.environments import Answer, Environments, Inline
from journeyman.rollout.oversight import Oversight, Watched
from journeyman.rollout.pool import Pool
from journeyman.types import Ending, Outcome, StepResult, Task, Trajectory, Turn, Verdict, conversation


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
    stop: tuple[str, ...] = ()
    """Texts that end a reply, beside the model's own end token. They belong to it."""
    workers: int = 0
    """Processes that environments run in, beside the engine; 0: in this one. Worth it where a step takes longer than
    about a millisecond."""

    def __post_init__(self) -> None:
        if self.seconds_per_step <= 0:
            raise UsageError(f"seconds_per_step must be above 0, got {self.seconds_per_step}")
        if self.workers < 0:
            raise UsageError(f"workers must be at least 0, got {self.workers}")


@dataclass(frozen=True)
class Prefix:
    """What an episode begins with instead of its task's opening: all that was read and said up to the end of some turn.

    Attributes:
        tokens: ending where a reply is to be sampled.
        logprobs: of those that were sampled, 0 elsewhere.
        turns: the turns among them; the environment is rebuilt by playing their replies again.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Attempt:
    """An order for one episode. `seed` fixes the sampling; `step` is the learning step that asks (-1: none).

    With a `prefix` it goes on from there: the prefix is its prompt, and its turns and outcome are those that follow.
    """

    id: str
    task: Task
    group: str
    seed: int
    step: int = -1
    prefix: Prefix | None = None


@dataclass
class Episode:
    """One episode under way, here or in a search (search/player.py)."""

    attempt: Attempt
    sampling: Sampling
    max_turns: int
    sequence: int | None = None
    """The engine's; None before it was asked for a reply."""
    said: Turn | None = None
    """The reply that the environment is asked about; None where there is none yet."""
    full: bool = False
    """Whether the last reply was cut because the context is full."""
    verdict: Verdict | None = None
    tokens: list[int] = field(default_factory=list[int])
    unread: list[int] = field(default_factory=list[int])
    """The last of them, which the engine has not been given yet."""
    mask: list[bool] = field(default_factory=list[bool])
    logprobs: list[float] = field(default_factory=list[float])
    turns: list[Turn] = field(default_factory=list[Turn])

    def read(self, tokens: Sequence[int]) -> None:
        self.tokens.extend(tokens)
        self.unread.extend(tokens)
        self.mask.extend([False] * len(tokens))
        self.logprobs.extend([0.0] * len(tokens))

    def sampled(self, reply: Reply, text: str) -> None:
        start = len(self.tokens)
        self.tokens.extend(reply.tokens)
        self.mask.extend([True] * len(reply.tokens))
        self.logprobs.extend(reply.logprobs)
        self.said, self.full = Turn(start, len(self.tokens), text, "", 0.0), reply.finish == "context"

    def taught(self, tokens: Sequence[int], text: str) -> None:
        start = len(self.tokens)
        self.read(tokens)
        self.said = Turn(start, len(self.tokens), text, "", 0.0, by="teacher")

    @property
    def earned(self) -> float:
        return sum(turn.reward for turn in self.turns)

    def answered(self, observation: str, reward: float) -> None:
        assert self.said is not None
        self.turns.append(replace(self.said, observation=observation, reward=reward))
        self.said = None


def environments_for(config: RolloutConfig) -> Environments:
    """A place for environments, as the configuration asks; to be closed by whoever asked."""
    if config.workers:
        return Pool(config.workers, config.seconds_per_step)
    return Inline(config.seconds_per_step)


def rollout(
    engine: Engine,
    renderer: Renderer,
    jobs: Mapping[str, Job],
    attempts: Sequence[Attempt],
    config: RolloutConfig | None = None,
    environments: Environments | None = None,
    oversight: Oversight | None = None,
) -> Iterator[Trajectory]:
    """Play the attempts; yield each trajectory when its episode ends (not in the order asked).

    Args:
        jobs: by the name that `Task.job` holds.
        environments: where environments run, for those who play often; when not given, a place made for this call.
        oversight: what V may do between turns; when not given, nothing.

    Raises:
        UsageError: environments are to run in other processes, and a job cannot get there.
    """
    config = config or RolloutConfig()
    home = environments or environments_for(config)
    episodes: dict[int, Episode] = {}
    """By the key of their environment."""
    keys: dict[int, int] = {}
    """Keys of the environments by the engine's sequence."""
    try:
        for attempt in attempts:
            job = jobs[attempt.task.job]
            episode = begin(renderer, job, attempt, config)
            if len(episode.tokens) >= engine.context:
                error = f"the prompt has {len(episode.tokens)} tokens and the context holds {engine.context}"
                failed = Outcome(0.0, Ending.FAILED, error, "engine")
                yield trajectory_of(episode, failed, engine.version, config.temperature)
            else:
                episodes[home.open(job, attempt.task, past_of(attempt))] = episode
        while episodes:
            answers = home.answers(wait=not engine.busy)
            outcomes = {a.key: advance(engine, renderer, episodes[a.key], a) for a in answers}
            if oversight is not None:
                going = {key: episodes[key] for key, outcome in outcomes.items() if outcome is None}
                outcomes |= _overseen(going, oversight, engine, renderer, config.temperature)
            for key, outcome in outcomes.items():
                episode = episodes[key]
                if outcome is not None:
                    del episodes[key]
                    _leave(engine, home, key, episode)
                    yield trajectory_of(episode, outcome, engine.version, config.temperature)
                elif episode.said is not None:
                    home.step(key, episode.said.reply)
                else:
                    keys[_submit(engine, episode)] = key
            for reply in engine.step():
                key, text = keys[reply.sequence], renderer.text(reply.tokens)
                episodes[key].sampled(reply, text)
                home.step(key, text)
    finally:
        for key, episode in episodes.items():  # the caller stopped listening
            _leave(engine, home, key, episode)
        if environments is None:
            home.close()


def begin(renderer: Renderer, job: Job, attempt: Attempt, config: RolloutConfig) -> Episode:
    """An episode that has read its prompt."""
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=config.max_reply_tokens or job.max_reply_tokens,
        stop=renderer.end_ids,
        stop_texts=renderer.stop_texts(config.stop) if config.stop else None,
    )
    prefix, limit = attempt.prefix, config.max_turns or job.max_turns
    episode = Episode(attempt, sampling, limit - (len(prefix.turns) if prefix else 0))
    episode.read(prefix.tokens if prefix else renderer.open(attempt.task.messages))
    if prefix:
        episode.logprobs = list(prefix.logprobs)
    return episode


def past_of(attempt: Attempt) -> list[tuple[str, StepResult]]:
    """What the environment has been told before the episode begins, and answered."""
    return exchanged(attempt.prefix.turns if attempt.prefix else ())


def exchanged(turns: Sequence[Turn]) -> list[tuple[str, StepResult]]:
    """What the environment was told in these turns, and answered."""
    return [(turn.reply, StepResult(turn.observation, turn.reward)) for turn in turns]


def _leave(engine: Engine, environments: Environments, key: int, episode: Episode) -> None:
    environments.forget(key)
    if episode.sequence is not None:
        engine.close(episode.sequence)


def _submit(engine: Engine, episode: Episode) -> int:
    """Ask the engine for the episode's next reply; the engine's sequence."""
    if episode.sequence is None:
        episode.sequence = engine.open(episode.attempt.seed)
    engine.submit(episode.sequence, episode.unread, episode.sampling)
    episode.unread = []
    return episode.sequence


def advance(engine: Engine, renderer: Renderer, episode: Episode, answer: Answer) -> Outcome | None:
    """Take in the environment's answer. Returns the outcome when that ended the episode."""
    result, said = answer.result, episode.said
    if said is None:
        return Outcome(0.0, Ending.FAILED, answer.error, "environment") if answer.error else None
    if result is None:
        episode.answered("", 0.0)
        return Outcome(0.0, Ending.FAILED, answer.error, "grader")
    episode.answered(result.observation, result.reward)
    if result.terminated:
        return Outcome(episode.earned, Ending.TERMINATED)
    if result.truncated or len(episode.turns) >= episode.max_turns or episode.full:
        return Outcome(episode.earned, Ending.TRUNCATED)
    ended = said.stop > said.start and episode.tokens[-1] in renderer.end_ids  # and not at a text, or cut
    fresh = renderer.observe(result.observation, result.role, ended=ended)
    if len(episode.tokens) + len(fresh) >= engine.context:
        return Outcome(episode.earned, Ending.TRUNCATED)
    episode.read(fresh)
    return None


def _overseen(
    episodes: Mapping[int, Episode], oversight: Oversight, engine: Engine, renderer: Renderer, temperature: float
) -> dict[int, Outcome]:
    """Let those of the episodes that are due be looked at: a teacher says the next reply of some, others are stopped.
    Returns the outcomes of these."""
    due = {
        key: episode
        for key, episode in episodes.items()
        if episode.verdict is None and oversight.due(episode.attempt.task.job, episode.turns)
    }
    so_far = [
        Watched(e.attempt.seed, trajectory_of(e, Outcome(e.earned, Ending.TRUNCATED), engine.version, temperature))
        for e in due.values()
    ]
    outcomes: dict[int, Outcome] = {}
    for (key, episode), decision in zip(due.items(), oversight.look(so_far), strict=True):
        episode.verdict = decision.verdict
        if decision.stop:
            outcomes[key] = Outcome(episode.earned, Ending.STOPPED)
        elif decision.reply is not None:
            tokens = renderer.reply_ids(decision.reply)
            if len(episode.tokens) + len(tokens) < engine.context:  # else the policy says what still fits
                episode.taught(tokens, decision.reply)
    return outcomes


def trajectory_of(episode: Episode, outcome: Outcome, version: int, temperature: float) -> Trajectory:
    """The episode as a record; the outcome is what became of it."""
    attempt, task = episode.attempt, episode.attempt.task
    if attempt.prefix is not None:  # so that who reads it sees how it began
        task = replace(task, messages=tuple(conversation(task, attempt.prefix.turns)))
    return Trajectory(
        id=attempt.id,
        task=task,
        group=attempt.group,
        step=attempt.step,
        policy_version=version,
        temperature=temperature,
        tokens=np.asarray(episode.tokens, np.int32),
        mask=np.asarray(episode.mask, bool),
        logprobs=np.asarray(episode.logprobs, np.float32),
        values=np.full(len(episode.tokens), np.nan, np.float32),
        turns=tuple(episode.turns),
        outcome=outcome,
        verdict=episode.verdict,
    )


def attempts(tasks: Sequence[Task], *, repeats: int, prefix: str, seed: int, step: int = -1) -> list[Attempt]:
    """`repeats` attempts at each task, with ids and seeds that follow from the arguments alone."""
    orders: list[Attempt] = []
    for number, task in enumerate(tasks):
        group = f"{prefix}-g{number:04d}"
        for member in range(repeats):
            name = f"{group}-m{member:02d}"
            orders.append(Attempt(name, task, group, seed_of(name, task, seed), step))
    return orders


def seed_of(name: str, task: Task, seed: int) -> int:
    """The sampling seed of the episode of this name."""
    digest = zlib.crc32(name.encode()) | (zlib.crc32(task.id.encode()) << 32)
    return digest ^ (seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
