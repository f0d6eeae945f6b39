"""Truncated importance weights, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from journeyman.errors import EngineError, UsageError
from journeyman.learn.importance import truncated_weights


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log().float()


def test_a_case_by_hand() -> None:
    # ratios 0.5, 1, 1.5 and 4, of which the last is cut to 2
    weights, metrics = truncated_weights(logs(0.8, 0.3, 0.2, 0.1), logs(0.4, 0.3, 0.3, 0.4), cap=2.0)
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([0.5, 1.0, 1.5, 2.0], rel=1e-6)
    # r - 1 - log r: 0.193147, 0, 0.094535 and 1.613706
    kl = ((-0.5 + math.log(2)) + 0.0 + (0.5 - math.log(1.5)) + (3 - math.log(4))) / 4
    assert metrics == {
        "mismatch/kl": pytest.approx(kl, rel=1e-6),
        "mismatch/max": pytest.approx(math.log(4), rel=1e-6),
        "mismatch/weight_mean": pytest.approx(5 / 4, rel=1e-6),
        "mismatch/truncated_share": 0.25,
    }


def test_no_mismatch_changes_nothing() -> None:
    same = logs(0.9, 1e-30, 0.5)
    weights, metrics = truncated_weights(same, same)
    assert weights.tolist() == [1, 1, 1]
    assert metrics == {
        "mismatch/kl": 0,
        "mismatch/max": 0,
        "mismatch/weight_mean": 1,
        "mismatch/truncated_share": 0,
    }


def test_a_ratio_at_the_cap_is_not_truncated() -> None:
    weights, metrics = truncated_weights(torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, 0.0]), cap=math.e)
    assert weights.tolist() == pytest.approx([1, math.e])
    assert metrics["mismatch/truncated_share"] == 0


def test_small_differences_are_not_lost_in_rounding() -> None:
    # k3 is d^2 / 2 to first order: far below float32's resolution at 1
    engine = torch.zeros(1)
    _, metrics = truncated_weights(engine, engine + 1e-5)
    assert metrics["mismatch/kl"] == pytest.approx(5e-11, rel=1e-4)


def test_a_gulf_gives_bounded_weights_and_finite_metrics() -> None:
    engine, trainer = torch.tensor([-3000.0, -0.1]), torch.tensor([-0.1, -3000.0])
    weights, metrics = truncated_weights(engine, trainer, cap=2.0)
    assert weights.tolist() == pytest.approx([2.0, 0.0], abs=1e-8)
    assert all(math.isfinite(amount) for amount in metrics.values())
    assert metrics["mismatch/max"] == pytest.approx(2999.9)


def test_weights_carry_no_gradient() -> None:
    trainer = torch.tensor([-0.5, -1.0], requires_grad=True)
    weights, _ = truncated_weights(torch.tensor([-1.0, -1.0]), trainer)
    assert not weights.requires_grad


def test_nothing_sampled_has_no_metrics() -> None:
    weights, metrics = truncated_weights(torch.zeros(0), torch.zeros(0))
    assert weights.shape == (0,)
    assert metrics == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["engine", "trainer"])
def test_what_is_no_number_is_named(value: float, side: str) -> None:
    good, bad = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-1.0, value, -3.0])
    with pytest.raises(EngineError, match=f"1 of 3 log-probabilities of the {side}"):
        truncated_weights(bad, good) if side == "engine" else truncated_weights(good, bad)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(2,\) and \(3,\)"):
        truncated_weights(torch.zeros(2), torch.zeros(3))
    with pytest.raises(UsageError, match=r"at least 1, got 0\.5"):
        truncated_weights(torch.zeros(2), torch.zeros(2), cap=0.5)


def test_with_a_high_cap_the_weighted_mean_is_the_trainers() -> None:
    """E_engine[w f] = E_trainer[f]: exactly, when the expectation is taken by hand over a whole vocabulary."""
    engine, trainer = torch.randn(50).log_softmax(0), torch.randn(50).log_softmax(0)
    values = torch.randn(50)
    weights, _ = truncated_weights(engine, trainer, cap=1e6)
    assert float((engine.exp() * weights * values).sum()) == pytest.approx(float((trainer.exp() * values).sum()))


@given(
    st.lists(st.tuples(st.floats(-30, 0, width=32), st.floats(-30, 0, width=32)), min_size=1, max_size=8),
    st.floats(1, 10),
)
def test_weights_stay_between_zero_and_the_cap(pairs: list[tuple[float, float]], cap: float) -> None:
    engine, trainer = (torch.tensor(column) for column in zip(*pairs, strict=True))
    weights, metrics = truncated_weights(engine, trainer, cap)
    assert bool((weights >= 0).all() and (weights <= cap * (1 + 1e-6)).all())
    assert metrics["mismatch/kl"] >= 0
    assert 0 <= metrics["mismatch/truncated_share"] <= 1
