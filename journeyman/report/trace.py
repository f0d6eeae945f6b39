"""One episode as something to look at: its text in spans, V after each, and the moments V moved most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from journeyman.report.words import visible
from journeyman.types import Trajectory

Pieces = Callable[[Sequence[int]], list[str]]
"""Token ids -> the text of each, e.g. `Renderer(tokenizer).pieces`."""
Speaker = Literal["system", "user", "assistant", "environment"]

NOTABLE = 0.05
"""A change of V below this is no moment worth marking."""
END = "↵"
"""Stands for the tokens that end a reply."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text and V after reading it; `position` is its (last) token, None where it has none."""

    text: str
    value: float | None
    position: int | None


@dataclass(frozen=True, slots=True)
class Passage:
    """What one speaker says at once. `turn` counts from 1; 0 is the prompt."""

    speaker: Speaker
    turn: int
    spans: tuple[Span, ...]

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class Moment:
    """Where V moved most in one span: from `before` to `after` at token `position`, in turn `turn`."""

    position: int
    turn: int
    text: str
    before: float
    after: float

    @property
    def fell(self) -> bool:
        return self.after < self.before


@dataclass(frozen=True)
class View:
    """A trajectory laid out for reading.

    Attributes:
        trajectory: the episode.
        passages: prompt, replies and observations in order.
        series: (position, V) from just before the first sampled token to the end, where V is known.
        fall: the greatest loss of V within one span, None if V never lost `NOTABLE`.
        rise: the greatest gain, likewise.
    """

    trajectory: Trajectory
    passages: tuple[Passage, ...]
    series: tuple[tuple[int, float], ...]
    fall: Moment | None
    rise: Moment | None


def view(trajectory: Trajectory, pieces: Sequence[str] | None = None) -> View:
    """Lay out an episode: token by token if the text of each token is given, else turn by turn."""
    if pieces is not None and len(pieces) != len(trajectory):
        raise ValueError(f"{len(pieces)} pieces for a trajectory of {len(trajectory)} tokens: one each is needed")
    passages = _by_turn(trajectory) if pieces is None else _by_token(trajectory, pieces)
    shown = tuple(
        replace(passage, spans=tuple(replace(span, text=visible(span.text)) for span in passage.spans))
        for passage in passages
    )
    series = known_values(trajectory)
    fall, rise = _moments(shown, series)
    return View(trajectory, shown, series, fall, rise)


def trace_record(trajectory: Trajectory, pieces: Sequence[str] | None = None) -> dict[str, Any]:
    """An episode as JSON for scripts: what happened, and V (null where unknown) after each token."""
    task, outcome = trajectory.task, trajectory.outcome
    record: dict[str, Any] = {
        "id": trajectory.id,
        "job": task.job,
        "split": task.split,
        "index": task.index,
        "level": task.level,
        "step": trajectory.step,
        "policy_version": trajectory.policy_version,
        "temperature": trajectory.temperature,
        "messages": [{"role": message.role, "content": message.content} for message in task.messages],
        "turns": [
            {
                "start": t.start,
                "stop": t.stop,
                "reply": t.reply,
                "observation": t.observation,
                "reward": t.reward,
            }
            for t in trajectory.turns
        ],
        "reward": outcome.reward,
        "ending": outcome.ending.value,
        "success": outcome.success,
        "error": outcome.error,
        "tokens": trajectory.tokens.tolist(),
        "mask": trajectory.mask.tolist(),
        "logprobs": trajectory.logprobs.tolist(),
        "values": [value if math.isfinite(value) else None for value in trajectory.values.tolist()],
    }
    return record if pieces is None else record | {"pieces": list(pieces)}


def known_values(trajectory: Trajectory) -> tuple[tuple[int, float], ...]:
    """(position, V) from the state of the first sampled token on, where V was computed."""
    actions = trajectory.actions
    start = max(int(actions[0]) - 1, 0) if len(actions) else len(trajectory)
    values = trajectory.values[start:].tolist()
    return tuple((start + i, value) for i, value in enumerate(values) if math.isfinite(value))


def turns_worth_reading(seen: View, ends: int = 3, around: int = 1) -> set[int]:
    """Turns to show of a long episode: the first, the last, around its fall and rise, and any short gap."""
    last = max((passage.turn for passage in seen.passages), default=0)
    keep = {turn for turn in range(last + 1) if turn <= ends or turn > last - ends}
    for moment in (seen.fall, seen.rise):
        if moment is not None:
            keep |= set(range(moment.turn - around, moment.turn + around + 1))
    shown = sorted(keep & set(range(last + 1)))
    for left, right in pairwise(shown):
        if right - left <= 4:
            keep |= set(range(left, right))
    return keep & set(range(last + 1))


def _by_token(trajectory: Trajectory, pieces: Sequence[str]) -> list[Passage]:
    """Template tokens around the messages are dropped; the token that ends a reply is kept as `END`."""
    values = trajectory.values.tolist()
    spans = [
        Span(piece, value if math.isfinite(value) else None, i)
        for i, (piece, value) in enumerate(zip(pieces, values, strict=True))
    ]
    turns = trajectory.turns
    first = turns[0].start if turns else len(spans)
    passages = _prompt(trajectory, spans[:first])
    for number, turn in enumerate(turns, 1):
        reply = spans[turn.start : turn.stop]
        inside = _cut(reply, turn.reply)
        if inside is None:
            inside = reply
        elif reply and (not inside or inside[-1].position != reply[-1].position):
            inside = [*inside, replace(reply[-1], text=END)]
        passages.append(Passage("assistant", number, tuple(inside)))
        if turn.observation:
            stop = turns[number].start if number < len(turns) else len(spans)
            answer = _cut(spans[turn.stop : stop], turn.observation)
            passages.append(Passage("environment", number, tuple(answer or [Span(turn.observation, None, None)])))
    return passages


def _prompt(trajectory: Trajectory, spans: list[Span]) -> list[Passage]:
    passages: list[Passage] = []
    for message in trajectory.task.messages:
        inside = _cut(spans, message.content)
        if inside:
            spans = [span for span in spans if (span.position or 0) > (inside[-1].position or 0)]
        speaker: Speaker = "environment" if message.role == "tool" else message.role
        passages.append(Passage(speaker, 0, tuple(inside or [Span(message.content, None, None)])))
    return passages


def _by_turn(trajectory: Trajectory) -> list[Passage]:
    passages = _prompt(trajectory, [])
    turns = trajectory.turns
    for number, turn in enumerate(turns, 1):
        passages.append(Passage("assistant", number, (_whole(trajectory, turn.reply or END, turn.stop - 1),)))
        if turn.observation:
            read = turns[number].start - 1 if number < len(turns) else None
            passages.append(Passage("environment", number, (_whole(trajectory, turn.observation, read),)))
    return passages


def _whole(trajectory: Trajectory, text: str, position: int | None) -> Span:
    if position is None or not 0 <= position < len(trajectory):
        return Span(text, None, None)
    value = float(trajectory.values[position])
    return Span(text, value if math.isfinite(value) else None, position)


def _cut(spans: Sequence[Span], text: str) -> list[Span] | None:
    """The spans that make up `text`, trimmed to it; None where it does not occur in them as it is."""
    joined = "".join(span.text for span in spans)
    start = joined.find(text)
    if start < 0:
        text = text.strip()
        start = joined.find(text)
    if start < 0:
        return None
    stop = start + len(text)
    inside: list[Span] = []
    at = 0
    for span in spans:
        left, right = max(start, at), min(stop, at + len(span.text))
        if left < right:
            inside.append(replace(span, text=span.text[left - at : right - at]))
        at += len(span.text)
    return inside


def _moments(passages: Sequence[Passage], series: Sequence[tuple[int, float]]) -> tuple[Moment | None, Moment | None]:
    fall: Moment | None = None
    rise: Moment | None = None
    if not series:
        return None, None
    before = series[0][1]
    for passage in passages:
        for span in passage.spans:
            if span.value is None or span.position is None or span.position < series[0][0]:
                continue
            text = passage.text.removesuffix(END) if span.text == END else span.text
            moment = Moment(span.position, passage.turn, text, before, span.value)
            change, before = span.value - before, span.value
            if change <= -NOTABLE and (fall is None or change < fall.after - fall.before):
                fall = moment
            if change >= NOTABLE and (rise is None or change > rise.after - rise.before):
                rise = moment
    return fall, rise
