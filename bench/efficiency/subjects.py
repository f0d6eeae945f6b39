"""What is learned: the jobs, and what counts as learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

LEVELS = ("some", "most", "nearly all")
"""Of the way from the start to what trial runs came to. The middle one makes the headline."""
HEADLINE = 1


@dataclass(frozen=True)
class School:
    """What the pupil watched that starts on a job: a model from scratch, schooled in a minute."""

    demonstrations: int
    updates: int
    slips: float = 0.0
    """Share of demonstrations whose answer belongs to another task: a careless teacher leaves something to find out."""


@dataclass(frozen=True)
class Subject:
    """A job, and how it is learned and examined here."""

    spec: str
    length: Literal["long", "short", "waiting"]
    """long: many turns with one reward at their end; waiting: the same, and playing takes its time, which is no part of
    the medians over long jobs."""
    thresholds: tuple[float, float, float]
    """Held-out success, see `LEVELS`."""
    budget: int
    """Trajectories of one run."""
    exam_every: int = 512
    """Trajectories between exams; those of a step, where it has more."""
    attempts: int = 1
    """Episodes of each task in an exam; more where the split has few tasks."""
    school: School | None = None
    """None: the start is the apprentice, which comes with Journeyman."""
    tuned_as: str = ""
    """The job whose tuned settings are used; none: its own."""
    single_turn: bool = False
    """Whether TRL's trainer can express it."""


# Written on 2026-11-21, before any of the runs that are reported. Starts were measured, and what can be reached was
# taken from trial runs on the split `valid` with seed 100 (docs/LOG.md); exploratory runs of the same day with seeds 0
# and 1 had been examined on the mazes' split `test`, so the comparison's seeds begin at 3. On 2026-11-22 `hops`, which
# all learn within 500 trajectories, got an exam every 64 instead of every 256, for all methods; thresholds stayed.
SUBJECTS: Mapping[str, Subject] = {
    "maze": Subject("maze,size=5,max_turns=30", "long", (0.70, 0.80, 0.90), 8192, attempts=2),
    "maze_large": Subject("maze,size=7,max_turns=60", "long", (0.35, 0.40, 0.45), 12288, tuned_as="maze"),
    "hops": Subject("hops,min_hops=2", "long", (0.55, 0.75, 0.88), 4096, 64),
    "hops_waiting": Subject(
        "bench/efficiency/waiting.py:WaitingHops,seconds=0.01,min_hops=2",
        "waiting",
        (0.55, 0.75, 0.88),
        2048,
        64,
        tuned_as="hops",
    ),
    "countdown": Subject(
        "countdown", "short", (0.20, 0.25, 0.30), 8192, school=School(20_000, 3000, slips=0.3), single_turn=True
    ),
    "frozenlake": Subject("gymnasium:FrozenLake-v1", "short", (0.35, 0.40, 0.45), 6144, school=School(2000, 60)),
    "chain_sum": Subject(
        "reasoning_gym:chain_sum,max_terms=2,min_digits=1,max_digits=2,max_reply_tokens=16",
        "short",
        (0.31, 0.34, 0.37),
        8192,
        school=School(10_000, 800),
        single_turn=True,
    ),
}
