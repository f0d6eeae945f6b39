"""The journal as far as somebody has read it: reading on costs what is new."""

from __future__ import annotations

import threading

from journeyman.experience.journal import Event
from journeyman.experience.store import Store


class Tail:
    """Everything that was decided about a store's deployment, in order. Any number of threads.

    Args:
        store: whose journal it is.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._events: tuple[Event, ...] = ()

    def read(self) -> tuple[Event, ...]:
        """All events there are now; the same object as before where nothing has come.

        Raises:
            StoreUnavailable: it cannot be read.
        """
        with self._lock:
            after = self._events[-1].number if self._events else 0
            if new := self.store.events(after):
                self._events = (*self._events, *new)
            return self._events
