"""Keeps a deployed model learning: hears what came, learns, proposes, has it examined, releases; and again.

    waiting      until enough was said of what was served
    learning     a copy of the release learns from it (study.py)            -> a version, and the alias `candidate`
    examining    it plays against the release until the gate is sure        -> a judgement in the registry
    releasing    the traffic decides (release/rollout.py); the server follows the log -> the release, or back

What comes next follows from the journal alone (standing.py), so it may be killed anywhere, and a server need not run.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from journeyman.api import open_model
from journeyman.config import ONE_TURN, LearnConfig, settled
from journeyman.errors import CheckpointError, UsageError
from journeyman.experience.journal import Event
from journeyman.experience.store import Store
from journeyman.experience.tail import Tail
from journeyman.improve.config import ImproveConfig
from journeyman.improve.evidence import Evidence, heard, sorted_out, speaks
from journeyman.improve.standing import TOPIC, Doing, Standing
from journeyman.improve.study import Student, learn, look
from journeyman.jobs import resolve
from journeyman.jobs.base import Job
from journeyman.learn.credit import CreditConfig
from journeyman.learn.merge import check_readers
from journeyman.learn.remember import Memory, memory_of
from journeyman.model.load import LoadedModel, save
from journeyman.model.render import Renderer
from journeyman.model.weights import weights_digest
from journeyman.release.book import Version
from journeyman.release.evidence import ASPECTS, Aspect
from journeyman.release.examine import Examination, Subject
from journeyman.release.gate import Judgement, Verdict
from journeyman.release.gather import Player
from journeyman.release.heldout import Seen, WornOut
from journeyman.release.registry import Registry
from journeyman.release.rules import Rule, read_rules
from journeyman.release.steering import Rollout, observed
from journeyman.run import experience_of, folder_of, locked, read_config
from journeyman.serve.weights import beginning, opened, registered
from journeyman.stages import Record

WORN = (
    "{parts} candidates were examined, as many as there are parts of the held-out tasks: no other could be. Give the "
    "jobs new held-out tasks (a split, a seed), or release by hand (journeyman release begin)"
)
REMEMBERED = 2048
"""Of the learning run's newest episodes, those that earlier jobs are remembered by."""


@dataclass
class Improver:
    """One deployment's improver. Use :func:`improve`.

    Attributes:
        home: where candidates are kept.
        source: what was served first.
        until: whether it is time to stop.
    """

    store: Store
    home: Path
    source: str
    config: ImproveConfig
    jobs: Mapping[str, Job]
    rules: tuple[Rule, ...]
    until: Callable[[], bool]
    ended: int = 0
    _spoken: dict[str, int] = field(default_factory=dict[str, int])
    _seen: int = 0
    _worn: bool = False

    def __post_init__(self) -> None:
        self.registry, self.rollout, self.tail = Registry(self.store), Rollout(self.store), Tail(self.store)
        self._read: Sequence[Event] = ()
        self._stands = Standing.of(self._read)

    def standing(self) -> Standing:
        """What the journal says now; to ask again costs what is new in it."""
        events = self.tail.read()
        if events is not self._read:
            self._read, self._stands = events, Standing.of(events)
        return self._stands

    def run(self) -> Iterator[Record]:
        """Until it is time to stop. Yields a record whenever something has happened."""
        paused = False
        while not self.until() and not 0 < self.config.candidates <= self.ended:
            standing = self.standing()
            if standing.paused != paused:
                paused = standing.paused
                yield told("paused" if paused else "resumed")
            something = False
            if not paused:
                for record in self._next(standing):
                    something = True
                    yield record
            if not something:
                time.sleep(self.config.look)

    def _next(self, standing: Standing) -> Iterator[Record]:
        match standing.doing:
            case Doing.WAITING:
                yield from self._learn_when_due(standing)
            case Doing.EXAMINING:
                yield from self._examine(standing)
            case Doing.BEGINNING:
                yield from self._begin(standing)
            case Doing.RELEASING:
                yield from self._look()
            case Doing.SETTLING:
                yield from self._settle(standing)

    # -- learning ------------------------------------------------------------------------------------------

    def _learn_when_due(self, standing: Standing) -> Iterator[Record]:
        if standing.release is None:
            beginning(self.registry, open_model(self.source), self.home / "serve", follows=True)
            return
        if self._waiting_since(standing.tried) < self.config.least:
            return
        if self.jobs and standing.judged >= self.config.examination.parts:
            if not self._worn:
                self._worn = True
                yield told("worn out", why=WORN.format(parts=self.config.examination.parts))
            return
        yield from self._learn(standing, standing.release)

    def _waiting_since(self, entry: int) -> int:
        """Episodes of which something was said after an entry of the log."""
        while (news := self.store.news(max(self._seen, entry))).episodes:
            self._seen = news.cursor
            self._spoken |= {e.summary.id: e.entry for e in news.episodes if speaks(e)}
        self._spoken = {id: at for id, at in self._spoken.items() if at > entry}
        return len(self._spoken)

    def _learn(self, standing: Standing, number: int) -> Iterator[Record]:
        started, release = time.monotonic(), opened(self.registry.book().find(number))
        episodes, cursor = heard(self.store, standing.learned, self.config.episodes)
        longest = min(self.config.context, release.model.config.max_positions)
        barred = self.registry.barred()
        evidence = sorted_out(episodes, Renderer(release.tokenizer), barred=barred, longest=longest)
        weak = self._weak(evidence)
        counts = {name: len(getattr(evidence, name)) for name in ("outcomes", "pending", "lessons", "pairs")}
        left_out = [suspicion.why for suspicion in evidence.suspicions]
        yield told("learning", release=number, episodes=len(episodes), weak=weak, left_out=left_out, **counts)
        student = Student.of(
            release,
            self.jobs,
            weak,
            credit_of(self.home, self.jobs),
            self.config,
            teacher=self._teacher(release),
            going=self._pace(started, self.config.seconds),
            seed=self.config.seed + standing.judged,
        )
        for record in learn(student, evidence, self._memory(evidence, weak, barred)):
            yield told("learning", seconds=time.monotonic() - started, **record)
        if not self.until():  # else what it has half learned is forgotten, and learned again
            yield self._propose(student, evidence, number, cursor, weak)

    def _weak(self, evidence: Evidence) -> list[str]:
        """The jobs that are to get better, the weakest first."""
        given = evidence.success()
        return sorted((job for job in given if given[job] < self.config.able), key=lambda job: given[job])

    def _memory(self, evidence: Evidence, weak: list[str], barred: set[str]) -> Memory:
        """What is kept while the weak jobs are learned: successes of the others, as users and the learning run had
        them."""
        lived = [t for t in self.store.episodes(min_step=0, latest=True, limit=REMEMBERED) if t.id not in barred]
        others = (t for t in (*reversed(lived), *evidence.outcomes) if t.task.job not in weak)
        return memory_of(others, self.config.memory)

    def _teacher(self, release: LoadedModel) -> Any:
        if not self.config.teacher:
            return None
        teacher = open_model(self.config.teacher)
        check_readers(release, teacher)
        return teacher.model

    def _pace(self, started: float, seconds: float = math.inf) -> Callable[[], bool]:
        """Called between pieces of work: rests in proportion, waits while paused; false when the time is over."""
        last, looked, waited = time.monotonic(), -math.inf, 0.0

        def going() -> bool:
            nonlocal last, looked, waited
            now = time.monotonic()
            rest = (now - last) * (1 / self.config.share - 1)
            time.sleep(rest)
            if now - looked >= self.config.look:
                while self.standing().paused and not self.until():
                    time.sleep(self.config.look)
                looked = time.monotonic()
            last = time.monotonic()
            waited += max(last - now - rest, 0.0)
            return last - started - waited < seconds and not self.until()

        return going

    def _propose(self, s: Student, evidence: Evidence, release: int, cursor: int, weak: list[str]) -> Record:
        """Keep the candidate, and let the registry know: from here on a kill loses nothing of it."""
        folder = self.home / "candidates" / f"{len(self.registry.book().versions) + 1:04d}"
        shutil.rmtree(folder, ignore_errors=True)  # left over by one who was killed before it was known
        calibration = look(s)
        save(folder, s.learner.policy, s.release.tokenizer, s.learner.value, calibration)
        asked = json.loads(json.dumps(asdict(self.config), default=str))
        config = {"weak": weak, "seed": s.seed, "improve": asked}
        entries = self.store.entries_of(evidence.episodes)
        digest = weights_digest(s.learner.policy)
        try:
            version = self.registry.add(
                digest, str(folder.resolve()), parents=[release], entries=entries, config=config
            )
        except UsageError as error:  # something of it was put into quarantine meanwhile
            shutil.rmtree(folder, ignore_errors=True)
            return told("set aside", why=str(error))
        number = version.number
        if number == release:
            shutil.rmtree(folder, ignore_errors=True)
        why = f"learned from {len(evidence.episodes)} episodes"
        learned = Event(TOPIC, {"what": "learned", "version": number, "cursor": cursor, "why": why})

        def decide(events: Sequence[Event]) -> list[Event]:
            if number == release:
                return [learned]
            moved = nominated(events, number, why)
            return [learned, *moved] if moved else []

        if not self.store.happen(decide).result():
            return told(
                "set aside", version=number, why="another was proposed meanwhile; it is learned again after that"
            )
        return told("proposed", version=number, source=version.source, episodes=len(evidence.episodes))

    # -- examining -----------------------------------------------------------------------------------------

    def _examine(self, standing: Standing) -> Iterator[Record]:
        assert standing.candidate is not None and standing.release is not None
        book = self.registry.book()
        theirs = opened(book.find(standing.release))
        try:
            ours = opened(book.find(standing.candidate))
        except CheckpointError as error:
            yield from self._drop(standing.candidate, str(error))
            return
        subjects = self._subjects(book.find(standing.candidate).config.get("weak", []))
        if not subjects:
            yield from self._drop(standing.candidate, "there is no job to examine it in: name one with --jobs")
            return
        context = min(self.config.context, ours.model.config.max_positions, theirs.model.config.max_positions)
        seed = self.config.seed + standing.judged
        examination = Examination(
            Player(ours, context=context, seed=seed),
            Player(theirs, context=context, seed=seed),
            subjects,
            self.config.examination,
            replace(self.config.gate, demands=askable(subjects, ours, theirs)),
            tried=standing.judged,
            released=standing.released,
            seen=Seen.traffic(self.store),
        )
        yield told("examining", version=standing.candidate, jobs=[s.job.name for s in subjects])
        judgement: Judgement | None = None
        going = self._pace(time.monotonic())
        try:
            for judgement in examination.rounds():
                yield told(
                    "examining",
                    version=standing.candidate,
                    episodes=examination.episodes,
                    verdict=str(judgement.verdict),
                    shown=len(judgement.of(Verdict.PASS)),
                    claims=len(judgement.findings),
                )
                if not going() or not self.standing().goes_on(standing):
                    return
        except WornOut as error:
            yield from self._drop(standing.candidate, f"{error.mistake}: {error.reason}")
            return
        assert judgement is not None
        self.registry.attach(standing.candidate, judgement.as_dict())
        reasons = [f"{f.aspect}, {f.reason}" for f in judgement.findings if f.verdict is not Verdict.PASS]
        yield told("judged", version=standing.candidate, verdict=str(judgement.verdict), reasons=reasons)

    def _subjects(self, weak: list[str]) -> list[Subject]:
        """What a candidate is examined in: better at the job that was weakest, no worse at the others."""
        lessons = self.config.examination.tasks * self.config.examination.rounds
        return [
            Subject(
                job,
                "improvement" if [name] == weak[:1] else "ability",
                rules=self.rules,
                lessons=tuple(job.tasks("train", lessons)),
            )
            for name, job in self.jobs.items()
        ]

    # -- releasing -----------------------------------------------------------------------------------------

    def _begin(self, standing: Standing) -> Iterator[Record]:
        assert standing.candidate is not None and standing.judgement is not None
        judgement = standing.judgement
        plan = self.config.release.plan()
        self.rollout.begin(standing.candidate, plan, gate=judgement.evidence, power=judgement.power)
        yield told("releasing", version=standing.candidate, shares=list(plan.shares))

    def _look(self) -> Iterator[Record]:
        state = self.rollout.state()
        if state is None:
            return
        decision = self.rollout.look(list(observed(self.store, state)))
        if decision.what != "wait":
            after = self.rollout.state()
            share = 0.0 if after is None else after.share
            yield told("releasing", version=state.candidate, decision=decision.what, why=decision.why, share=share)

    def _settle(self, standing: Standing) -> Iterator[Record]:
        assert standing.candidate is not None
        released = standing.candidate == standing.release
        yield from self._drop(standing.candidate, standing.why, "released" if released else "held back")

    def _drop(self, candidate: int, why: str, what: str = "held back") -> Iterator[Record]:
        self.registry.point("candidate", None, why)
        self.ended += 1
        yield told(what, version=candidate, why=why)


def told(what: str, **more: Any) -> Record:
    """A record of what happens."""
    return {"kind": "improve", "what": what, "at": time.time(), **more}


def askable(subjects: list[Subject], candidate: LoadedModel, release: LoadedModel) -> tuple[Aspect, ...]:
    """The aspects that there can be evidence of: what cannot be asked is not demanded."""
    aspects = {s.aspect for s in subjects}
    missing: set[Aspect] = set()
    if "ability" not in aspects:
        missing |= {"ability", "search", "drift", "abstention"}
    if "improvement" not in aspects:
        missing.add("improvement")
    if not any(s.rules for s in subjects):
        missing.add("rules")
    if candidate.value is None or release.value is None:
        missing |= {"calibration", "abstention"}
    return tuple(aspect for aspect in ASPECTS if aspect not in missing)


def credit_of(home: Path, jobs: Mapping[str, Job]) -> CreditConfig:
    """What the release's V was taught by: as its run was configured, else as goes well with the jobs."""
    if (home / "config.json").exists() and (home / "experience.sqlite").exists():
        kept = read_config(home).get("credit", {})
        if kept:
            return CreditConfig(**kept)
    if not jobs:
        return ONE_TURN
    return settled(LearnConfig(jobs=tuple(jobs)), jobs.values()).credit


def improve(source: str, config: ImproveConfig, until: Callable[[], bool] = lambda: False) -> Iterator[Record]:
    """Keep what is served from `source` learning, beside the server or without it. Yields what happens, as it happens;
    the same lines are in `improve.jsonl` in the run.

    Args:
        source: a run or a checkpoint, as `journeyman serve` takes it.
        until: whether it is time to stop.

    Raises:
        RunError: another improver works on it. UsageError, CheckpointError, StoreError: as they say.
    """
    jobs = {job.name: job for job in map(resolve, config.jobs)}
    rules = read_rules(config.rules) if config.rules is not None else ()
    home = folder_of(source).parent
    if config.threads:
        torch.set_num_threads(config.threads)
    home.mkdir(parents=True, exist_ok=True)
    with (
        locked(home / "improve.lock", f"the improver of {home}", "stop it first"),
        Store(experience_of(source, config.store)) as store,
        (home / "improve.jsonl").open("a", encoding="utf-8") as log,
    ):
        for record in Improver(store, home, source, config, jobs, rules, until).run():
            log.write(json.dumps(record) + "\n")
            log.flush()
            yield record


def order(source: str, store: str, what: Literal["pause", "resume"], why: str) -> None:
    """Let the improver of a deployment rest, or go on; it follows at its next look."""
    with Store(experience_of(source, store)) as kept:
        kept.happen(lambda _: [Event(TOPIC, {"what": what, "why": why})]).result()


def propose(source: str, store: str, checkpoint: str, why: str) -> Version:
    """Make a checkpoint the next candidate.

    Raises:
        UsageError: there is a candidate already, or nothing to compare one with; CheckpointError: it does not fit.
    """
    with Store(experience_of(source, store)) as kept:
        registry = Registry(kept)
        now, aliases = Standing.of(kept.events()), registry.book().aliases
        if now.candidate is not None:
            raise UsageError(f"version {now.candidate} is the candidate", fix="wait until it is released or held back")
        if "release" not in aliases:
            raise UsageError(f"{source} was never served, so there is no release to compare with", fix="serve it first")
        loaded = open_model(checkpoint)
        check_readers(opened(registry.book().find("release")), loaded)
        version = registered(registry, loaded)
        why = why or f"proposed: {checkpoint}"
        if not kept.happen(lambda events: nominated(events, version.number, why)).result():
            raise UsageError("another version was proposed meanwhile", fix="wait until it is released or held back")
        return version


def nominated(events: Sequence[Event], version: int, why: str) -> list[Event]:
    """A version becomes the candidate; nothing happens where there is one already."""
    taken = Standing.of(events).candidate is not None
    return [] if taken else [Event("alias", {"alias": "candidate", "version": version, "why": why})]


def standing(source: str, store: str = "") -> Standing:
    """Where the improver of a deployment stands."""
    with Store(experience_of(source, store)) as kept:
        return Standing.of(kept.events())
