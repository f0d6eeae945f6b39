"""The versions that are served side by side, and which request gets which: by chance, in known shares, and for good.

What is assigned is a user (as the client names them), or else an episode: a hash of it is a number in [0, 1), and each
version has an interval as wide as its share, the newest one first. So whoever has the candidate keeps it while its
share grows. The hash is another one for each newest version: it is not always the same users who are tried on.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from journeyman.errors import StoreConflict, UnknownName, UsageError
from journeyman.model.load import LoadedModel
from journeyman.release.book import Version
from journeyman.serve.service import Service

LINGER = 5.0
"""Seconds that a version which is to go must have had nothing to do: who was assigned just now still finds it."""


@dataclass(eq=False)
class Member:
    """A version that is served, by an engine of its own.

    Attributes:
        version: which weights; others may take their place (:meth:`Deployment.replace`).
        loaded: the model.
        service: its engine and V.
        leaving: whether it goes as soon as it has nothing to do.
    """

    version: Version
    loaded: LoadedModel
    service: Service
    leaving: bool = False

    @property
    def number(self) -> int:
        """Of the version."""
        return self.version.number

    @property
    def judges(self) -> bool:
        """Whether it has a value function."""
        return self.service.judge.knows

    @property
    def healthy(self) -> bool:
        """Whether its engine works."""
        return self.service.alive and self.service.broken is None

    @property
    def busy(self) -> bool:
        """Whether there are replies under way or in line."""
        return bool(self.service.running or self.service.waiting)


@dataclass(frozen=True)
class Assigned:
    """The version that a request got, and the probability with which: 1 where the client asked for it by name."""

    member: Member
    probability: float = 1.0


class Fleet:
    """All versions that are served. Used from one event loop, so that each change is whole to everybody."""

    def __init__(self, first: Member) -> None:
        self.members: list[Member] = [first]
        """In the order in which they came."""
        self._shares: Mapping[Member, float] = {first: 1.0}
        self._release: Member | None = None

    @property
    def release(self) -> Member:
        """The one that does what others may not: as it was said with the shares, else the one with the largest; of
        equal ones, the one that came first."""
        return self._release or max(self.members, key=self.share)

    @property
    def slots(self) -> int:
        """Of all engines."""
        return sum(member.service.engine.slots for member in self.members)

    def share(self, member: Member) -> float:
        """The share of requests that it is assigned."""
        return self._shares.get(member, 0.0)

    def of(self, number: int) -> Member:
        """The one of this number.

        Raises:
            UnknownName: it is not served.
        """
        for member in self.members:
            if member.number == number and not member.leaving:
                return member
        raise UnknownName("version", str(number), [str(member.number) for member in self.members if not member.leaving])

    def assign(self, unit: str) -> Assigned:
        """A version for a user or an episode, by chance."""
        newest_first = sorted(self._shares, key=lambda member: -member.number)
        place = _place(f"{newest_first[0].number}\0{unit}")
        for member in newest_first:
            share = self._shares[member]
            if place < share:
                return Assigned(member, share)
            place -= share
        return Assigned(self.release, self.share(self.release))  # shares add up to 1 but for rounding

    def add(self, member: Member) -> None:
        """Serve one more version, to nobody yet but those who ask for it.

        Raises:
            StoreConflict: it is served already.
        """
        if any(one.number == member.number for one in self.members):
            raise StoreConflict(f"version {member.number} is served already")
        self.members.append(member)

    def divide(self, shares: Mapping[int, float], release: int | None = None) -> None:
        """Give each version its share from now on, all at once; those not named get none.

        Args:
            release: which of them is the release.

        Raises:
            UnknownName: one is not served.
            UsageError: they are no shares, or do not add up to 1.
        """
        for number, share in shares.items():
            if not 0 <= share <= 1:
                raise UsageError(f"the share of version {number} must lie in [0, 1], got {share}")
        if not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-9):
            raise UsageError(f"shares must add up to 1, got {sum(shares.values()):g}")
        members = {number: self.of(number) for number, share in shares.items() if share}
        self._shares = {member: shares[number] for number, member in members.items()}
        self._release = None if release is None else members[release]

    def dismiss(self, number: int) -> Member:
        """Let a version go: nobody gets it any more.

        Raises:
            UnknownName: it is not served.
            StoreConflict: it still has a share.
        """
        member = self.of(number)
        if self.share(member):
            raise StoreConflict(
                f"version {number} still has a share of {self.share(member):g}", fix="give its share to another first"
            )
        member.leaving = True
        return member

    def take_back(self, number: int) -> bool:
        """Let one stay that was dismissed and is not gone yet; whether there is one."""
        for member in self.members:
            if member.number == number and member.leaving:
                member.leaving = False
                return True
        return False

    async def emptied(self, member: Member) -> None:
        """Wait until one that was dismissed has had nothing to do for a while; then it is gone, unless it was taken
        back."""
        idle_since: float | None = None
        clock = asyncio.get_running_loop().time
        while True:
            if not member.leaving:
                return
            idle_since = None if member.busy else idle_since or clock()
            if idle_since is not None and clock() - idle_since >= LINGER:
                break
            await asyncio.sleep(LINGER / 20)
        if member in self.members:  # who was taken back and dismissed again is waited for twice
            self.members.remove(member)
            await asyncio.to_thread(member.service.close)

    def close(self) -> None:
        """Let go of all engines."""
        for member in self.members:
            member.service.close()


def _place(text: str) -> float:
    """Uniform in [0, 1), always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / (1 << 64)
