"""The one thread that drives the engine, for everybody who asks.

Contract of the thread: it consumes commands (ask, cancel, load, lend) from its inbox, and waits for them only while the
engine has nothing to do. Between them it steps the engine, whose batch is thus always as full as there are requests;
what comes of it goes to each asker's `tell`, which must not block. Nothing else touches the engine or V.

A slot of the engine is taken by each reply under way, and by each idle sequence whose cache is kept for a next turn.
Who needs a slot and finds none takes that of the idle one used longest ago; where none is idle it waits in line.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np

from journeyman import machine
from journeyman.engine.base import Engine, Finish, Reply, Sampling
from journeyman.model.decoder import Decoder
from journeyman.prefixes import under_way
from journeyman.serve.judge import Judge
from journeyman.types import BoolArray, FloatArray, IntArray

T = TypeVar("T")
SMALL = 10_000_000
"""Parameters below which a step is so short that waiting for a core which the event loop has would be most of it."""
Cut = Literal["timeout", "cancelled"]
"""A reply ended because its time was over, or because nobody wanted it any more."""


@dataclass(frozen=True)
class History:
    """Tokens so far, with what of them was sampled in this episode: int32, bool, float32 [T]."""

    tokens: IntArray
    mask: BoolArray
    logprobs: FloatArray

    @staticmethod
    def of(tokens: Sequence[int] = ()) -> History:
        """Tokens that were read."""
        count = len(tokens)
        return History(np.asarray(tokens, np.int32), np.zeros(count, bool), np.zeros(count, np.float32))

    def then(self, other: History) -> History:
        """This one and what follows."""
        return joined([self, other])

    def __len__(self) -> int:
        return len(self.tokens)


def joined(parts: Sequence[History]) -> History:
    """One after the other."""
    return History(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.mask for part in parts]),
        np.concatenate([part.logprobs for part in parts]),
    )


def sampled(tokens: Sequence[int], logprobs: Sequence[float]) -> History:
    """Tokens that were sampled."""
    return History(np.asarray(tokens, np.int32), np.ones(len(tokens), bool), np.asarray(logprobs, np.float32))


@dataclass(frozen=True)
class Order:
    """One reply to be sampled.

    Attributes:
        history: everything before it.
        sampling, seed: how.
        reseed: whether its draws must follow from `seed`, even where a sequence with another one could go on.
        after: the name under which the beginning of the history may be kept.
        held: tokens of that beginning.
        keep: the name under which the whole is to be kept.
        streamed: whether progress is told.
        seconds: after which it is cut.
    """

    history: History
    sampling: Sampling
    seed: int
    reseed: bool = False
    after: str | None = None
    held: int = 0
    keep: str | None = None
    streamed: bool = False
    seconds: float = float("inf")


@dataclass(frozen=True)
class Started:
    """It has a slot. `cached`: tokens of its history that need not be read again, as far as is known beforehand."""

    cached: int


@dataclass(frozen=True)
class Progress:
    """More tokens of a reply, with their log-probabilities."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Finished:
    """A whole reply.

    Attributes:
        tokens, logprobs: as sampled.
        finish: how it ended.
        versions: (version, the number of tokens when it took over), in order.
        values: V after each token of history and reply; NaN without V.
        value: the chance of success; None without V.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish | Cut
    versions: tuple[tuple[int, int], ...]
    values: FloatArray
    value: float | None


@dataclass(frozen=True)
class Failed:
    """Something broke."""

    error: Exception


Event = Started | Progress | Finished | Failed
Tell = Callable[[Event], None]


@dataclass(eq=False)
class Asked:
    """An order under way, or in line. `seated`, `first`: when it got its slot, and its first token (Unix seconds)."""

    order: Order
    tell: Tell
    sequence: int = -1
    told: int = 0
    versions: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    deadline: float = float("inf")
    seats: int = 1
    seated: float | None = None
    first: float | None = None


@dataclass(eq=False)
class _Loan:
    """Slots that somebody else wants to use, through :meth:`Service.call`."""

    seats: int
    granted: Future[None]


class Service:
    """Samples for many askers at once.

    Args:
        engine: nobody else may use it.
        judge: says V of every finished reply.
    """

    def __init__(self, engine: Engine, judge: Judge) -> None:
        self.engine, self.judge = engine, judge
        self.context = engine.context
        self.broken: Exception | None = None
        """What went wrong in the engine, if nothing has gone right since."""
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._line: deque[Asked | _Loan] = deque()
        self._asked: dict[int, Asked] = {}
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._lent = 0
        self._borrowers: dict[int, Callable[[Reply | Exception], None]] = {}
        self._going = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    # -- from any thread --------------------------------------------------------------------------------

    def ask(self, order: Order, tell: Tell) -> Asked:
        """Order a reply. `tell` hears, from the service's thread, that it started, how it goes on, and its end."""
        asked = Asked(order, tell)
        self._inbox.put(lambda: self._accept(asked))
        return asked

    def cancel(self, asked: Asked) -> None:
        """Its slot is free at once; what it has said so far is told as a reply that was cancelled."""
        self._inbox.put(lambda: self._cancel(asked))

    def load(self, model: Decoder, judge: Judge, version: int) -> Future[None]:
        """Sample with these weights from now on. Replies under way go on with them; what is kept is forgotten."""
        return self.call(lambda: self._load(model, judge, version))

    def borrow(self, seats: int) -> Future[None]:
        """So many slots for the caller, who opens sequences itself (by :meth:`call`), and gives them back."""
        loan = _Loan(seats, Future())
        self._inbox.put(lambda: self._line.append(loan))
        return loan.granted

    def give_back(self, seats: int) -> None:
        """What was borrowed is free again."""

        def back() -> None:
            self._lent -= seats

        self._inbox.put(back)

    def follow(self, sequence: int, hear: Callable[[Reply | Exception], None]) -> None:
        """Who hears the replies of a borrower's sequence. To be called from the service's thread."""
        self._borrowers[sequence] = hear

    def release(self, sequence: int) -> None:
        """A borrower is done with its sequence. To be called from the service's thread."""
        self._borrowers.pop(sequence, None)
        self.engine.close(sequence)

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Let the service's thread do something between two steps."""
        done: Future[T] = Future()

        def do() -> None:
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

        self._inbox.put(do)
        return done

    @property
    def running(self) -> int:
        """Replies under way."""
        return len(self._asked)

    @property
    def waiting(self) -> int:
        """Orders in line for a slot."""
        return len(self._line)

    @property
    def kept(self) -> int:
        """Idle sequences whose cache is kept."""
        return len(self._kept)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Let go of the engine; who still waits is told so."""

        def stop() -> None:
            self._going = False
            self._give_up(RuntimeError("the server is shutting down"))

        self._inbox.put(stop)
        self._thread.join()

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        if sum(p.numel() for p in self.judge.learner.policy.parameters()) < SMALL:
            machine.leave_a_core()
        while self._going:
            try:
                self._listen()
                self._seat()
                if self.engine.busy:
                    self._step()
                    self.broken = None
                    self._seat()  # those who wait in line must not wait for a command
            except Exception as error:  # whatever an engine raises must not end the service
                self.broken = error
                self._give_up(error)

    def _listen(self) -> None:
        """Take all commands there are; wait for one where there is nothing else to do."""
        wait = not self.engine.busy
        while True:
            try:
                command = self._inbox.get(block=wait)
            except queue.Empty:
                return
            command()
            wait = False

    def _accept(self, asked: Asked) -> None:
        if asked.order.after in self._kept:  # it has a slot already
            self._begin(asked)
        else:
            self._line.append(asked)

    def _cancel(self, asked: Asked) -> None:
        if asked in self._line:
            self._line.remove(asked)
            self._finish([(asked, Reply(-1, (), (), "length"))], "cancelled")
        elif self._asked.get(asked.sequence) is asked:
            self._cut(asked, "cancelled")

    def _free(self, seats: int) -> bool:
        """Make room for so many more sequences, if need be at the cost of kept ones."""
        while True:
            if len(self._asked) + len(self._kept) + self._lent + seats <= self.engine.slots:
                return True
            if not self._kept:
                return False
            self.engine.close(self._kept.popitem(last=False)[1])

    def _seat(self) -> None:
        """Let those in line begin for whom there is room."""
        while self._line and self._free(self._line[0].seats):
            first = self._line.popleft()
            if isinstance(first, Asked):
                self._begin(first)
            elif first.granted.set_running_or_notify_cancel():
                self._lent += first.seats
                first.granted.set_result(None)

    def _begin(self, asked: Asked) -> None:
        order = asked.order
        asked.sequence, held = self._sequence(order)
        self._asked[asked.sequence] = asked
        asked.versions.append((self.engine.version, 0))
        asked.deadline = time.monotonic() + order.seconds
        asked.seated = time.time()
        asked.tell(Started(held))
        self.engine.submit(asked.sequence, order.history.tokens[held:].tolist(), order.sampling)

    def _sequence(self, order: Order) -> tuple[int, int]:
        """A sequence for the order, and how many of its tokens that holds."""
        kept = self._kept.pop(order.after, None) if order.after else None
        if kept is None:
            return self.engine.open(order.seed), 0
        if not order.reseed:
            return kept, order.held
        if self._free(2):
            twin = self.engine.fork(kept, order.seed)
            self.engine.close(kept)
            return twin, order.held
        self.engine.close(kept)
        return self.engine.open(order.seed), 0

    def _step(self) -> None:
        replies = self.engine.step()
        own = [reply for reply in replies if reply.sequence in self._asked]
        for reply in replies:
            if reply.sequence not in self._asked:
                self._borrowers[reply.sequence](reply)
        self._finish([(self._asked.pop(reply.sequence), reply) for reply in own])
        now = time.monotonic()
        for asked in list(self._asked.values()):
            if now > asked.deadline:
                self._cut(asked, "timeout")
            elif asked.order.streamed or asked.first is None:
                tokens, logprobs = self.engine.partial(asked.sequence, asked.told)
                if tokens:
                    asked.first = asked.first or time.time()
                if tokens and asked.order.streamed:
                    asked.told += len(tokens)
                    asked.tell(Progress(tokens, logprobs))

    def _cut(self, asked: Asked, why: Cut) -> None:
        """What there is by now is the reply."""
        del self._asked[asked.sequence]
        tokens, logprobs = self.engine.partial(asked.sequence)
        self.engine.close(asked.sequence)
        asked.sequence = -1
        self._finish([(asked, Reply(-1, tokens, logprobs, "length"))], why)

    def _finish(self, done: Sequence[tuple[Asked, Reply]], why: Cut | None = None) -> None:
        histories = [asked.order.history.then(sampled(reply.tokens, reply.logprobs)) for asked, reply in done]
        prefixes = [
            under_way("", asked.order.sampling.temperature, h.tokens, h.mask, h.logprobs)
            for (asked, _), h in zip(done, histories, strict=True)
        ]
        for (asked, reply), judgement in zip(done, self.judge.judge(prefixes), strict=True):
            if asked.sequence >= 0:
                self._keep(asked)
            versions = tuple(asked.versions)
            finish = why or reply.finish
            asked.tell(Finished(reply.tokens, reply.logprobs, finish, versions, judgement.values, judgement.value))

    def _keep(self, asked: Asked) -> None:
        """Keep an idle sequence for a next turn."""
        if asked.order.keep is None:
            self.engine.close(asked.sequence)
        else:
            self._kept[asked.order.keep] = asked.sequence

    def _load(self, model: Decoder, judge: Judge, version: int) -> None:
        made = {s: a.told + len(self.engine.partial(s, a.told)[0]) for s, a in self._asked.items()}
        self.engine.load(model, version)
        self.judge = judge
        for sequence, asked in self._asked.items():
            asked.versions.append((version, made[sequence]))
        for sequence in self._kept.values():  # they were read with the old weights
            self.engine.close(sequence)
        self._kept.clear()

    def _give_up(self, error: Exception) -> None:
        """Tell everybody that it will not be."""
        for sequence in [*self._asked, *self._kept.values()]:
            self.engine.close(sequence)
        for waiting in [*self._asked.values(), *self._line]:
            if isinstance(waiting, Asked):
                waiting.tell(Failed(error))
            elif not waiting.granted.cancelled():
                waiting.granted.set_exception(error)
        for hear in list(self._borrowers.values()):
            hear(error)
        self._asked.clear()
        self._kept.clear()
        self._line.clear()
