"""How much one caller may do in a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

CALLERS = 10_000
"""Callers that are remembered; one who comes back after so many others begins with a full bucket."""


class RateLimit:
    """Token buckets: a caller may do `amount` things at once, and so many again in each period.

    Args:
        period: in seconds.
        clock: for tests.
    """

    def __init__(self, period: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.period, self.clock = period, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, amount: int) -> float:
        """Take one of the caller's; 0, or the seconds to wait until there is one."""
        now = self.clock()
        if amount <= 0:
            return self.period
        left, since = self._buckets.get(caller, (float(amount), now))
        left = min(left + (now - since) * amount / self.period, float(amount))
        if left < 1:
            return (1 - left) * self.period / amount
        self._buckets[caller] = left - 1, now
        self._buckets.move_to_end(caller)
        while len(self._buckets) > CALLERS:
            self._buckets.popitem(last=False)
        return 0.0
