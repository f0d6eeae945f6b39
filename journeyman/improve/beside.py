"""An improver in a process of its own, beside the server that it improves: `journeyman up`.

The server must not wait for it: it gives way to whatever else wants the processor, and one that dies is started again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType

from journeyman.errors import JourneymanError
from journeyman.improve.config import ImproveConfig
from journeyman.improve.improver import improve
from journeyman.stages import Record

NICE = 5
PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds before it is started again, the first time, the second..."""
LONG = 300.0
"""Seconds after which one that dies is started again as if it were the first time."""
PATIENCE = 20.0
"""Seconds that it has to come to an end."""

Tell = Callable[[Record], None]


class Beside:
    """A context in which the improver runs.

    Args:
        tell: hears its records, from a thread; `{"what": "died", ...}` where it had to be started again.
    """

    def __init__(self, source: str, config: ImproveConfig, tell: Tell) -> None:
        self.source, self.config, self.tell = source, config, tell
        self._context = multiprocessing.get_context("spawn")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="improver", daemon=True)

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ending.set()
        self._thread.join(PATIENCE + 5)

    def _watch(self) -> None:
        died = 0
        while not self._ending.is_set():
            hear, say = self._context.Pipe(duplex=False)
            begun = time.monotonic()
            process = self._context.Process(target=_work, args=(self.source, self.config, say), daemon=True)
            process.start()
            say.close()
            while process.is_alive() and not self._ending.is_set():
                self._told(hear)
            if self._ending.is_set():
                process.terminate()
                process.join(PATIENCE)
                process.kill()
                return
            self._told(hear)
            if process.exitcode == 0:
                return
            died = died + 1 if time.monotonic() - begun < LONG else 1
            self.tell({"kind": "improve", "what": "died", "code": process.exitcode})
            self._ending.wait(PAUSES[min(died, len(PAUSES)) - 1])

    def _told(self, hear: Connection[None, Record]) -> None:
        """Pass on what has come, waiting a moment for it."""
        try:
            while hear.poll(0.2):
                self.tell(hear.recv())
        except (EOFError, OSError):  # OSError: it was killed in the middle of a record
            self._ending.wait(0.2)


def _work(source: str, config: ImproveConfig, say: Connection[Record, None]) -> None:
    """The process."""
    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal; the server says when to stop
    os.nice(NICE)
    parent = os.getppid()
    try:
        for record in improve(source, config, lambda: ending.is_set() or os.getppid() != parent):
            say.send(record)
    except JourneymanError as error:
        say.send({"kind": "improve", "what": "failed", "why": str(error)})
        raise SystemExit(2) from error
