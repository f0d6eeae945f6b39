"""What Prometheus sees. docs/serve.md lists the names."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TENTHS = tuple(i / 10 for i in range(1, 11))


class Traffic:
    """What was done of late, for the page: sums over spans of time.

    Args:
        span: seconds of each.
        spans: how many are kept.
        clock: Unix seconds, for tests.
    """

    def __init__(self, span: int = 10, spans: int = 180, clock: Callable[[], float] = time.time) -> None:
        self.span, self.clock = span, clock
        self._lock = threading.Lock()
        self._spans: deque[tuple[int, dict[str, float]]] = deque(maxlen=spans)

    def add(self, **amounts: float) -> None:
        """Something was done now."""
        now = int(self.clock()) // self.span
        with self._lock:
            if not self._spans or self._spans[-1][0] < now:
                self._spans.append((now, defaultdict(float)))
            for name, amount in amounts.items():
                self._spans[-1][1][name] += amount

    def read(self) -> list[dict[str, float]]:
        """The spans in which anything was done, the oldest first: `at`, and the sums that are not 0."""
        oldest = int(self.clock()) // self.span - (self._spans.maxlen or 0)
        with self._lock:
            return [{"at": number * self.span, **sums} for number, sums in self._spans if number > oldest]


class Metrics:
    """One server's figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.traffic = Traffic()
        r = self.registry
        self.requests = Counter("journeyman_requests", "Requests by route and status.", ["route", "status"], registry=r)
        self.tokens = Counter("journeyman_tokens", "Tokens read from prompts, and sampled.", ["kind"], registry=r)
        self.seconds = Histogram(
            "journeyman_request_seconds", "From a request's head to its answer's end.", ["route"], buckets=SECONDS,
            registry=r,
        )  # fmt: skip
        self.first_token = Histogram(
            "journeyman_first_token_seconds", "From a request to its first token.", buckets=SECONDS, registry=r
        )
        self.value = Histogram(
            "journeyman_value", "The value of answers, where there is a value function.", buckets=TENTHS, registry=r
        )
        self.finishes = Counter("journeyman_answers", "Answers by how they ended.", ["finish"], registry=r)
        self.taught = Counter("journeyman_handed_over", "Answers left to the teacher.", ["teacher"], registry=r)
        self.shadow = Counter(
            "journeyman_shadow", "Answers that a shadow was to give again, by what came of it.", ["what"], registry=r
        )
        self.feedback = Counter("journeyman_feedback", "Feedback that was kept, by metric.", ["metric"], registry=r)
        self.unkept = Counter("journeyman_store_failures", "What could not be written to the store.", registry=r)

    def answered(self, prompt: int, completion: int, finish: str, value: float | None) -> None:
        """An answer is there, and kept: tokens read and sampled, how it ended, and V of it."""
        self.tokens.labels("prompt").inc(prompt)
        self.tokens.labels("completion").inc(completion)
        self.finishes.labels(finish).inc()
        self.traffic.add(answers=1, prompt_tokens=prompt, completion_tokens=completion)
        if value is not None:
            self.value.observe(value)
            self.traffic.add(value=value, valued=1)

    def said(self, metric: str) -> None:
        """Feedback was kept."""
        self.feedback.labels(metric).inc()
        self.traffic.add(feedback=1)

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """A figure that is read when it is asked for."""
        Gauge(name, what, registry=self.registry).set_function(read)

    def page(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
