"""Gradual release: shadow, canary at growing shares, full, and back by itself. A pure state machine over a log.

    begin ──▶ shadow ──▶ canary 1% ──▶ 5% ──▶ 25% ──▶ full
                 └──────────┴───────────┴───────┴──▶ rolled back

    State.of(events)          where the rollout stands; nothing else holds state
    decide(state, evidence)   what happens next and why: go on, wait, roll back

What writes the decisions down is `steering.py`. Each decision holds the numbers it was made by.

What is tested at every look, as often as one likes (sequential.py): each guardrail is a figure in which more is better.
Blocks of neighbouring episodes pair the candidate's with the release's, so that a bad hour of the service is a bad hour
for both. A guardrail alarms when it is refuted that the candidate is as good (e-value at least guardrails / alarm); a
stage is passed when it is shown for every one that it is not worse than by `margin`, and when it has lasted. A unit (a
user, or an episode) counts once, with its first episode: its others are like it. While the candidate is a shadow nobody
sees its answers, so nobody says what became of them: that stage has guardrails of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from journeyman.errors import UsageError
from journeyman.experience.journal import Event
from journeyman.experience.records import SHADOW
from journeyman.release.gate import LADDER, Power, Rung, granted
from journeyman.release.sequential import evidence_above, evidence_below, shared


@dataclass(frozen=True)
class Guardrail:
    """A figure of an episode in which more is better."""

    name: str
    """Of the metric: `reward`, `kept` (1 where nothing of ours broke), or any that was declared."""
    margin: float = 0.03
    """How much less is still "not worse"."""
    weight: float = 1.0
    """Share of the error budget, beside the other guardrails."""
    low: float = 0.0
    """The least there can be; with an infinite bound the test is asymptotic."""
    high: float = 1.0
    """The most there can be."""


@dataclass(frozen=True)
class RolloutPlan:
    """How a version comes into service."""

    shares: tuple[float, ...] = (0.0, 0.01, 0.05, 0.25, 1.0)
    """Of the traffic, stage by stage; 0: shadow. The last one is 1."""
    least: int = 20
    """Units of the candidate that a stage has to see before it is left; a shadow stage sees pairs."""
    most: int = 100_000
    """Units of the candidate after which a stage that cannot be passed ends in a roll back."""
    alarm: float = 0.05
    """Chance that a candidate as good as the release is rolled back by alarm, over all stages, looks and guardrails."""
    risk: float = 0.05
    """Chance that a candidate that is worse by a margin is released."""
    guardrails: tuple[Guardrail, ...] = (Guardrail("reward"),)
    """What is watched once it has a share."""
    shadow: tuple[Guardrail, ...] = (Guardrail(SHADOW.name, margin=0.1, low=-1.0, high=1.0),)
    """What is watched before."""
    ladder: tuple[Rung, ...] = LADDER
    """Which share takes how much evidence; the gate's or that of the traffic itself."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.shares, self.shares[1:], strict=False))
        if not self.shares or not rising or self.shares[0] < 0 or self.shares[-1] != 1:
            raise UsageError(f"rollout: shares must rise from 0 or more to 1, got {list(self.shares)}")
        for name in ("alarm", "risk"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"rollout: {name} must lie between 0 and 1, got {getattr(self, name)}")
        if not 1 <= self.least <= self.most:
            raise UsageError(f"rollout: least must lie in 1 to most, got {self.least} and {self.most}")
        if not self.guardrails or not (self.shadow or self.shares[0]):
            raise UsageError("rollout: nothing is watched", fix="name a guardrail")

    @property
    def begins_unseen(self) -> bool:
        """Whether the first stage is a shadow's."""
        return not self.shares[0]

    @property
    def alarms(self) -> dict[Guardrail, float]:
        """The chance of a false alarm that each guardrail may take, whatever the stage."""
        rails = (*(self.shadow if self.begins_unseen else ()), *self.guardrails)
        return dict(zip(rails, shared(self.alarm, [rail.weight for rail in rails]), strict=True))


class Phase(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    RELEASED = "released"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True)
class Observed:
    """One episode, as far as a guardrail knows it.

    Attributes:
        unit: whose it is: what is sticky.
        version: that answered.
        figures: by guardrail; those that are not known yet are absent.
    """

    unit: str
    version: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class State:
    """What follows from a rollout's events.

    Attributes:
        id: of the event that began it.
        stage: index into the plan's shares.
        at: when it began, in Unix seconds.
        gate: log of the e-value that the gate found, which bounds the share.
        power: what the version may do beside its share.
        why: of the last decision.
    """

    id: str
    release: int
    candidate: int
    plan: RolloutPlan
    stage: int
    at: float
    phase: Phase
    gate: float
    power: Power
    why: str

    @property
    def under_way(self) -> bool:
        """Whether it has not come to an end."""
        return self.phase in (Phase.RUNNING, Phase.PAUSED)

    @property
    def share(self) -> float:
        """Of the traffic, that the candidate has now."""
        if self.phase is Phase.ROLLED_BACK:
            return 0.0
        return self.plan.shares[self.stage]

    @property
    def unseen(self) -> bool:
        """Whether the stage is a shadow's."""
        return self.plan.begins_unseen and not self.stage

    @property
    def guardrails(self) -> tuple[Guardrail, ...]:
        """By which the stage is decided."""
        return self.plan.shadow if self.unseen else self.plan.guardrails

    @property
    def least(self) -> int:
        """Units without which the stage is not left: each counts through all stages with the same guardrails."""
        before = self.stage if not self.plan.begins_unseen or self.unseen else self.stage - 1
        return self.plan.least * (before + 1)

    @property
    def shares(self) -> dict[int, float]:
        """Of all versions that have any."""
        found = {self.release: 1 - self.share, self.candidate: self.share}
        return {version: share for version, share in found.items() if share}

    @property
    def shadow(self) -> int | None:
        """The version that answers unseen."""
        return self.candidate if self.under_way and not self.share else None

    @staticmethod
    def of(events: Iterable[Event]) -> State | None:
        """The latest rollout; None where there was none."""
        state: State | None = None
        for event in events:
            if event.topic != "rollout":
                continue
            data = event.data
            if data["what"] == "begin":
                state = State(
                    id=event.id,
                    release=data["release"],
                    candidate=data["candidate"],
                    plan=read_plan(data["plan"]),
                    stage=0,
                    at=event.at,
                    phase=Phase.RUNNING,
                    gate=data["gate"],
                    power=read_power(data["power"]),
                    why="begun",
                )
            elif state is not None and data["rollout"] == state.id:
                state = state.after(data)
        return state

    def after(self, data: Mapping[str, Any]) -> State:
        """The state after one more event."""
        why: str = data["why"]
        match data["what"]:
            case "advance":
                last = self.stage + 2 == len(self.plan.shares)
                return replace(self, stage=self.stage + 1, phase=Phase.RELEASED if last else Phase.RUNNING, why=why)
            case "roll back":
                return replace(self, phase=Phase.ROLLED_BACK, why=why)
            case "pause":
                return replace(self, phase=Phase.PAUSED, why=why)
            case "resume":
                return replace(self, phase=Phase.RUNNING, why=why)
            case _:
                return self


@dataclass(frozen=True)
class Reading:
    """What a guardrail says at one look: means of both, units of the candidate, logs of the e-values."""

    name: str
    candidate: float
    release: float
    pairs: int
    shown: float
    refuted: float


@dataclass(frozen=True)
class Decision:
    """What happens next.

    Attributes:
        what: `wait`, `advance` or `roll back`.
        why: in words.
        readings: the numbers it was made by.
    """

    what: str
    why: str
    readings: tuple[Reading, ...] = ()


def pair(seen: Sequence[Observed], name: str, candidate: int, release: int) -> tuple[list[float], list[float]]:
    """Blocks of neighbouring episodes as pairs: (means of the candidate's, means of the release's).

    A block ends when both have answered somebody. Who is asked is drawn by lot, so that within a block both meet the
    same service and the same users on average.
    """
    known: set[tuple[str, int]] = set()
    ours: list[float] = []
    theirs: list[float] = []
    pairs: tuple[list[float], list[float]] = ([], [])
    for one in seen:
        value = one.figures.get(name)
        if value is None or (one.unit, one.version) in known or one.version not in (candidate, release):
            continue
        known.add((one.unit, one.version))
        (ours if one.version == candidate else theirs).append(value)
        if ours and theirs:
            pairs[0].append(float(np.mean(ours)))
            pairs[1].append(float(np.mean(theirs)))
            ours, theirs = [], []
    return pairs


def read(state: State, seen: Sequence[Observed]) -> tuple[Reading, ...]:
    """The stage's guardrails at one look."""
    readings: list[Reading] = []
    for rail in state.guardrails:
        ours, theirs = pair(seen, rail.name, state.candidate, state.release)
        differences = np.subtract(ours, theirs)
        reach = rail.high - rail.low
        readings.append(
            Reading(
                rail.name,
                float(np.mean(ours)) if ours else math.nan,
                float(np.mean(theirs)) if theirs else math.nan,
                len(ours),
                evidence_above(differences, -rail.margin, -reach, reach),
                evidence_below(differences, 0.0, -reach, reach),
            )
        )
    return tuple(readings)


def decide(state: State, seen: Sequence[Observed]) -> Decision:
    """What the evidence of the whole rollout says now.

    Args:
        seen: since it began, in the order in which they began.
    """
    plan = state.plan
    if state.phase is not Phase.RUNNING:
        return Decision("wait", f"it is {state.phase}")
    readings = read(state, seen)
    for reading, rail in zip(readings, state.guardrails, strict=True):
        if reading.refuted >= -math.log(plan.alarms[rail]):
            return Decision("roll back", f"{reading.name} is worse: {_told(reading)}", readings)
    here = min(reading.pairs for reading in readings)
    if here < state.least:
        return Decision("wait", f"{here} of {state.least} units", readings)
    weakest = min(readings, key=lambda reading: reading.shown)
    following = plan.shares[state.stage + 1]
    last = state.stage + 2 == len(plan.shares)
    needed = -math.log(plan.risk) if last else 0.0
    allowed = max(granted(state.gate, plan.ladder).share, granted(weakest.shown, plan.ladder).share)
    if weakest.shown >= needed and following <= allowed:
        return Decision("advance", f"{weakest.name} is not worse: {_told(weakest)}", readings)
    if here >= plan.most:
        return Decision("roll back", f"{weakest.name} cannot be shown to be as good: {_told(weakest)}", readings)
    return Decision("wait", f"{weakest.name} is not shown yet: {_told(weakest)}", readings)


def _told(r: Reading) -> str:
    return (
        f"{r.candidate:.3f} against {r.release:.3f} in {r.pairs} pairs, e = {math.exp(min(r.shown, 50)):.3g} for, "
        f"{math.exp(min(r.refuted, 50)):.3g} against"
    )


def read_plan(kept: Mapping[str, Any]) -> RolloutPlan:
    """A plan, back from JSON."""
    rails = {
        name: tuple(Guardrail(**rail) for rail in kept[name])
        for name in ("guardrails", "shadow")
        if name in kept  # plans of before there were shadows have none
    }
    ladder = tuple(Rung(rung["evidence"], read_power(rung["power"])) for rung in kept["ladder"])
    plain = {name: kept[name] for name in ("least", "most", "alarm", "risk")}
    return RolloutPlan(shares=tuple(kept["shares"]), ladder=ladder, **rails, **plain)


def read_power(kept: Mapping[str, Any]) -> Power:
    """A power, back from JSON."""
    return replace(Power(**kept), tools=tuple(kept["tools"]))
