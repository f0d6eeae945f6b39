"""Small trajectories with known contents."""

from __future__ import annotations

import numpy as np

from journeyman.types import Ending, Outcome, Task, Trajectory, Turn


def make_trajectory(
    values: list[float],
    spans: list[tuple[int, int]],
    rewards: list[float],
    *,
    group: str = "g",
    ending: Ending = Ending.TERMINATED,
) -> Trajectory:
    """A trajectory of len(values) tokens whose replies are the given spans."""
    length = len(values)
    mask = np.zeros(length, bool)
    for start, stop in spans:
        mask[start:stop] = True
    turns = tuple(Turn(a, b, "r", "o", reward) for (a, b), reward in zip(spans, rewards, strict=True))
    return Trajectory(
        id="t",
        task=Task("job", "train", 0, ()),
        group=group,
        step=0,
        policy_version=0,
        temperature=1.0,
        tokens=np.arange(length, dtype=np.int32) % 7,
        mask=mask,
        logprobs=np.where(mask, -1.0, 0.0).astype(np.float32),
        values=np.array(values, np.float32),
        turns=turns,
        outcome=Outcome(sum(rewards), ending),
    )
