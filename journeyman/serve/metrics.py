"""What Prometheus sees. docs/serve.md lists the names."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TENTHS = tuple(i / 10 for i in range(1, 11))


class Metrics:
    """One server's figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
        self.feedback = Counter("journeyman_feedback", "Feedback that was kept, by metric.", ["metric"], registry=r)
        self.unkept = Counter("journeyman_store_failures", "What could not be written to the store.", registry=r)

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """A figure that is read when it is asked for."""
        Gauge(name, what, registry=self.registry).set_function(read)

    def page(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
