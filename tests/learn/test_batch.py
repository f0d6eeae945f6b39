"""Packed batches: nothing is lost, and what is shared is learned from as if it were not."""

from __future__ import annotations

import numpy as np
import torch

from journeyman.learn.batch import collate
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.value import ValueConfig
from journeyman.types import Trajectory
from tests.learn.helpers import make_trajectory


def make_policy() -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig.tiny(16, width=16, layers=2, heads=2, positions=64))


def attempts() -> list[Trajectory]:
    """Two tasks of three attempts each, of two turns and different lengths, and one attempt that said nothing."""
    found: list[Trajectory] = []
    for task in range(2):
        for member in range(3):
            first, second = 5 + task, 8 + task + member
            t = make_trajectory([0.5] * (second + 4), [(first, first + 2), (second, second + 3)], [0.0, float(member)])
            t.tokens[first:] = (t.tokens[first:] + member) % 7
            t.tokens[:first] += task
            found.append(t)
    found.append(make_trajectory([0.5] * 4, [], []))
    return found


def test_a_worked_example() -> None:
    one, two = (make_trajectory([0.5] * n, [(2, n)], [1.0]) for n in (4, 3))
    one.tokens[2:], two.tokens[2:] = [5, 6], [4]
    batch = collate([one, two], [np.arange(4, dtype=np.float32), np.full(3, 9, np.float32)])
    assert batch.packed.tokens.tolist() == [0, 1, 5, 6, 4]
    assert batch.packed.positions.tolist() == [0, 1, 2, 3, 2]
    assert batch.state_A.tolist() == [1, 2, 1]
    assert batch.token_A.tolist() == [5, 6, 4]
    assert batch.advantage_A.tolist() == [2, 3, 9]
    assert batch.asked_K.tolist() == [1, 2, 3, 1, 4]
    assert [p.tolist() for p in batch.places] == [[0, 1, 2, 3], [0, 1, 4]]


def test_log_probabilities_are_those_of_each_sequence_alone() -> None:
    learner = Learner(make_policy(), None, UpdateConfig(precision="float32"))
    together = collate(attempts())
    assert len(together.packed.tokens) < sum(len(t) for t in attempts())  # prompts are shared
    with torch.no_grad():
        ours, entropy = learner.logprobs(learner.policy, together)
        for column, name in ((ours, 0), (entropy, 1)):
            alone = torch.cat([learner.logprobs(learner.policy, collate([t]))[name] for t in attempts()[:-1]])
            torch.testing.assert_close(column, alone, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_each_sequence_alone() -> None:
    grads = []
    spoken = attempts()[:-1]
    for batches in ([spoken], [[t] for t in spoken]):
        learner = Learner.start(make_policy(), ValueConfig(placement="shared"), UpdateConfig(precision="float32"))
        assert learner.value is not None
        torch.manual_seed(1)
        torch.nn.init.normal_(learner.value.head.weight)
        for trajectories in batches:
            batch = collate(trajectories, None, [np.full(len(t), t.outcome.reward, np.float32) for t in trajectories])
            logprobs, _ = learner.logprobs(learner.policy, batch)
            outputs = learner.value(batch.packed, learner.policy, batch.heard_NF)[batch.asked_K]
            (logprobs.sum() + learner.value.loss(outputs, batch.return_K).sum()).backward()
        grads.append([p.grad for p in learner.policy.parameters()])
    for together, alone in zip(*grads, strict=True):
        torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-3)


def test_layers_computed_again_give_the_same_gradients() -> None:
    grads = []
    for keeps in (None, 3):
        policy = make_policy()
        policy.model.keeps = keeps
        learner = Learner(policy, None, UpdateConfig(precision="float32"))
        policy.model.keeps = keeps
        learner.logprobs(policy, collate(attempts()))[0].sum().backward()
        grads.append([p.grad for p in policy.parameters()])
    for kept, again in zip(*grads, strict=True):
        torch.testing.assert_close(kept, again)


def test_scores_are_those_of_each_sequence_alone() -> None:
    learner = Learner.start(make_policy(), ValueConfig(), UpdateConfig(precision="float32"))
    assert learner.value is not None
    torch.nn.init.normal_(learner.value.head.weight)
    for together, t in zip(learner.score(attempts()), attempts(), strict=True):
        alone = learner.score([t])[0].values
        assert alone.std() > 0
        np.testing.assert_allclose(together.values, alone, atol=1e-5)
