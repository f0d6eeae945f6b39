"""Answers that nobody sees: what the release was asked is put to a shadow again, when it has been answered.

Nothing is done with what the shadow says but to hold it against the release's answer, in the eyes of the release's own
V; tools are run by clients, so none is run. What came of it lies on the release's turn (`SHADOW` in
experience/records.py).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from journeyman.errors import JourneymanError
from journeyman.experience.records import SHADOW, SHADOW_KEY, Feedback
from journeyman.experience.store import Store
from journeyman.prefixes import under_way
from journeyman.release.gate import Power
from journeyman.serve.asks import Ask
from journeyman.serve.fleet import Fleet, Member
from journeyman.serve.metrics import Metrics
from journeyman.serve.service import Event, Failed, Finished, Order, sampled
from journeyman.serve.tools import Said

WHOLE = ("stop", "length", "context")
"""Ends of a reply that nobody cut."""


class Shadow:
    """Puts what was answered to a shadow, if there is one. Used from one event loop.

    Contract: it consumes answers of the release that are on the disk (`offer`), waits for the shadow's engine and for
    the disk, and nobody waits for it. What finds a line before either engine is left out: it shall cost nobody an
    answer.
    """

    def __init__(self, fleet: Fleet, store: Store, metrics: Metrics, seconds: float) -> None:
        self.fleet, self.store, self.metrics, self.seconds = fleet, store, metrics, seconds
        self.member: Member | None = None
        """The version that is asked; None: nobody."""
        self.power = Power()
        """What it may do, as if it answered."""
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, ask: Ask, turn: str, finished: Finished) -> None:
        """Something was answered."""
        member = self.member
        if member is None or not self._comparable(ask, finished):
            return
        queues = member.service.waiting + ask.assigned.member.service.waiting
        if queues or len(self._tasks) >= member.service.engine.slots:
            self.metrics.shadow.labels("skipped").inc()
            return
        task = asyncio.get_running_loop().create_task(self._answer(member, ask, turn, finished))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Leave what is under way."""
        self.member = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _comparable(self, ask: Ask, finished: Finished) -> bool:
        """Whether the release said all of it, plainly, and the shadow might have been asked in its place."""
        by_release = {version for version, _ in finished.versions} == {self.fleet.release.number}
        plain = ask.search.think <= 1 and finished.finish in WHOLE
        return by_release and plain and self.power.may_call(ask.listener.manner.names)

    async def _answer(self, member: Member, ask: Ask, turn: str, finished: Finished) -> None:
        ours = Order(
            history=ask.history,
            sampling=replace(ask.sampling, max_tokens=min(ask.sampling.max_tokens, self.power.tokens)),
            seed=ask.seed,
            seconds=min(self.seconds, self.power.seconds),
        )
        said = Feedback(
            ask.episode.id,
            turn=turn,
            metric=SHADOW.name,
            value=-1.0,
            source="model",
            key=SHADOW_KEY,
            tags=("shadow", f"version {member.number}"),
        )
        end = await _end(member, ours)
        if isinstance(end, Failed):
            said = replace(said, explanation=f"it broke: {type(end.error).__name__}: {end.error}")
        else:
            figure = await asyncio.to_thread(_better, ask, end, finished)
            said = replace(said, value=figure, comment=_text(ask.listener.read(end.tokens)))
        try:
            await asyncio.wrap_future(self.store.give(said))
        except JourneymanError:  # erased meanwhile, or the disk is full: one comparison less
            self.metrics.shadow.labels("unkept").inc()
        else:
            self.metrics.shadow.labels("broke" if isinstance(end, Failed) else "kept").inc()


async def _end(member: Member, order: Order) -> Finished | Failed:
    """What becomes of an order."""
    loop = asyncio.get_running_loop()
    end: asyncio.Future[Finished | Failed] = loop.create_future()

    def set_end(event: Finished | Failed) -> None:
        if not end.done():
            end.set_result(event)

    def hear(event: Event) -> None:  # on the engine's thread
        if isinstance(event, Finished | Failed) and not loop.is_closed():
            loop.call_soon_threadsafe(set_end, event)

    asked = member.service.ask(order, hear)
    try:
        return await end
    finally:
        if not end.done():
            member.service.cancel(asked)


def _better(ask: Ask, theirs: Finished, own: Finished) -> float:
    """How much better the release's V judges the shadow's answer than its own; 0 without a V."""
    judge = ask.assigned.member.service.judge
    if not judge.knows or own.value is None:
        return 0.0
    whole = ask.history.then(sampled(theirs.tokens, theirs.logprobs))
    (found,) = judge.judge([under_way("", ask.sampling.temperature, whole.tokens, whole.mask, whole.logprobs)])
    assert found.value is not None
    return min(max(found.value - own.value, -1.0), 1.0)


def _text(said: Said) -> str:
    """What it said, for people to read."""
    return "\n".join([*([said.content] if said.content else []), *(f"{c.name}({c.arguments})" for c in said.calls)])
