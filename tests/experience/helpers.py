"""Records to keep: trajectories of the learning loop, and turns of conversations that were served."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from journeyman.experience import ServedTurn, VersionSpan, uuid7
from journeyman.types import Ending, Message, Outcome, Task, Trajectory, Turn

START = 1_790_000_000.0
"""When the first turn came (Unix seconds)."""


def make(id: str = "a", step: int = 0, reward: float = 1.0, length: int = 5, text: str = "hé \u2028 <b>") -> Trajectory:
    """A trajectory that follows from the arguments. The stores in data/ hold such: it must never change."""
    rng = np.random.default_rng(len(id) + step)
    values = rng.random(length).astype(np.float32)
    values[:1] = np.nan
    return Trajectory(
        id=id,
        task=Task("job", "train", 3, (Message("user", text),), {"k": [1, "two"]}, 2),
        group="g",
        step=step,
        policy_version=4,
        temperature=1.0,
        tokens=rng.integers(0, 9, length).astype(np.int32),
        mask=rng.random(length) < 0.5,
        logprobs=rng.random(length).astype(np.float32),
        values=values,
        turns=(Turn(1, 3, text, "seen", reward),),
        outcome=Outcome(reward, Ending.TERMINATED),
    )


def served(
    prompt: Sequence[int] = (1, 2, 3), completion: Sequence[int] = (4, 5), *, version: int = 7, **others: Any
) -> ServedTurn:
    """A turn of an episode of its own, unless `episode` says otherwise."""
    made = len(completion)
    given: dict[str, Any] = {
        "id": uuid7(),
        "episode": uuid7(),
        "logprobs": -np.arange(1, made + 1, dtype=np.float32) / 8,
        "values": np.arange(len(prompt) + made, dtype=np.float32) / 16,
        "spans": (VersionSpan(version, 0, made),) if made else (),
        "finish": "stop",
        "started": START,
        "ended": START + 1,
        "messages": ({"role": "user", "content": "hello"},),
        "reply": {"role": "assistant", "content": "good day"},
        **others,
    }
    return ServedTurn(prompt=np.array(prompt, np.int32), completion=np.array(completion, np.int32), **given)


def following(before: ServedTurn, more: Sequence[int], completion: Sequence[int], **others: Any) -> ServedTurn:
    """The next turn of a conversation that was not rewritten."""
    messages = (*before.messages, before.reply, {"role": "user", "content": "and then?"})
    given: dict[str, Any] = {"episode": before.episode, "after": before.id, "messages": messages, **others}
    return served([*before.tokens.tolist(), *more], completion, **given)


def same_turn(one: ServedTurn, other: ServedTurn) -> bool:
    """Equal in every field."""
    arrays = ("prompt", "completion", "logprobs", "values")
    plain = [name for name in vars(one) if name not in arrays]
    return all(np.array_equal(getattr(one, n), getattr(other, n), equal_nan=n == "values") for n in arrays) and all(
        getattr(one, name) == getattr(other, name) for name in plain
    )
