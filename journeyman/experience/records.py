"""What a deployment keeps: turns that were served, what was said of them, and how both are given back.

A served episode is a conversation: one turn per request (per choice, where a request asked for several), joined by the
episode's id. A turn goes on `after` another; its tokens are kept exactly as they were read and made. For a prompt of
three tokens and a completion of two:

    position        0     1     2        3      4
    token           p0    p1    p2       c0     c1      prompt, then completion
    logprobs        .     .     .       -0.1   -0.2     of the completion only: float32 [C]
    values          V0    V1    V2       V3     V4      after reading each token: float32 [P + C], NaN where none

P: tokens of the prompt, C: of the completion. Times are Unix seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from journeyman.errors import UsageError
from journeyman.experience.ids import uuid7
from journeyman.types import FloatArray, IntArray, Speaker

Finish = Literal["stop", "length", "tool_calls", "abstained", "cancelled", "timeout", "error"]
"""How a request ended. `abstained`: V was too low to answer; `cancelled`: the client went away; `timeout`: a limit on
time cut it; `error`: something of ours broke (see `ServedTurn.error`)."""
FINISHES: tuple[Finish, ...] = ("stop", "length", "tool_calls", "abstained", "cancelled", "timeout", "error")
Source = Literal["human", "model", "code"]
LONGEST_NAME = 500


def check_name(what: str, name: str, *, empty: bool = False) -> None:
    """Raises UsageError: empty, too long, or with characters that no id has (controls, lone surrogates)."""
    if not empty and not name:
        raise UsageError(f"{what} is empty")
    if len(name) > LONGEST_NAME:
        raise UsageError(f"{what} must be at most {LONGEST_NAME} characters, got {len(name)}")
    if not name.isprintable():
        raise UsageError(f"{what} must be printable characters, got {name!r}")


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """Which version made `completion[start:stop]`: an update can fall inside an answer.

    Example: ``VersionSpan(version=7, start=0, stop=12, probability=0.05)``: a canary that 5% of requests got.

    Attributes:
        version: of the policy.
        probability: with which this version was assigned to the request, in (0, 1]. It makes honest off-policy
            learning possible: later it cannot be known any more.
    """

    version: int
    start: int
    stop: int
    probability: float = 1.0


@dataclass(frozen=True)
class ServedTurn:
    """One answer of the server.

    Attributes:
        id: a UUIDv7, new for each turn; recording the same turn again is safe.
        episode: the episode's id: a UUIDv7 made for its first turn.
        prompt: int32 [P], exactly as the model read it, whole: what it shares with the turn before is kept once.
        completion: int32 [C], exactly as sampled.
        logprobs: float32 [C], of the completion under the distribution it was sampled from.
        values: float32 [P + C]; NaN where none was computed; those of tokens shared with the turn before are its.
        spans: which version made which tokens; they cover the completion without gap or overlap. A teacher's has none.
        finish: how the request ended.
        after: the turn it goes on from; None for the first. Where the client rewrote what was said, the prompt shares
            only its beginning with that turn's tokens: this is detected, and the turns become two trajectories.
        request: an id that all choices of one request share.
        choice: its number among them.
        messages: the prompt as the client sent it (OpenAI's shape); empty where it was bare text.
        reply: the answer as a message (OpenAI's shape, with its tool calls).
        parameters: what else was asked (seed, top_p, tools, the bare prompt...), as JSON.
        temperature: at which it was sampled.
        by: who made the tokens; a teacher's were not sampled, so they are a demonstration.
        key: the id of the API key that asked; never the key.
        user: the end user as the client names them; their episodes can be erased by it.
        job: which job this is, if known.
        started: when the request came.
        ended: when its last token was made.
        error: for `error`: what broke.
    """

    id: str
    episode: str
    prompt: IntArray
    completion: IntArray
    logprobs: FloatArray
    values: FloatArray
    spans: tuple[VersionSpan, ...]
    finish: Finish
    started: float
    ended: float
    after: str | None = None
    request: str = ""
    choice: int = 0
    messages: Sequence[Mapping[str, Any]] = ()
    reply: Mapping[str, Any] = field(default_factory=dict[str, Any])
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    temperature: float = 1.0
    by: Speaker = "policy"
    key: str = ""
    user: str = ""
    job: str = ""
    error: str = ""

    def __post_init__(self) -> None:
        """Raises UsageError where lengths, spans or names are impossible."""
        for name in ("id", "episode"):
            check_name(f"turn: {name}", getattr(self, name))
        for name in ("request", "key", "user", "job"):
            check_name(f"turn: {name}", getattr(self, name), empty=True)
        prompt, made = len(self.prompt), len(self.completion)
        if len(self.logprobs) != made or len(self.values) != prompt + made:
            raise UsageError(
                f"turn: {made} log-probabilities and {prompt + made} values are needed",
                reason=f"got {len(self.logprobs)} and {len(self.values)} for {prompt} + {made} tokens",
            )
        ends = [0, *(span.stop for span in self.spans)]
        own = made if self.by == "policy" else 0
        if [span.start for span in self.spans] != ends[:-1] or ends != sorted(ends) or ends[-1] != own:
            raise UsageError(f"turn: spans must cover the {own} tokens of the policy in order, got {self.spans}")
        for span in self.spans:
            if not 0 < span.probability <= 1:
                raise UsageError(f"turn: a version's probability must lie in (0, 1], got {span.probability}")
        if self.finish not in FINISHES:
            raise UsageError(f"turn: finish must be one of {', '.join(FINISHES)}, got {self.finish!r}")
        if not math.isfinite(self.started) or not math.isfinite(self.ended):
            raise UsageError(f"turn: times must be finite, got {self.started} and {self.ended}")

    @property
    def tokens(self) -> IntArray:
        """Prompt and completion: int32 [P + C]."""
        return np.concatenate([self.prompt, self.completion])


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number or a boolean of feedback means; declared once.

    Example: ``Metric("resolved", "boolean", "episode", "max")``.

    Attributes:
        name: of the metric.
        type: `boolean`, or `float`.
        level: whether it is about a single `turn` or the whole `episode`.
        optimize: whether more is better (`max`) or less (`min`).
        low, high: bounds of a float; None where there is none. A value outside of them is refused.
    """

    name: str
    type: Literal["boolean", "float"]
    level: Literal["turn", "episode"]
    optimize: Literal["min", "max"]
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Raises UsageError where it is no metric."""
        check_name("metric: name", self.name)
        choices = (("type", ("boolean", "float")), ("level", ("turn", "episode")), ("optimize", ("min", "max")))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise UsageError(f"metric: {name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if not all(map(math.isfinite, bounds)) or bounds != sorted(set(bounds)):
            raise UsageError(f"metric: low must be below high and both finite, got {self.low} and {self.high}")
        if self.type == "boolean" and bounds:
            raise UsageError(f"metric: a boolean has no bounds, got {self.low} and {self.high}")

    def check(self, value: float | bool) -> None:
        """Raises UsageError: the value is none of this metric. A boolean counts as 0 or 1 of a float."""
        if self.type == "boolean" and not isinstance(value, bool):
            raise UsageError(f"the metric {self.name!r} is boolean, got {value!r}")
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        if not (math.isfinite(value) and low <= value <= high):
            raise UsageError(f"the metric {self.name!r} must be finite and lie in [{low}, {high}], got {value!r}")

    def reward(self, value: float | bool) -> float:
        """The value as a reward, more is better: within bounds (and booleans) from 0 to 1, else as it is."""
        number = float(value)
        low, high = (0.0, 1.0) if self.type == "boolean" else (self.low, self.high)
        if low is not None and high is not None:
            number = (number - low) / (high - low)
            return 1 - number if self.optimize == "min" else number
        return -number if self.optimize == "min" else number


REWARD = Metric("reward", "float", "episode", "max", 0.0, 1.0)
"""The metric that every store knows: how good the episode was. Episodes are listed with it."""

SHADOW = Metric("shadow", "float", "turn", "max", -1.0, 1.0)
"""How much better the release's V judges what a shadow would have answered; -1 where it broke, 0 without V. It lies on
the release's turn, so that it is erased with it, and nobody said it: it counts as nobody's feedback, and nothing learns
from it."""
SHADOW_KEY = "shadow"
"""The key under which it is kept, which no client has."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody said of an episode or of one of its turns. At least one of `value`, `comment`, `correction` and
    `preferred_to`. Conflicting ones are all kept.

    Attributes:
        episode: what it is about; the better one of a preference.
        id: a UUIDv7.
        turn: the turn it is about; None: the whole episode.
        metric: what `value` is a value of; see :class:`Metric`.
        value: a number or a boolean.
        comment: in words.
        correction: the answer as it should have been: a demonstration.
        preferred_to: another episode of the same task, worse than this one.
        source: who judged: a human, a model, or code.
        explanation: why, as the judge says.
        tags: for those who sort it.
        key: the id of the API key that sent it.
        user: the end user who gave it; it is erased with them.
        idempotency_key: the caller's: the same again (of the same key) changes nothing.
        at: when it came.
    """

    episode: str
    id: str = field(default_factory=uuid7)
    turn: str | None = None
    metric: str = REWARD.name
    value: float | bool | None = None
    comment: str = ""
    correction: str | None = None
    preferred_to: str | None = None
    source: Source = "human"
    explanation: str = ""
    tags: tuple[str, ...] = ()
    key: str = ""
    user: str = ""
    idempotency_key: str | None = None
    at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        """Raises UsageError where it says nothing or is impossible."""
        for name in ("episode", "id", "metric"):
            check_name(f"feedback: {name}", getattr(self, name))
        for name in ("turn", "preferred_to", "key", "user", "idempotency_key"):
            check_name(f"feedback: {name}", getattr(self, name) or "", empty=True)
        if self.value is None and not self.comment and self.correction is None and self.preferred_to is None:
            raise UsageError("the feedback says nothing", fix="give a value, comment, correction or preferred_to")
        if self.value is not None and not math.isfinite(self.value):
            raise UsageError(f"feedback: value must be finite, got {self.value}")
        if self.preferred_to == self.episode:
            raise UsageError(f"feedback: the episode {self.episode} is preferred to itself")
        if self.source not in ("human", "model", "code"):
            raise UsageError(f"feedback: source must be human, model or code, got {self.source!r}")


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """An episode in a list.

    Attributes:
        id: its id.
        origin: `served`, `learning` (kept whole by the learning loop), or `unseen`: feedback came first.
        job, key, user: as its turns say; empty where unknown.
        split, step: of an episode of the learning loop; "" and None else.
        ending: how it ended (:class:`journeyman.types.Ending`'s values); for a served one, as its last turn did.
        reward: of a learning episode, its outcome's; of a served one, what feedback says by the metric `reward`; None
            where nobody has said.
        value: V after its last token; None where none was computed.
        turns: how many.
        feedback: how many pieces.
        versions: which versions took part, ascending.
        started: when its first turn came; None where not known.
        updated: when anything last came of it.
    """

    id: str
    origin: Literal["served", "learning", "unseen"]
    job: str
    key: str
    user: str
    split: str
    step: int | None
    ending: str
    reward: float | None
    value: float | None
    turns: int
    feedback: int
    versions: tuple[int, ...]
    started: float | None
    updated: float | None


@dataclass(frozen=True, slots=True)
class EpisodeFilter:
    """Which episodes a list shows: those for which all that is given holds.

    Attributes:
        job, split, user, key, ending: equal to this.
        version: this version made some of its tokens.
        since, until: started at or after, before (Unix seconds).
        outcome: `success` or `failure` (reward at least 1 or less), `unknown`: no reward.
        has_feedback: whether anything was said of it.
        origin: `served` or `learning`.
        least, most: bounds of V after its last token, both included.
        search: said in it (or a part of its id), whatever the case.
    """

    job: str | None = None
    split: str | None = None
    user: str | None = None
    key: str | None = None
    ending: str | None = None
    version: int | None = None
    since: float | None = None
    until: float | None = None
    outcome: Literal["success", "failure", "unknown"] | None = None
    has_feedback: bool | None = None
    origin: Literal["served", "learning"] | None = None
    least: float | None = None
    most: float | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a list, newest first; `cursor` leads to the next page, None at the end."""

    episodes: tuple[EpisodeSummary, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """A store at a glance.

    Attributes:
        schema: version of its schema.
        entries: of the log.
        head: the last link of the hash chain. Who notes it elsewhere, with `entries`, can later tell whether the end of
            the log was cut off, which nothing inside of it can show.
        episodes: how many of each origin; `erased` and `unseen` among them.
        kinds: how many entries of each kind that still have their content.
        metrics: those that were declared.
        first, last: when the first episode of which this is known began, and when something last came of one.
        bytes: on disk; None for a database server.
    """

    schema: int
    entries: int
    head: str
    episodes: Mapping[str, int]
    kinds: Mapping[str, int]
    metrics: tuple[str, ...]
    first: float | None
    last: float | None
    bytes: int | None
