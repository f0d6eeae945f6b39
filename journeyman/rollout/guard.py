"""Calls into code that is not ours (a user's job, a grader) under a time limit."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

try:  # what `signal.signal` wraps: looking a handler up among its enumerations takes longer than many an environment
    from _signal import signal as _set_handler  # pyright: ignore
except ImportError:
    _set_handler = signal.signal

T = TypeVar("T")

GRACE = 0.25
"""Seconds that code has for tidying up after the alarm, before it rings again."""
SOON = 5e-5
"""Most seconds between later rings, which come at random. Code that catches everything in a loop ends when a ring finds
it between two rounds, a microsecond after it caught the last one: that took 0.1 s at most in 4,000 trials, where a
steady pace of ten thousand rings a second took up to 38 s."""
PACE = random.Random()


class TimeLimitExceeded(BaseException):
    """The call did not come back in time. No `Exception`: code that swallows those must not outlive its limit."""


FAILURES = (Exception, SystemExit, TimeLimitExceeded)
"""What may come out of code that is not ours; Ctrl-C is not among it."""


def call_within(seconds: float, function: Callable[[], T]) -> T:
    """Call the function, for at most this many seconds.

    On the main thread an alarm interrupts it, which ends Python code that loops, if need be by ringing again;
    elsewhere it runs on a thread of its own that is left behind. Code stuck inside a C extension can be left
    behind but never ended.

    Raises:
        TimeLimitExceeded: it did not come back in time. Whatever the function raises passes through.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return _with_alarm(seconds, function)
    return _on_thread(seconds, function)


def _with_alarm(seconds: float, function: Callable[[], T]) -> T:
    rings, over = 0, False

    def ring(signum: int, frame: FrameType | None) -> None:
        nonlocal rings
        if over:
            return
        rings += 1
        if rings > 1:
            signal.setitimer(signal.ITIMER_REAL, PACE.uniform(1e-6, SOON), GRACE)
        raise TimeLimitExceeded(f"no answer within {seconds:g} s")

    before = _set_handler(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, GRACE)
        return function()
    finally:
        over = True  # first, and no call: Python lets signals in at calls and jumps back only
        signal.setitimer(signal.ITIMER_REAL, 0)
        _set_handler(signal.SIGALRM, before)


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
