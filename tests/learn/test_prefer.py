"""Preferences: the loss by hand, and a policy that comes to prefer what was preferred."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from journeyman.learn.batch import collate
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.losses.preference import preference_loss
from journeyman.learn.prefer import Pair, prefer
from journeyman.types import Trajectory
from tests.learn.test_distill import episodes, make_learner


def test_the_loss_is_the_formula() -> None:
    better, worse = torch.tensor([0.5, -1.0]), torch.tensor([-0.5, 1.0])
    loss, metrics = preference_loss(better, worse, beta=0.3)
    margins = 0.3 * np.array([1.0, -2.0])
    assert loss.item() == pytest.approx(-np.log(1 / (1 + np.exp(-margins))).sum(), rel=1e-6)
    assert metrics["policy/preference_ahead"] == 1.0


def pairs() -> list[Pair]:
    """Answers with even tokens are liked better than such with odd ones, after the same openings."""
    made: list[Pair] = []
    for t in episodes("a", 8):
        at = np.flatnonzero(t.mask)
        liked, other = t.tokens.copy(), t.tokens.copy()
        liked[at], other[at] = t.tokens[at] // 2 * 2, t.tokens[at] // 2 * 2 + 1
        made.append(Pair(replace(t, tokens=liked), replace(t, tokens=other, id=f"{t.id} worse")))
    return made


def likelihood(learner: Learner, trajectories: list[Trajectory]) -> float:
    return float(learner.logprobs(learner.policy, collate(trajectories))[0].sum().detach())


def test_what_is_preferred_becomes_likelier_and_the_other_does_not() -> None:
    learner, some = make_learner(config=UpdateConfig(precision="float32", token_budget=32)), pairs()
    better, worse = [p.better for p in some], [p.worse for p in some]
    before = likelihood(learner, better) - likelihood(learner, worse)
    metrics = prefer(learner, some, np.random.default_rng(0), epochs=20, batch=4)
    assert likelihood(learner, better) - likelihood(learner, worse) > before + 5
    assert metrics["policy/preference_loss"] < np.log(2), "at the beginning it is log 2 for each"
    assert learner.version == 1 and learner.updates == 40


def test_the_first_gradient_is_the_papers() -> None:
    """Equation 7's gradient: beta sigmoid(-margin) (grad log pi(better) - grad log pi(worse)), the margin being 0."""
    learner, [pair, *_] = make_learner(), pairs()
    ours: list[torch.Tensor] = []
    learner.keepers = [lambda s: ours.extend(p.grad.clone() for p in s.policy.parameters() if p.grad is not None)]
    expected = torch.autograd.grad(
        -0.1
        * 0.5
        * (
            learner.logprobs(learner.policy, collate([pair.better]))[0].sum()
            - learner.logprobs(learner.policy, collate([pair.worse]))[0].sum()
        ),
        list(learner.policy.parameters()),
    )
    prefer(learner, [pair], np.random.default_rng(0), beta=0.1)
    for found, wanted in zip(ours, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_nothing_preferred_changes_nothing() -> None:
    learner = make_learner()
    assert prefer(learner, [], np.random.default_rng(0)) == {} and learner.version == 0
