"""What is learned: the jobs, the checkpoints that start on them, and what counts as learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from journeyman.api import school
from journeyman.learn.school import SchoolConfig

PUPIL = "tiny,width=96,layers=3"
"""The model that is schooled where there is no apprentice."""
DEMONSTRATIONS = 2000
LEVELS = ("half", "most", "nearly all")
"""Of the way from the start to what can be reached: 50, 75 and 90%. The middle one makes the headline."""
HEADLINE = 1


@dataclass(frozen=True)
class Subject:
    """A job, and how it is learned and examined here."""

    spec: str
    length: Literal["long", "short"]
    """long: many turns with one reward at their end."""
    thresholds: tuple[float, float, float]
    """Held-out success, see `LEVELS`."""
    budget: int
    """Trajectories of one run."""
    exam_every: int
    """Trajectories between exams."""
    attempts: int = 1
    """Episodes of each task in an exam; more where the split has few tasks."""
    updates: int = 0
    """Of schooling, from scratch; 0: the start is the apprentice."""
    single_turn: bool = False
    """Whether TRL's trainer can express it."""


# Written on 2026-11-21, before any of the runs that are reported. The starts were measured on the split `test` with 400
# episodes; what can be reached was taken from trial runs of our GRPO with its defaults on seeds above 100.
SUBJECTS: Mapping[str, Subject] = {
    "maze": Subject("maze,size=5,max_turns=30", "long", (0.70, 0.80, 0.90), 8192, 512, attempts=2),
    "maze_large": Subject("maze,size=7,max_turns=60", "long", (0.50, 0.65, 0.80), 8192, 512),
    "hops": Subject("hops,min_hops=2", "long", (0.55, 0.75, 0.88), 8192, 512),
    "countdown": Subject("countdown", "short", (0.3, 0.4, 0.5), 8192, 512, updates=400, single_turn=True),
    "frozenlake": Subject("gymnasium:FrozenLake-v1", "short", (0.5, 0.7, 0.85), 8192, 512, updates=60),
    "chain_sum": Subject(
        "reasoning_gym:chain_sum,max_terms=2,min_digits=1,max_digits=2,max_reply_tokens=16",
        "short",
        (0.4, 0.6, 0.8),
        8192,
        512,
        updates=400,
        single_turn=True,
    ),
}


def start(subject: Subject, cache: Path) -> str:
    """The checkpoint that every method starts from; schooled once, and kept in the cache."""
    if not subject.updates:
        return "apprentice"
    name = "".join(
        c if c.isalnum() or c in "=-_" else "-" for c in f"{subject.spec}-{PUPIL}-{DEMONSTRATIONS}-{subject.updates}"
    )
    folder = cache / "start" / name
    if not folder.exists():
        config = SchoolConfig(demonstrations=DEMONSTRATIONS, updates=subject.updates)
        for _ in school(subject.spec, folder, PUPIL, config):
            pass
    return str(folder)
