"""The calibration of V finds a known distortion, rests on other tasks than its evidence, and keeps its hands off."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from journeyman.exam.platt import (
    LEAST,
    SPREAD,
    Points,
    calibrate,
    calibration_error,
    fit,
    measure,
    reliability_by_position,
)
from journeyman.model.calibration import Bin, Scaling
from journeyman.types import Ending, Outcome, Trajectory
from tests.learn.helpers import make_trajectory


def points(values: np.ndarray, success: np.ndarray, written: int = 0) -> Points:
    count = len(values)
    at = np.full(count, written, np.int64)
    return Points(at, values.astype(np.float32), success.astype(float), tuple(str(i) for i in range(count)))


def episodes(
    count: int, *, distortion: dict[int, tuple[float, float]], seed: int, job: str = "job"
) -> list[Trajectory]:
    """Episodes of 16 tokens, two of each task, in which logit(V) after n tokens is T (x - b) for the true logit x."""
    rng = np.random.default_rng(seed)
    found: list[Trajectory] = []
    for number in range(count):
        truth = rng.normal(0, 1.5)
        success = float(rng.random() < expit(truth))
        values = [0.5] * 17
        for written, (temperature, bias) in distortion.items():
            values[written] = float(expit(temperature * (truth - bias)))
        t = make_trajectory(values, [(1, 17)], [success])
        found.append(replace(t, id=f"{job}-{number}", task=replace(t.task, job=job, index=number // 2)))
    return found


def test_a_known_distortion_is_found() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, 4000)
    success = rng.random(4000) < expit(truth)
    log_temperature, bias = fit(points(expit(2 * (truth - 0.5)), success), Scaling())
    # over seeds their standard deviations are 0.03 and 0.04: 0.25 are six, less than one failure in a million seeds
    assert log_temperature == pytest.approx(math.log(2), abs=0.25)
    assert bias == pytest.approx(0.5, abs=0.25)


def test_what_is_calibrated_already_stays_nearly_so() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 1.5, 4000)
    log_temperature, bias = fit(points(expit(truth), rng.random(4000) < expit(truth)), Scaling())
    assert abs(log_temperature) < 0.25 and abs(bias) < 0.25  # six standard deviations, as above


def test_each_position_has_a_correction_of_its_own() -> None:
    distortion = {0: (0.5, 1.0), 4: (1.0, 0.0), 16: (3.0, -0.5)}
    found = calibrate(episodes(4000, distortion=distortion, seed=2))
    assert found.overall.written == (0, 4, 16)
    # over seeds these figures have standard deviations below 0.03, and the prior pulls them by at most 0.26: eight
    # deviations are left, less than one failure in a million million seeds
    assert np.log(found.overall.temperature) == pytest.approx(np.log([0.5, 1.0, 3.0]), abs=0.5)
    assert found.overall.bias == pytest.approx([1.0, 0.0, -0.5], abs=0.5)
    evidence = found.evidence["job"]
    assert evidence.error[1] < evidence.error[0] / 2 and evidence.brier[1] < evidence.brier[0]
    assert {row.written for row in evidence.table} == {0, 4, 16}


@pytest.mark.parametrize("count", [1, 50, 1000])
def test_successes_in_a_row_make_no_certainty(count: int) -> None:
    always = points(np.full(count, 0.5), np.ones(count))
    log_temperature, bias = fit(always, Scaling())
    assert log_temperature == pytest.approx(0)
    # at V = 1/2 the loss is count * log(1 + e^-b) + b^2 / (2 SPREAD^2), whose minimum has b = SPREAD^2 count (1 - P)
    assert bias == pytest.approx(SPREAD**2 * count * (1 - expit(bias)), abs=1e-3)
    assert expit(bias) < 1 - 1 / (count + 100)


def test_a_task_counts_once() -> None:
    rng = np.random.default_rng(10)
    values, success = rng.random(40), rng.random(40) < 0.5
    once = points(values, success)
    thrice = Points(
        *(np.repeat(c, 3) for c in (once.written, once.values, once.success)), tuple(np.repeat(once.tasks, 3))
    )
    assert fit(thrice, Scaling()) == pytest.approx(fit(once, Scaling()), abs=1e-4)


def test_the_prior_is_what_nothing_speaks_against() -> None:
    centre = Scaling((0, 16), (2.0, 4.0), (0.3, -0.3))
    even = points(np.full(2, expit(0.3 * 4.0)), np.array([1, 0]), written=16)  # the prior calls it 1/2
    log_temperature, bias = fit(even, centre)
    assert (math.exp(log_temperature), bias) == pytest.approx((4.0, -0.3), abs=1e-3)


def test_no_task_is_both_fitted_and_asked() -> None:
    every = episodes(120, distortion={0: (2.0, 0.0)}, seed=3)
    found = calibrate(every, seed=7)
    evidence = found.evidence["job"]
    assert (evidence.fitted, evidence.asked) == (60, 60)
    moved: list[bool] = []
    for one in range(0, 120, 2):  # the two episodes of a task, with the other outcome
        other = list(every)
        for i in (one, one + 1):
            other[i] = replace(other[i], outcome=Outcome(1 - other[i].outcome.reward, Ending.TERMINATED))
        changed = calibrate(other, seed=7)
        moved.append(changed.overall != found.overall)
        assert moved[-1] != (changed.evidence["job"].brier[0] != evidence.brier[0])
    assert sum(moved) == 30


def test_jobs_have_their_own_where_there_are_enough() -> None:
    many = episodes(400, distortion={0: (1.0, 2.0)}, seed=4, job="many")
    few = episodes(100, distortion={0: (1.0, -2.0)}, seed=5, job="few")
    found = calibrate([*many, *few])
    assert set(found.jobs) == {"many"} and set(found.evidence) == {"many", "few"}
    assert found.of("few") == found.of(None) == found.of("never heard of") == found.overall
    assert found.of("many").bias[0] > found.overall.bias[0]
    assert calibrate(many[:198]).jobs == {}


def test_graded_rewards_leave_v_alone() -> None:
    graded = [
        replace(t, outcome=Outcome(0.4, Ending.TERMINATED))
        for t in episodes(300, distortion={0: (2.0, 0.0)}, seed=6, job="graded")
    ]
    plain = episodes(300, distortion={0: (2.0, 0.0)}, seed=6, job="plain")
    found = calibrate([*graded, *plain])
    assert found.of("graded") == Scaling() and found.of("plain") != Scaling()
    assert set(found.evidence) == {"plain"} and "graded: V is left as it is" in found.notes[0]
    alone = calibrate(graded)
    assert alone.overall == Scaling() and len(alone.notes) == 1


def test_too_few_episodes_leave_v_alone() -> None:
    every = episodes(4 * LEAST, distortion={0: (2.0, 0.0)}, seed=8)  # two of each task, and one half is fitted
    assert calibrate(every).overall != Scaling()
    for known in (every[2:], []):
        found = calibrate(known)
        assert found.overall == Scaling() and not found.evidence and "at least 20 are needed" in found.notes[0]


def test_failed_episodes_and_unknown_values_do_not_count() -> None:
    every = episodes(200, distortion={0: (2.0, 0.0)}, seed=9)
    broken = [replace(t, outcome=Outcome(0.0, Ending.FAILED, "x", "grader")) for t in every]
    unscored = [replace(t, values=np.full(len(t), math.nan, np.float32)) for t in every]
    assert calibrate([*every, *broken, *unscored]) == calibrate(every)


def test_reliability_by_position_worked_out_by_hand() -> None:
    asked = Points(
        np.array([0, 0, 0, 4]),
        np.array([0.5, 0.5, 0.5, 0.5], np.float32),
        np.array([1.0, 0.0, 1.0, 0.0]),
        ("a", "b", "c", "a"),
    )
    table = reliability_by_position(asked, np.array([0.61, 0.69, 0.1, 1.0], np.float32))
    assert [(row.written, row.episodes) for row in table] == [(0, 1), (0, 2), (4, 1)]
    assert (table[1].predicted, table[1].observed) == pytest.approx((0.65, 0.5))
    assert table[1].low == pytest.approx(0.0945, abs=1e-3)  # Wilson's interval of one in two
    assert calibration_error(table) == pytest.approx((0.9 + 2 * 0.15 + 1.0) / 4)
    again = Points(asked.written[:2], asked.values[:2], asked.success[:2], ("a", "a"))
    (row,) = reliability_by_position(again, np.array([0.61, 0.69], np.float32))
    assert row == Bin(0, row.predicted, 0.5, 0.0, 1.0, 2)  # one task says nothing of others


def test_evidence_is_before_and_after() -> None:
    bold = points(np.array([0.9, 0.9]), np.array([1.0, 0.0]))
    evidence = measure(bold, Scaling((0,), (1e9,), (0.0,)), 10)
    assert evidence.error == pytest.approx((0.4, 0.0), abs=1e-6)
    assert evidence.brier == pytest.approx((0.41, 0.25), abs=1e-6)
