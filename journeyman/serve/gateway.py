"""From a request that is understood to its answers: sampled, judged, kept, then told.

An answer is told only when its turn is on the disk. Of a stream that is its end: what was said before is in the
client's hands already. Should the disk refuse, the request fails, and no new one is taken until it accepts again.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from journeyman.errors import JourneymanError, StoreError, StoreUnavailable
from journeyman.experience.ids import uuid7
from journeyman.experience.records import Finish as Kept
from journeyman.experience.records import ServedTurn
from journeyman.experience.store import Store
from journeyman.serve.asks import Answer, Ask, Delta
from journeyman.serve.config import ServeConfig
from journeyman.serve.endings import kept_as, message_of, spans_of
from journeyman.serve.episodes import Turn, onward
from journeyman.serve.errors import ApiError, from_ours
from journeyman.serve.fleet import Assigned, Fleet
from journeyman.serve.mail import Inbox, Mail
from journeyman.serve.metrics import Metrics
from journeyman.serve.openai import ChatMessage
from journeyman.serve.service import Asked, Event, Failed, Finished, History, Order, Progress, Started, sampled
from journeyman.serve.shadow import Shadow
from journeyman.serve.talk import Teller
from journeyman.serve.teacher import NoAnswer, Teacher
from journeyman.serve.think import Stopped, Thought, think
from journeyman.serve.timeline import Timeline
from journeyman.serve.tools import Said

if TYPE_CHECKING:
    from journeyman.serve.telemetry import Telemetry

USUAL = 64.0
"""Tokens of a reply, before there was one."""
RECHECK, CHECK = 1.0, 15.0
"""Seconds between trials of the store, while it does not take anything and while it does."""


@dataclass
class _Running:
    """An ask under way."""

    ask: Ask
    turn: str
    teller: Teller
    since: float
    asked: Asked | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    started: bool = False
    cached: int = 0
    thought: Thought | None = None


class Gateway:
    """Answers requests. Used from one event loop."""

    def __init__(self, fleet: Fleet, store: Store, metrics: Metrics, config: ServeConfig, shadow: Shadow) -> None:
        self.fleet, self.store, self.metrics, self.config, self.shadow = fleet, store, metrics, config, shadow
        self.telemetry: Telemetry | None = None
        self.teacher = None
        if config.teacher:
            self.teacher = Teacher(config.teacher, config.teacher_model, config.reply_seconds)
        self.outstanding = 0
        """Answers that were asked for and are not there yet."""
        self.usual = USUAL
        self._unkept: float | None = None
        self._mail: Mail | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def keeping(self) -> bool:
        """Whether the last thing to be kept was."""
        return self._unkept is None

    async def admit(self, answers: int) -> None:
        """Whether so many answers more can be given.

        Raises:
            ApiError: 429, there are too many already; 503, what they say could not be kept.
        """
        self._check_room(answers)
        if self._unkept is not None and time.monotonic() - self._unkept > RECHECK:
            await self.check()
        if not self.keeping:
            raise ApiError(
                503, "experience cannot be written now, so no new work is taken", "store_unavailable", retry_after=5
            )

    def _check_room(self, answers: int) -> None:
        if self.outstanding + answers > self.fleet.slots + self.config.queue:
            raise ApiError(429, "the server is busy: too many requests wait already", "queue_full", retry_after=2)

    async def check(self) -> None:
        """Try whether the store takes something."""
        tried = time.monotonic()
        if self._unkept is not None:
            self._unkept = tried  # others need not try meanwhile
        try:
            await asyncio.to_thread(self.store.probe)
            self._unkept = None
        except StoreError:
            self._unkept = tried

    async def keep_checking(self) -> None:
        """A disk that fills up is noticed before an answer is lost to it."""
        while True:
            await asyncio.sleep(CHECK)
            await self.check()

    async def answers(self, asks: Sequence[Ask]) -> AsyncGenerator[Started | Delta | Answer]:
        """Answer them all: when the first has begun a `Started`, then pieces as they come, and each answer when it is
        kept.

        Whoever stops listening frees the slots; what was said until then is kept.

        Raises:
            ApiError: one did not begin in time, the engine failed, or an answer could not be kept.
        """
        self._check_room(len(asks))
        events, loop = Inbox(), asyncio.get_running_loop()
        if self._mail is None:
            self._mail = Mail(loop)
        hear = partial(self._mail.put, events)

        running = {ask.index: self._begin(ask, hear) for ask in asks}
        self.outstanding += len(asks)
        waiting = set(running)
        deadline = loop.time() + self.config.queue_seconds
        try:
            while running:
                index, event = await _next(events, deadline if waiting else None)
                if isinstance(event, Failed) and (instead := self._instead(running[index], event)) is not None:
                    running[index] = self._begin(instead, hear)
                    continue
                if isinstance(event, Failed):
                    del running[index]
                    self.outstanding -= 1
                    raise _failure(event.error)
                if len(waiting) == len(asks):
                    yield Started(0)
                waiting.discard(index)
                one = running[index]
                if isinstance(event, Started):
                    one.cached = event.cached
                elif isinstance(event, Progress):
                    yield self._progress(one, event)
                else:
                    del running[index]
                    self.outstanding -= 1
                    yield await self._finished(one, event)
        finally:
            self.outstanding -= len(running)
            if running:
                self._leave(running, events)

    # -- one answer -------------------------------------------------------------------------------------

    def _begin(self, ask: Ask, hear: Any) -> _Running:
        one = _Running(ask, uuid7(), Teller(ask.listener), time.time())
        after = ask.place.turn
        order = Order(
            history=ask.history,
            sampling=ask.sampling,
            seed=ask.seed,
            reseed=ask.reseed,
            after=after.id if after is not None and ask.held else None,
            held=ask.held,
            keep=one.turn,
            streamed=ask.streamed and not ask.buffered,
            seconds=min(self.config.reply_seconds, ask.seconds),
        )
        if ask.search.think > 1:
            self._spawn(self._think(one, order, hear))
        else:
            one.asked = ask.assigned.member.service.ask(order, lambda event: hear(ask.index, event))
        return one

    def _instead(self, one: _Running, failed: Failed) -> Ask | None:
        """The same for the release, where another that was drawn by lot broke before it had said anything."""
        given, release = one.ask.assigned, self.fleet.release
        if one.started or given.member is release or given.probability == 1 or _failure(failed.error).status < 500:
            return None
        return replace(one.ask, assigned=Assigned(release))

    async def _think(self, one: _Running, order: Order, hear: Any) -> None:
        ask, seats, service = one.ask, one.ask.search.slots, one.ask.assigned.member.service
        loan = service.borrow(seats)
        try:
            await asyncio.wrap_future(loan)
            hear(ask.index, Started(0))
            timer = asyncio.get_running_loop().call_later(order.seconds, one.stop.set)
            one.thought = await asyncio.to_thread(
                think, service, ask.listener.renderer, order, ask.listener.stops, ask.search, self.usual, one.stop
            )
            timer.cancel()
            hear(ask.index, one.thought.finished)
        except Exception as error:
            hear(ask.index, Failed(error))
        finally:
            if loan.done() and not loan.cancelled() and loan.exception() is None:
                service.give_back(seats)

    def _progress(self, one: _Running, event: Progress) -> Delta:
        if not one.started:
            one.started = True
            self.metrics.first_token.observe(time.time() - one.since)
        text = one.teller.feed(event.tokens)
        return Delta(one.ask.index, text, event.tokens, event.logprobs)

    async def _finished(self, one: _Running, finished: Finished) -> Answer:
        """Read the reply, keep its turn, and let the episode go on from it.

        Raises:
            ApiError: it could not be kept, or is not what was asked for.
        """
        ask = one.ask
        if not one.started:
            self.metrics.first_token.observe(time.time() - one.since)
        said = ask.listener.read(finished.tokens)
        unsure = ask.threshold is not None and finished.value is not None and finished.value < ask.threshold
        message = message_of(said, finished.value, ask.threshold if unsure else None, one.turn)
        kept = kept_as(finished, said, unsure)
        ended = time.time()
        await self.keep(self._turn(one, finished, message, kept))
        self._count(finished, kept)
        if self.telemetry is not None:
            self.telemetry.note(self._timeline(one, finished, kept, ended))
        self.shadow.offer(ask, one.turn, finished)
        gone = finished.finish == "cancelled"
        if unsure and not gone and (taught := await self._taught(one, finished)) is not None:
            return taught
        if not gone:
            ask.episode.add(self._next(ask, one.turn, message, sampled(finished.tokens, finished.logprobs)))
        if ask.must_call and not said.calls and not unsure:
            raise ApiError(422, "the model did not call a tool as it was told to", "tool_choice_unmet")
        rest = one.teller.rest(said)
        return Answer(ask, one.turn, message, said, unsure, finished, rest, one.cached, one.thought)

    async def _taught(self, one: _Running, withheld: Finished) -> Answer | None:
        """The teacher's answer in place of one that is withheld; None where it gives none, or is not to be asked.

        Raises:
            ApiError: it could not be kept.
        """
        ask, started = one.ask, time.time()
        if self.teacher is None or ask.hand_over is None:
            return None
        try:
            text = await asyncio.to_thread(self.teacher.answer, ask.record["messages"], ask.sampling.max_tokens)
        except NoAnswer:
            self.metrics.taught.labels("silent").inc()
            return None
        self.metrics.taught.labels("answered").inc()
        tokens = tuple(await asyncio.to_thread(ask.hand_over, text))
        values = np.full(len(ask.history) + len(tokens), np.nan, np.float32)
        finished = Finished(tokens, (), "stop", (), values, None)
        said, turn = Said(text), uuid7()
        message = message_of(said, None, None, turn)
        numbered = replace(finished, logprobs=(0.0,) * len(tokens))
        more = {"id": turn, "by": "teacher", "started": started, "temperature": 0.0}
        await self.keep(self._turn(one, numbered, message, "stop", **more))
        ask.episode.add(self._next(ask, turn, message, History.of(tokens)))
        self.metrics.finishes.labels("stop").inc()
        was = (one.turn, withheld.value)
        return Answer(
            ask, turn, message, said, False, finished, text, one.cached, one.thought, by="teacher", withheld=was
        )

    def _timeline(self, one: _Running, finished: Finished, kept: Kept, ended: float) -> Timeline:
        """Where its time went."""
        ask, asked = one.ask, one.asked
        seated = one.since if asked is None or asked.seated is None else asked.seated
        phases = [("queue", one.since, seated)]
        if asked is None:
            phases += [("search", seated, ended)]
        else:
            first = asked.first or ended
            phases += [("prefill", seated, first), ("decode", first, ended)]
        facts: dict[str, str | int | float] = {
            "gen_ai.response.model": str(ask.assigned.member.number),
            "gen_ai.usage.input_tokens": len(ask.history),
            "gen_ai.usage.output_tokens": len(finished.tokens),
            "gen_ai.response.finish_reasons": kept,
            "journeyman.episode_id": ask.episode.id,
            "journeyman.turn_id": one.turn,
        }
        if finished.value is not None:
            facts["journeyman.value"] = finished.value
        return Timeline(ask.came, (*phases, ("store", ended, time.time())), ask.trace, facts)

    def _turn(
        self, one: _Running, finished: Finished, message: Mapping[str, Any], kept: Kept, **otherwise: Any
    ) -> ServedTurn:
        ask = one.ask
        after = ask.place.turn or (ask.episode.last if ask.place.joint == "rewritten" else None)
        known: dict[str, Any] = {
            "id": one.turn,
            "started": one.since,
            "ended": time.time(),
            "after": None if after is None else after.id,
            "choice": ask.index,
            "temperature": ask.sampling.temperature,
        }
        return ServedTurn(
            episode=ask.episode.id,
            prompt=ask.history.tokens,
            completion=np.asarray(finished.tokens, np.int32),
            logprobs=np.asarray(finished.logprobs, np.float32),
            values=finished.values,
            spans=spans_of(finished, ask.assigned.probability),
            finish=kept,
            reply=message,
            **known | dict(ask.record) | otherwise,
        )

    def _next(self, ask: Ask, id: str, message: Mapping[str, Any], reply: History) -> Turn:
        """The new turn of the episode."""
        after, new = ask.place.turn, ask.history.then(reply)
        if after is not None and ask.held:
            new = History(new.tokens[ask.held :], new.mask[ask.held :], new.logprobs[ask.held :])
        else:
            after = None
        text = ""
        if ask.trail is not None:
            trail = onward(ask.trail, ChatMessage.model_validate(message))
        else:
            text, trail = ask.text + str(message["content"]), id.encode()
        return Turn(id, after, trail, new, text)

    async def keep(self, turn: ServedTurn) -> None:
        """Wait until a turn is on the disk.

        Raises:
            ApiError: 503, it cannot be written now; 410, its episode was erased.
        """
        try:
            # who goes away while it waits for the disk does not take the turn along
            await asyncio.shield(asyncio.wrap_future(self.store.record([turn])))
        except JourneymanError as error:
            if isinstance(error, StoreUnavailable):
                self._unkept = time.monotonic()
            self.metrics.unkept.inc()
            raise from_ours(error) from error

    def _count(self, finished: Finished, kept: Kept) -> None:
        made = len(finished.tokens)
        self.usual += (made - self.usual) / 32
        self.metrics.answered(len(finished.values) - made, made, kept, finished.value)

    # -- those who went away ----------------------------------------------------------------------------

    def _leave(self, running: Mapping[int, _Running], events: Inbox) -> None:
        """Nobody listens any more: free the slots, and keep what was said."""
        for one in running.values():
            one.stop.set()
            if one.asked is not None:
                one.ask.assigned.member.service.cancel(one.asked)
        self._spawn(self._keep_rest(dict(running), events))

    async def _keep_rest(self, running: dict[int, _Running], events: Inbox) -> None:
        with suppress(ApiError, TimeoutError):
            while running:
                index, event = await asyncio.wait_for(events.get(), 60)
                if isinstance(event, Failed):
                    running.pop(index, None)
                elif isinstance(event, Finished):
                    one = running.pop(index)
                    if event.tokens:
                        await self._finished(one, event)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait for what is still being kept."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)


async def _next(events: Inbox, deadline: float | None) -> tuple[int, Event]:
    """The next event; with a deadline, an error once it is over."""
    if deadline is None or not events.empty():
        return await events.get()
    try:
        async with asyncio.timeout_at(deadline):
            return await events.get()
    except TimeoutError:
        raise ApiError(429, "the server is busy: no slot became free in time", "queue_timeout", retry_after=5) from None


def _failure(error: Exception) -> ApiError:
    if isinstance(error, Stopped):
        return ApiError(422, "so much thought takes longer than a reply may: think less", "think_timeout")
    if isinstance(error, JourneymanError):
        found = from_ours(error)
        return found if found.status < 500 else ApiError(500, found.message, "engine_failed")
    return ApiError(500, f"the engine failed: {type(error).__name__}", "engine_failed")


def drawn_seed(seed: int | None, index: int) -> int:
    """The seed of a choice: from the client's, or drawn."""
    if seed is None:
        return secrets.randbits(63)
    return (seed + index * 0x9E3779B97F4A7C15) & ((1 << 63) - 1)
