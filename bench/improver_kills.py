"""Kill a server and the improver beside it at random moments, while users ask and say how it was; count what was lost.

    python -m bench.improver_kills                 20 kills of each, about ten minutes
    python -m bench.improver_kills --quick         2 kills of each

A tiny model that knows one of two jobs is served (`journeyman serve`) and improved (`journeyman.improve`), each as a
process of its own. Each gets a SIGKILL again and again, whatever it is doing, and is started again. Users ask, say of
each answer whether it was right, and of wrong ones what would have been; whoever got no answer asks again, whoever got
no acknowledgement says it again under the same key. What the gate and the rollout demand is less than usual, so that
many candidates are learned, examined and released in the time. At the end

- every acknowledged piece of feedback, and every answer that a user saw, is in the store, each once;
- every hash is as written;
- every version that was released went through a rollout that says so, and none that a rollout released is not;
- the weights of every version that anything points to are as they were when it became known;
- no user was answered by a version when it had no share of the traffic (but for a few seconds after its end);
- and it has gone on: after the last kill another candidate came to its end.

Writes into bench/results/gate.json.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.common import Results, parser
from bench.serving import Forked, Process
from journeyman.cli import main as main_of_journeyman
from journeyman.experience import EpisodeFilter, Store
from journeyman.experience.journal import Event
from journeyman.improve import ImproveConfig, PracticeSteps, ReleaseSteps, improve
from journeyman.jobs.base import Env, Job
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.school import SchoolConfig, demonstrations, school
from journeyman.model.load import load, save
from journeyman.model.render import Renderer
from journeyman.model.tiny import fresh
from journeyman.model.value import ValueConfig, ValueFunction
from journeyman.model.weights import weights_digest
from journeyman.release.book import Book
from journeyman.release.examine import ExaminationConfig
from journeyman.release.gate import GateConfig
from journeyman.release.rollout import Phase, State
from journeyman.release.steering import course
from journeyman.types import Message, StepResult, Task

ALPHABET = "abcdefgh"
SHAPE, CONTEXT = "tiny,width=32,layers=1,heads=2,vocab=290,positions=64", 64
CLIENTS, PAUSE, AGAIN = 4, 0.05, 0.2
APART = {"server": (1.0, 20.0), "improver": (1.0, 60.0)}
"""Seconds from one kill of a process to the next, at least and at most: the improver needs some to get anywhere."""
LATE = 5.0
"""Seconds within which a server has followed the log."""
CONFIG = ImproveConfig(
    jobs=(f"{__file__}:Next", f"{__file__}:Before"),
    least=100,
    episodes=500,
    imitation=150,
    threads=1,
    look=0.5,
    context=CONTEXT,
    practice=PracticeSteps(rounds=1, tasks=64, repeats=1, rehearsal=64, looks=100),
    examination=ExaminationConfig(tasks=200, rounds=4, beside=40, tries=2, parts=100),
    gate=GateConfig(
        ability=0.1, audit=0.1, calibration=0.3, inside=0.3, abstention=0.3, generalization=0.4, search=0.6, drift=0.9
    ),
    release=ReleaseSteps(shares=(0.0, 0.3, 1.0), least=10, margin=0.3),
)


class Spell(Job):
    """Say the letter that is so many further on."""

    splits = {"train": 20_000, "test": 100_000}  # noqa: RUF012
    max_reply_tokens = 4

    def __init__(self, name: str, by: int) -> None:
        self.name, self.by = name, by

    def task(self, split: str, index: int) -> Task:
        letter, number = self.rng(split, index).integers((len(ALPHABET), 10_000)).tolist()
        answer = ALPHABET[(letter + self.by) % len(ALPHABET)]
        said = Message("user", f"{self.name} {ALPHABET[letter]} {number}")
        return Task(self.name, split, index, (said,), {"answer": answer})

    def env(self, task: Task) -> Spelled:
        return Spelled(task.data["answer"])


class Spelled(Env):
    """Grades one letter."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def step(self, reply: str) -> StepResult:
        return StepResult(reward=float(reply.strip() == self.answer), terminated=True)

    def expert(self) -> str:
        return self.answer


class Next(Spell):
    """What the model knows."""

    def __init__(self) -> None:
        super().__init__("next", 1)


class Before(Spell):
    """What it learns from its users."""

    def __init__(self) -> None:
        super().__init__("before", -1)


@dataclass(frozen=True)
class Answered:
    """What a user saw."""

    episode: str
    version: int
    asked: float
    heard: float


@dataclass
class Users:
    """All of them, and what they were told."""

    server: Process
    answers: list[Answered] = field(default_factory=list[Answered])
    acknowledged: dict[str, str] = field(default_factory=dict[str, str])
    """The id of each idempotency key."""
    unheard: int = 0
    faults: list[str] = field(default_factory=list[str])
    ended: threading.Event = field(default_factory=threading.Event)

    def live(self, number: int) -> None:
        """One client, until the end."""
        rng, jobs, turn = random.Random(number), dict(zip(CONFIG.jobs, (Next(), Before()), strict=True)), 0
        while not self.ended.wait(rng.expovariate(1 / PAUSE)):
            turn += 1
            name = rng.choice(CONFIG.jobs)
            task, user = jobs[name].task("train", rng.randrange(20_000)), f"user {number} {turn}"
            body = {"model": "spell", "messages": [{"role": "user", "content": task.messages[-1].content}]}
            extra = {"max_tokens": 4, "user": user, "journeyman": {"job": name}}
            asked = time.time()
            reply = self.post("/v1/chat/completions", {**body, **extra}, 200)
            if reply is None:
                self.unheard += 1
                time.sleep(AGAIN)
                continue
            version = reply["journeyman"]["choices"][0]["versions"][0]["version"]
            self.answers.append(Answered(reply["episode_id"], version, asked, time.time()))
            right = reply["choices"][0]["message"]["content"].strip() == task.data["answer"]
            said: dict[str, Any] = {"value": float(right)}
            if not right:
                said["correction"] = task.data["answer"]
            self.say({"episode_id": reply["episode_id"], "user": user, "idempotency_key": user, **said})

    def say(self, body: dict[str, Any]) -> None:
        """Until it is acknowledged."""
        while (reply := self.post("/v1/feedback", body, 201)) is None:
            self.unheard += 1
            time.sleep(AGAIN)
        self.acknowledged[body["idempotency_key"]] = reply["id"]

    def post(self, path: str, body: dict[str, Any], status: int) -> Any:
        """The answer; None where none came, since the server was killed."""
        link = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        try:
            link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = link.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            link.close()
        if answer.status != status:
            self.faults.append(f"{path} {answer.status}: {said[:300]!r}")
            return None
        return json.loads(said)


@dataclass
class Killer:
    """Kills one process again and again, and starts it again."""

    process: Forked
    run: Path
    kills: int
    seed: int
    during: Counter[str] = field(default_factory=Counter[str])
    """What the improver did at that moment."""
    died: int = 0
    """How often it was dead already."""

    def work(self) -> None:
        """All of the kills."""
        rng = random.Random(self.seed)
        for number in range(self.kills):
            time.sleep(rng.uniform(*APART[self.process.log.stem]))
            doing = (done(self.run) or ["starting"])[-1]
            self.died += not self.process.alive
            self.during[doing] += 1
            self.process.kill()
            self.process.start()
            print(f"{self.process.log.stem:>9} killed {number + 1:2d}, the improver was {doing}", flush=True)


def done(run: Path) -> list[str]:
    """What the improver did, by its lines."""
    log = run / "improve.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    whole = [line for line in lines if line.endswith("}")]  # a kill may tear one
    return [json.loads(line)["what"] for line in whole]


def keep_improving(source: str, config: ImproveConfig) -> None:
    """The improver's process."""
    for _ in improve(source, config):
        pass


def taught(folder: Path) -> None:
    """Make a checkpoint that knows one of the two jobs."""
    torch.manual_seed(0)
    loaded = fresh(SHAPE, [Next(), Before()])
    learner = Learner(loaded.model, None, UpdateConfig(), keep_reference=False)
    lessons = demonstrations([Next()], 1000, 0, Renderer(loaded.tokenizer))
    for _ in school(learner, lessons, SchoolConfig(batch=32), 300, seed=0):
        pass
    value = ValueFunction.start(ValueConfig(placement="head"), loaded.model)
    save(folder, loaded.model, loaded.tokenizer, value)


def astray(answers: Sequence[Answered], events: Sequence[Event]) -> list[str]:
    """Answers of versions that had no share when they were asked or soon before."""
    shares = [(event.at, set(now.shares) if (now := course(events[: n + 1])) else set[int]())
              for n, event in enumerate(events) if event.topic in ("alias", "rollout", "quarantine")]  # fmt: skip
    found: list[str] = []
    for one in answers:
        before = [had for at, had in shares if at < one.asked - LATE][-1:]
        during = [had for at, had in shares if one.asked - LATE <= at <= one.heard]
        if before + during and not any(one.version in had for had in (*before, *during)):
            found.append(f"version {one.version} answered {one.episode}")
    return found


def half_released(events: Sequence[Event]) -> list[str]:
    """Versions that the aliases and the rollouts say different things of."""
    state, carried = None, set[int]()
    for number in range(len(events)):
        if events[number].topic == "rollout":
            state = State.of(events[: number + 1])
            if state is not None and state.phase is Phase.RELEASED:
                carried.add(state.candidate)
    pointed = [move.version for move in Book.of(events).moves if move.alias == "release"]
    return [f"version {n}" for n in sorted(carried ^ {n for n in pointed[1:] if n is not None})]


def changed_weights(book: Book) -> list[str]:
    """Versions whose weights are not those that became known."""
    pointed = {move.version for move in book.moves if move.version is not None}
    return [f"version {n}" for n in sorted(pointed)
            if weights_digest(load(book.versions[n].source).model) != book.versions[n].digest]  # fmt: skip


def wait_for_more(run: Path, seconds: float) -> int:
    """How many candidates come to an end from now on: one, if there is time."""

    def ended() -> int:
        return sum(what in ("released", "held back") for what in done(run))

    begun, deadline = ended(), time.monotonic() + seconds
    while ended() == begun and time.monotonic() < deadline:
        time.sleep(0.5)
    return ended() - begun


@dataclass(frozen=True)
class Told:
    """What became of it all: what must be 0, and what was done."""

    counts: dict[str, tuple[int, str]]
    did: dict[str, Any]
    more: int


def played(run: Path, kills: int, seed: int) -> Told:
    """Serve, improve and kill what has its checkpoint, its store and its candidates in this folder."""
    taught(run)
    source = str(run)
    place = ("--port", "0", "--admin-port", "0", "--name", "spell")
    words = ["serve", source, *place, "--context", str(CONTEXT), "--slots", "8"]
    server = Process(main_of_journeyman, (words,), run)
    improver = Forked(keep_improving, (source, CONFIG), run, "improver.log")
    killers = [Killer(process, run, kills, seed + n) for n, process in enumerate((server, improver))]
    users, begun = Users(server), time.monotonic()
    server.start()
    improver.start()
    clients = [threading.Thread(target=users.live, args=(n,), daemon=True) for n in range(CLIENTS)]
    killing = [threading.Thread(target=killer.work, daemon=True) for killer in killers]
    try:
        for thread in (*clients, *killing):
            thread.start()
        for thread in killing:
            thread.join()
        print("the last kill; it must go on", flush=True)
        more = wait_for_more(run, 300)
        users.ended.set()
        for thread in clients:
            thread.join()
    finally:
        improver.stop()
        server.stop()
    seconds = time.monotonic() - begun
    with Store(run / "experience.sqlite") as store:
        kept = Counter(f.id for e in store.every(EpisodeFilter(origin="served")) for f in e.feedback)
        episodes = {e.summary.id for e in store.every(EpisodeFilter(origin="served"))}
        events, problems = store.events(), store.verify()
    book = Book.of(events)
    counts = {
        "acknowledged_feedback_lost": (sum(kept[id] != 1 for id in users.acknowledged.values()), "posts"),
        "answers_lost": (sum(one.episode not in episodes for one in users.answers), "answers"),
        "answers_astray": (len(astray(users.answers, events)), "answers"),
        "half_released_versions": (len(half_released(events)), "versions"),
        "changed_versions": (len(changed_weights(book)), "versions"),
        "store_problems": (len(problems), "problems"),
        "requests_refused": (len(users.faults), "requests"),
        "died_by_themselves": (sum(killer.died for killer in killers), "times"),
    }
    did = {
        "kills": {"server": kills, "improver": kills, "seconds": seconds},
        "what the improver did at kills of the server": killers[0].during,
        "what the improver did at its own kills": killers[1].during,
        "feedback acknowledged": len(users.acknowledged),
        "answers": len(users.answers),
        "requests without an answer": users.unheard,
        "versions": len(book.versions),
        "releases": sum(move.alias == "release" for move in book.moves) - 1,
        "candidates ended after the last kill": more,
        "refused": users.faults[:5],
    }
    return Told(counts, did, more)


def main() -> None:
    options = parser(__doc__).parse_args()
    kills = 2 if options.quick else 20
    with tempfile.TemporaryDirectory(prefix="journeyman-kills-") as name:
        told = played(Path(name) / "model", kills, options.seeds[0])
    print(json.dumps(told.did, indent=2))
    results = Results("gate", seeds=options.seeds, quick=options.quick)
    for figure, (count, unit) in told.counts.items():
        results.figure(figure, count, unit)
    results.figure("kills_survived", 2 * kills, "kills")
    results.detail("kills", told.did)
    results.write()
    if any(count for count, _ in told.counts.values()) or not told.more:
        sys.exit(1)


if __name__ == "__main__":
    main()
