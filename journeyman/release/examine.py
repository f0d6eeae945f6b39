"""Examines a candidate against the release, round by round, until the gate is sure or the budget is spent.

Evidence costs episodes. A round plays a fresh stretch of tasks of each job whose claims do not stand yet and gathers
what is still open; the gate looks at all of it; looking often is free (sequential.py). A candidate that is plainly good
or plainly bad is done early, and only one that is neither plays everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from journeyman.errors import UsageError
from journeyman.jobs.base import Job
from journeyman.release import gather
from journeyman.release.evidence import ASPECTS, Aspect, Sample, gap, gathered
from journeyman.release.gate import GateConfig, Judgement, Verdict, judge
from journeyman.release.gather import Both, Player
from journeyman.release.heldout import Seen, part, untouched
from journeyman.release.reword import REWORDINGS, Rewording
from journeyman.release.rules import Rule
from journeyman.types import Task


@dataclass(frozen=True)
class Subject:
    """A job to be examined in."""

    job: Job
    """Whose held-out tasks are asked."""
    aspect: Literal["ability", "improvement"] = "ability"
    """`ability`: an old job, of which nothing may be lost; `improvement`: the one that the candidate was made for."""
    split: str = "test"
    """Held out, and otherwise like what was learned from."""
    grader: Job | None = None
    """Grades the same replies independently; none: the job's own environment again, which finds only what is not
    reproducible."""
    rules: tuple[Rule, ...] = ()
    """What must never be said."""
    rewordings: Sequence[Rewording] = REWORDINGS
    """How its tasks may be put otherwise."""
    lessons: tuple[Task, ...] = ()
    """Tasks that the candidate learned from, to see whether it knows more than these; none: no such claim."""


@dataclass(frozen=True)
class ExaminationConfig:
    """How much may be played."""

    tasks: int = 500
    """Held-out tasks of each job in a round."""
    rounds: int = 8
    """At most."""
    repeats: int = 1
    """Attempts at each."""
    beside: int = 200
    """Tasks of a round that are put otherwise, or attacked."""
    tries: int = 4
    """Wordings tried of each at most."""
    parts: int = 10
    """Into how many the held-out split is cut: as many candidates can be examined on it."""
    threshold: float = 0.5
    """What V must say for an answer to be given, where it may abstain."""

    def __post_init__(self) -> None:
        for name in ("tasks", "rounds", "repeats", "beside", "tries", "parts"):
            if getattr(self, name) < 1:
                raise UsageError(f"examination: {name} must be at least 1, got {getattr(self, name)}")


@dataclass
class Examination:
    """One candidate's examination under way.

    Attributes:
        candidate, release: who plays. With one seed, what is common to both cancels.
        subjects: in which jobs.
        tried, released: candidates that were examined and released before this one.
        place: its part of the held-out splits; None: the first that no candidate before it had.
        seen: what the traffic brought.
        samples: what was gathered so far.
        judgement: what the gate says of it.
        notes: what could not be asked, and why.
        episodes: how many were played.
    """

    candidate: Player
    release: Player
    subjects: Sequence[Subject]
    config: ExaminationConfig = field(default_factory=ExaminationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    tried: int = 0
    released: int = 0
    place: int | None = None
    seen: Seen = field(default_factory=Seen)
    samples: list[Sample] = field(default_factory=list[Sample])
    notes: list[str] = field(default_factory=list[str])
    episodes: int = 0
    judgement: Judgement = field(init=False)

    def __post_init__(self) -> None:
        self.judgement = judge((), self.gate, tried=self.tried, released=self.released)

    def rounds(self) -> Iterator[Judgement]:
        """Play round after round; the gate's judgement after each. The last one is the verdict.

        Raises:
            WornOut: the held-out split of a job is used up.
        """
        tasks = {s.job.name: self._tasks(s) for s in self.subjects}
        for number in range(self.config.rounds):
            for subject in self.subjects:
                mine = tasks[subject.job.name][number * self.config.tasks : (number + 1) * self.config.tasks]
                if mine:
                    self.samples = gathered([*self.samples, *self._round(subject, mine, number)])
            self.judgement = judge(self.samples, self.gate, tried=self.tried, released=self.released)
            yield self.judgement
            if self.judgement.verdict is not Verdict.INCONCLUSIVE:
                return

    def _tasks(self, subject: Subject) -> list[Task]:
        wanted = self.config.tasks * self.config.rounds
        room = subject.job.splits[subject.split] // self.config.parts
        if room < wanted:
            self.notes.append(
                f"{subject.job.name}: {room} held-out tasks where {wanted} were wanted: {subject.split} is small"
            )
        place = self.tried if self.place is None else self.place
        mine = part(subject.job, subject.split, place, min(wanted, room), self.config.parts)
        clean, known = untouched(mine, self.seen)
        if known:
            self.notes.append(f"{subject.job.name}: {len(known)} held-out tasks left out, for the traffic brought them")
        return clean

    def _open(self, subject: Subject) -> set[Aspect]:
        """Aspects of a job that are not shown yet: all before the first round."""
        names = {subject.job.name, *(rule.name for rule in subject.rules)}
        mine = [f for f in self.judgement.findings if {f.about, f.about.split(", ")[0]} & names]
        stand = {f.aspect for f in mine} - {f.aspect for f in mine if f.verdict is not Verdict.PASS}
        return set(ASPECTS) - stand

    def _round(self, subject: Subject, tasks: list[Task], number: int) -> Iterator[Sample]:
        """What is still open of a job, gathered from these tasks."""
        wanted = self._open(subject)
        beside = tasks[: self.config.beside]
        new = subject.aspect == "improvement"
        if wanted - {"search", "generalization"}:
            both = self._play(subject, tasks)
            yield from self._read(subject, both, wanted)
            learned = subject.lessons[number * len(tasks) : (number + 1) * len(tasks)]
            if "generalization" in wanted and learned:
                seen = self._play(subject, learned)
                yield gap(subject.job.name, gather.success(seen), gather.success(both))
        if "search" in wanted and not new:
            ours, theirs, c = self.candidate, self.release, self.config
            yield gather.search(ours, theirs, subject.job, beside, c.tries, subject.rewordings)
        if "rules" in wanted:
            yield from gather.attacked(self.candidate, subject.job, beside, subject.rules)

    def _play(self, subject: Subject, tasks: Sequence[Task]) -> Both:
        self.episodes += 2 * len(tasks) * self.config.repeats
        return gather.play_both(self.candidate, self.release, subject.job, tasks, self.config.repeats)

    def _read(self, subject: Subject, both: Both, wanted: set[Aspect]) -> Iterator[Sample]:
        """One set of episodes, read in every way that is still open."""
        ours, theirs, threshold = self.candidate, self.release, self.config.threshold
        new = subject.aspect == "improvement"
        if subject.aspect in wanted:
            yield gather.success(both, subject.aspect)
        if "audit" in wanted:
            yield gather.audit(both, subject.grader or subject.job)
        if "rules" in wanted:
            yield from gather.rules(both.candidate, subject.rules)
        if "inside" in wanted:
            yield from gather.inside(both, ours, theirs, new=new)
        if "calibration" in wanted:
            yield gather.calibration(both, ours, theirs, new=new)
        if new:  # it ought to move there, and to answer where the release could not
            return
        if "abstention" in wanted:
            yield gather.abstention(both, ours, theirs, threshold)
        if "drift" in wanted:
            yield gather.drift(both, theirs)
