"""Remembering: what keeps a model's earlier jobs while it learns a new one.

A *keeper* adds to the policy's gradient before each of its updates, whether they imitate or follow a reward:

    replay   - weight * mean log pi(token), over what was said in earlier jobs' episodes (1811.11682)
    kl       weight * mean KL(release || pi), over the states of the same episodes: not only what was said then, but all
             that the last release would say now (1606.09282; with stored episodes: 2004.07211)
    ewc      weight * sum_i F_i / 2 (w_i - w*_i)^2, elastic weight consolidation (1612.00796, equation 3), F the Fisher
             information summed over earlier jobs and w* the last release's weights (1805.06370, section 4)

Replay and kl are means over jobs of means over tokens: a puzzle of five tokens counts as much as a walk of fifty. kl
draws from each job alike, however much of it is kept; by default replay draws, and weighs, jobs of which more is kept
more: what took more lessons to learn takes more to keep. Two more ways need no keeper: adapters that begin anew with
each job and are merged at its end (model/lora.py), and *consolidation*: learn the new job in a copy, forgetting what
will be forgotten, then distil the copy and the last release into one (learn/distill.py; progress and compress,
1805.06370). What each keeps is measured in docs/continual.md.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from journeyman.learn.batch import collate, micro_batches
from journeyman.learn.distill import add_divergence
from journeyman.learn.learner import Keeper, Learner
from journeyman.model.decoder import Decoder
from journeyman.types import Trajectory

Memory = Mapping[str, Sequence[Trajectory]]
"""Episodes of earlier jobs, by the job's name."""


def memory_of(episodes: Iterable[Trajectory], count: int = 4096) -> dict[str, list[Trajectory]]:
    """What is worth remembering of a store's episodes: of each job the newest `count` that succeeded.

    Args:
        episodes: oldest first, as `Store.episodes` gives them.
    """
    kept: defaultdict[str, deque[Trajectory]] = defaultdict(lambda: deque(maxlen=count))
    for t in episodes:
        if t.outcome.success and t.mask.any():
            kept[t.task.job].append(t)
    return {job: list(newest) for job, newest in kept.items()}


EACH, WEIGHT = 12, 0.5
"""Of each earlier job, on average: episodes beside every update, and how much it counts beside what is learned now."""
POWER = 0.5
"""Of remembered episodes, to which a job's share is proportional (1901.07291, section 3.1, takes languages by it)."""


def keepers(release: Decoder, memory: Memory, *, seed: int) -> list[Keeper]:
    """The default way, for `learner.keepers`: replay in which an earlier job counts half as much as the new one.

    Args:
        release: the model before what is learned now; it must not change.
        memory: of earlier jobs only; without episodes nothing is kept.
    """
    count = sum(bool(episodes) for episodes in memory.values())
    return [replay(memory, weight=WEIGHT * count, batch=EACH * count, power=POWER, seed=seed)] if count else []


def replay(memory: Memory, *, weight: float = 1.0, batch: int = 16, power: float = 0.0, seed: int = 0) -> Keeper:
    """Say again what was said: give it episodes that succeeded.

    Args:
        memory: what is drawn from; demonstrations, or the policy's own successes.
        weight: of all earlier jobs together.
        batch: episodes in one update, over all jobs.
        power: a job counts as its number of episodes to this power; 0: all jobs alike.
    """

    def keep(learner: Learner) -> None:
        chosen = drawn(memory, batch, (seed, learner.updates), power)
        count, said = Counter(t.task.job for t in chosen), Counter[str]()
        for t in chosen:
            said[t.task.job] += len(t.actions)
        for rows in micro_batches(chosen, learner.token_budget):
            part = [chosen[i] for i in rows]
            logprobs, _ = learner.logprobs(learner.policy, collate(part, device=learner.device))
            shares = [weight * count[t.task.job] / (len(chosen) * said[t.task.job]) for t in part for _ in t.actions]
            (-logprobs * logprobs.new_tensor(shares)).sum().backward()

    return keep


def stay_close(release: Decoder, memory: Memory, *, weight: float = 1.0, batch: int = 16, seed: int = 0) -> Keeper:
    """Answer as the release would, in states of earlier jobs.

    Args:
        release: the model before this job; it must not change.
        memory: whose states; what became of the episodes does not matter.
        weight: of all earlier jobs together.
        batch: episodes in one update, over all jobs.
    """

    def keep(learner: Learner) -> None:
        chosen = drawn(memory, batch, (seed, learner.updates))
        add_divergence(learner, chosen, dict.fromkeys(memory, release), "forward", weight)

    return keep


@dataclass(frozen=True)
class Anchor:
    """Where the weights were, and how much earlier jobs hold on to each.

    Attributes:
        weights: of the release, by name.
        importance: the Fisher information's diagonal, by name, summed over jobs; at least 0.
    """

    weights: Mapping[str, Tensor]
    importance: Mapping[str, Tensor]


def anchored(learner: Learner, episodes: Sequence[Trajectory], before: Anchor | None = None) -> Anchor:
    """The anchor after a job: its own Fisher information beside that of the jobs before.

    F_i is the mean over episodes of (d log pi(episode) / d w_i)^2, on episodes that the policy itself sampled
    (1612.00796, section 2.1).
    """
    named = {name: p for name, p in learner.policy.named_parameters() if p.requires_grad}
    importance = {name: torch.zeros_like(p) for name, p in named.items()}
    for episode in episodes:
        logprobs, _ = learner.logprobs(learner.policy, collate([episode], device=learner.device))
        for (name, _), gradient in zip(
            named.items(), torch.autograd.grad(logprobs.sum(), list(named.values())), strict=True
        ):
            importance[name] += gradient.square() / len(episodes)
    if before is not None:
        importance = {name: amount + before.importance[name] for name, amount in importance.items()}
    return Anchor({name: p.detach().clone() for name, p in named.items()}, importance)


def elastic(anchor: Anchor, *, weight: float = 1.0) -> Keeper:
    """Hold on to what earlier jobs need: see :class:`Anchor`."""

    def keep(learner: Learner) -> None:
        for name, p in learner.policy.named_parameters():
            if p.requires_grad:
                gradient = weight * anchor.importance[name] * (p.detach() - anchor.weights[name])
                p.grad = gradient if p.grad is None else p.grad + gradient

    return keep


def drawn(memory: Memory, count: int, place: tuple[int, ...], power: float = 0.0) -> list[Trajectory]:
    """`count` episodes: of each job as many as of any other, or in proportion to a power of how many are kept of it,
    give or take one.

    Args:
        place: what the draw follows from.
    """
    rng = np.random.default_rng(place)
    jobs = [episodes for episodes in memory.values() if episodes]
    if not jobs:
        return []
    sizes = np.array([len(episodes) for episodes in jobs], float) ** power
    ends = np.cumsum(sizes / sizes.sum()) * count
    ends[-1] = count
    each = np.diff(np.floor(ends + rng.random()), prepend=0).astype(int)
    return [
        episodes[int(rng.integers(len(episodes)))] for episodes, n in zip(jobs, each, strict=True) for _ in range(n)
    ]
