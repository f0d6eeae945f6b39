"""What an engine promises: it reads tokens into sequences and samples replies, many sequences at once.

A sequence is opened, then alternately given tokens to read (`submit`) and asked for a reply (the `Reply`s
that `step` returns when they are done). What was read or sampled stays in the sequence's cache, so that a
later turn reads only what is new and a fork costs a copy, not a second reading.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from journeyman.errors import UsageError
from journeyman.model.decoder import Decoder
from journeyman.model.texts import StopTexts

Finish = Literal["stop", "length", "context"]
"""A reply ended by an end token or text, by its token limit, or because the context is full."""


@dataclass(frozen=True)
class Sampling:
    """How a reply is sampled.

    Attributes:
        temperature: 0 is greedy. Log-probabilities are of the distribution at this temperature (at 0,
            of the one at 1).
        top_p: smallest set of tokens of this mass (1904.09751); log-probabilities stay those of the whole
            distribution, so 1 is right for learning.
        max_tokens: longest reply.
        stop: tokens that end a reply; they belong to it.
        stop_texts: texts that do; the token that completes one is the reply's last.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64
    stop: frozenset[int] = field(default_factory=frozenset[int])
    stop_texts: StopTexts | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UsageError(f"temperature must be at least 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, got {self.max_tokens}")


@dataclass(frozen=True)
class Reply:
    """A finished reply: its tokens (with the end token, if one came) and the log-probability of each."""

    sequence: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish


class Engine(ABC):
    """The contract. Sampling depends on a sequence's own seed and position alone, never on its neighbours
    (beyond floating-point rounding).

    Attributes:
        context: most tokens one sequence can hold.
        slots: sequences that are worked on, or idle with what they have read, at once.
        version: version of the weights that sample now.
    """

    context: int
    slots: int
    version: int = 0

    @abstractmethod
    def load(self, model: Decoder, version: int) -> None:
        """Sample from these weights from now on. Sequences under way go on with them, on what they have read."""

    @abstractmethod
    def open(self, seed: int) -> int:
        """A new, empty sequence; `seed` fixes every draw made for it."""

    @abstractmethod
    def fork(self, sequence: int, seed: int, length: int | None = None) -> int:
        """A copy of an idle sequence, with the first `length` tokens that it has read or sampled (at least one; all of
        them when not given), and a seed of its own."""

    @abstractmethod
    def submit(self, sequence: int, tokens: Sequence[int], sampling: Sampling) -> None:
        """Let an idle sequence read `tokens` (at least one, unless it was forked) and then sample a reply."""

    @abstractmethod
    def step(self) -> list[Reply]:
        """Go on by one forward pass; return the replies that are finished now. Empty when all is idle."""

    @abstractmethod
    def partial(self, sequence: int, start: int = 0) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Tokens and log-probabilities of the reply under way, from its `start`-th on, so far as the engine tells them
        before it is finished; none for an idle sequence."""

    @abstractmethod
    def close(self, sequence: int) -> None:
        """Forget a sequence, whatever its state."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether `step` has anything to do: a sequence waits for a reply, and not for the place of an idle one."""


def check_fork(length: int | None, held: int) -> None:
    """Refuse to fork what a sequence does not hold."""
    if length is not None and not 1 <= length <= held:
        raise UsageError(f"a fork takes from 1 to the {held} tokens that the sequence holds, got {length}")
