"""Batches: trajectories of similar length side by side, as tensors, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from journeyman.types import FloatArray, Trajectory


@dataclass(frozen=True)
class Batch:
    """A right-padded micro-batch. Columns line up as in :class:`journeyman.types.Trajectory`.

    Attributes:
        tokens_BT: int64, 0 where padded.
        mask_BT: bool, sampled by the policy.
        logprobs_BT: float32, of the policy that sampled, at `temperature_B`.
        advantages_BT: float32, 0 where not sampled.
        returns_BT: float32, targets of the value function.
        known_BT: bool, positions where the value function is asked: from the last prompt token on.
        temperature_B: float32, 1 where greedy.
    """

    tokens_BT: Tensor
    mask_BT: Tensor
    logprobs_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor
    known_BT: Tensor
    temperature_B: Tensor


def micro_batches(lengths: Sequence[int], budget: int) -> list[npt.NDArray[np.intp]]:
    """Split sequences, sorted by length, into batches of at most `budget` padded tokens (at least one sequence)."""
    order = np.argsort(lengths, kind="stable")[::-1]
    batches: list[npt.NDArray[np.intp]] = []
    start = 0
    while start < len(order):
        size = max(budget // max(lengths[order[start]], 1), 1)
        batches.append(order[start : start + size])
        start += size
    return batches


def collate(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[FloatArray] | None = None,
    returns: Sequence[FloatArray] | None = None,
) -> Batch:
    """Pad trajectories to the longest of them."""
    longest = max(len(t) for t in trajectories)

    def pad(columns: Sequence[npt.NDArray[np.generic]], dtype: torch.dtype) -> Tensor:
        out = torch.zeros(len(columns), longest, dtype=dtype)
        for row, column in zip(out, columns, strict=True):
            row[: len(column)] = torch.from_numpy(np.ascontiguousarray(column)).to(dtype)
        return out

    zeros = [np.zeros(len(t), np.float32) for t in trajectories]
    temperatures = [t.temperature or 1.0 for t in trajectories]
    return Batch(
        tokens_BT=pad([t.tokens for t in trajectories], torch.int64),
        mask_BT=pad([t.mask for t in trajectories], torch.bool),
        logprobs_BT=pad([t.logprobs for t in trajectories], torch.float32),
        advantages_BT=pad(advantages or zeros, torch.float32),
        returns_BT=pad(returns or zeros, torch.float32),
        known_BT=pad([_asked(t) for t in trajectories], torch.bool),
        temperature_B=torch.tensor(temperatures, dtype=torch.float32),
    )


def _asked(t: Trajectory) -> npt.NDArray[np.bool_]:
    first = t.actions[0] - 1 if t.mask.any() else len(t) - 1
    return np.arange(len(t)) >= first
