"""Remembering: each keeper's gradient is its formula, and with it less is forgotten."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from journeyman.learn.batch import collate
from journeyman.learn.learner import Keeper, Learner, UpdateConfig
from journeyman.learn.optimizer import Optimizer, OptimizerConfig
from journeyman.learn.remember import Anchor, anchored, drawn, elastic, keepers, memory_of, replay, stay_close
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.types import Ending, Outcome, Task, Trajectory
from tests.learn.helpers import make_trajectory


def make_learner() -> Learner:
    torch.manual_seed(0)
    policy = Decoder(DecoderConfig.tiny(16, width=16, layers=2, heads=2, positions=64))
    return Learner.start(policy, None, UpdateConfig(precision="float32"))


def episodes(job: str, shift: int, count: int = 6) -> list[Trajectory]:
    """What is said depends on the job's shift, so that one job's lessons say nothing of another's."""
    made = [make_trajectory([0.0] * 8, [(3, 8)], [1.0], group=f"{job}{i}") for i in range(count)]
    tokens = [np.array([shift, i, 1, *((np.arange(5) + shift + i) % 13 + 2)], np.int32) for i in range(count)]
    return [
        replace(t, id=f"{job}{i}", task=Task(job, "train", i, ()), tokens=tokens[i], logprobs=np.zeros(8, np.float32))
        for i, t in enumerate(made)
    ]


A, B = episodes("a", 2), episodes("b", 7)


def gradients(learner: Learner) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in learner.policy.named_parameters() if p.grad is not None}


def loss_of(learner: Learner, lessons: list[Trajectory]) -> float:
    with torch.no_grad():
        return -float(learner.logprobs(learner.policy, collate(lessons))[0].mean())


def learned(learner: Learner, lessons: list[Trajectory], updates: int = 60) -> None:
    optimizer = Optimizer(OptimizerConfig(learning_rate=3e-3), [learner.policy])
    for _ in range(updates):
        learner.school(lessons, optimizer, 1.0)


def test_jobs_are_drawn_alike_however_much_is_kept_of_each() -> None:
    memory = {"a": A * 20, "b": B[:1], "none": []}
    counts = Counter(t.task.job for t in drawn(memory, 8, (0, 1)))
    assert counts == {"a": 4, "b": 4}
    assert [t.id for t in drawn(memory, 8, (0, 1))] == [t.id for t in drawn(memory, 8, (0, 1))]
    assert [t.id for t in drawn(memory, 8, (0, 1))] != [t.id for t in drawn(memory, 8, (0, 2))]
    assert drawn({}, 8, (0, 1)) == []


def test_jobs_of_which_more_is_kept_are_drawn_more_often() -> None:
    memory = {"a": A * 16, "b": B}
    counts = [Counter(t.task.job for t in drawn(memory, 6, (0, n), 0.5)) for n in range(400)]
    assert {sum(c.values()) for c in counts} == {6} and {c["b"] for c in counts} == {1, 2}
    assert np.mean([c["b"] for c in counts]) == pytest.approx(6 / 5, abs=0.06), "4 to 1"


def test_the_newest_successes_are_worth_remembering() -> None:
    failed = replace(B[0], outcome=Outcome(0.0, Ending.TERMINATED))
    kept = memory_of([*A, failed, *B], count=4)
    assert [t.id for t in kept["a"]] == [t.id for t in A[-4:]] and failed not in kept["b"]
    assert memory_of([failed]) == {}


def test_replay_adds_the_gradient_of_what_was_said() -> None:
    learner = make_learner()
    replay({"a": A[:1]}, weight=0.5, batch=1)(learner)
    found = gradients(learner)
    learner.policy.zero_grad()
    (-0.5 * learner.logprobs(learner.policy, collate(A[:1]))[0].mean()).backward()
    for name, wanted in gradients(learner).items():
        torch.testing.assert_close(found[name], wanted)


def test_each_job_counts_alike_however_much_it_says() -> None:
    short = [replace(B[0], mask=np.arange(8) == 7)]
    learner = make_learner()
    replay({"a": A[:1], "b": short}, weight=2.0, batch=2)(learner)
    found = gradients(learner)
    learner.policy.zero_grad()
    for episode in (A[0], short[0]):
        (-learner.logprobs(learner.policy, collate([episode]))[0].mean()).backward()
    for name, wanted in gradients(learner).items():
        torch.testing.assert_close(found[name], wanted)


def test_without_a_memory_nothing_is_kept() -> None:
    learner = make_learner()
    replay({})(learner)
    stay_close(copy.deepcopy(learner.policy), {})(learner)
    assert not gradients(learner)
    assert keepers(learner.policy, {"a": []}, seed=0) == []


def test_the_fisher_information_is_the_mean_square_and_adds_up_over_jobs() -> None:
    learner = make_learner()
    first = anchored(learner, A[:2])
    squares: dict[str, Tensor] = {}
    for t in A[:2]:
        learner.policy.zero_grad()
        learner.logprobs(learner.policy, collate([t]))[0].sum().backward()
        for name, gradient in gradients(learner).items():
            squares[name] = squares.get(name, torch.zeros_like(gradient)) + gradient.square() / 2
    for name, wanted in squares.items():
        torch.testing.assert_close(first.importance[name], wanted)
    both = anchored(learner, B[:2], first)
    alone = anchored(learner, B[:2])
    for name, amount in both.importance.items():
        torch.testing.assert_close(amount, first.importance[name] + alone.importance[name])


def test_weights_are_held_as_far_as_they_matter() -> None:
    learner = make_learner()
    named = dict(learner.policy.named_parameters())
    weights = {name: p.detach() - 0.1 for name, p in named.items()}
    importance = {name: torch.full_like(p, 3.0) for name, p in named.items()}
    elastic(Anchor(weights, importance), weight=2.0)(learner)
    for name, gradient in gradients(learner).items():
        torch.testing.assert_close(gradient, torch.full_like(named[name], 2.0 * 3.0 * 0.1))


def kept_by(kind: str, learner: Learner) -> list[Keeper]:
    release, memory = copy.deepcopy(learner.policy), {"a": A}
    return {
        "naive": [],
        "replay": [replay(memory)],
        "kl": [stay_close(release, memory)],
        "ewc": [elastic(anchored(learner, A), weight=100.0)],
        "default": keepers(release, memory, seed=0),
    }[kind]


@pytest.fixture(scope="module")
def forgetting() -> dict[str, tuple[float, float]]:
    """After the jobs a and b in turn: the loss on each, by what kept a."""
    found: dict[str, tuple[float, float]] = {}
    for kind in ("naive", "replay", "kl", "ewc", "default"):
        learner = make_learner()
        learned(learner, A)
        learner.keepers = kept_by(kind, learner)
        learned(learner, B)
        found[kind] = loss_of(learner, A), loss_of(learner, B)
    return found


@pytest.mark.parametrize(("kind", "share"), [("replay", 0.2), ("kl", 0.5), ("ewc", 0.75), ("default", 0.4)])
def test_less_is_forgotten(kind: str, share: float, forgetting: dict[str, tuple[float, float]]) -> None:
    naive_loss, _ = forgetting["naive"]
    assert naive_loss > 1, "the jobs have to get in each other's way"
    kept_loss, new_loss = forgetting[kind]
    assert kept_loss < share * naive_loss, forgetting
    assert new_loss < 1.5, forgetting


def test_every_update_of_the_policy_is_kept_and_counted() -> None:
    learner = make_learner()
    seen: list[int] = []
    learner.keepers = [lambda one: seen.append(one.updates)]
    learned(learner, A, 2)
    learner.update_policy(learner.with_logprobs(A), [np.ones(8, np.float32)] * len(A), np.random.default_rng(0))
    assert seen == list(range(learner.updates)) and learner.updates == 2 + learner.minibatches
    other = make_learner()
    other.load_state_dict(learner.state_dict())
    assert other.updates == learner.updates
