"""What a teacher said is imitated, and is neither to the policy's credit nor to its blame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from journeyman.learn.credit import CreditConfig, assign, decisions, gae, lambda_returns
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.lessons import due, lessons, study
from journeyman.learn.optimizer import OptimizerConfig
from journeyman.learn.school import SchoolConfig
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.lora import LoRAConfig, adapt
from journeyman.types import Ending, Outcome, Trajectory
from tests.learn.helpers import make_trajectory

VALUES = [0.1, 0.5, 0.5, 0.4, 0.2, 0.3, 0.7, 0.6]


def led(*speakers: str, rewards: tuple[float, ...] = (0.0, 0.0, 1.0)) -> Trajectory:
    """A prompt of 2 and three turns of one token, each answered by one."""
    t = make_trajectory(VALUES, [(2, 3), (4, 5), (6, 7)], list(rewards))
    turns = tuple(replace(turn, by=by) for turn, by in zip(t.turns, speakers, strict=True))
    mask = t.mask.copy()
    for turn in turns:
        mask[turn.start : turn.stop] = turn.by == "policy"
    tokens = np.arange(1, len(t) + 1, dtype=np.int32)
    return replace(t, tokens=tokens, turns=turns, mask=mask, logprobs=np.where(mask, -1, 0).astype(np.float32))


def test_branches_are_no_lessons_and_served_episodes_are_whatever_their_ids() -> None:
    """One UUID in 16 has a last part that begins with `b`, as the names of branches do."""
    good = led("policy", "policy", "policy")
    uuid = "019aa95c-7e7d-7d3f-9f3e-b0412c5d6e7f"
    served, branch = replace(good, id=uuid, group=uuid), replace(good, id="run-b01-m00", group="run-b01")
    assert [t.id for t in lessons([served, branch])] == [uuid]


def make_learner() -> Learner:
    torch.manual_seed(0)
    policy = Decoder(DecoderConfig.tiny(16, width=16, layers=2, heads=2, positions=64))
    return Learner.start(policy, None, UpdateConfig(minibatches=1, precision="float32", normalize=False))


def weights(learner: Learner) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in learner.policy.parameters()])


def said(learner: Learner, t: Trajectory) -> np.ndarray:  # type: ignore[type-arg]
    """Log-probabilities of the tokens from the second on."""
    with torch.no_grad():
        logits = learner.policy.logits(learner.policy.hidden(torch.tensor(t.tokens[None].astype(np.int64))))[0]
        return logits.log_softmax(-1)[range(len(t) - 1), t.tokens[1:].tolist()].numpy()


@pytest.mark.parametrize("unit", ["turn", "token"])
def test_credit_is_for_what_the_policy_did(unit: str) -> None:
    """As if the episode had begun where the teacher handed over: what the teacher earned is nobody's merit."""
    for earned in (0.0, 5.0):
        t = led("teacher", "policy", "policy", rewards=(earned, 0.0, 1.0))
        assert decisions(t, unit).tolist() == [4, 6]  # type: ignore[arg-type]
        (advantage,) = gae([t], lam=1.0, unit=unit)  # type: ignore[arg-type]
        assert advantage.tolist() == pytest.approx([0, 0, 0, 0, 1 - 0.4, 0, 1 - 0.3, 0])
        (target,) = lambda_returns([t], lam=1.0, unit=unit)  # type: ignore[arg-type]
        assert target[3:].tolist() == pytest.approx([1, 1, 1, 1, 0]), "V learns from where the policy began"
        assert t.prompt_length == 4


def test_an_episode_that_the_teacher_played_alone_is_a_lesson_and_nothing_else() -> None:
    t = led("teacher", "teacher", "teacher")
    assert not t.mask.any() and not assign([t], CreditConfig(rule="gae"))[0].any()
    (lesson,) = lessons([t])
    assert lesson.actions.tolist() == [2, 4, 6]


def test_lessons_are_what_teachers_said_and_what_succeeded() -> None:
    alone, helped = led("policy", "policy", "policy"), led("teacher", "policy", "policy")
    lost = {name: replace(t, outcome=Outcome(0.0, Ending.TERMINATED)) for name, t in (("a", alone), ("h", helped))}
    broken = replace(helped, outcome=Outcome(1.0, Ending.FAILED))
    played = [lost["h"], broken, alone, lost["a"], helped]
    found = lessons([replace(t, id=str(i)) for i, t in reversed(list(enumerate(played)))])
    assert [(t.id, t.actions.tolist()) for t in found] == [("0", [2]), ("2", [2, 4, 6]), ("4", [2, 4, 6])]
    assert not any(t.logprobs.any() for t in found) and found[0].tokens is helped.tokens


def test_what_a_teacher_said_gets_no_policy_gradient() -> None:
    t = led("teacher", "policy", "policy")
    ends: list[torch.Tensor] = []
    for blame in (0.0, -9.0, 9.0):
        learner = make_learner()
        advantages = np.where(t.mask, 1.0, 0.0).astype(np.float32)
        advantages[t.taught] = blame
        learner.update_policy([t], [advantages], np.random.default_rng(0))
        ends.append(weights(learner))
    assert not torch.equal(ends[0], weights(make_learner()))
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])


SCHOOL = SchoolConfig(batch=2, optimizer=OptimizerConfig(warmup=0))


def test_what_a_teacher_said_becomes_likelier_and_nothing_else_is_asked_for() -> None:
    t = replace(led("teacher", "policy", "policy"), outcome=Outcome(0.0, Ending.TERMINATED))
    learner = make_learner()
    before = said(learner, t)
    metrics = study(learner, lessons([t]), SCHOOL, 1, 0)
    assert metrics == {"policy/lesson_loss": pytest.approx(-before[1], abs=1e-5)}, "its first token is at position 2"
    gain = said(learner, t) - before
    assert gain[1] == gain.max() > 0.01 and learner.version == 1


def test_a_study_begins_anew() -> None:
    """What was studied before leaves no trace but in the lessons."""
    shown, other = lessons([led("teacher", "policy", "policy")]), lessons([led("policy", "policy", "policy")])
    once, again = make_learner(), make_learner()
    study(again, other, SCHOOL, 3, 0)
    for learner in (once, again):
        study(learner, shown, SCHOOL, 3, 1)
    assert torch.equal(weights(once), weights(again))


def test_a_study_lasts_as_long_as_it_may() -> None:
    """What it has learned by then counts."""
    shown = lessons([led("teacher", "policy", "policy")])
    learner, left = make_learner(), iter([True, True, False])
    metrics = study(learner, shown, SCHOOL, 30, 0, lambda: next(left))
    assert (learner.updates, learner.version) == (3, 1) and metrics["policy/lesson_loss"] > 0


def test_with_adapters_a_policy_starts_again_as_well() -> None:
    learner = make_learner()
    adapt(learner.policy, LoRAConfig(rank=4), seed=0)
    learner = Learner.start(learner.policy, None, learner.config)
    shown = lessons([led("teacher", "policy", "policy")])
    before = said(learner, shown[0])
    study(learner, shown, SCHOOL, 3, 0)
    assert said(learner, shown[0])[1] > before[1]
    learner.start_again()
    assert np.array_equal(said(learner, shown[0]), before)


def test_a_study_is_due_with_a_batch_of_lessons_and_again_with_twice_as_many() -> None:
    studied, at = 0, list[int]()
    for count in range(100):
        if due(count, studied, SchoolConfig(batch=10)):
            studied = count
            at.append(count)
    assert at == [10, 20, 40, 80]
