"""More thought about one answer: the search of `journeyman.search`, on slots lent by the service.

A search drives its engine itself. Here that is a :class:`Borrowed` one, behind which the service's thread goes on with
everybody else's replies, too; the search runs on a thread of its own and waits for its own replies only.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from journeyman.engine.base import Engine, Reply, Sampling
from journeyman.errors import EngineError
from journeyman.jobs.base import Env, Job
from journeyman.model.decoder import Decoder
from journeyman.model.render import Renderer
from journeyman.rollout.runner import Attempt, Prefix, RolloutConfig
from journeyman.search.runner import search
from journeyman.search.strategies import SearchConfig
from journeyman.serve.service import Finished, Order, Service
from journeyman.types import StepResult, Task


class Stopped(EngineError):
    """A search was told to stop."""


class Borrowed(Engine):
    """Some slots of a service's engine. Its `step` waits until one of its own replies is finished."""

    def __init__(self, service: Service, slots: int, stop: threading.Event) -> None:
        self.service, self.slots, self.stop = service, slots, stop
        self.context = service.context
        self.version = service.engine.version
        self._heard: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()
        self._open: set[int] = set()
        self._asked: set[int] = set()

    def load(self, model: Decoder, version: int) -> None:
        raise EngineError("borrowed slots sample with the service's weights")

    def open(self, seed: int) -> int:
        return self._noted(self.service.call(lambda: self.service.engine.open(seed)).result())

    def fork(self, sequence: int, seed: int, length: int | None = None) -> int:
        return self._noted(self.service.call(lambda: self.service.engine.fork(sequence, seed, length)).result())

    def submit(self, sequence: int, tokens: Sequence[int], sampling: Sampling) -> None:
        def ask() -> None:
            self.service.follow(sequence, self._heard.put)
            self.service.engine.submit(sequence, tokens, sampling)

        self.service.call(ask).result()
        self._asked.add(sequence)

    def partial(self, sequence: int, start: int = 0) -> tuple[tuple[int, ...], tuple[float, ...]]:
        return (), ()

    def step(self) -> list[Reply]:
        replies: list[Reply] = []
        while self._asked and not replies:
            try:
                heard = self._heard.get(timeout=0.1)
            except queue.Empty:
                if self.stop.is_set():
                    raise Stopped("the search was told to stop") from None
                continue
            if isinstance(heard, Exception):
                raise EngineError("the engine failed", reason=str(heard)) from heard
            self._asked.discard(heard.sequence)
            replies.append(heard)
        return replies

    def close(self, sequence: int) -> None:
        self._open.discard(sequence)
        self._asked.discard(sequence)
        self.service.call(lambda: self.service.release(sequence)).result()

    @property
    def busy(self) -> bool:
        return bool(self._asked)

    def close_all(self) -> None:
        """Whatever is open yet."""
        for sequence in tuple(self._open):
            self.close(sequence)

    def _noted(self, sequence: int) -> int:
        self._open.add(sequence)
        return sequence


class Answering(Job):
    """The job of giving one answer; nothing is known of how good it is."""

    name = "answer"
    splits = {"served": 1}  # noqa: RUF012

    def task(self, split: str, index: int) -> Task:
        return Task(self.name, split, index, ())

    def env(self, task: Task) -> Env:
        return _Once()


class _Once(Env):
    def step(self, reply: str) -> StepResult:
        return StepResult(terminated=True)


@dataclass(frozen=True)
class Thought:
    """An answer that was searched for, and the tokens that were spent: by the engine, and by V."""

    finished: Finished
    tokens: int
    value_tokens: int


def think(
    service: Service,
    renderer: Renderer,
    order: Order,
    stops: Sequence[str],
    config: SearchConfig,
    usual: float,
    stop: threading.Event,
) -> Thought:
    """Search for a reply to the order, with `config.slots` slots that the caller has borrowed.

    Args:
        usual: tokens of a reply, on average.
        stop: set when nobody waits any more, or the time is over.

    Raises:
        Stopped: `stop` was set.
        EngineError: the engine failed.
        UsageError: the strategy needs a value function and there is none.
    """
    history, sampling = order.history, order.sampling
    rules = RolloutConfig(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_reply_tokens=sampling.max_tokens,
        stop=tuple(stops),
    )
    job = Answering()
    prefix = Prefix(tuple(history.tokens.tolist()), tuple(history.logprobs.tolist()), ())
    attempt = Attempt("answer", job.task("served", 0), "answer", order.seed, prefix=prefix)
    while True:
        judge = service.judge
        engine = Borrowed(service, config.slots, stop)
        try:
            plain = len(history) + usual
            found = search(engine, renderer, judge.score, {job.name: job}, [attempt], config, plain, rules)[0]
        finally:
            engine.close_all()
        if service.judge is judge:  # else other weights came meanwhile, and what was said is of both
            break
    t = found.trajectory
    judgement = judge.judge([t])[0]
    start = len(history)
    cut = len(t) - start >= sampling.max_tokens or len(t) >= service.context
    finished = Finished(
        tokens=tuple(t.tokens[start:].tolist()),
        logprobs=tuple(t.logprobs[start:].tolist()),
        finish="length" if cut and int(t.tokens[-1]) not in sampling.stop else "stop",
        versions=((engine.version, 0),),
        values=judgement.values,
        value=judgement.value,
    )
    return Thought(finished, found.tokens, found.value_tokens)
