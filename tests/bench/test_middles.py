from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from bench.middles import Middle, errors, middles
from bench.value_quality import play
from journeyman.model.load import load


def test_noise_is_taken_off() -> None:
    """With 2,000 states of 32 continuations each, both are off by more than 0.02 in fewer than one of 10^6 draws."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 1, 2000)
    found = [Middle(str(i), 0, tuple(rng.binomial(1, p, 32))) for i, p in enumerate(truth)]
    for off in (0.0, 0.2):
        scored = {str(i): SimpleNamespace(values=[p + off]) for i, p in enumerate(truth)}
        error, spread = errors(found, scored)  # type: ignore[arg-type]
        assert error == pytest.approx(off, abs=0.06 if off == 0 else 0.02)  # a root near 0 is the noise's fourth root
        assert spread == pytest.approx(truth.std(), abs=0.02)


@pytest.mark.parametrize("spec", ["maze,size=4", "countdown"])
def test_the_middle_is_gone_on_from(spec: str) -> None:
    model = load("apprentice")
    episodes = play(model, spec, "test", 3, seed=0)
    found = middles(model, spec, episodes, 4, seed=0, slots=4)
    assert found, "none of the episodes has a middle"
    by_id = {t.id: t for t in episodes}
    for state in found:
        t = by_id[state.id]
        assert len(state.rewards) == 4
        if len(t.turns) > 1:
            assert state.position in [turn.start - 1 for turn in t.turns[1:]]
        else:
            assert t.actions[0] <= state.position < t.actions[-1]
    assert middles(model, spec, episodes, 4, seed=0, slots=2) == found, "slots change nothing"
