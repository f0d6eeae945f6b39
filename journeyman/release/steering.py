"""Drives a rollout: writes each decision into the journal, then moves the traffic.

The log comes first. Whoever is killed between the two sets the traffic from the log when they come back: no version is
ever half released. What the server sees of it is one method (`Traffic`), which may be called again at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from journeyman.errors import UsageError
from journeyman.experience.journal import Decide, Event
from journeyman.experience.outcomes import Episode
from journeyman.experience.records import EpisodeFilter
from journeyman.experience.store import Store
from journeyman.release.book import Book
from journeyman.release.gate import Power
from journeyman.release.rollout import Decision, Observed, Phase, Reading, RolloutPlan, State, decide


class Traffic(Protocol):
    """Who answers requests. The server implements it."""

    def set_shares(self, shares: Mapping[int, float], shadow: int | None = None) -> None:
        """From now on give each version its share of new units (a unit that has a version keeps it while that has a
        share), and the shadow the same requests again, whose answers nobody sees. The same again changes nothing."""
        ...


class Rollout:
    """The rollout of a store's deployment; at most one at a time.

    Args:
        store: whose journal holds it.
        traffic: moved after each decision, and on construction, so that it is what the log says.
    """

    def __init__(self, store: Store, traffic: Traffic) -> None:
        self.store, self.traffic = store, traffic
        self.resume()

    def state(self) -> State | None:
        """Where it stands."""
        return State.of(self.store.events())

    def resume(self) -> State | None:
        """Set the traffic to what the log says: after a start, or whenever in doubt. Returns where it stands."""
        events = self.store.events()
        state, release = State.of(events), Book.of(events).aliases.get("release")
        if state is not None and state.under_way:
            self.traffic.set_shares(state.shares, state.shadow)
        elif release is not None:
            self.traffic.set_shares({release: 1.0})
        return state

    def begin(
        self, candidate: int, plan: RolloutPlan | None = None, *, gate: float = 0.0, power: Power | None = None
    ) -> State | None:
        """Begin to release a version.

        Args:
            gate: log of the e-value that the gate found.
            power: what it may do, as the gate granted.

        Raises:
            UsageError: there is no release yet, another rollout is under way, or the version is in quarantine.
        """

        def act(events: Sequence[Event]) -> list[Event]:
            book, other = Book.of(events), State.of(events)
            if other is not None and other.under_way:
                fix = "wait for its end, or roll it back first"
                raise UsageError(f"version {other.candidate} is being rolled out", fix=fix)
            release = book.aliases.get("release")
            if release is None or release == candidate or candidate not in book.versions:
                reason = "it is the release already, nobody knows it, or there is no release to compare it with"
                raise UsageError(f"version {candidate} cannot be rolled out", reason=reason)
            if candidate in book.quarantined:
                raise UsageError(f"version {candidate} is in quarantine", fix="lift that first, or take another")
            begun = {
                "what": "begin",
                "release": release,
                "candidate": candidate,
                "plan": asdict(plan or RolloutPlan()),
                "gate": gate,
                "power": asdict(power or Power()),
            }
            moved = Event("alias", {"alias": "canary", "version": candidate, "why": "rollout"})
            return [Event("rollout", begun), moved]

        return self._do(act)

    def look(self, seen: Sequence[Observed]) -> Decision:
        """Decide by what was seen since it began, write the decision down, move the traffic."""
        decision = Decision("wait", "nothing is being rolled out")

        def act(events: Sequence[Event]) -> list[Event]:
            nonlocal decision
            state = State.of(events)
            if state is None:
                return []
            decision = overtaken(state, Book.of(events)) or decide(state, seen)
            if decision.what == "wait":
                return []
            return self._events(state, decision.what, decision.why, decision.readings)

        self._do(act)
        return decision

    def act(self, what: str, why: str) -> State | None:
        """A person's decision: `pause`, `resume`, `advance` or `roll back`; written down like all others.

        Raises:
            UsageError: nothing is under way, or that cannot be done now.
        """

        def act(events: Sequence[Event]) -> list[Event]:
            state = State.of(events)
            possible = {Phase.RUNNING: ("pause", "advance", "roll back"), Phase.PAUSED: ("resume", "roll back")}
            if state is None or what not in possible.get(state.phase, ()):
                stands = "nothing is being rolled out" if state is None else f"the rollout is {state.phase}"
                raise UsageError(f"cannot {what} now: {stands}")
            return self._events(state, what, why, ())

        return self._do(act)

    def _events(self, state: State, what: str, why: str, readings: tuple[Reading, ...]) -> list[Event]:
        """A decision, and the aliases that move with it."""
        numbers = [{k: _number(v) for k, v in asdict(reading).items()} for reading in readings]
        made = [Event("rollout", {"rollout": state.id, "what": what, "why": why, "readings": numbers})]
        after = state.after(made[0].data)
        aliases = {Phase.RELEASED: {"release": state.candidate, "canary": None}, Phase.ROLLED_BACK: {"canary": None}}
        moved = aliases.get(after.phase, {})
        return [*made, *(Event("alias", {"alias": a, "version": v, "why": why}) for a, v in moved.items())]

    def _do(self, act: Decide) -> State | None:
        self.store.happen(act).result()
        return self.resume()


def overtaken(state: State, book: Book) -> Decision | None:
    """Whether something else was decided meanwhile that ends the rollout."""
    if not state.under_way:
        return None
    if state.candidate in book.quarantined:
        return Decision("roll back", "the candidate was put into quarantine")
    if book.aliases.get("release") != state.release:
        return Decision("roll back", "another version became the release")
    return None


def _number(value: Any) -> Any:
    """For JSON, which knows no infinity and no NaN."""
    return value if not isinstance(value, float) or math.isfinite(value) else None


def observed(store: Store, state: State) -> Iterator[Observed]:
    """What the store knows of the episodes that were served since a rollout began, in the order in which they began.

    Figures: `reward` and every other metric of episodes that somebody gave; `kept`: 0 where something of ours broke. An
    episode counts for a version that made all of it, and that was drawn by lot: who asks for the candidate by name is
    no random sample of anybody. The unit is the user; where none is named, the episode.
    """
    metrics = store.metrics()
    for episode in store.every(EpisodeFilter(origin="served", since=state.at)):
        versions = episode.summary.versions
        drawn = all(span.probability < 1 for turn in episode.turns for span in turn.spans)
        if len(versions) == 1 and (drawn or versions[0] == state.release):
            yield Observed(episode.summary.user or episode.summary.id, versions[0], _figures(episode, metrics))


def _figures(episode: Episode, metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {name: episode.reward(metric) for name, metric in metrics.items()}
    kept = float(episode.summary.ending != "failed")
    return {"kept": kept, **{name: value for name, value in found.items() if value is not None}}
