"""Terms on which answers are given to agents that are learned from, whatever they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """What the learner needs of every answer.

    Attributes:
        temperature: the one that is learned at (or examined at); `top_p` is 1, so that log-probabilities are those of
            what was sampled.
        calls: answers that one session gets; one more is refused, as if the context were full.
        max_tokens: longest answer; None: as the client asks.
        seeds: of each session's draws, by its name.
    """

    temperature: float
    calls: int
    max_tokens: int | None
    seeds: Mapping[str, int]
