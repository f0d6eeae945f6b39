"""From the engine's thread to the event loop, in as few wake-ups and as large pieces as the loop's pace asks for."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from journeyman.serve.service import Event, Progress


class Inbox(asyncio.Queue[tuple[int, Event]]):
    """What was said of each ask of a request, by its index. More of a reply joins what nobody has fetched yet: a loop
    that is behind catches up in larger pieces."""

    def _init(self, maxsize: int) -> None:
        self._events: deque[tuple[int, Event]] = deque()
        self._queue = self._events  # where asyncio's queue looks for how many there are

    def _get(self) -> tuple[int, Event]:
        return self._events.popleft()

    def _put(self, item: tuple[int, Event]) -> None:
        index, event = item
        if self._events and isinstance(event, Progress):
            before, last = self._events[-1]
            if before == index and isinstance(last, Progress):
                self._events[-1] = index, Progress(last.tokens + event.tokens, last.logprobs + event.logprobs)
                return
        self._events.append(item)


class Mail:
    """Carries what is said to inboxes of one event loop. All of an engine's step costs one wake-up: each lets go of the
    interpreter, and the engine's thread would wait for it again.

    Args:
        loop: whose inboxes they are.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sent: deque[tuple[Inbox, int, Event]] = deque()
        self._woken = False

    def put(self, inbox: Inbox, index: int, event: Event) -> None:
        """Send something, from any thread."""
        self._sent.append((inbox, index, event))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is gone
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False  # before looking: what is put from here on wakes again
        while self._sent:
            inbox, index, event = self._sent.popleft()
            inbox.put_nowait((index, event))
