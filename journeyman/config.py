"""The configuration of a run: how its parts' configurations fit together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Annotated

import tyro

from journeyman.errors import UsageError
from journeyman.exam.exam import ExamConfig
from journeyman.jobs.agent import AgentConfig, AgentJob, agent_options
from journeyman.jobs.base import Job
from journeyman.learn.credit import CRITIC_FREE, CreditConfig
from journeyman.learn.learner import UpdateConfig
from journeyman.learn.school import SchoolConfig
from journeyman.model.lora import TARGETS, LoRAConfig, Target
from journeyman.model.tiny import is_tiny
from journeyman.model.value import ValueConfig
from journeyman.rollout.asking import AskingConfig
from journeyman.rollout.branch import BranchConfig
from journeyman.rollout.practice import PracticeConfig
from journeyman.rollout.runner import RolloutConfig
from journeyman.rollout.stopping import StoppingConfig

AUTO = -1
"""In place of a number: what goes well with the jobs, see :func:`settled`."""
LEFT_OPEN = ("tasks", "repeats", "replay", "policy_replay", "value_warmup", "ease")
"""What may be :data:`AUTO`."""

TURNS = CreditConfig(rule="blend", unit="turn", gamma=0.95, lambda_policy=0.5, lambda_value=0.7)
"""Credit of jobs with several turns. docs/value.md has the reasons."""
ONE_TURN = CreditConfig(rule="blend", unit="token")
"""Credit of jobs with one turn."""
NEGATIVE = 0.1
"""Weight of advantages below 0 where V stands in for a group (`update.loss.negative`)."""
UPDATES = 4
"""Updates of the policy in a step where V stands in for a group (`update.minibatches`)."""
EASE = 0.2
"""Share of failures below which the policy slows down where V stands in for a group (`ease`)."""
WARMUP = 256
"""Episodes of a job from which V learns before the policy does, where it is trusted from the start (`gae`)."""


def lora_options(rank: int = 0, alpha: float = 32.0, targets: tuple[Target, ...] = TARGETS) -> LoRAConfig | None:
    """:class:`LoRAConfig` as the command line has it, where what is not given cannot be None.

    Args:
        rank: Inner width of the adapters, such as 16; 0: none, all weights learn.
        alpha: What the adapters' product is multiplied by, before it is divided by the rank.
        targets: The projections of each layer that are adapted.
    """
    if rank:
        return LoRAConfig(rank, alpha, targets)
    if (alpha, targets) != (32.0, TARGETS):
        raise UsageError(
            "lora: alpha or targets without a rank",
            reason="a rank of 0 means that there are no adapters",
            fix="add --lora.rank 16",
        )
    return None


@dataclass(frozen=True)
class LearnConfig:
    """A whole run. Every random draw follows from `seed`."""

    jobs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """What to learn: names as in `journeyman jobs`, or `my_job.py:MyJob`. Several are learned side by side. An agent is
    a job of its own."""
    agent: Annotated[AgentConfig | None, tyro.conf.arg(constructor=agent_options)] = None
    """A program that asks an OpenAI endpoint, as it is: what it says is learned (docs/agents.md)."""
    model: str = "tiny"
    """`tiny` (from scratch, see model/tiny.py), `apprentice` (comes with us, the demo's), `smollm2-135m`, a Hugging
    Face folder or Hub name."""
    steps: int = 100
    """Learning steps."""
    tasks: int = AUTO
    """Tasks of each job in one step; -1: 32 where each is played once, else 16."""
    repeats: int = AUTO
    """Episodes of each task in one step: its group; -1: 1 where V does instead of a group (several turns), else 8."""
    seed: int = 0
    """Fixes everything random."""
    school: SchoolConfig = field(default_factory=SchoolConfig)
    """What to imitate before learning by trial and error."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """How episodes are played."""
    practice: PracticeConfig = field(default_factory=PracticeConfig)
    """Which tasks the value function chooses."""
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    """Which episodes the value function stops."""
    asking: AskingConfig = field(default_factory=AskingConfig)
    """When the value function asks a teacher."""
    credit: CreditConfig = field(default_factory=CreditConfig)
    """How outcomes become advantages."""
    branch: BranchConfig = field(default_factory=BranchConfig)
    """What is played from the middle of episodes, to know better what V should say there."""
    value: ValueConfig = field(default_factory=ValueConfig)
    """The value function."""
    update: UpdateConfig = field(default_factory=UpdateConfig)
    """How weights change."""
    lora: Annotated[LoRAConfig | None, tyro.conf.arg(constructor=lora_options)] = None
    """Let the policy learn by low-rank adapters (2106.09685) instead of all its weights: the optimizer's state
    shrinks with what learns. School, where there is one, comes before and teaches all weights."""
    value_warmup: int = AUTO
    """Steps in which only the value function learns (2503.01491, section 4.1). Their episodes count. -1: none
    where V is trusted by degrees (`blend`), else as many as play 256 episodes of a job."""
    replay: int = AUTO
    """Earlier steps whose episodes the value function learns from again; -1: 3 where each task is played once, else
    1."""
    policy_replay: int = AUTO
    """Earlier steps whose episodes the policy learns from again, warm-up included: by V as it is now, and corrected for
    the older weights that sampled them by truncated importance weights. -1: 3 where each task is played once, else
    0."""
    exam: ExamConfig = field(default_factory=ExamConfig)
    """What is examined before and after, on all splits."""
    exam_every: int = 0
    """Steps between exams on the splits that `exam` names, or else on `test` alone; 0: none in between."""
    ease: float = AUTO
    """Share of failures below which the policy slows down: its learning rate falls with the share of the last attempts
    that failed, at the job at which most did. Adam moves as far on noise as on signal, and where next to nothing fails
    there is little else.
    0: it never does. -1: 0.2 where V does instead of a group, else 0."""
    checkpoint_every: int = 10
    """Steps between checkpoints."""
    lag: int = 0
    """1: the next step's episodes are played while this step's are learned from, by weights one update older; what that
    does to learning is corrected by truncated importance weights. 0: one after the other."""
    slots: int = 128
    """Episodes the engine samples at once."""
    context: int = 1024
    """Longest episode in tokens."""
    threads: int = 0
    """Threads of torch; 0: as many as there are cores."""

    def __post_init__(self) -> None:
        if self.agent is not None:
            self._check_agent(self.agent)
        elif not self.jobs:
            raise UsageError("no job to learn", fix="name one: journeyman learn maze")
        for name, least in (
            ("tasks", 1),
            ("repeats", 1),
            ("steps", 0),
            ("checkpoint_every", 1),
            ("replay", 0),
            ("policy_replay", 0),
            ("value_warmup", 0),
            ("ease", 0),
        ):
            left_open = name in LEFT_OPEN and getattr(self, name) == AUTO
            if getattr(self, name) < least and not left_open:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.ease > 1:
            raise UsageError(f"ease must be a share of the attempts, 0 to 1, got {self.ease}")
        if self.lag not in (0, 1):
            raise UsageError(f"lag must be 0 or 1, got {self.lag}")
        if self.branch.share and not self.uses_value:
            raise UsageError(
                f"branch: {self.credit.rule} has no use for branches",
                reason="they correct the value function, and this credit rule has none",
                fix="leave branch.share at 0, or take --credit.rule blend",
            )
        self._check_uses()
        if self.repeats == 1 and self.credit.rule in CRITIC_FREE:
            raise UsageError(f"{self.credit.rule} compares the episodes of a group, so repeats must be at least 2")

    def _check_agent(self, agent: AgentConfig) -> None:
        """Whether an agent can be learned from like this; what it does becomes the job."""
        if self.jobs not in ((), (agent.name,)):
            raise UsageError(
                f"an agent and {', '.join(self.jobs)} cannot be learned in one run", fix="give each a run of its own"
            )
        object.__setattr__(self, "jobs", (agent.name,))
        if is_tiny(self.model) or self.school.updates:
            raise UsageError(
                "an agent needs a model that can speak already",
                reason="nobody demonstrates what it is to say, and there is no text to make a tokenizer for",
                fix="take a checkpoint: --model apprentice, or what `journeyman school` made",
            )
        inside = {
            "branch.share": self.branch.share,
            "stopping.every": self.stopping.every,
            "asking.budget": self.asking.budget,
            "practice.candidates": self.practice.candidates > 1,
        }
        for name in (name for name, wanted in inside.items() if wanted):
            raise UsageError(
                f"{name} does not go with an agent",
                reason="only the agent knows how its attempts begin and go on",
                fix=f"leave out --{name}",
            )

    def _check_uses(self) -> None:
        """Whether V can look at tasks before, and at episodes while they are played, if it is to."""
        chooses = self.practice.candidates > 1
        for use, switch in (("stopping", self.stopping.every), ("asking", self.asking.budget), ("practice", chooses)):
            if switch and not self.uses_value:
                raise UsageError(
                    f"{use} needs a value function, and {self.credit.rule} has none", fix="take --credit.rule gae"
                )
            if switch and self.lag:
                raise UsageError(
                    f"{use} needs lag 0",
                    reason="with a lag V learns while it would have to look",
                    fix="leave out --lag",
                )
        if chooses and self.credit.gamma < 1:
            raise UsageError(
                f"practice needs credit.gamma 1, got {self.credit.gamma}",
                reason="V of a task that takes long is small with a discount, however surely it is solved",
                fix="take --credit.gamma 1, or leave out --practice.candidates",
            )

    @property
    def uses_value(self) -> bool:
        """Whether the credit rule needs a value function."""
        return self.credit.rule not in CRITIC_FREE

    @property
    def school_updates(self) -> int:
        """Updates of schooling before trial and error."""
        return self.school.updates_for(from_scratch=self.model.split(",")[0] == "tiny")

    @property
    def updating(self) -> UpdateConfig:
        """How weights change, with the correction that episodes of older weights need."""
        if not (self.lag or self.policy_replay) or self.update.importance_cap is not None:
            return self.update
        return replace(self.update, importance_cap=2.0)

    @property
    def warmup(self) -> int:
        """Steps before the policy's first update."""
        return self.value_warmup if self.uses_value else 0


def settled(config: LearnConfig, jobs: Iterable[Job]) -> LearnConfig:
    """The configuration with everything in it that was left open: what measured best for such jobs (docs/value.md).

    With several turns and a V, each task is played once in a step, steps are small, policy and V learn again from the
    last ones, and the policy hardly learns from what went worse than expected. Otherwise episodes are compared with
    their group: tasks are played eight times and learned from once, from better and worse alike.
    """
    jobs = list(jobs)
    credit, several = config.credit, any(job.max_turns > 1 for job in jobs)
    if credit.rule == "auto":
        best = TURNS if several else ONE_TURN
        if config.practice.candidates > 1:  # there V has to be the chance of success
            best = replace(best, gamma=1.0)
        given = {f.name: getattr(credit, f.name) for f in fields(credit) if getattr(credit, f.name) != f.default}
        credit = replace(best, **given)
    alone = several and credit.rule not in CRITIC_FREE and config.repeats in (AUTO, 1)
    repeats = config.repeats if config.repeats != AUTO else 1 if alone else 8
    tasks = config.tasks if config.tasks != AUTO else 32 if alone else 16
    measured = {
        "tasks": tasks,
        "repeats": repeats,
        "replay": 3 if alone else 1,
        "policy_replay": 3 if alone else 0,
        "ease": EASE if alone else 0.0,
        "value_warmup": -(-WARMUP // (tasks * repeats)) if credit.rule == "gae" else 0,
    }
    left_open = {name: measured[name] for name in LEFT_OPEN if getattr(config, name) == AUTO}
    update = config.update
    if alone and update.loss.negative is None:
        update = replace(update, loss=replace(update.loss, negative=NEGATIVE))
    if alone and update.minibatches is None:
        update = replace(update, minibatches=UPDATES)
    agent = config.agent
    for job in jobs:
        if isinstance(job, AgentJob):
            agent = replace(job.config, digest=job.digest)
    return replace(config, credit=credit, update=update, agent=agent, **left_open)
