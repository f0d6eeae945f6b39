"""Statistics: every score with its interval. Pure functions on numbers.

Sources: clustered standard errors, Miller 2024 (2411.00640, section 2.2); Wilson 1927 (J. Am. Stat. Assoc. 22);
AUC as the Mann-Whitney statistic, Fawcett 2006; Brier 1950.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit  # scipy.stats would take a second to import

Floats = Sequence[float] | npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the bounds of its confidence interval; `n` is the number of clusters it rests on."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Floats, clusters: Sequence[Hashable] | None = None, level: float = 0.95) -> Interval:
    """The mean with its interval, robust to dependence within clusters.

    With one 0/1 value per cluster it is Wilson's interval; otherwise the t interval of the clustered standard
    error, kept within [0, 1] where all values are. NaN bounds where there is nothing to estimate them from.
    """
    x = np.asarray(values, float)
    if not len(x):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    labels = list(range(len(x))) if clusters is None else list(clusters)
    if len(labels) != len(x):
        raise ValueError(f"{len(x)} values and {len(labels)} clusters")
    number = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    count = len(number)
    binary = bool(np.isin(x, (0.0, 1.0)).all())
    if binary and count == len(x):
        return _wilson(float(x.mean()), count, level)
    mean = float(x.mean())
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    sums = np.bincount([number[label] for label in labels], x - mean, count)
    error = float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(x))
    reach = float(stdtrit(count - 1, 0.5 + level / 2)) * error
    if error == 0.0 and binary:
        return _wilson(mean, count, level)
    inside = bool(((x >= 0) & (x <= 1)).all())
    low, high = mean - reach, mean + reach
    return Interval(mean, max(low, 0.0) if inside else low, min(high, 1.0) if inside else high, count)


def _wilson(share: float, n: int, level: float) -> Interval:
    z = float(ndtri(0.5 + level / 2))
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return Interval(share, max(centre - reach, 0.0), min(centre + reach, 1.0), n)


def paired_difference(
    a: Floats, b: Floats, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> Interval:
    """The mean of a - b on the same tasks, clustered: what is common to both cancels."""
    difference = np.asarray(a, float) - np.asarray(b, float)
    labels = list(range(len(difference))) if clusters is None else list(clusters)
    number = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    count, mean = len(number), float(difference.mean()) if len(difference) else float("nan")
    if count < 2:
        return Interval(mean, float("nan"), float("nan"), count)
    sums = np.bincount([number[label] for label in labels], difference - mean, count)
    error = float(np.sqrt(count / (count - 1) * (sums**2).sum()) / len(difference))
    reach = float(stdtrit(count - 1, 0.5 + level / 2)) * error
    return Interval(mean, mean - reach, mean + reach, count)


def auc(scores: Floats, labels: Sequence[bool] | npt.NDArray[np.bool_], weights: Floats | None = None) -> float | None:
    """The chance that a success scores above a failure, ties counted half; None where one of them is missing."""
    score, success = np.asarray(scores, float), np.asarray(labels, bool)
    weight = np.ones(len(score)) if weights is None else np.asarray(weights, float)
    wins, losses = float(weight[success].sum()), float(weight[~success].sum())
    if not wins or not losses:
        return None
    order = np.argsort(score[~success])
    ordered, mass = score[~success][order], np.append(0.0, np.cumsum(weight[~success][order]))
    left, right = (np.searchsorted(ordered, score[success], side) for side in ("left", "right"))
    return float((weight[success] * (mass[left] + mass[right])).sum() / 2 / (wins * losses))


def brier(predictions: Floats, labels: Floats) -> float:
    """Mean squared difference of predicted and observed, in [0, 1]; 0.25 is what always saying 1/2 earns."""
    return float(np.mean((np.asarray(predictions, float) - np.asarray(labels, float)) ** 2))


def explained_variance(predictions: Floats, targets: Floats, weights: Floats | None = None) -> float | None:
    """1 - Var(target - prediction) / Var(target): 1 perfect, 0 no better than a constant; None if all are equal."""
    target = np.asarray(targets, float)
    if not len(target) or (target == target[0]).all():
        return None
    left = target - np.asarray(predictions, float)
    variances = [float(np.cov(x, ddof=0, aweights=weights)) for x in (left, target)]
    return 1 - variances[0] / variances[1]


def reliability(predictions: Floats, labels: Floats, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean predicted, share observed, count) of each filled bin of equal width on [0, 1]."""
    prediction, label = np.asarray(predictions, float), np.asarray(labels, float)
    index = np.clip((prediction * bins).astype(int), 0, bins - 1)
    rows: list[tuple[float, float, int]] = []
    for number in range(bins):
        inside = index == number
        if inside.any():
            rows.append((float(prediction[inside].mean()), float(label[inside].mean()), int(inside.sum())))
    return rows


def bootstrap_interval(
    statistic: Callable[[npt.NDArray[np.floating]], float],
    samples: Floats,
    *,
    seed: int = 0,
    draws: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap (Efron 1979) of any statistic of a sample [n] or [n, columns], rows drawn together."""
    x = np.asarray(samples, float)
    rng = np.random.default_rng(seed)
    repeated = [statistic(x[rng.integers(0, len(x), len(x))]) for _ in range(draws)]
    low, high = np.quantile(repeated, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(statistic(x)), float(low), float(high), len(x))
