"""Gathers evidence from real models: both play the same tasks, and one set of episodes is read in many ways.

play       episodes of both on the same tasks, from the same seeds, each with its own V along them
read       ability, calibration, abstention, audit, inside, rules, drift: pure functions of these episodes
search     rewordings of tasks, until one is failed or the attempts are used up
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from journeyman.engine.native import NativeEngine
from journeyman.errors import UsageError
from journeyman.exam.calibration import value_at
from journeyman.jobs.base import Job
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.model.load import LoadedModel
from journeyman.model.render import Renderer
from journeyman.release.evidence import MOST_DRIFT, Aspect, Sample, paired
from journeyman.release.probe import predicted, states
from journeyman.release.reword import REWORDINGS, Rewording, reworded
from journeyman.release.rules import Rule
from journeyman.rollout.runner import RolloutConfig, attempts, rollout
from journeyman.types import SUCCESS, Ending, Task, Trajectory

ByTask = dict[str, float]
Reading = Callable[[Trajectory], float | None]
"""A number of one episode; None where it says nothing."""


class Player:
    """A model that plays tasks and is looked at while it does.

    Args:
        loaded: the model, with its V where it has one.
        seed: of all sampling; two players with one seed draw the same random numbers for the same attempt, so that
            what is common to both cancels in their difference.
    """

    def __init__(self, loaded: LoadedModel, *, slots: int = 128, context: int = 1024, seed: int = 0) -> None:
        self.loaded, self.seed = loaded, seed
        self.learner = Learner(loaded.model, loaded.value, UpdateConfig(), keep_reference=False)
        self.engine = NativeEngine(loaded.model, slots=slots, context=context)
        self.renderer = Renderer(loaded.tokenizer)

    def play(self, job: Job, tasks: Sequence[Task], repeats: int = 1, *, name: str = "gate") -> list[Trajectory]:
        """Each task so many times, in the order of the tasks, with V along the episodes (calibrated)."""
        unique = list({task.id: task for task in tasks}.values())
        if len(unique) != len(tasks):
            raise UsageError("play: a task is there twice", fix="raise repeats instead")
        orders = attempts(tasks, repeats=repeats, prefix=name, seed=self.seed)
        place = {order.id: number for number, order in enumerate(orders)}
        played = rollout(self.engine, self.renderer, {job.name: job}, orders, RolloutConfig())
        return self.learner.score(sorted(played, key=lambda t: place[t.id]))

    def chance(self, episode: Trajectory) -> float | None:
        """What V said of success before the first token of the answer, calibrated; None without a V."""
        value = value_at(episode, 0.0)
        if math.isnan(value):
            return None
        calibrated = self.loaded.calibration.of(episode.task.job).probability(np.array([value]), np.array([0]))
        return float(np.clip(calibrated[0], 0.0, 1.0))


def right(episode: Trajectory) -> float:
    """1 for a success, 0 for everything else, failed episodes too: a version that breaks graders is no better."""
    return float(episode.outcome.success)


def by_task(episodes: Sequence[Trajectory], reading: Reading) -> ByTask:
    """The mean reading of each task's episodes, in the order of the tasks."""
    found: dict[str, list[float]] = {}
    for episode in episodes:
        value = reading(episode)
        if value is not None:
            found.setdefault(episode.task.id, []).append(value)
    return {task: float(np.mean(values)) for task, values in found.items()}


@dataclass(frozen=True)
class Both:
    """What both versions did on the same tasks of one job."""

    job: Job
    candidate: list[Trajectory]
    release: list[Trajectory]

    def compare(self, aspect: Aspect, about: str, readings: tuple[Reading, Reading]) -> Sample:
        """One number per task of each."""
        ours, theirs = readings
        return paired(aspect, about, by_task(self.candidate, ours), by_task(self.release, theirs))


def play_both(candidate: Player, release: Player, job: Job, tasks: Sequence[Task], repeats: int = 1) -> Both:
    """Both on the same tasks, from the same seeds."""
    return Both(job, candidate.play(job, tasks, repeats), release.play(job, tasks, repeats))


# -- readings ----------------------------------------------------------------------------------------------


def success(both: Both, aspect: Aspect = "ability") -> Sample:
    """Whether the answers were right."""
    return both.compare(aspect, both.job.name, (right, right))


def calibration(both: Both, candidate: Player, release: Player, *, new: bool = False) -> Sample:
    """1 - (V - outcome)^2, V before the answer.

    Args:
        new: the release does not know the job, so it has an easy time being right about its failures. The candidate's V
            is compared with who knows nothing but how often the candidate succeeds.
    """

    def of(player: Player) -> Reading:
        return lambda t: None if (v := player.chance(t)) is None else 1 - (v - right(t)) ** 2

    if new:
        ours = by_task(both.candidate, of(candidate))
        return paired("calibration", both.job.name, ours, knowing_the_rate(both.candidate))
    return both.compare("calibration", both.job.name, (of(candidate), of(release)))


def knowing_the_rate(episodes: Sequence[Trajectory]) -> ByTask:
    """1 - (p - outcome)^2 of a forecaster who says of each episode how often all others succeeded."""
    outcomes = [right(t) for t in episodes]
    total, others = sum(outcomes), max(len(episodes) - 1, 1)
    return by_task(episodes, lambda t: 1 - ((total - right(t)) / others - right(t)) ** 2)


def abstention(both: Both, candidate: Player, release: Player, threshold: float) -> Sample:
    """0 for a wrong answer of which V said that it would be right with more than this chance."""

    def of(player: Player) -> Reading:
        return lambda t: None if (v := player.chance(t)) is None else float(right(t) or v < threshold)

    return both.compare("abstention", both.job.name, (of(candidate), of(release)))


def audit(both: Both, grader: Job) -> Sample:
    """Whether the episode's grader and an independent one say the same: the other job's environment of the same task
    is given the same replies."""

    def agrees(t: Trajectory) -> float | None:
        if t.outcome.ending is Ending.FAILED:
            return None
        return float((regraded(grader, t) >= SUCCESS) == t.outcome.success)

    return both.compare("audit", both.job.name, (agrees, agrees))


def regraded(grader: Job, episode: Trajectory) -> float:
    """What another job's environment of the same task gives for the same replies."""
    env = grader.env(episode.task)
    earned = 0.0
    for turn in episode.turns:
        result = env.step(turn.reply)
        earned += result.reward
        if result.terminated or result.truncated:
            break
    return earned


def inside(both: Both, candidate: Player, release: Player, *, new: bool = False) -> list[Sample]:
    """How well a probe of each model's activations knows whether it will be right, and agrees with its V. On a new job
    the probe is compared as V is in :func:`calibration`."""

    def looked(player: Player, episodes: Sequence[Trajectory]) -> tuple[ByTask, ByTask]:
        outcomes = np.array([right(t) for t in episodes])
        said = predicted(states(player.loaded.model, episodes), outcomes, [t.task.id for t in episodes])
        p = {t.id: float(x) for t, x in zip(episodes, said, strict=True)}
        knows = by_task(episodes, lambda t: 1 - (p[t.id] - right(t)) ** 2)
        return knows, by_task(episodes, lambda t: None if (v := player.chance(t)) is None else 1 - (p[t.id] - v) ** 2)

    knows, agrees = looked(candidate, both.candidate)
    if new:
        return [paired("inside", both.job.name, knows, knowing_the_rate(both.candidate))]
    knew, agreed = looked(release, both.release)
    samples = [paired("inside", both.job.name, knows, knew)]
    return [*samples, paired("inside", f"{both.job.name}, V", agrees, agreed)] if agrees else samples


def rules(episodes: Sequence[Trajectory], kept: Sequence[Rule]) -> list[Sample]:
    """Whether each rule was kept, by task: the worst of its attempts counts."""
    samples: list[Sample] = []
    for rule in kept:
        worst: ByTask = {}
        for t in episodes:
            worst[t.task.id] = min(worst.get(t.task.id, 1.0), 1.0 - rule.broken(t))
        samples.append(Sample("rules", rule.name, tuple(worst.values())))
    return samples


def drift(both: Both, release: Player) -> Sample:
    """KL(candidate || release) in nats per token, on what the candidate said: Schulman's k3 estimate, which is never
    below 0: r - 1 - log r with r = release's over candidate's probability."""
    theirs = {t.id: t.logprobs for t in release.learner.with_logprobs(both.candidate)}

    def moved(t: Trajectory) -> float | None:
        if not len(t.actions):
            return None
        log_r = (theirs[t.id] - t.logprobs)[t.mask].astype(float)
        return float(np.clip(np.mean(np.expm1(log_r) - log_r), 0.0, MOST_DRIFT))

    return Sample("drift", both.job.name, tuple(by_task(both.candidate, moved).values()))


# -- search ------------------------------------------------------------------------------------------------


def search(
    candidate: Player,
    release: Player,
    job: Job,
    tasks: Sequence[Task],
    tries: int = 4,
    rewordings: Sequence[Rewording] = REWORDINGS,
) -> Sample:
    """Success on each task in the worst of its wordings: each is put otherwise until failed, or so often.
    Both are searched alike, each for its own failures."""

    def survived(player: Player) -> ByTask:
        found, left = dict.fromkeys((t.id for t in tasks), 1.0), list(tasks)
        for attempt in range(tries):
            said = [reworded(task, attempt, rewordings) for task in left]
            failed = {t.task.id for t in player.play(job, said, name=f"search{attempt}") if not t.outcome.success}
            found |= dict.fromkeys(failed, 0.0)
            left = [task for task in left if task.id not in failed]
        return found

    return paired("search", job.name, survived(candidate), survived(release))


def attacked(candidate: Player, job: Job, tasks: Sequence[Task], kept: Sequence[Rule]) -> list[Sample]:
    """Whether each rule is kept under the attacks on it."""
    samples: list[Sample] = []
    for rule in kept:
        tempted = rule.attacked(tasks)
        samples += rules(candidate.play(job, tempted, name="attack"), [rule]) if tempted else []
    return [replace(sample, about=f"{sample.about}, attacked") for sample in samples]
