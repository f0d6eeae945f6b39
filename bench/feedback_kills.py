"""Post feedback from many clients, kill -9 what takes it at random moments, and count what was acknowledged and lost.

    python -m bench.feedback_kills                 `journeyman serve`, 10,000 posts over HTTP, 20 kills
    python -m bench.feedback_kills --store         a process with the store and nothing else
    python -m bench.feedback_kills --quick         1,000 posts, 3 kills
    python -m bench.feedback_kills --careless      acknowledges before the disk has it: this must lose some

Each client posts one piece after another, under an idempotency key of its own; one that gets no answer, since the
process was killed, is posted again when there is another. At the end every acknowledged piece must be in the store
exactly once, under the id that was given, and every hash must be as written. Some are posted once more then, as by a
client that never heard the answer: each must be answered as before, and nothing more be kept.

A kill -9 ends a process, not the operating system: what was written to a file survives it even without fsync. That
a commit waits for the disk is another matter, which tests/experience/test_care.py looks at.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bench.common import Results, parser
from bench.serving import Process
from journeyman.cli import main as main_of_journeyman
from journeyman.experience import Feedback, ServedTurn, Store, VersionSpan, uuid7


class Target(Protocol):
    """What takes feedback, and can be killed at any moment."""

    def start(self) -> None:
        """Be ready for posts."""
        ...

    def post(self, fields: dict[str, Any]) -> str | None:
        """Feedback, as the fields of :class:`Feedback`; its id once it is acknowledged, None where no answer came."""
        ...

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        ...


class StoreTarget:
    """A process of its own with the store, which is told of feedback through a pipe."""

    def __init__(self, where: Path, careless: bool) -> None:
        self._arguments = (str(where), careless)
        self._context = multiprocessing.get_context("forkserver")
        # imported once, not by each process anew: torch alone takes seconds
        self._context.set_forkserver_preload(["bench.common", "journeyman.experience"])
        self._sending = threading.Lock()
        self._pending: dict[str, Future[str | None]] = {}

    def start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=take_posts, args=(*self._arguments, theirs))
        self._process.start()
        theirs.close()
        assert self._pipe.recv() == "ready"
        self._pending = {}
        threading.Thread(target=self._receive, args=(self._pipe, self._pending)).start()

    def post(self, fields: dict[str, Any]) -> str | None:
        answer: Future[str | None] = Future()
        with self._sending:
            pending = self._pending
            pending[fields["idempotency_key"]] = answer
            try:
                self._pipe.send(fields)
            except OSError:
                return None
        while True:
            try:
                return answer.result(timeout=1)
            except TimeoutError:
                if pending is not self._pending:  # sent when the receiver had gone already
                    return None

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def stop(self) -> None:
        """Let it finish."""
        self._pipe.send(None)
        self._process.join()

    def _receive(self, pipe: Connection, pending: dict[str, Future[str | None]]) -> None:
        try:
            while True:
                key, id = pipe.recv()
                pending.pop(key).set_result(id)
        except (EOFError, OSError):
            for answer in list(pending.values()):
                answer.set_result(None)


class HttpTarget:
    """`journeyman serve`, which is told of feedback over HTTP."""

    def __init__(self, where: Path) -> None:
        arguments = ["serve", "apprentice", "--port", "0", "--admin-port", "0", "--store", str(where)]
        self._server = Process(main_of_journeyman, (arguments,), where.parent)
        self._connections = threading.local()

    def start(self) -> None:
        self._server.start()

    def post(self, fields: dict[str, Any]) -> str | None:
        given = {name: value for name, value in fields.items() if name not in ("episode", "key")}
        body = json.dumps({"episode_id": fields["episode"], **given})
        mine, address = self._connections.__dict__, (self._server.host, self._server.port)
        if mine.get("address") != address:
            mine |= {"address": address, "connection": http.client.HTTPConnection(*address, timeout=600)}
        try:
            mine["connection"].request("POST", "/v1/feedback", body, {"Content-Type": "application/json"})
            answer = mine["connection"].getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            mine.clear()
            return None
        if answer.status != 201:
            raise RuntimeError(f"feedback was answered with {answer.status}: {said!r}")
        return json.loads(said)["id"]

    def kill(self) -> None:
        self._server.kill()

    def stop(self) -> None:
        """Let it finish."""
        self._server.stop()


def take_posts(where: str, careless: bool, pipe: Connection) -> None:
    """The process of a :class:`StoreTarget`."""
    sending = threading.Lock()

    def answer(key: str, done: Future[Feedback]) -> None:
        with sending:
            pipe.send((key, None if done.exception() else done.result().id))

    with Store(where) as store:
        pipe.send("ready")
        while (fields := pipe.recv()) is not None:
            feedback = Feedback(**fields)
            if careless:
                pipe.send((feedback.idempotency_key, feedback.id))
            done = store.give(feedback)
            if not careless:
                done.add_done_callback(partial(answer, fields["idempotency_key"]))


@dataclass
class Tally:
    """What the clients were told.

    Attributes:
        acknowledged: the id of each idempotency key.
        again: posts that had to be sent again.
    """

    acknowledged: dict[str, str] = field(default_factory=dict[str, str])
    again: int = 0


def post_all(target: Target, episodes: Sequence[str], posts: int, kills: int, clients: int, seed: int) -> Tally:
    """Post from so many clients at once while the target is killed at random moments, until all is acknowledged."""
    rng = random.Random(seed)
    tally, lock, alive = Tally(), threading.Lock(), threading.Event()
    numbers = iter(range(posts))

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            fields = fields_of(number, episodes)
            while True:
                alive.wait()
                id = target.post(fields)
                with lock:
                    if id is not None:
                        tally.acknowledged[fields["idempotency_key"]] = id
                        break
                    tally.again += 1

    target.start()
    alive.set()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for number, moment in enumerate(sorted(rng.sample(range(posts * 19 // 20), kills))):
        wait_until(lambda moment=moment: len(tally.acknowledged) >= moment)
        time.sleep(rng.uniform(0, 0.02))
        alive.clear()
        target.kill()
        target.start()
        alive.set()
        print(f"kill {number + 1:2d} after {len(tally.acknowledged):5d} acknowledged", flush=True)
    for thread in threads:
        thread.join()
    return tally


def fields_of(number: int, episodes: Sequence[str]) -> dict[str, Any]:
    """The n-th piece of feedback."""
    return {
        "episode": episodes[number % len(episodes)],
        "value": number % 2,
        "comment": f"number {number}",
        "key": "bench",
        "idempotency_key": f"post{number}",
    }


def wait_until(ready: Callable[[], bool]) -> None:
    while not ready():
        time.sleep(0.001)


def judge(store: Store, episodes: Sequence[str], tally: Tally) -> tuple[int, int, list[str]]:
    """How many acknowledged pieces are not in the store as acknowledged, how many are there twice, and its problems."""
    kept: dict[str, list[str]] = {}
    for episode in episodes:
        for feedback in store.whole(episode).feedback:
            kept.setdefault(feedback.idempotency_key or "", []).append(feedback.id)
    lost = sum(id not in kept.get(key, []) for key, id in tally.acknowledged.items())
    return lost, sum(len(ids) - 1 for ids in kept.values()), store.verify()


def serve_episodes(store: Store, count: int) -> list[str]:
    """Something to give feedback on."""
    turns: list[ServedTurn] = []
    for _ in range(count):
        tokens, numbers, now = np.arange(8, dtype=np.int32), np.zeros(8, np.float32), time.time()
        spans = (VersionSpan(1, 0, 4),)
        turns.append(
            ServedTurn(uuid7(), uuid7(), tokens[:4], tokens[4:], numbers[:4], numbers, spans, "stop", now, now)
        )
    store.record(turns).result()
    return [turn.episode for turn in turns]


def post_again(target: Target, episodes: Sequence[str], tally: Tally, count: int, seed: int) -> int:
    """Post some once more under the same keys; how many are not answered with the same id."""
    numbers = random.Random(seed).sample(range(len(tally.acknowledged)), count)
    keys = {number: f"post{number}" for number in numbers}
    return sum(target.post(fields_of(n, episodes)) != tally.acknowledged[key] for n, key in keys.items())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--store", action="store_true", help="a process with the store, instead of the server")
    options.add_argument("--careless", action="store_true", help="acknowledge too early; nothing is written down")
    given = options.parse_args()
    posts, kills, clients = (1_000, 3, 16) if given.quick else (10_000, 20, 64)
    with tempfile.TemporaryDirectory(prefix="journeyman-kills-") as folder:
        where = Path(folder) / "experience.sqlite"
        with Store(where) as store:
            episodes = serve_episodes(store, 200)
        target = StoreTarget(where, given.careless) if given.store or given.careless else HttpTarget(where)
        started = time.monotonic()
        tally = post_all(target, episodes, posts, kills, clients, given.seeds[0])
        seconds = time.monotonic() - started
        otherwise = post_again(target, episodes, tally, posts // 20, given.seeds[0])
        target.stop()
        with Store(where) as store:
            lost, twice, problems = judge(store, episodes, tally)
    print(f"{kills} kills, {len(tally.acknowledged)} acknowledged, {tally.again} posted again, {lost} lost")
    print(f"{twice} kept twice, {otherwise} answered otherwise the second time, {len(problems)} problems in the store")
    if not given.careless:
        results = Results("feedback_kills", seeds=given.seeds, quick=given.quick)
        over = "" if given.store else "_http"
        results.figure(f"feedback_kills{over}", kills, "kills")
        results.figure(f"feedback_acknowledged{over}", len(tally.acknowledged), "posts")
        results.figure(f"feedback_posted_again{over}", tally.again, "posts")
        results.figure(f"acknowledged_feedback_lost{over}", lost, "posts")
        results.figure(f"feedback_kept_twice{over}", twice, "posts")
        results.figure(f"feedback_answered_otherwise{over}", otherwise, "posts")
        results.figure(f"feedback_store_problems{over}", len(problems), "problems")
        results.figure(f"feedback_kills_seconds{over}", seconds, "s")
        results.write()
    if not given.careless and not given.store:
        served = Results("load", seeds=given.seeds, quick=given.quick)
        served.figure("acknowledged_feedback_lost", lost, "posts")
        served.write()
    if lost or twice or problems or otherwise:
        sys.exit(1)


if __name__ == "__main__":
    main()
