"""Learning curves: what practice looked like, smoothed, with how sure the smoothing is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from journeyman.report.run import Run, number


@dataclass(frozen=True, slots=True)
class Point:
    """The success rate around `x` trajectories, with a 95% band."""

    x: float
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Success at one job against trajectories practised (of all jobs together).

    Attributes:
        raw: (trajectories, success rate) of each step.
        smooth: the same, averaged over neighbouring steps.
    """

    job: str
    raw: tuple[tuple[float, float], ...]
    smooth: tuple[Point, ...]


def learning_curve(run: Run, job: str) -> Curve:
    """The curve of one job from the run's metrics; empty where it was never practised."""
    xs: list[float] = []
    rates: list[float] = []
    counts: list[float] = []
    before = 0.0
    for line in run.learn:
        x, rate = number(line, "trajectories"), number(line, f"{job}/success")
        if x is None:
            continue
        if rate is not None:
            sharing = sum(key.endswith("/success") for key in line)
            xs.append(x)
            rates.append(rate)
            counts.append(max((x - before) / sharing, 1.0))
        before = x
    return Curve(job, tuple(zip(xs, rates, strict=True)), smooth(xs, rates, counts))


def smoothed(run: Run, key: str) -> list[tuple[float, float]]:
    """(trajectories, moving average) of one figure of the metrics, where it was logged."""
    found = [
        (x, y)
        for line in run.learn
        if (x := number(line, "trajectories")) is not None and (y := number(line, key)) is not None
    ]
    points = smooth([x for x, _ in found], [y for _, y in found], [1.0] * len(found))
    return [(point.x, point.mean) for point in points]


def smooth(xs: list[float], rates: list[float], counts: list[float]) -> tuple[Point, ...]:
    """A centred moving average over about a tenth of the run, with a 95% band.

    The variance of a step's rate is taken from the differences of neighbouring steps (von Neumann 1941),
    which a slope does not inflate and which contains whatever clustering by task there is. Near 0 and 1,
    where neighbours agree by chance, it is at least that of independent attempts with two successes and two
    failures added (Agresti and Coull 1998).
    """
    points: list[Point] = []
    half = max(1, round(len(xs) / 20))
    for i, x in enumerate(xs):
        reach = min(half, i, len(xs) - 1 - i) if len(xs) > 2 * half else half
        start, stop = max(0, i - max(reach, 1)), min(len(xs), i + max(reach, 1) + 1)
        window, weights = rates[start:stop], counts[start:stop]
        total = sum(weights)
        mean = sum(rate * weight for rate, weight in zip(window, weights, strict=True)) / total
        steps = [(b - a) ** 2 / 2 for a, b in pairwise(window)]
        between = sum(steps) / len(steps) / len(window) if steps else 0.0
        centre = (mean * total + 2) / (total + 4)
        error = math.sqrt(max(between, centre * (1 - centre) / (total + 4)))
        points.append(Point(x, mean, max(0.0, mean - 1.96 * error), min(1.0, mean + 1.96 * error)))
    return tuple(points)
