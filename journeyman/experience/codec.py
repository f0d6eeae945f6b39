"""Records to rows and back: canonical JSON for what people read, little-endian columns for what is long."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from journeyman.types import Ending, Message, Outcome, Task, Trajectory, Turn, Verdict

COLUMNS = (("tokens", "<i4"), ("mask", "|b1"), ("logprobs", "<f4"), ("values", "<f4"))


def encode(t: Trajectory) -> tuple[str, bytes, str]:
    """The record as canonical JSON, the columns as bytes, and the sha256 of both."""
    record = {
        "id": t.id,
        "task": {**asdict(t.task), "data": dict(t.task.data)},
        "group": t.group,
        "step": t.step,
        "policy_version": t.policy_version,
        "temperature": t.temperature,
        "turns": [_turn(turn) for turn in t.turns],
        "outcome": asdict(t.outcome),
        "length": len(t),
    }
    if t.verdict is not None:
        record["verdict"] = asdict(t.verdict)
    text = canonical(record)
    columns = pack((getattr(t, name), kind) for name, kind in COLUMNS)
    return text, columns, digest(text, columns)


def canonical(record: Mapping[str, Any], *, allow_nan: bool = True) -> str:
    """The one JSON text of a record. A lone surrogate, which no UTF-8 has, stays escaped, and so does all else then.

    Raises:
        ValueError, TypeError: it holds what JSON cannot.
    """
    write = partial(json.dumps, record, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan)
    text = write(ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return write()
    return text


def pack(columns: Iterable[tuple[npt.ArrayLike, str]]) -> bytes:
    """Arrays as bytes, one after another, each of its kind (such as "<f4")."""
    return b"".join(np.ascontiguousarray(array, kind).tobytes() for array, kind in columns)


def unpack(columns: bytes, layout: Iterable[tuple[int, str]]) -> list[npt.NDArray[Any]]:
    """The arrays that :func:`pack` was given, of these lengths and kinds."""
    arrays: list[npt.NDArray[Any]] = []
    start = 0
    for length, kind in layout:
        dtype = np.dtype(kind)
        stop = start + length * dtype.itemsize
        arrays.append(np.frombuffer(columns[start:stop], dtype).astype(dtype.newbyteorder("="), copy=True))
        start = stop
    return arrays


def _turn(turn: Turn) -> dict[str, Any]:
    """A turn as it was written before there were teachers, unless one said it."""
    record = asdict(turn)
    if turn.by == "policy":
        del record["by"]
    return record


def digest(record: str, columns: bytes) -> str:
    """sha256 of a row's content."""
    return hashlib.sha256(record.encode() + b"\0" + columns).hexdigest()


def link(before: str, content: str) -> str:
    """The next value of the hash chain."""
    return hashlib.sha256(f"{before}{content}".encode()).hexdigest()


def decode(text: str, columns: bytes) -> Trajectory:
    """The trajectory that :func:`encode` was given."""
    record: dict[str, Any] = json.loads(text)
    task: dict[str, Any] = record["task"]
    task["messages"] = tuple(Message(**m) for m in task["messages"])
    outcome: dict[str, Any] = record["outcome"]
    outcome["ending"] = Ending(outcome["ending"])
    length: int = record["length"]
    tokens, mask, logprobs, values = unpack(columns, [(length, kind) for _, kind in COLUMNS])
    return Trajectory(
        id=record["id"],
        task=Task(**task),
        group=record["group"],
        step=record["step"],
        policy_version=record["policy_version"],
        temperature=record["temperature"],
        turns=tuple(Turn(**turn) for turn in record["turns"]),
        outcome=Outcome(**outcome),
        verdict=Verdict(**record["verdict"]) if "verdict" in record else None,
        tokens=tokens,
        mask=mask,
        logprobs=logprobs,
        values=values,
    )
