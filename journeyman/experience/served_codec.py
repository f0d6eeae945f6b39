"""Turns and feedback to rows and back. What a turn shares with the one before it is kept once, there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from journeyman.errors import UsageError
from journeyman.experience.codec import canonical, pack, unpack
from journeyman.experience.records import Feedback, ServedTurn, VersionSpan
from journeyman.types import IntArray

PLAIN = (
    "id",
    "episode",
    "after",
    "request",
    "choice",
    "reply",
    "parameters",
    "temperature",
    "finish",
    "error",
    "by",
    "key",
    "user",
    "job",
    "started",
    "ended",
)
"""Fields of a turn that stand in its record as they are."""


def encode_turn(turn: ServedTurn, before: ServedTurn | None) -> tuple[str, bytes]:
    """The record as canonical JSON, and the columns: tokens and values from `kept` on, log-probabilities.

    Args:
        before: the turn that `turn.after` names; None where that is gone.

    Raises:
        UsageError: its messages or parameters are no JSON.
    """
    kept = kept_messages = 0
    if before is not None:
        kept = shared(before.tokens, turn.prompt)
        kept_messages = _shared_messages([*before.messages, before.reply], turn.messages)
    record = {name: getattr(turn, name) for name in PLAIN} | {
        "kind": "turn",
        "kept": kept,
        "kept_messages": kept_messages,
        "messages": list(turn.messages[kept_messages:]),
        "spans": [[span.version, span.start, span.stop, span.probability] for span in turn.spans],
        "prompt": len(turn.prompt),
        "completion": len(turn.completion),
    }
    columns = ((turn.tokens[kept:], "<i4"), (turn.logprobs, "<f4"), (turn.values[kept:], "<f4"))
    try:
        return canonical(record, allow_nan=False), pack(columns)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the turn {turn.id} holds what JSON cannot", reason=str(error)) from error


def decode_turn(text: str, columns: bytes, before: ServedTurn | None) -> ServedTurn:
    """The turn that :func:`encode_turn` was given."""
    record: dict[str, Any] = json.loads(text)
    kept, prompt, completion = record["kept"], record["prompt"], record["completion"]
    rest = prompt + completion - kept
    tokens, logprobs, values = unpack(columns, ((rest, "<i4"), (completion, "<f4"), (rest, "<f4")))
    messages: list[Any] = record["messages"]
    if before is not None:
        tokens = np.concatenate([before.tokens[:kept], tokens])
        values = np.concatenate([before.values[:kept], values])
        messages = [*before.messages, before.reply][: record["kept_messages"]] + messages
    return ServedTurn(
        **{name: record[name] for name in PLAIN},
        prompt=tokens[:prompt],
        completion=tokens[prompt:],
        logprobs=logprobs,
        values=values,
        spans=tuple(VersionSpan(*span) for span in record["spans"]),
        messages=tuple(messages),
    )


def shared(one: IntArray, other: IntArray) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    different = np.flatnonzero(one[:length] != other[:length])
    return int(different[0]) if len(different) else length


def _shared_messages(one: Sequence[object], other: Sequence[object]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if canonical({"": a}) != canonical({"": b}):  # 1, 1.0 and True are equal in Python and not the same
            break
        count += 1
    return count


def encode_feedback(feedback: Feedback) -> str:
    """The record as canonical JSON."""
    return canonical({"kind": "feedback", **asdict(feedback)})


def decode_feedback(text: str) -> Feedback:
    """The feedback that :func:`encode_feedback` was given."""
    record: dict[str, Any] = json.loads(text)
    del record["kind"]
    record["tags"] = tuple(record["tags"])
    return Feedback(**record)
