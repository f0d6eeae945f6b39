"""The learner's arithmetic: gradients do not depend on how a step is cut, losses are what they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from journeyman.errors import UsageError
from journeyman.learn.batch import collate, micro_batches
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.losses.policy import PolicyLossConfig, policy_loss
from journeyman.learn.optimizer import Optimizer, OptimizerConfig
from journeyman.model.decoder import Decoder, DecoderConfig, Packed
from journeyman.model.value import HEARD, ValueConfig, ValueFunction, heard
from journeyman.types import Ending, Outcome, Verdict
from tests.learn.helpers import make_trajectory


def make_policy() -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig.tiny(16, width=16, layers=2, heads=2, positions=64))


def some_trajectories() -> list:  # type: ignore[type-arg]
    return [make_trajectory([0.5] * (6 + i), [(3, 6 + i)], [float(i % 2)], group=f"g{i // 2}") for i in range(6)]


@pytest.mark.parametrize("placement", ["twin", "head", "shared"])
def test_updates_do_not_depend_on_the_micro_batch(placement: str) -> None:
    ends = []
    for budget in (8, 10_000):
        config = UpdateConfig(token_budget=budget, minibatches=2, precision="float32")
        learner = Learner.start(make_policy(), ValueConfig(placement=placement), config)  # type: ignore[arg-type]
        ts = some_trajectories()
        advantages = [np.where(t.mask, t.outcome.reward - 0.5, 0).astype(np.float32) for t in ts]
        targets = [np.full(len(t), t.outcome.reward, np.float32) for t in ts]
        learner.update_policy(ts, advantages, np.random.default_rng(0))
        learner.update_value(ts, targets, np.random.default_rng(0))
        ends.append(
            torch.cat([p.detach().flatten() for p in (*learner.policy.parameters(), *learner.value.parameters())])
        )  # type: ignore[union-attr]
    assert torch.allclose(ends[0], ends[1], atol=2e-5)


def test_policy_moves_towards_what_was_good() -> None:
    learner = Learner.start(make_policy(), None, UpdateConfig(minibatches=1))
    good = make_trajectory([0.5] * 5, [(4, 5)], [1.0])
    bad = make_trajectory([0.5] * 5, [(4, 5)], [0.0])
    good.tokens[4], bad.tokens[4] = 9, 3

    def preference() -> float:
        logits = learner.policy.logits(learner.policy.hidden(torch.tensor([[0, 1, 2, 3]])))[0, -1]
        return float((logits[9] - logits[3]).detach())

    before = preference()
    advantages = [np.array([0, 0, 0, 0, a], np.float32) for a in (1.0, 0.0)]
    for _ in range(3):
        learner.update_policy([good, bad], advantages, np.random.default_rng(0))
    assert preference() > before + 0.01


def test_a_step_ends_early_when_the_policy_has_moved_far() -> None:
    config = UpdateConfig(minibatches=2, policy_epochs=8, max_kl=1e-6)
    learner = Learner.start(make_policy(), None, config)
    ts = some_trajectories()
    advantages = [np.where(t.mask, t.outcome.reward, 0.0).astype(np.float32) for t in ts]
    metrics = learner.update_policy(ts, advantages, np.random.default_rng(0))
    assert metrics["policy/stopped_early"] == 1 and metrics["policy/updates"] < 16


def test_value_learns_what_became_of_episodes() -> None:
    learner = Learner.start(make_policy(), ValueConfig(), UpdateConfig(value_epochs=150))
    good = make_trajectory([0.5] * 6, [(3, 6)], [1.0])
    bad = make_trajectory([0.5] * 6, [(3, 6)], [0.0])
    bad.tokens[1] = 9
    targets = [np.full(6, 1.0, np.float32), np.zeros(6, np.float32)]
    learner.update_value([good, bad], targets, np.random.default_rng(0))
    scored = learner.score([good, bad])
    assert scored[0].values[2:].min() > 0.9 and scored[1].values[2:].max() < 0.1


def test_value_learns_on_average_as_if_nothing_had_been_stopped() -> None:
    """Of four equal episodes three are stopped: where V foresaw 0.3 what they teach together is what four would."""
    ends = []
    for stopping in (True, False):
        config = UpdateConfig(value_minibatches=1, precision="float32")
        learner = Learner.start(make_policy(), ValueConfig(), config)
        ts = [make_trajectory([0.5] * 6, [(3, 6)], [1.0]) for _ in range(5)]
        ts[-1].tokens[1] = 9
        targets = [np.full(6, float(i < 4), np.float32) for i in range(5)]
        foreseen = None
        if stopping:
            ts[:4] = [replace(t, verdict=Verdict(6, 0.3, 0.25)) for t in ts[:4]]
            ts[1:4] = [replace(t, outcome=Outcome(0.0, Ending.STOPPED)) for t in ts[1:4]]
            foreseen = [np.full(6, 0.3, np.float32)] * 4 + targets[4:]
            targets[1:4] = foreseen[1:4]
        metrics = learner.update_value(ts, targets, np.random.default_rng(0), foreseen)
        ends.append((learner.score(ts[:1])[0].values, metrics["value/loss"]))
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-5)
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-5)


def test_clipping_stops_the_gradient_only_where_it_should() -> None:
    config = PolicyLossConfig(clip_low=0.2, clip_high=0.3)
    logprobs = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5])).requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    zeros = torch.zeros(4)
    loss, metrics = policy_loss(config, logprobs=logprobs, old_logprobs=zeros, advantages=advantages, entropy=zeros)
    loss.backward()
    assert logprobs.grad is not None
    assert (logprobs.grad != 0).tolist() == [False, True, True, False]
    assert loss.item() == pytest.approx(-(1.3 - 1.5 + 0.5 - 0.8))
    assert metrics["policy/clip_fraction"] == 2


@pytest.mark.parametrize("negative", [None, 1.0, 0.1, 0.0])
def test_what_went_worse_than_expected_counts_as_much_as_it_is_to(negative: float | None) -> None:
    logprobs = torch.tensor([-0.5, -0.5, -0.5]).requires_grad_()
    advantages, zeros = torch.tensor([2.0, -1.0, 0.0]), torch.zeros(3)
    config = PolicyLossConfig(negative=negative)
    loss, _ = policy_loss(
        config, logprobs=logprobs, old_logprobs=logprobs.detach(), advantages=advantages, entropy=zeros
    )
    loss.backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.tensor([-2.0, 1.0 if negative is None else negative, 0.0]))


def test_to_learn_what_went_worse_is_refused() -> None:
    with pytest.raises(UsageError, match="negative must be at least 0, got -1"):
        PolicyLossConfig(negative=-1.0)


def test_kl_estimate_is_never_negative_and_zero_at_the_reference() -> None:
    config = PolicyLossConfig(kl=1.0)
    logprobs = torch.tensor([-1.0, -2.0])
    same = policy_loss(
        config,
        logprobs=logprobs,
        old_logprobs=logprobs,
        advantages=torch.zeros(2),
        entropy=torch.zeros(2),
        reference_logprobs=logprobs,
    )
    assert same[0].item() == 0
    other = policy_loss(
        config,
        logprobs=logprobs,
        old_logprobs=logprobs,
        advantages=torch.zeros(2),
        entropy=torch.zeros(2),
        reference_logprobs=logprobs - 0.5,
    )
    assert other[1]["policy/kl_reference"] == pytest.approx(2 * (math.exp(-0.5) + 0.5 - 1))


def test_micro_batches_keep_the_budget_and_lose_nothing() -> None:
    trajectories = [make_trajectory([0.5] * length, [(1, length)], [1.0]) for length in (5, 40, 3, 17, 17, 2, 90)]
    batches = micro_batches(trajectories, 40)
    assert sorted(i for rows in batches for i in rows) == list(range(7))
    for rows in batches:
        assert len(rows) == 1 or len(collate([trajectories[i] for i in rows]).packed.tokens) <= 40


@pytest.mark.parametrize("target", ["bernoulli", "two_hot", "hl_gauss"])
def test_value_targets_are_proper(target: str) -> None:
    value = ValueFunction.start(ValueConfig(target=target, low=-1.0, high=2.0), make_policy())  # type: ignore[arg-type]
    returns = torch.tensor([-1.0, -0.3, 0.0, 0.77, 2.0])
    outputs = value(Packed.rows(torch.zeros(5, 1, dtype=torch.long)), make_policy(), torch.zeros(5, HEARD))
    outputs = outputs.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([outputs], 0.3)
    for _ in range(400):
        optimizer.zero_grad()
        value.loss(outputs, returns).sum().backward()
        optimizer.step()
    assert value.expectation(outputs).tolist() == pytest.approx(returns.tolist(), abs=0.06)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizers_resume_exactly(name: str) -> None:
    def advance(model: Decoder, optimizer: Optimizer, steps: range) -> None:
        for seed in steps:
            torch.manual_seed(seed)
            tokens = torch.randint(0, 16, (2, 8))
            model.logits(model.hidden(tokens)).log_softmax(-1)[..., 0].sum().backward()
            optimizer.step()

    config = OptimizerConfig(name=name, learning_rate=1e-3, warmup=3)  # type: ignore[arg-type]
    whole = make_policy()
    advance(whole, Optimizer(config, [whole]), range(6))
    part = make_policy()
    optimizer = Optimizer(config, [part])
    advance(part, optimizer, range(3))
    resumed = Optimizer(config, [part])
    resumed.load_state_dict(optimizer.state_dict())
    advance(part, resumed, range(3, 6))
    for a, b in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_learning_rate_that_is_not_given_follows_the_width() -> None:
    assert OptimizerConfig().fitted(32).learning_rate == OptimizerConfig().fitted(96).learning_rate == 5e-4
    assert OptimizerConfig().fitted(576).learning_rate == pytest.approx(2.8e-5, rel=0.05)
    assert OptimizerConfig().fitted(4096).learning_rate == pytest.approx(1.2e-6, rel=0.05)
    assert OptimizerConfig().fitted(96, 2).learning_rate == 1e-3
    assert OptimizerConfig(learning_rate=0.3).fitted(96, 2).learning_rate == 0.3


@pytest.mark.parametrize(("minibatches", "rate"), [(None, 5e-4), (1, 5e-4), (2, 5e-4), (4, 2.5e-4), (8, 1.25e-4)])
def test_more_updates_of_a_step_are_smaller_in_proportion(minibatches: int | None, rate: float) -> None:
    learner = Learner.start(make_policy(), ValueConfig(), UpdateConfig(minibatches=minibatches))
    assert learner.policy_optimizer.learning_rate == rate and learner.minibatches == (minibatches or 2)
    assert learner.value_optimizer is not None and learner.value_optimizer.learning_rate == 1e-3, "V has its own"
    given = UpdateConfig(policy=OptimizerConfig(learning_rate=0.3), minibatches=minibatches)
    assert Learner.start(make_policy(), None, given).policy_optimizer.learning_rate == 0.3


def test_what_is_heard() -> None:
    logprobs = np.array([0.0, -1.0, -3.0, 0.0, -2.0], np.float32)  # the first and the fourth were read
    expected = [[0, 0, 0], [-1, -0.25, -1], [-3, -1, -3], [0, -1, -3], [-2, -1.5, -3]]
    np.testing.assert_allclose(heard(logprobs), expected)


@pytest.mark.parametrize("placement", ["twin", "head", "shared"])
def test_value_learns_from_what_it_hears_alone(placement: str) -> None:
    """The tokens are the same: only the probability they were sampled with tells a success from a failure."""
    updating = UpdateConfig(value_epochs=60, critic=OptimizerConfig(learning_rate=1e-2))
    for hears in (True, False):
        config = ValueConfig(placement=placement, hears=hears)  # type: ignore[arg-type]
        learner = Learner.start(make_policy(), config, updating)
        ts = [make_trajectory([0.5] * 6, [(3, 6)], [float(i % 2)]) for i in range(8)]
        for i, t in enumerate(ts):
            t.logprobs[t.mask] = -0.1 - 3 * (i % 2)
        learner.update_value(ts, [np.full(6, t.outcome.reward, np.float32) for t in ts], np.random.default_rng(0))
        ends = np.array([t.values[-1] for t in learner.score(ts)])
        apart = ends[1::2].mean() - ends[::2].mean()
        assert apart > 0.5 if hears else abs(apart) < 1e-5
