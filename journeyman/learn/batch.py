"""Batches: trajectories as flat tokens without padding, in which what several of them share is written once.

Episodes of one group begin with the same prompt. It is computed once for all of them, with its gradient; what
follows it in each attends to it (`kernels/attention.py`). So a token of a batch is a *prefix* of one trajectory or
of several, and everything learned is a list of pairs: a state (the flat index of a prefix) and what is known of it.

Shapes: N flat tokens, F features, A sampled tokens of all trajectories, K states whose value is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from journeyman.kernels.attention import Layout, Segment
from journeyman.model.decoder import Packed
from journeyman.model.value import HEARD, heard
from journeyman.types import Ending, FloatArray, Trajectory

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Batch:
    """A micro-batch.

    Example: two attempts ``p q | a b`` and ``p q | c`` at one task, sampled after ``|``, are five flat tokens
    ``p q a b c``. The sampled tokens a, b, c were chosen in the states 1, 2, 1; values are asked of 1, 2, 3 for the
    first attempt and of 1, 4 for the second.

    Attributes:
        packed: flat tokens [N], their positions, and who attends to whom.
        heard_NF: how sure the policy was until each token (:func:`journeyman.model.value.heard`); float32.
        state_A: flat index of the state in which each sampled token was chosen; in the order of the trajectories.
        token_A: what was chosen.
        logprob_A: by the policy that sampled, at `temperature_A`; float32.
        advantage_A: float32.
        success_A: float32, 1 where the episode ended well.
        temperature_A: float32, 1 where greedy.
        asked_K: flat index of the states whose value is asked: from the last prompt token on.
        return_K: what became of them; float32.
        foreseen_K: what V foresaw of them where it might have stopped the episode, elsewhere `return_K`; float32.
        weight_K: how many episodes what became of them speaks for; float32.
        places: for each trajectory, where its tokens are.
    """

    packed: Packed
    heard_NF: Tensor
    state_A: Tensor
    token_A: Tensor
    logprob_A: Tensor
    advantage_A: Tensor
    success_A: Tensor
    temperature_A: Tensor
    asked_K: Tensor
    return_K: Tensor
    foreseen_K: Tensor
    weight_K: Tensor
    places: tuple[Indices, ...]


def usable(episodes: Iterable[Trajectory]) -> list[Trajectory]:
    """Those that can be learned from (not failed, and something was sampled), in the order of their ids: the same in a
    run that was continued, whose store has them in the order in which they ended."""
    learnable = (t for t in episodes if t.outcome.ending is not Ending.FAILED and t.mask.any())
    return sorted(learnable, key=lambda t: t.id)


def mini_batches(size: int, parts: int, rng: np.random.Generator, epochs: int = 1) -> Iterator[Indices]:
    """So many trajectories in random order, cut into at most `parts` parts alike in size; anew in each epoch."""
    for _ in range(epochs):
        yield from np.array_split(rng.permutation(size), min(parts, size))


def micro_batches(trajectories: Sequence[Trajectory], budget: int) -> list[Indices]:
    """Split trajectories into batches of at most `budget` flat tokens (at least one trajectory), those of one prompt
    side by side and otherwise long ones first."""
    prompts = [t.prompt for t in trajectories]
    longest: dict[bytes, int] = {}
    for prompt, t in zip(prompts, trajectories, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), len(t))
    order = sorted(range(len(prompts)), key=lambda i: (-longest[prompts[i]], prompts[i], -len(trajectories[i]), i))
    batches: list[list[int]] = []
    held, tokens = set[bytes](), 0
    for i in order:
        prompt, length = prompts[i], len(trajectories[i])
        new = length - (trajectories[i].prompt_length if prompt in held else 0)
        if not batches or tokens + new > budget:
            batches.append([])
            held, tokens, new = set(), 0, length
        batches[-1].append(i)
        held.add(prompt)
        tokens += new
    return [np.array(batch, np.intp) for batch in batches]


def collate(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[FloatArray] | None = None,
    returns: Sequence[FloatArray] | None = None,
    device: torch.device | str = "cpu",
    *,
    foreseen: Sequence[FloatArray] | None = None,
) -> Batch:
    """Pack trajectories; those with one prompt share it."""
    tokens, positions, segments, places = _packed(trajectories)
    heard_NF = np.zeros((len(tokens), HEARD), np.float32)
    for t, place in zip(trajectories, places, strict=True):
        heard_NF[place] = heard(t.logprobs)  # of what is shared it is the same
    zeros = [np.zeros(len(t), np.float32) for t in trajectories]
    advantages, returns = advantages or zeros, returns or zeros
    actions = [t.actions for t in trajectories]
    asked = [np.arange(_first_asked(t), len(t)) for t in trajectories]

    def column(parts: Iterable[npt.NDArray[np.generic]], dtype: torch.dtype) -> Tensor:
        joined = np.concatenate([np.zeros(0, np.float32), *parts])
        return torch.from_numpy(joined).to(device, dtype)

    def chosen(columns: Sequence[npt.NDArray[np.generic]], at: Sequence[Indices], dtype: torch.dtype) -> Tensor:
        return column((c[i] for c, i in zip(columns, at, strict=True)), dtype)

    def spread(amounts: Sequence[float], at: Sequence[Indices]) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(amounts, np.float32), [len(a) for a in at])).to(device)

    flat = Packed(
        torch.from_numpy(tokens).to(device), torch.from_numpy(positions).to(device), Layout.of(segments, device)
    )
    return Batch(
        packed=flat,
        heard_NF=torch.from_numpy(heard_NF).to(device),
        state_A=chosen(places, [a - 1 for a in actions], torch.int64),
        token_A=chosen([t.tokens for t in trajectories], actions, torch.int64),
        logprob_A=chosen([t.logprobs for t in trajectories], actions, torch.float32),
        advantage_A=chosen(advantages, actions, torch.float32),
        success_A=spread([float(t.outcome.success) for t in trajectories], actions),
        temperature_A=spread([t.temperature or 1.0 for t in trajectories], actions),
        asked_K=chosen(places, asked, torch.int64),
        return_K=chosen(returns, asked, torch.float32),
        foreseen_K=chosen(foreseen or returns, asked, torch.float32),
        weight_K=spread([t.weight for t in trajectories], asked),
        places=tuple(places),
    )


def _packed(
    trajectories: Sequence[Trajectory],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[Segment], list[Indices]]:
    """Flat tokens and positions, who attends to whom, and where each trajectory's tokens are."""
    groups: dict[bytes, list[int]] = {}
    for i, t in enumerate(trajectories):
        groups.setdefault(t.prompt, []).append(i)
    tokens: list[npt.NDArray[np.int32]] = []
    positions: list[Indices] = []
    segments: list[Segment] = []
    places: list[Indices] = [np.zeros(0, np.intp)] * len(trajectories)
    total = 0
    for members in groups.values():
        shared = trajectories[members[0]].prompt_length if len(members) > 1 else 0
        start = total
        if shared:
            tokens.append(trajectories[members[0]].tokens[:shared])
            positions.append(np.arange(shared))
            segments.append(Segment(start, start + shared))
            total += shared
        for i in members:
            t = trajectories[i]
            own = len(t) - shared
            places[i] = np.concatenate([np.arange(start, start + shared), np.arange(total, total + own)])
            if own:
                tokens.append(t.tokens[shared:])
                positions.append(np.arange(shared, len(t)))
                segments.append(Segment(total, total + own, start, shared))
                total += own
    return np.concatenate(tokens).astype(np.int64), np.concatenate(positions).astype(np.int64), segments, places


def _first_asked(t: Trajectory) -> int:
    return max(t.prompt_length - 1, 0)
