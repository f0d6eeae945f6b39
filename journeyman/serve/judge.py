"""V of what is being served: along each answer's tokens, and as a chance of success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from journeyman.learn.learner import Learner, UpdateConfig
from journeyman.model.load import LoadedModel
from journeyman.types import FloatArray, Trajectory


@dataclass(frozen=True)
class Judgement:
    """What V says of an episode so far.

    Attributes:
        values: after reading each token; NaN where there is no value function.
        value: the chance of success now, by the checkpoint's calibration; None likewise.
    """

    values: FloatArray
    value: float | None


class Judge:
    """A checkpoint's V with its calibration.

    Args:
        job: whose calibration to use; of all jobs together where it has none.
    """

    def __init__(self, loaded: LoadedModel, job: str = "") -> None:
        self.learner = Learner(loaded.model, loaded.value, UpdateConfig(), keep_reference=False)
        self.knows = loaded.value is not None
        self.scaling = loaded.calibration.of(job)

    def score(self, trajectories: Sequence[Trajectory]) -> list[Trajectory]:
        """The trajectories with V along them."""
        return self.learner.score(trajectories)

    def judge(self, trajectories: Sequence[Trajectory]) -> list[Judgement]:
        """What V says of each."""
        return [self._judgement(t) for t in self.score(trajectories)]

    def _judgement(self, t: Trajectory) -> Judgement:
        if not self.knows:
            return Judgement(t.values, None)
        chance = self.scaling.probability(t.values[-1:], t.mask.sum()[None])
        return Judgement(t.values, float(np.asarray(chance)[0]))
