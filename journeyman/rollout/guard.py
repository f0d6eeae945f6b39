"""Calls into code that is not ours (a user's job, a grader) under a time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class TimeLimitExceeded(BaseException):
    """The call did not come back in time. No `Exception`: code that swallows those must not outlive its limit."""


FAILURES = (Exception, SystemExit, TimeLimitExceeded)
"""What may come out of code that is not ours; Ctrl-C is not among it."""


def call_within(seconds: float, function: Callable[[], T]) -> T:
    """Call the function, for at most this many seconds.

    On the main thread an alarm interrupts it, which ends Python code that loops; elsewhere it runs on a thread
    of its own that is left behind. Code stuck inside a C extension can be left behind but never ended.

    Raises:
        TimeLimitExceeded: it did not come back in time. Whatever the function raises passes through.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return _with_alarm(seconds, function)
    return _on_thread(seconds, function)


def _with_alarm(seconds: float, function: Callable[[], T]) -> T:
    def ring(signum: int, frame: FrameType | None) -> None:
        raise TimeLimitExceeded(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _on_thread(seconds: float, function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeLimitExceeded(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]
