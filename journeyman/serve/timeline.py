"""When what happened to an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TRACED = ("traceparent", "tracestate")
"""Headers by which a client says which trace its request is part of (W3C Trace Context)."""


@dataclass(frozen=True)
class Timeline:
    """One answer's times, in Unix seconds.

    Attributes:
        came: when the request did.
        phases: name, begin and end of what was done for it, in order.
        trace: the headers that say which trace it is part of.
        facts: what else is known, by the names that OpenTelemetry's conventions for generative AI give it.
    """

    came: float
    phases: tuple[tuple[str, float, float], ...]
    trace: Mapping[str, str]
    facts: Mapping[str, str | int | float]
