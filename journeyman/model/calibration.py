"""V as a probability of success: a correction fitted to held-out episodes (exam/platt.py), kept with the checkpoint.

V may be too bold or too timid, and early in an episode more so than late. Platt scaling (Platt 1999; without the bias
it is temperature scaling, 1706.04599, section 4.2) puts that right with two numbers,

    P(success) = sigmoid(logit(V) / T + b).

T and b are known at a few positions, counted in tokens written so far, and go from one to the next in straight lines
(log T and b over log(1 + tokens)). That count is known while an episode is under way, so a prefix can be corrected
without knowing how long it will become; and as T > 0, which of two prefixes of one length looks better stays as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from journeyman.errors import CheckpointError, UsageError
from journeyman.types import FloatArray

FILE = "calibration.json"
VERSION = 1
EDGE = 1e-6
"""V is kept this far from 0 and 1, whose logits are infinite."""

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """T and b by position; without arguments the identity.

    Attributes:
        written: tokens written so far, ascending; before the first and after the last of them nothing changes.
        temperature: T at each of these positions, above 0; below 1 V is made bolder, above 1 more timid.
        bias: b at each of them; above 0 V is made more hopeful.
    """

    written: tuple[int, ...] = (0,)
    temperature: tuple[float, ...] = (1.0,)
    bias: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if not len(self.written) == len(self.temperature) == len(self.bias) or not self.written:
            lengths = len(self.written), len(self.temperature), len(self.bias)
            raise UsageError(f"scaling: positions, temperatures and biases must be equally many, got {lengths}")
        if list(self.written) != sorted(set(self.written)):
            raise UsageError(f"scaling: positions must ascend, got {self.written}")
        if not all(0 < t < np.inf for t in self.temperature) or not np.isfinite(self.bias).all():
            raise UsageError(
                f"scaling: temperatures must be above 0 and biases finite, got {self.temperature} and {self.bias}"
            )

    def at(self, written: npt.ArrayLike) -> tuple[Doubles, Doubles]:
        """log T and b after so many tokens written: [...] of [...]."""
        place, known = np.log1p(written), np.log1p(self.written)
        return np.interp(place, known, np.log(self.temperature)), np.interp(place, known, self.bias)

    def probability(self, values: FloatArray, written: npt.ArrayLike) -> FloatArray:
        """P(success) [...] from V [...] after so many tokens written [...]; the identity gives V as it is."""
        if self == Scaling():
            return values
        log_temperature, bias = self.at(written)
        return expit(logits(values) * np.exp(-log_temperature) + bias).astype(np.float32)


def logits(values: FloatArray) -> Doubles:
    """logit(V) [...], finite."""
    return logit(np.clip(values.astype(np.float64), EDGE, 1 - EDGE))


@dataclass(frozen=True, slots=True)
class Bin:
    """Held-out episodes that were given about the same chance at one position, and what became of them.

    Attributes:
        written: the position: tokens written so far.
        predicted: their mean P(success).
        observed: the share that succeeded.
        low, high: its 95% interval, clustered by task; 0 and 1 where one task says nothing of others.
        episodes: how many.
    """

    written: int
    predicted: float
    observed: float
    low: float
    high: float
    episodes: int


@dataclass(frozen=True)
class Evidence:
    """How V did on a job's held-out episodes that nothing was fitted to; pairs are (before, after) calibration.

    Attributes:
        fitted: episodes of other tasks, which the fit rests on.
        asked: episodes of this measurement; each is asked at every position it reached.
        error: expected calibration error (1706.04599, eq. 3), over all positions.
        brier: mean squared error, over all positions.
        table: reliability by position, after calibration.
    """

    fitted: int
    asked: int
    error: tuple[float, float]
    brier: tuple[float, float]
    table: tuple[Bin, ...]


@dataclass(frozen=True)
class Calibration:
    """A checkpoint's calibration; without arguments V is left as it is.

    Attributes:
        overall: for a job that is not named, or has no scaling of its own.
        jobs: by job, where there were episodes enough.
        evidence: by job, for all jobs that were calibrated.
        notes: what was not calibrated, and why.
    """

    overall: Scaling = Scaling()
    jobs: Mapping[str, Scaling] = field(default_factory=dict[str, Scaling])
    evidence: Mapping[str, Evidence] = field(default_factory=dict[str, Evidence])
    notes: tuple[str, ...] = ()

    def of(self, job: str | None) -> Scaling:
        """The scaling for a job, or for none in particular."""
        return self.jobs.get(job or "", self.overall)

    def save(self, folder: Path) -> None:
        """Write `calibration.json` into the folder."""
        (folder / FILE).write_text(json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n")

    @staticmethod
    def load(folder: Path) -> Calibration:
        """Read back what :meth:`save` wrote; the identity where nothing is there.

        Raises:
            CheckpointError: the file is damaged, or of a later version.
        """
        file = folder / FILE
        if not file.exists():
            return Calibration()
        fix = "delete it (V is then left as it is), or take the checkpoint from a copy"
        try:
            kept: dict[str, Any] = json.loads(file.read_text())
            version = kept["version"]
            if version == VERSION:
                return Calibration(
                    overall=_scaling(kept["overall"]),
                    jobs={job: _scaling(one) for job, one in kept["jobs"].items()},
                    evidence={job: _evidence(one) for job, one in kept["evidence"].items()},
                    notes=tuple(kept["notes"]),
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{file} cannot be read", reason=f"{type(error).__name__}: {error}", fix=fix
            ) from error
        raise CheckpointError(
            f"{file} has version {version}",
            reason=f"this Journeyman knows version {VERSION}",
            fix="upgrade Journeyman, or delete the file: V is then left as it is",
        )


def _scaling(kept: Mapping[str, Sequence[Any]]) -> Scaling:
    return Scaling(**{name: tuple(column) for name, column in kept.items()})


def _evidence(kept: Mapping[str, Any]) -> Evidence:
    (error, better_error), (brier, better_brier) = kept["error"], kept["brier"]
    return Evidence(
        fitted=kept["fitted"],
        asked=kept["asked"],
        error=(error, better_error),
        brier=(brier, better_brier),
        table=tuple(Bin(**row) for row in kept["table"]),
    )
