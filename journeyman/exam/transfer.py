"""What a stream of jobs does to each of them: Avalanche's metrics (2104.00405; 1706.08840, section 3).

R[i][j] is the success on job j after learning the jobs up to i, in the order of the stream; fresh[j] that of the model
before any of them. All are in the unit of R.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Matrix = Sequence[Sequence[float]] | npt.NDArray[np.float64]


def average_accuracy(matrix: Matrix) -> float:
    """mean_j R[T][j]: what is known at the end."""
    return float(_square(matrix)[-1].mean())


def backward_transfer(matrix: Matrix) -> float:
    """mean_{j < T} (R[T][j] - R[j][j]): what later jobs did to earlier ones; forgetting where it is below 0."""
    found = _square(matrix)
    return float((found[-1] - found.diagonal())[:-1].mean())


def forward_transfer(matrix: Matrix, fresh: Sequence[float]) -> float:
    """mean_{j > 1} (R[j - 1][j] - fresh[j]): what earlier jobs taught of one that was not learned yet."""
    found = _square(matrix)
    return float((found.diagonal(1) - np.asarray(fresh, float)[1:]).mean())


def _square(matrix: Matrix) -> npt.NDArray[np.float64]:
    found = np.asarray(matrix, float)
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < 2:
        raise ValueError(f"a row for each stage and a column for each job, at least two: got {found.shape}")
    return found
