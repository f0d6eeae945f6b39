"""Poisoned feedback is limited and flagged; honest feedback is not."""

from __future__ import annotations

import numpy as np
import pytest

from journeyman.errors import UsageError
from journeyman.experience import Feedback
from journeyman.experience.records import SHADOW, SHADOW_KEY
from journeyman.release.poison import PoisonConfig, sift


def said(
    key: str, n: int, *, wrong: float, every: float = 10.0, seed: int = 0
) -> tuple[list[Feedback], dict[str, float]]:
    """What a key says of n episodes, contradicting the truth in a share of them; and the truth."""
    rng = np.random.default_rng(seed)
    truth = {f"{key}{i}": float(rng.random() < 0.6) for i in range(n)}
    votes = [
        Feedback(id, value=bool(y) != bool(rng.random() < wrong), key=key, at=1000 + 10.0 * i)
        for i, (id, y) in enumerate(truth.items())
    ]
    return votes, truth


def test_a_liar_is_flagged_and_honest_keys_are_not() -> None:
    """20 honest keys that err in 15% and one that turns everything round. Odds of flagging an honest one: 0.001."""
    keys = [said(f"honest{i}-", 40, wrong=0.15, seed=i) for i in range(20)] + [said("liar-", 40, wrong=1.0, seed=99)]
    found = sift([f for votes, _ in keys for f in votes], {k: v for _, truth in keys for k, v in truth.items()})
    (suspicion,) = found.suspicions
    assert (suspicion.key, suspicion.kind) == ("liar-", "contradiction")
    assert suspicion.why.startswith("contradicts the referee in 40 of 40 pieces") and len(found.kept) == 800


def test_a_burst_is_flagged_and_what_came_before_it_stays() -> None:
    calm, _ = said("bot", 20, wrong=0)
    burst = [Feedback(f"b{i}", value=True, key="bot", at=5000 + 0.1 * i) for i in range(100)]
    found = sift([*burst, *calm])
    (suspicion,) = found.suspicions
    assert suspicion.kind == "burst" and set(suspicion.feedback) == {f.id for f in burst}
    assert list(found.kept) == calm


def test_one_key_cannot_outweigh_the_others() -> None:
    many, _ = said("loud", 500, wrong=0)
    others = [said(f"quiet{i}", 50, wrong=0)[0] for i in range(4)]
    found = sift([*many, *(f for votes in others for f in votes)])
    (suspicion,) = found.suspicions
    assert suspicion.kind == "limit" and suspicion.why == "500 pieces, of which one key may give 140"
    assert set(suspicion.feedback) == {f.id for f in many[140:]}
    assert not sift(many[:50]).suspicions  # alone, it may say a little


def test_impossible_limits_are_refused() -> None:
    for wrong in ({"share": 0.0}, {"alarm": 1.0}, {"burst": 0}):
        with pytest.raises(UsageError):
            PoisonConfig(**wrong)


def test_what_a_shadow_answered_is_nobodys_feedback() -> None:
    honest, _ = said("honest", 20, wrong=0)
    shadows = [Feedback(f"e{i}", value=-1.0, metric=SHADOW.name, key=SHADOW_KEY, at=2000 + i / 100) for i in range(99)]
    found = sift([*honest, *shadows])
    assert set(found.kept) == set(honest) and found.suspicions == ()
