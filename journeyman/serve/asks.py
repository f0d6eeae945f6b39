"""What the gateway is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from journeyman.engine.base import Sampling
from journeyman.search.strategies import SearchConfig
from journeyman.serve.episodes import Episode, Joint, Place
from journeyman.serve.fleet import Assigned
from journeyman.serve.service import Finished, History
from journeyman.serve.talk import Listener
from journeyman.serve.think import Thought
from journeyman.serve.tools import Said
from journeyman.types import Speaker


@dataclass(frozen=True)
class Ask:
    """One answer that a request wants.

    Attributes:
        index: its number among the request's choices.
        assigned: the version that answers it.
        episode, place: where it goes on.
        history: all tokens before it; the first `held` of them are those of the turn before.
        sampling, seed, reseed: how; see :class:`Order`.
        listener: how the reply is read.
        trail: stands for all messages before it; None for bare text.
        text: all text before it, where it was bare text.
        must_call: whether an answer without a tool call is none.
        threshold: of V, below which it is withheld.
        hand_over: makes tokens of a teacher's words, where one is to answer then.
        search: how long to think.
        seconds: after which the reply is cut, whatever the server's limit is.
        streamed: whether to tell it while it grows.
        record: what is kept of the request, beside what is known here.
        came: when the request did, in Unix seconds.
        trace: headers that say which trace it is part of.
    """

    index: int
    assigned: Assigned
    episode: Episode
    place: Place
    history: History
    held: int
    sampling: Sampling
    seed: int
    reseed: bool
    listener: Listener
    trail: bytes | None
    record: Mapping[str, Any]
    came: float
    trace: Mapping[str, str]
    text: str = ""
    must_call: bool = False
    threshold: float | None = None
    hand_over: Callable[[str], list[int]] | None = None
    search: SearchConfig = field(default_factory=SearchConfig)
    seconds: float = float("inf")
    streamed: bool = False

    @property
    def buffered(self) -> bool:
        """Whether nothing may be shown before it is finished."""
        return self.threshold is not None or self.search.think > 1


@dataclass(frozen=True)
class Delta:
    """More of an answer: text that can be shown, and the tokens that were sampled since."""

    index: int
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """A finished answer, which is on the disk.

    Attributes:
        ask: what it answers.
        turn: its id.
        message: as the client gets it.
        said: the reply taken apart.
        unsure: whether it was withheld, and nobody else gave one.
        by: who gave it.
        withheld: the id of the policy's own turn, where a teacher gave it, and V of that.
        finished: the reply itself.
        rest: text that a stream has not shown yet.
        cached: tokens of its history that were not read again.
        thought: what a search has spent.
    """

    ask: Ask
    turn: str
    message: Mapping[str, Any]
    said: Said
    unsure: bool
    finished: Finished
    rest: str
    cached: int
    thought: Thought | None
    by: Speaker = "policy"
    withheld: tuple[str, float | None] | None = None

    @property
    def joint(self) -> Joint:
        """How it follows what was there."""
        return self.ask.place.joint

    @property
    def finish(self) -> str:
        """OpenAI's `finish_reason`."""
        if self.said.calls and not self.unsure:
            return "tool_calls"
        return "stop" if self.finished.finish == "stop" else "length"
