"""Credit leaves the policy gradient alone where the policy itself decides when to stop: every episode is enumerated.

At each turn the policy of the tiny decision process below stops or goes on in one of two ways; each turn earns
something. Its true gradient is known, and so is what each rule gives in expectation over all groups of episodes. The
traps are the ones of verl's RFC #7244.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest

from journeyman.learn.credit import CreditConfig, Lambda, assign
from journeyman.learn.learner import _normalized  # pyright: ignore[reportPrivateUsage]
from journeyman.types import Ending, FloatArray, Trajectory
from tests.learn.helpers import make_trajectory

State = tuple[int, ...]
"""What was done so far: () at first, (1, 2) after going on in the first and then in the second way."""
Vector = npt.NDArray[np.float64]
Credit = Callable[[Sequence[Trajectory]], Sequence[FloatArray]]
STOP = 0


@dataclass(frozen=True)
class Walk:
    """Up to `turns` turns. At the last, stopping is all that is left, in two ways."""

    turns: int = 3
    seed: int = 0

    @property
    def states(self) -> list[State]:
        return [s for k in range(self.turns) for s in itertools.product((1, 2), repeat=k)]

    def actions(self, s: State) -> tuple[int, ...]:
        return (STOP, 1, 2) if len(s) + 1 < self.turns else (STOP, 1)

    def following(self, s: State, a: int) -> State | None:
        return None if a == STOP or len(s) + 1 == self.turns else (*s, a)

    def draw(self, s: State, what: int) -> Vector:
        """Fixed numbers of a state, one per action: what = 0 logits, 1 rewards."""
        return np.random.default_rng((self.seed, what, len(s), *s)).normal(0.3 * what, 0.7, len(self.actions(s)))

    def places(self) -> dict[tuple[State, int], int]:
        """Of each action's logit in the vector of parameters."""
        return {pair: i for i, pair in enumerate((s, a) for s in self.states for a in self.actions(s))}

    def logits(self) -> Vector:
        return np.concatenate([self.draw(s, 0) for s in self.states])

    def policy(self, s: State, logits: Vector) -> Vector:
        chosen = logits[[self.places()[s, a] for a in self.actions(s)]]
        return np.exp(chosen) / np.exp(chosen).sum()

    def value(self, s: State | None, logits: Vector) -> float:
        """Expected return from a state: exact."""
        if s is None:
            return 0.0
        earned = [
            r + self.value(self.following(s, a), logits) for a, r in zip(self.actions(s), self.draw(s, 1), strict=True)
        ]
        return float(self.policy(s, logits) @ earned)

    def truth(self) -> Vector:
        """The gradient of the expected return by the logits, by central differences."""
        logits, step = self.logits(), 1e-5
        sides = ([self.value((), logits + sign * step * e) for e in np.eye(len(logits))] for sign in (1, -1))
        up, down = (np.array(side) for side in sides)
        return (up - down) / (2 * step)


@dataclass(frozen=True)
class Episode:
    """One way it may go: its probability, the sum of d log pi / d logits of each of its decisions, and its record."""

    chance: float
    scores: tuple[Vector, ...]
    record: Trajectory


def episodes(
    walk: Walk, guess: Callable[[State], float], *, cut: int = 0, ending: Ending = Ending.TRUNCATED
) -> list[Episode]:
    """All episodes, with V as `guess` has it. Those that would go on after `cut` turns, if given, are cut there."""
    logits, places, found = walk.logits(), walk.places(), list[Episode]()

    def go(s: State, chance: float, scores: tuple[Vector, ...], values: list[float], rewards: list[float]) -> None:
        policy, earned = walk.policy(s, logits), walk.draw(s, 1)
        for number, a in enumerate(walk.actions(s)):
            score = np.zeros(len(places))
            score[[places[s, b] for b in walk.actions(s)]] = -policy
            score[places[s, a]] += 1
            after = walk.following(s, a)
            # one token for the state, one for the reply; V after the reply holds its reward
            read = [*values, guess(s), earned[number] + (guess(after) if after is not None else 0.0)]
            told = (chance * policy[number], (*scores, score), read, [*rewards, float(earned[number])])
            if after is None or len(told[3]) == cut:
                spans = [(2 * k + 1, 2 * k + 2) for k in range(len(told[3]))]
                how = Ending.TERMINATED if after is None else ending
                found.append(Episode(told[0], told[1], make_trajectory(told[2], spans, told[3], ending=how)))
            else:
                go(after, *told)

    go((), 1.0, (), [], [])
    return found


def expected(found: Sequence[Episode], credit: Credit, size: int, *, alone: bool = False) -> Vector:
    """The gradient that a rule gives, per episode, in expectation over all groups (or batches of loners) of a size."""
    total = np.zeros_like(found[0].scores[0])
    for group in itertools.product(found, repeat=size):
        records = [replace(e.record, group=str(i) if alone else "g") for i, e in enumerate(group)]
        for e, advantage in zip(group, credit(records), strict=True):
            given = advantage[[turn.start for turn in e.record.turns]]
            total += (
                math.prod(x.chance for x in group) / size * sum(a * s for a, s in zip(given, e.scores, strict=True))
            )
    return total


def by(trusted: float = 0.0, **options: object) -> Credit:
    config = CreditConfig(**{"rule": "gae", **options})  # type: ignore[arg-type]
    return lambda records: assign(records, config, {"job": trusted})


WALK = Walk()
TRUTH = WALK.truth()


def right(s: State) -> float:
    return WALK.value(s, WALK.logits())


def wrong(s: State) -> float:
    return float(np.random.default_rng((9, len(s), *s)).normal())


def apart(found: Vector, truth: Vector) -> float:
    """How far two gradients are apart, in lengths of the true one, after the best scaling of the found one."""
    scaled = found * (found @ truth) / (found @ found)
    return float(np.linalg.norm(scaled - truth) / np.linalg.norm(truth))


def test_the_enumeration_is_complete() -> None:
    found = episodes(WALK, right)
    assert sum(e.chance for e in found) == pytest.approx(1) and len({len(e.scores) for e in found}) == 3
    assert sum(e.chance * e.record.outcome.reward for e in found) == pytest.approx(right(()))
    plain = sum((e.chance * e.record.outcome.reward * sum(e.scores) for e in found), np.zeros_like(TRUTH))
    assert plain == pytest.approx(TRUTH, abs=1e-8)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, "length"])
def test_gae_with_a_right_value_is_unbiased_at_every_lambda(lam: Lambda) -> None:
    assert expected(episodes(WALK, right), by(lambda_policy=lam), 1) == pytest.approx(TRUTH, abs=1e-5)


def test_a_wrong_value_biases_gae_below_lambda_one_alone() -> None:
    found = episodes(WALK, wrong)
    assert expected(found, by(lambda_policy=1.0), 1) == pytest.approx(TRUTH, abs=1e-5)
    assert apart(expected(found, by(lambda_policy=0.5), 1), TRUTH) > 0.1


@pytest.mark.parametrize("size", [2, 3])
def test_groups_are_unbiased_and_grpo_is_but_shorter(size: int) -> None:
    found = episodes(WALK, right)
    assert expected(found, by(rule="rloo"), size) == pytest.approx(TRUTH, abs=1e-5)
    assert expected(found, by(rule="grpo"), size) == pytest.approx(TRUTH * (size - 1) / size, abs=1e-5)


@pytest.mark.parametrize(("guess", "lam"), [(right, 0.5), (wrong, 1.0)])
@pytest.mark.parametrize("alone", [False, True])
def test_a_blend_is_unbiased_whatever_the_trust(guess: Callable[[State], float], lam: float, alone: bool) -> None:
    found = episodes(WALK, guess)
    for trusted in (0.0, 0.3, 1.0):
        credit = by(trusted, rule="blend", lambda_policy=lam)
        assert expected(found, credit, 2, alone=alone) == pytest.approx(TRUTH, abs=1e-5)


@pytest.mark.parametrize(
    ("ending", "bootstrap"), [(Ending.TRUNCATED, True), (Ending.STOPPED, True), (Ending.STOPPED, False)]
)
@pytest.mark.parametrize("rule", ["gae", "blend"])
def test_what_is_cut_goes_on_in_a_right_value(ending: Ending, bootstrap: bool, rule: str) -> None:
    """The decisions before the cut get the gradient that they have in whole episodes."""
    found = episodes(WALK, right, cut=2, ending=ending)
    assert {e.record.outcome.ending for e in found} == {Ending.TERMINATED, ending}
    credit = by(0.4, rule=rule, lambda_policy=0.7, bootstrap_truncated=bootstrap)
    before = [i for (s, _), i in WALK.places().items() if len(s) < 2]
    assert expected(found, credit, 2)[before] == pytest.approx(TRUTH[before], abs=1e-5)
    blind = by(0.4, rule=rule, lambda_policy=0.7, bootstrap_truncated=False)
    if ending is Ending.TRUNCATED:
        assert apart(expected(found, blind, 2)[before], TRUTH[before]) > 0.1, "what was cut off is missed"


def centred_by_turn(records: Sequence[Trajectory]) -> list[FloatArray]:
    """Each turn's reward less its mean over the episodes that came so far, summed from there to the end."""
    rewards = [[turn.reward for turn in t.turns] for t in records]
    longest = max(len(r) for r in rewards)
    means = [np.mean([r[k] for r in rewards if len(r) > k]) for k in range(longest)]
    given: list[FloatArray] = []
    for t, r in zip(records, rewards, strict=True):
        advantage = np.zeros(len(t), np.float32)
        for k, turn in enumerate(t.turns):
            advantage[turn.start] = sum(r[j] - means[j] for j in range(k, len(r)))
        given.append(advantage)
    return given


def weighted_by_turns(records: Sequence[Trajectory]) -> list[FloatArray]:
    """RLOO, each episode weighing the same however many turns it took."""
    given = assign(records, CreditConfig(rule="rloo"))
    return [(a / len(t.turns)).astype(np.float32) for a, t in zip(given, records, strict=True)]


@pytest.mark.parametrize("trap", [centred_by_turn, weighted_by_turns])
def test_the_traps_are_biased(trap: Credit) -> None:
    """Whoever stops is spared the means of the turns that he did not take, or is weighed more: no scale mends it."""
    found = episodes(WALK, right)
    assert apart(expected(found, by(rule="rloo"), 3), TRUTH) < 1e-4
    assert apart(expected(found, trap, 3), TRUTH) > 0.1


def normalized_gradient(found: Sequence[Episode], size: int) -> Vector:
    """Expected gradient per token of a batch of a size, as the learner computes it, over all batches."""
    total, credit = np.zeros_like(found[0].scores[0]), by(lambda_policy=1.0)
    for batch in itertools.combinations_with_replacement(range(len(found)), size):
        counts = np.bincount(batch, minlength=len(found))
        ways = math.factorial(size) / math.prod(math.factorial(c) for c in counts)
        chance = ways * math.prod(found[i].chance ** int(c) for i, c in enumerate(counts))
        records = [found[i].record for i in batch]
        given = _normalized(records, credit(records))
        tokens = sum(int(t.mask.sum()) for t in records)
        for i, advantage in zip(batch, given, strict=True):
            told = advantage[[turn.start for turn in found[i].record.turns]]
            total += chance / tokens * sum(a * s for a, s in zip(told, found[i].scores, strict=True))
    return total


def test_what_normalizing_a_batch_biases_vanishes_with_its_size() -> None:
    """The mean over tokens is no baseline of an episode's own in a large batch; in a small one it is, by 1 / size."""
    walk = Walk(turns=2)
    found, truth = episodes(walk, lambda s: walk.value(s, walk.logits())), walk.truth()
    three, six, twelve = (apart(normalized_gradient(found, size), truth) for size in (3, 6, 12))
    assert 1.5 < three / six < 2.2 and 1.7 < six / twelve < 2.3, (three, six, twelve)
