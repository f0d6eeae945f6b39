"""Monte Carlo values of single states, and V corrected by them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from journeyman.learn.credit import CreditConfig, gae
from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.learn.monte_carlo import Estimate, error_of_value, estimates, sharpened
from journeyman.model.decoder import Decoder, DecoderConfig
from journeyman.model.value import ValueConfig
from journeyman.rollout.branch import Fork
from journeyman.types import Ending, Trajectory
from tests.learn.helpers import make_trajectory

CONFIG = CreditConfig()


def parent(value: float, id: str = "p") -> Trajectory:
    return replace(make_trajectory([0.1, 0.2, value, 0.9], [(1, 2), (3, 4)], [0.0, 1.0]), id=id)


def branch(fork: Fork, reward: float, ending: Ending = Ending.TERMINATED) -> Trajectory:
    return make_trajectory([0.1, 0.2, 0.5, 0.25], [(3, 4)], [reward], group=fork.group, ending=ending)


def test_an_estimate_is_what_became_of_its_branches() -> None:
    fork, other = (Fork(parent(0.4, id), 1, (id,)) for id in ("p", "q"))
    failed = branch(fork, 1.0, Ending.FAILED)
    (found,) = estimates([fork, other], [branch(fork, 1.0), failed, branch(fork, 0.0), branch(other, 1.0)], CONFIG)
    assert (found.fork, found.value, found.returns) == (fork, pytest.approx(0.4), (1.0, 0.0)), "one says too little"
    assert (found.mean, found.variance) == (0.5, 0.5)
    cut = [branch(fork, 0.0, Ending.TRUNCATED), branch(fork, 0.0)]
    assert estimates([fork], cut, CONFIG)[0].returns == (0.0, 0.0)
    assert estimates([fork], cut, replace(CONFIG, bootstrap_truncated=True))[0].returns == (0.25, 0.0)


def test_v_says_the_same_of_a_state_in_an_episode_and_in_its_branches() -> None:
    """It hears how the prefix was sampled there, too; and branches of two parents share no more than they have."""
    torch.manual_seed(0)
    learner = Learner.start(Decoder(DecoderConfig.tiny(60, width=32, layers=2)), ValueConfig(), UpdateConfig())
    assert learner.value is not None and learner.value.ear is not None
    for weight in (learner.value.head.weight, learner.value.ear.weight):
        torch.nn.init.normal_(weight)
    whole = [replace(make_trajectory([0.0] * 6, [(1, 3), (4, 6)], [0.0, 1.0]), id=str(i)) for i in range(2)]
    whole = [replace(t, logprobs=t.logprobs * (i + 1)) for i, t in enumerate(whole)]
    branches = [replace(t, mask=t.mask & (np.arange(6) > 3), turns=t.turns[1:]) for t in whole for _ in range(2)]
    scored = learner.score(whole)
    assert abs(float(scored[0].values[3] - scored[1].values[3])) > 1e-3, "the check is blind"
    for number, t in enumerate(learner.score(branches)):
        np.testing.assert_allclose(t.values, scored[number // 2].values, atol=1e-5)


def test_v_is_corrected_by_hand_at_every_episode_that_passed_through() -> None:
    p, q, r = parent(0.4, "p"), parent(0.4, "q"), parent(0.7, "r")
    found = [
        Estimate(Fork(p, 1, ("p", "q")), 0.4, (1.0, 1.0, 1.0, 0.0)),
        Estimate(Fork(r, 1, ("r",)), 0.7, (0.0, 0.0, 0.0, 0.0)),
    ]
    sigma = 0.25 / 2  # variances 1/4 and 0
    tau = ((0.75 - 0.4) ** 2 + 0.7**2) / 2 - sigma / 4
    assert error_of_value(found) == pytest.approx(tau)
    gain = tau / (tau + sigma / 4)
    ours = sharpened([p, q, r, parent(0.4, "s")], found)
    assert [float(t.values[2]) for t in ours] == pytest.approx([0.4 + gain * 0.35] * 2 + [0.7 - gain * 0.7, 0.4])
    assert all(t.values[[0, 1, 3]].tolist() == p.values[[0, 1, 3]].tolist() for t in ours)
    assert p.values[2] == np.float32(0.4), "what is on record stays as it is"
    before, after = gae([p], lam=0.0, unit="turn")[0], gae(ours[:1], lam=0.0, unit="turn")[0]
    assert after[1] - before[1] == pytest.approx(gain * 0.35), "the turn before is praised for where it led"
    assert after[3] - before[3] == pytest.approx(-gain * 0.35)


def test_a_v_without_errors_is_left_alone() -> None:
    p = parent(0.5)
    found = [Estimate(Fork(p, 1, ("p",)), 0.5, (1.0, 0.0))]
    assert error_of_value(found) == 0.0 and error_of_value([]) == 0.0
    assert sharpened([p], found)[0].values.tolist() == p.values.tolist() == sharpened([p], [])[0].values.tolist()
    sure = [Estimate(Fork(p, 1, ("p",)), 0.5, (1.0, 1.0))]
    assert sharpened([p], sure)[0].values[2] == 1.0, "and all the same returns replace it"


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.4])
def test_together_they_are_nearer_the_truth_than_either(spread: float) -> None:
    """2,000 states. The gap to the better of both is above ten standard errors of a squared error's mean, except where
    one of them is all but useless: there it may lose by one part in twenty."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.1, 0.9, 2000)
    values = truth + rng.normal(0, spread, 2000)
    found: list[Estimate] = []
    parents: list[Trajectory] = []
    for number, (p, v) in enumerate(zip(truth, values, strict=True)):
        t = parent(float(v), str(number))
        parents.append(t)
        drawn = rng.random(4) < p
        found.append(Estimate(Fork(t, 1, (t.id,)), float(v), tuple(drawn.astype(float).tolist())))
    ours = np.array([t.values[2] for t in sharpened(parents, found)])
    errors = [float(np.mean((guess - truth) ** 2)) for guess in (ours, values, np.array([e.mean for e in found]))]
    assert errors[0] < 1.05 * min(errors[1:]), errors
    assert error_of_value(found) == pytest.approx(spread**2, abs=0.01)
    if spread == 0.2:
        assert errors[0] < 0.65 * min(errors[1:]), errors
