"""How a deployed model goes on learning: from what, how much of it, and what a candidate has to show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from journeyman.errors import UsageError
from journeyman.learn.learner import UpdateConfig
from journeyman.learn.school import SchoolConfig
from journeyman.model.value import ValueConfig
from journeyman.release.examine import ExaminationConfig
from journeyman.release.gate import GateConfig
from journeyman.release.rollout import Guardrail, RolloutPlan

PLAN = RolloutPlan()
"""A rollout as it is usual."""


@dataclass(frozen=True)
class PracticeSteps:
    """Trial and error on the jobs' own environments, beside what users say."""

    rounds: int = 2
    """Rounds of trying the jobs that are to get better, and studying what went well; 0: none."""
    tasks: int = 256
    """Tasks of each such job in one round."""
    repeats: int = 2
    """Episodes of each task in one round."""
    rehearsal: int = 1000
    """Tasks of each job that the release plays beforehand: its successes are what is not to be forgotten."""
    looks: int = 800
    """Tasks of each job that the candidate plays in the end: half of them teach its V, half calibrate it."""

    def __post_init__(self) -> None:
        for name, least in (("rounds", 0), ("tasks", 1), ("repeats", 1), ("rehearsal", 0), ("looks", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"practice: {name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class ReleaseSteps:
    """How a candidate that passed comes into service (docs/release.md)."""

    shares: tuple[float, ...] = PLAN.shares
    """Of the traffic, stage by stage; 0: shadow."""
    least: int = PLAN.least
    """Users (or episodes without one) that a stage has to see."""
    most: int = PLAN.most
    """Users after which a stage that cannot be passed ends in a roll back."""
    margin: float = PLAN.guardrails[0].margin
    """How much less reward is still "not worse"."""

    def plan(self) -> RolloutPlan:
        """As a rollout takes it."""
        return RolloutPlan(self.shares, self.least, self.most, guardrails=(Guardrail("reward", self.margin),))


@dataclass(frozen=True)
class ImproveConfig:
    """One improver of one deployment."""

    jobs: tuple[str, ...] = ()
    """Jobs that the deployment does and that have an environment: candidates practise on them and are examined in them.
    Episodes belong to the job that their request named, else the server's --job."""
    store: str = ""
    """Where the experience is, as the server's --store; by default `experience.sqlite` in the run."""
    least: int = 64
    """Episodes of which something new was said (feedback, a teacher's answer) that begin a candidate."""
    episodes: int = 4096
    """Episodes that one candidate learns from at most: the newest."""
    candidates: int = 0
    """Stop after so many candidates have come to their end; 0: go on."""
    able: float = 0.9
    """Jobs whose users give less than this on average are to get better. That the weakest of them has, and no other job
    got worse, the candidate has to show."""
    seconds: float = 600.0
    """Longest time that one candidate learns."""
    share: float = 1.0
    """Of the machine: after each piece of work it rests in proportion."""
    threads: int = 0
    """Of torch; 0: as many as there are cores."""
    look: float = 2.0
    """Seconds between looks at what is new, and at a rollout."""
    rules: Path | None = None
    """A JSON file with the never-do rules: [{"name": "no shell", "never": "rm -rf", "attacks": ["{opening} ..."]}]."""
    teacher: str = ""
    """A checkpoint that grades practice token by token (on-policy distillation): a larger model of this tokenizer."""
    value_passes: int = 4
    """Passes of V over the episodes."""
    imitation: int = 600
    """Updates of one study of all lessons: corrections, teachers' answers, and own successes. What is known
    otherwise suffers at the beginning of a study, and comes back by its end (docs/LOG.md, 2026-11-21)."""
    memory: int = 1024
    """Episodes by which each other job is remembered meanwhile."""
    preference_epochs: int = 2
    """Passes over the preferences; 0: nothing is learned from them."""
    context: int = 1024
    """Longest episode in tokens, in practice and in the examination."""
    seed: int = 0
    """Fixes what is random, less what users do."""
    practice: PracticeSteps = field(default_factory=PracticeSteps)
    """Trial and error."""
    school: SchoolConfig = field(default_factory=SchoolConfig)
    """How it imitates; demonstrations and updates are not used. A learning rate that is not given is twice that of
    trial and error."""
    update: UpdateConfig = field(default_factory=lambda: UpdateConfig(importance_cap=2.0))
    """How weights change; importance_cap corrects for the older versions that gave the answers."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """The value function, where the release has none yet."""
    examination: ExaminationConfig = field(default_factory=ExaminationConfig)
    """How much may be played to judge a candidate."""
    gate: Annotated[GateConfig, tyro.conf.Suppress] = field(default_factory=GateConfig)
    """What it has to show; what cannot be asked (no rules, no V, no old job) is not demanded."""
    release: ReleaseSteps = field(default_factory=ReleaseSteps)
    """How it comes into service."""

    def __post_init__(self) -> None:
        for name, least in (
            ("least", 1),
            ("episodes", 1),
            ("candidates", 0),
            ("threads", 0),
            ("value_passes", 0),
            ("imitation", 0),
            ("memory", 0),
            ("preference_epochs", 0),
            ("context", 2),
        ):
            if getattr(self, name) < least:
                raise UsageError(f"improve: {name} must be at least {least}, got {getattr(self, name)}")
        for name in ("able", "share"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"improve: {name} must lie above 0 and at most at 1, got {getattr(self, name)}")
        for name in ("seconds", "look"):
            if not getattr(self, name) > 0:
                raise UsageError(f"improve: {name} must be above 0, got {getattr(self, name)}")
