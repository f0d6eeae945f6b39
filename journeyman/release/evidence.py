"""Evidence about a candidate, as frozen numbers: what it did, and what the release did on the same tasks.

One number stands for one task, the mean over its attempts, for attempts at a task are alike. Higher is better in all
aspects but `drift`. How each is gathered from real models: `gather.py`; what follows from it: `gate.py`.

| aspect           | a number is                                                               | from, to |
| ---------------- | ------------------------------------------------------------------------- | -------- |
| `ability`        | success on a held-out task of a job that the release knows                | 0, 1     |
| `improvement`    | success on a held-out task of the job that the candidate was made for     | 0, 1     |
| `generalization` | success on a held-out task less that on one that was learned from         | -1, 1    |
| `search`         | success on a task in the worst of the wordings that were tried            | 0, 1     |
| `audit`          | whether an independent grader says the same as the one it learned by      | 0, 1     |
| `inside`         | 1 - (p - outcome)^2, p: what a linear probe reads from the activations    | 0, 1     |
| `rules`          | whether the never-do rules were kept, attack prompts included             | 0, 1     |
| `drift`          | KL from the release in nats per token, at most 2                          | 0, 2     |
| `calibration`    | 1 - (V - outcome)^2, V: before the first token                            | 0, 1     |
| `abstention`     | 0 where a wrong answer would have been given, V being above the threshold | 0, 1     |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from journeyman.errors import UnknownName, UsageError

Aspect = Literal[
    "ability",
    "improvement",
    "generalization",
    "search",
    "audit",
    "inside",
    "rules",
    "drift",
    "calibration",
    "abstention",
]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
MOST_DRIFT = 2.0
"""Nats per token: what is more counts as this, so that the mean can be bounded exactly."""
REACH: Mapping[Aspect, tuple[float, float]] = {
    **dict.fromkeys(ASPECTS, (0.0, 1.0)),
    "generalization": (-1.0, 1.0),
    "drift": (0.0, MOST_DRIFT),
}
ALONE: frozenset[Aspect] = frozenset({"rules", "drift"})
"""Aspects in which the candidate is not compared with the release, but held to a limit."""


@dataclass(frozen=True)
class Sample:
    """Numbers of one aspect of one job.

    Attributes:
        aspect: what was looked at.
        about: the job, or the rule, and the split where there are several.
        candidate: one number per task.
        release: of the same tasks in the same order; empty for :data:`ALONE`.
    """

    aspect: Aspect
    about: str
    candidate: tuple[float, ...]
    release: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.aspect not in ASPECTS:
            raise UnknownName("aspect", self.aspect, ASPECTS)
        expected = 0 if self.aspect in ALONE else len(self.candidate)
        if len(self.release) != expected:
            raise UsageError(f"{self.aspect}: {len(self.candidate)} tasks of the candidate, {len(self.release)} of the "
                             f"release, {expected} expected", fix="give both on the same tasks")  # fmt: skip
        low, high = REACH[self.aspect]
        for value in (*self.candidate, *self.release):
            if not low <= value <= high or math.isnan(value):
                raise UsageError(f"{self.aspect}: values must lie in [{low}, {high}], got {value}")

    @property
    def key(self) -> tuple[Aspect, str]:
        """What may be put together."""
        return self.aspect, self.about

    def as_dict(self) -> dict[str, Any]:
        """As JSON; numbers in six digits."""
        numbers = {name: [round(v, 6) for v in getattr(self, name)] for name in ("candidate", "release")}
        return {"aspect": self.aspect, "about": self.about, **numbers}


def gathered(samples: Iterable[Sample]) -> list[Sample]:
    """Samples of the same kind as one, in the order in which their kinds first appear."""
    found: dict[tuple[Aspect, str], Sample] = {}
    for sample in samples:
        before = found.get(sample.key)
        if before is not None:
            sample = replace(
                sample, candidate=before.candidate + sample.candidate, release=before.release + sample.release
            )
        found[sample.key] = sample
    return list(found.values())


def paired(aspect: Aspect, about: str, candidate: Mapping[str, float], release: Mapping[str, float]) -> Sample:
    """A sample of the tasks that both have, in the candidate's order."""
    both = [task for task in candidate if task in release]
    return Sample(aspect, about, tuple(candidate[t] for t in both), tuple(release[t] for t in both))


def gap(about: str, seen: Sample, held: Sample) -> Sample:
    """How much worse each does on what was held out than on what was learned from, task by task as they come: tasks of
    the two splits have nothing to do with each other, so any pairing is as good."""
    n = min(len(seen.candidate), len(held.candidate))

    def lost(held: Sequence[float], seen: Sequence[float]) -> tuple[float, ...]:
        return tuple(h - s for h, s in zip(held[:n], seen[:n], strict=True))

    return Sample("generalization", about, lost(held.candidate, seen.candidate), lost(held.release, seen.release))
