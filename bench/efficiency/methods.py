"""What is compared. A method is a few lines: from the settings that all share to a whole configuration.

    def mine(base: LearnConfig, settings: Settings) -> LearnConfig:
        return replace(base, credit=CreditConfig(rule="mine", strength=settings["strength"]))

Every method gets as many trials in tuning as any other, and an equal budget of trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from bench.efficiency.subjects import Subject
from journeyman.config import ONE_TURN, TURNS, LearnConfig
from journeyman.exam.exam import ExamConfig
from journeyman.jobs import resolve
from journeyman.learn.credit import CreditConfig
from journeyman.learn.learner import UpdateConfig
from journeyman.learn.optimizer import OptimizerConfig

REPEATS = 8
"""Episodes of a task in one step: GRPO's group."""
EXAM_TASKS = 200

Settings = Mapping[str, float]
"""What is tuned: `learning_rate`, `tasks` (in one step, each played `REPEATS` times), `minibatches` (policy updates a
step), and whatever a method adds."""

DEFAULT: Settings = {"learning_rate": 5e-4, "tasks": 16, "minibatches": 2}
TRIALS: tuple[Settings, ...] = tuple(
    {"learning_rate": rate, "tasks": tasks, "minibatches": parts}
    for rate, tasks, parts in (
        (1e-4, 16, 1),
        (2.5e-4, 16, 1),
        (5e-4, 16, 2),
        (2.5e-4, 4, 1),
        (5e-4, 4, 1),
    )
)
"""What is tried where a method has no trials of its own: from careful to bold, and many small steps instead of few
large ones."""
VALUE_DEFAULT: Settings = {"learning_rate": 2.5e-4, "tasks": 4, "minibatches": 4, "replay": 3}
VALUE_TRIALS: tuple[Settings, ...] = tuple(
    {"learning_rate": rate, "tasks": tasks, "minibatches": parts, "replay": replay}
    for rate, tasks, parts, replay in (
        (5e-4, 16, 2, 0),
        (2.5e-4, 4, 1, 0),
        (2.5e-4, 4, 2, 3),
        (2.5e-4, 4, 4, 3),
        (2.5e-4, 4, 4, 7),
    )
)
"""The same range, and how many earlier steps are learned from again. With one turn none are."""


@dataclass(frozen=True)
class Method:
    """One side of the comparison."""

    label: str
    configure: Callable[[LearnConfig, Settings], LearnConfig] | None
    """None: TRL's trainer, in a process of its own (trl_run.py)."""
    default: Settings = field(default_factory=lambda: DEFAULT)
    """Played with where nothing was tuned; one of the trials."""
    trials: tuple[Settings, ...] = TRIALS
    """Of jobs with several turns; with one turn all methods try `TRIALS`."""
    tuned_as: str = ""
    """The method whose tuned settings it plays with; none: its own."""
    share: float = 1.0
    """Of a job's budget: a method that learns from fewer trajectories, each at greater cost, need not play as many."""

    def __post_init__(self) -> None:
        if len(self.trials) != len(TRIALS):
            raise ValueError(f"{self.label}: every method gets {len(TRIALS)} trials, not {len(self.trials)}")
        if self.default not in self.trials:
            raise ValueError(f"{self.label}: the default has to be among the trials, so that tuning is never a loss")

    def trials_of(self, subject: Subject) -> tuple[Settings, ...]:
        """What is tried on this job."""
        return TRIALS if subject.single_turn else self.trials

    def default_of(self, subject: Subject) -> Settings:
        """What is played on this job where nothing was tuned."""
        return DEFAULT if subject.single_turn else self.default


def grpo(base: LearnConfig, settings: Settings) -> LearnConfig:
    """The group's mean as the baseline, its standard deviation as the scale (2402.03300, section 4.1.2)."""
    return replace(base, credit=CreditConfig(rule="grpo", divide_by_std=True))


def rloo(base: LearnConfig, settings: Settings) -> LearnConfig:
    """The mean of the others as the baseline (2402.14740)."""
    return replace(base, credit=CreditConfig(rule="rloo"))


def value(base: LearnConfig, settings: Settings) -> LearnConfig:
    """Credit by V as far as it is trusted, and for the rest by the others (`blend`).

    With several turns no task is played twice in a step, for V says what a group would, and the last steps are learned
    from again. With one turn V can only add what it says between tokens, and learning again hurts (docs/LOG.md).
    """
    several = resolve(base.jobs[0]).max_turns > 1
    replay = int(settings["replay"]) if several else 0
    learned = replace(
        base,
        policy_replay=replay,
        replay=max(replay, 1),
        value_warmup=0,
        update=replace(base.update, critic=OptimizerConfig(learning_rate=1e-3)),
    )
    if not several:
        return replace(learned, credit=ONE_TURN)
    return replace(learned, tasks=base.tasks * base.repeats, repeats=1, credit=TURNS)


def value_once(base: LearnConfig, settings: Settings) -> LearnConfig:
    """`value`, learning from each attempt once, as GRPO does: what V is worth without replay."""
    return replace(value(base, settings), replay=0, policy_replay=0)


METHODS: Mapping[str, Method] = {
    "grpo": Method("GRPO", grpo),
    "rloo": Method("RLOO", rloo, tuned_as="grpo"),
    "trl": Method("TRL's GRPO", None),
    "value_once": Method(
        "Journeyman with V, no replay", value_once, VALUE_DEFAULT, VALUE_TRIALS, tuned_as="value", share=0.5
    ),
    "value": Method("Journeyman with V", value, VALUE_DEFAULT, VALUE_TRIALS, share=0.5),
}
BASELINE = "grpo"
HEADLINE = "value"
"""The method that figures without a method's name are about."""


def shared(subject: Subject, model: str, seed: int, settings: Settings, split: str, budget: int) -> LearnConfig:
    """What all methods of Journeyman share."""
    tasks = int(settings["tasks"])
    step = tasks * REPEATS
    return LearnConfig(
        jobs=(resolve(subject.spec).name,),
        model=model,
        steps=budget // step,
        tasks=tasks,
        repeats=REPEATS,
        seed=seed,
        update=UpdateConfig(
            policy=OptimizerConfig(learning_rate=settings["learning_rate"], warmup=10),
            minibatches=int(settings["minibatches"]),
        ),
        exam=ExamConfig(tasks=EXAM_TASKS, attempts=subject.attempts, splits=(split,)),
        exam_every=max(subject.exam_every // step, 1),
        checkpoint_every=max(2048 // step, 1),
        slots=128,
        threads=1,
    )
