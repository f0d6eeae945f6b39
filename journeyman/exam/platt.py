"""Fits the calibration of V (model/calibration.py) to held-out episodes, and measures it on others of them.

The tasks of each job are cut in two: the episodes of one half are fitted, those of the other half are asked. At each
position an episode says what V was after exactly so many tokens; one that ended before says nothing there.

    loss(T, b) = -sum_tasks mean log P(outcome)  +  ((log T - log T0)^2 + (b - b0)^2) / (2 SPREAD^2)

A task counts once, for attempts at it are alike. The second term is a normal prior, whose centre (T0, b0) goes from the
general to the particular: the identity for all positions and jobs together, that fit for each position, and these for
each position of one job. So few tasks say little, and a hundred successes in a row do not make a certainty (Platt 1999
moves the targets off 0 and 1 for the same reason).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from journeyman.exam.stats import brier, mean_interval
from journeyman.model.calibration import Bin, Calibration, Doubles, Evidence, Scaling, logits
from journeyman.types import Ending, FloatArray, Trajectory

POSITIONS = (0, *(4**power for power in range(1, 9)))
"""Tokens written: before the first, after 4, 16, 64..."""
LEAST = 20
"""Tasks of which an attempt must have got as far as a position for it to be fitted."""
SPREAD = 0.25
"""Standard deviation of the prior: log T and b within 0.5 of its centre are no surprise. Why this one: docs/LOG.md."""
OWN = 200
"""Held-out episodes from which on a job has a scaling of its own."""


@dataclass(frozen=True)
class Points:
    """Episodes at the positions they reached; each column [P]."""

    written: npt.NDArray[np.int64]
    values: FloatArray
    success: Doubles
    tasks: tuple[str, ...]

    @staticmethod
    def of(episodes: Sequence[Trajectory]) -> Points:
        """All positions of all episodes."""
        rows = [
            (written, value, float(t.outcome.success), t.task.id)
            for t in episodes
            for written in POSITIONS
            if not math.isnan(value := value_after(t, written))
        ]
        written, values, success, tasks = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Points(np.array(written, np.int64), np.array(values, np.float32), np.array(success, float), tasks)

    def where(self, inside: npt.NDArray[np.bool_]) -> Points:
        """Those points alone."""
        kept = np.flatnonzero(inside)
        tasks = tuple(self.tasks[i] for i in kept)
        return Points(self.written[kept], self.values[kept], self.success[kept], tasks)


def value_after(trajectory: Trajectory, written: int) -> float:
    """V after so many sampled tokens; at 0, before the first. NaN where the episode did not get as far."""
    actions = trajectory.actions
    if not len(actions) or len(actions) < written:
        return math.nan
    return float(trajectory.values[actions[written - 1] if written else actions[0] - 1])


def calibrate(episodes: Sequence[Trajectory], *, seed: int = 0) -> Calibration:
    """The calibration of the V that was written along these held-out episodes.

    Only jobs whose rewards are 0 or 1 take part: elsewhere V is no probability, and is left as it is. The notes say so.

    Args:
        episodes: of tasks that V never learned from, by the policy it will be asked about.
        seed: fixes which tasks are fitted and which are asked.
    """
    jobs = _jobs(episodes)
    graded = [job for job, own in jobs.items() if not all(_is_binary(t.outcome.reward) for t in own)]
    scalings = dict.fromkeys(graded, Scaling())
    notes = [f"{job}: V is left as it is, for rewards other than 0 and 1 make it no probability" for job in graded]
    halves = {job: _halves(own, seed) for job, own in jobs.items() if job not in graded}
    fitted = Points.of([t for half, _ in halves.values() for t in half])
    tasks = len(set(fitted.tasks))
    if tasks < LEAST:
        if halves or not jobs:
            notes.append(f"V is left as it is: {tasks} held-out tasks to fit it to, at least {LEAST} are needed")
        return Calibration(jobs=scalings, notes=tuple(notes))
    log_temperature, bias = fit(fitted, Scaling())
    overall = scaling(fitted, Scaling((0,), (math.exp(log_temperature),), (bias,)))
    evidence: dict[str, Evidence] = {}
    for job, (half, rest) in halves.items():
        if len(jobs[job]) >= OWN:
            scalings[job] = scaling(Points.of(half), overall)
        evidence[job] = measure(Points.of(rest), scalings.get(job, overall), len(half))
    return Calibration(overall, scalings, evidence, tuple(notes))


def scaling(points: Points, prior: Scaling) -> Scaling:
    """T and b at each position that enough of the points reached; where none is, the prior."""
    parts = {n: points.where(points.written == n) for n in POSITIONS}
    found = {n: fit(part, prior) for n, part in parts.items() if len(set(part.tasks)) >= LEAST}
    if not found:
        return prior
    return Scaling(tuple(found), tuple(math.exp(a) for a, _ in found.values()), tuple(b for _, b in found.values()))


def fit(points: Points, prior: Scaling) -> tuple[float, float]:
    """(log T, b) of all these points together: the most likely under the loss at the head of this file."""
    from scipy.optimize import minimize  # a quarter of a second, and once at the end of a run

    centre = np.array(prior.at(points.written[0]))
    z, success = logits(points.values), points.success
    attempts = Counter(points.tasks)
    weights = np.array([1 / attempts[task] for task in points.tasks])

    def loss(theta: Doubles) -> tuple[float, Doubles]:
        slope = math.exp(-theta[0])
        margin = slope * z + theta[1]
        residual = weights * (expit(margin) - success)
        away = (theta - centre) / SPREAD
        amount = float(weights @ (np.logaddexp(0, margin) - success * margin) + away @ away / 2)
        return amount, away / SPREAD + np.array([-slope * (residual @ z), residual.sum()])

    found = minimize(loss, centre, jac=True, method="BFGS").x
    return float(found[0]), float(found[1])


def measure(points: Points, chosen: Scaling, fitted: int) -> Evidence:
    """What the scaling does to V on points that it was not fitted to; `fitted` says to how many episodes it was."""
    after = chosen.probability(points.values, points.written)
    tables = [reliability_by_position(points, p) for p in (points.values, after)]
    return Evidence(
        fitted=fitted,
        asked=int((points.written == 0).sum()),
        error=(calibration_error(tables[0]), calibration_error(tables[1])),
        brier=(brier(points.values, points.success), brier(after, points.success)),
        table=tables[1],
    )


def reliability_by_position(points: Points, predicted: FloatArray, bins: int = 10) -> tuple[Bin, ...]:
    """What was predicted [P] against what came true, in bins of equal width on [0, 1] at each position."""
    number = np.clip((predicted * bins).astype(int), 0, bins - 1)
    rows: list[Bin] = []
    for written, index in sorted(set(zip(points.written.tolist(), number.tolist(), strict=True))):
        inside = (points.written == written) & (number == index)
        own = points.where(inside)
        observed = mean_interval(own.success, own.tasks)
        low, high = (0.0, 1.0) if math.isnan(observed.low) else (observed.low, observed.high)
        rows.append(Bin(written, float(predicted[inside].mean()), observed.mean, low, high, len(own.tasks)))
    return tuple(rows)


def calibration_error(table: Sequence[Bin]) -> float:
    """Expected calibration error: the mean of |predicted - observed|, weighted by episodes (1706.04599, eq. 3)."""
    weights = [row.episodes for row in table]
    return float(np.average([abs(row.predicted - row.observed) for row in table], weights=weights))


def _jobs(episodes: Sequence[Trajectory]) -> dict[str, list[Trajectory]]:
    """By job, the episodes that V was asked about and that did not fail."""
    jobs: dict[str, list[Trajectory]] = {}
    for t in episodes:
        if t.outcome.ending is not Ending.FAILED and not math.isnan(value_after(t, 0)):
            jobs.setdefault(t.task.job, []).append(t)
    return jobs


def _is_binary(reward: float) -> bool:
    return min(abs(reward), abs(reward - 1)) < 1e-6


def _halves(episodes: Sequence[Trajectory], seed: int) -> tuple[list[Trajectory], list[Trajectory]]:
    """Two halves without a common task; the second is never empty."""
    tasks = sorted({t.task.id for t in episodes})
    order = np.random.default_rng((seed, 79)).permutation(len(tasks))
    first = {tasks[i] for i in order[: len(tasks) // 2]}
    return [t for t in episodes if t.task.id in first], [t for t in episodes if t.task.id not in first]
