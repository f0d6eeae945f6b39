"""Follows the log: the traffic is what `release.steering.course` makes of the journal, whoever wrote it.

The server decides nothing. It loads what has to be there, divides the shares, asks the shadow, and lets go of what is
in no course any more, all of one decision at once. What cannot be loaded changes nothing: the course before stays, the
failure is told (log, figures, versions), it is tried again, and one event in the journal says so to who decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from journeyman.errors import JourneymanError
from journeyman.experience.journal import Event
from journeyman.experience.records import SHADOW
from journeyman.experience.tail import Tail
from journeyman.release.book import Book, Version
from journeyman.release.gate import Power
from journeyman.release.steering import Course, course, trouble
from journeyman.serve.weights import opened

if TYPE_CHECKING:
    from journeyman.serve.deployment import Deployment

EVERY = 1.0
"""Seconds from one look into the journal to the next."""
AGAIN, SELDOM = 2.0, 60.0
"""Seconds after which what failed is tried again: twice as long each time, and at most."""


@dataclass
class Failure:
    """A version that cannot be served.

    Attributes:
        why: in words.
        again: when it is tried again, by the loop's clock.
        wait: seconds until then.
        told: whether the journal says so.
    """

    why: str
    again: float
    wait: float = AGAIN
    told: bool = False


class Follower:
    """Sets a deployment's traffic to what the log says. Used from the deployment's event loop.

    Contract: consumes the journal, about once a second, and waits for nothing else; produces members, shares, powers
    and the shadow of the deployment. What people change by hand holds until the next decision in the log.
    """

    def __init__(self, d: Deployment) -> None:
        self.d, self.tail = d, Tail(d.store)
        self.done: Course | None = None
        """What was set last."""
        self.failures: dict[int, Failure] = {}
        """Versions of the present course that cannot be served."""
        self._wanted: Course | None = None
        self._read: Sequence[Event] = ()

    async def follow(self) -> None:
        """Look again and again, whatever happens."""
        while True:
            await self.try_to_look()
            await asyncio.sleep(EVERY)

    async def try_to_look(self) -> None:
        """Look; while the store is away, or nobody understands what it says, what was set stays."""
        try:
            await self.look()
        except Exception as error:
            self.d.log.write("unfollowed", error=_words(error))

    async def look(self) -> None:
        """Set what the log says now, as far as that can be done.

        Raises:
            StoreError: it cannot be read, or written where there is trouble to be told.
        """
        events = await asyncio.to_thread(self.tail.read)
        if events is not self._read:
            self._read = events
            wanted = course(events)
            if wanted != self._wanted:
                self._wanted, self.failures = wanted, {}
        if self._wanted is None:
            return
        if self._wanted != self.done:
            async with self.d.changing:
                if await self._all_there(self._wanted, Book.of(events)):
                    self._set(self._wanted)
        self._see_broken(self._wanted)
        await self._tell()

    async def _all_there(self, wanted: Course, book: Book) -> bool:
        """Load what is missing; whether nothing is."""
        for number in sorted(wanted.versions):
            if any(one.number == number and not one.leaving for one in self.d.fleet.members):
                continue
            if self.d.fleet.take_back(number):
                continue
            if not await self._load(book.versions[number], unseen=number == wanted.shadow):
                return False
        return True

    async def _load(self, version: Version, *, unseen: bool) -> bool:
        """Load one, if it is time to try; whether it is there."""
        now, before = asyncio.get_running_loop().time(), self.failures.get(version.number)
        if before is not None and now < before.again:
            return False
        try:
            if unseen:
                await asyncio.to_thread(self.d.store.declare, SHADOW)
            member = await asyncio.to_thread(lambda: self.d.member(opened(version), version))
        except Exception as error:  # whatever a damaged checkpoint raises must not end the service
            wait = AGAIN if before is None else min(2 * before.wait, SELDOM)
            told = before is not None and before.told
            self._failed(version.number, Failure(_words(error), now + wait, wait, told))
            return False
        self.d.fleet.add(member)
        self.failures.pop(version.number, None)
        self.d.log.write("loaded", version=version.number, source=version.source)
        return True

    def _set(self, wanted: Course) -> None:
        """All of it at once: nothing is awaited in here."""
        d, fleet = self.d, self.d.fleet
        before = {one.number for one in fleet.members if fleet.share(one)} | (
            self.done.versions if self.done else set()
        )
        fleet.divide(wanted.shares, next(number for number in wanted.shares if number not in wanted.powers))
        d.powers = wanted.powers
        d.shadow.member = None if wanted.shadow is None else fleet.of(wanted.shadow)
        d.shadow.power = wanted.powers.get(wanted.shadow or 0, Power())
        there = {one.number for one in fleet.members if not one.leaving}
        for number in sorted((before & there) - wanted.versions):
            d.dismiss(number)
        self.done = wanted
        d.log.write("course", shares={str(n): share for n, share in wanted.shares.items()}, shadow=wanted.shadow)

    def _see_broken(self, wanted: Course) -> None:
        """A candidate whose engine failed is trouble, too. It gets no requests meanwhile (`Deployment.assign`)."""
        for member in self.d.fleet.members:
            number = member.number
            if number in self.failures or number not in wanted.powers or number not in wanted.versions:
                continue
            if not (member.healthy or member.leaving):
                self._failed(number, Failure(f"its engine failed: {member.service.broken}", float("inf")))

    def _failed(self, number: int, failure: Failure) -> None:
        self.failures[number] = failure
        self.d.log.write("trouble", version=number, error=failure.why)

    async def _tell(self) -> None:
        """Say in the journal what cannot be served, once."""
        for number, failure in list(self.failures.items()):
            if not failure.told:
                said = trouble(number, failure.why)
                await asyncio.wrap_future(self.d.store.happen(lambda _, said=said: [said]))
                failure.told = True


def _words(error: Exception) -> str:
    """An error in one line."""
    if isinstance(error, JourneymanError):
        return f"{error.mistake}: {error.reason}" if error.reason else error.mistake
    return f"{type(error).__name__}: {error}"
