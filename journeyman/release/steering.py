"""Steers a rollout: writes each decision into the journal. What the traffic then is follows from it (`course`).

The log is the only truth. Who decides writes into it and touches no traffic; who answers requests follows it
(serve/following.py), whenever they come: no version is ever half released, whoever is killed when.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from journeyman.errors import UsageError
from journeyman.experience.journal import Decide, Event
from journeyman.experience.outcomes import Episode
from journeyman.experience.records import SHADOW, SHADOW_KEY, EpisodeFilter
from journeyman.experience.store import Store
from journeyman.release.book import Book
from journeyman.release.gate import Power
from journeyman.release.rollout import Decision, Observed, Phase, Reading, RolloutPlan, State, decide


@dataclass(frozen=True)
class Course:
    """What the traffic should be. ``Course({1: 0.95, 2: 0.05}, None, {2: Power(tokens=1024)})``

    Attributes:
        shares: of each version that answers, of new units (a unit that has a version keeps it while that has a share).
        shadow: the version that answers the same again, unseen.
        powers: what a version may do; one that is not named, all.
    """

    shares: Mapping[int, float]
    shadow: int | None = None
    powers: Mapping[int, Power] = field(default_factory=dict[int, Power])

    @property
    def versions(self) -> set[int]:
        """All that have to be there."""
        return {*self.shares, *([] if self.shadow is None else [self.shadow])}


def course(events: Sequence[Event]) -> Course | None:
    """What the traffic should be, by all events so far; None where there never was a release. A rollout that something
    else has ended counts as ended at once, before anybody has written that down."""
    state, book = State.of(events), Book.of(events)
    if state is not None and state.under_way and overtaken(state, book) is None:
        return Course(state.shares, state.shadow, {state.candidate: state.power})
    release = book.aliases.get("release")
    return None if release is None else Course({release: 1.0})


TROUBLE = "trouble"
"""Topic of the events by which who follows the log says that it cannot: a version that cannot be served."""


def trouble(version: int, why: str) -> Event:
    """A version cannot be served. A rollout of it is rolled back at the next look."""
    return Event(TROUBLE, {"version": version, "why": why})


class Rollout:
    """The rollout of a store's deployment; at most one at a time.

    Args:
        store: whose journal holds it.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def state(self) -> State | None:
        """Where it stands."""
        return State.of(self.store.events())

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
        """Decide by what was seen since it began (`observed`), and write the decision down."""
        decision = Decision("wait", "nothing is being rolled out")

        def act(events: Sequence[Event]) -> list[Event]:
            nonlocal decision
            state = State.of(events)
            if state is None:
                return []
            decision = overtaken(state, Book.of(events)) or _troubled(state, events) or decide(state, seen)
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
        return self.state()


def overtaken(state: State, book: Book) -> Decision | None:
    """Whether something else was decided meanwhile that ends the rollout."""
    if not state.under_way:
        return None
    if state.candidate in book.quarantined:
        return Decision("roll back", "the candidate was put into quarantine")
    if book.aliases.get("release") != state.release:
        return Decision("roll back", "another version became the release")
    return None


def _troubled(state: State, events: Sequence[Event]) -> Decision | None:
    """Whether the candidate could not be served since the rollout began."""
    if not state.under_way:
        return None
    begun = next(index for index, event in enumerate(events) if event.id == state.id)
    for event in events[begun:]:
        if event.topic == TROUBLE and event.data["version"] == state.candidate:
            return Decision("roll back", f"the candidate cannot be served: {event.data['why']}")
    return None


def _number(value: Any) -> Any:
    """For JSON, which knows no infinity and no NaN."""
    return value if not isinstance(value, float) or math.isfinite(value) else None


def observed(store: Store, state: State) -> Iterator[Observed]:
    """What the store knows of the episodes that were served since a rollout began, in the order in which they began.

    The unit is the user; where none is named, the episode. Two kinds of figures, each for stages of its own:

    - Of a canary, `reward` and every other metric by which somebody said something, and `kept`: 0 where something of
      ours broke. An episode counts for the version that made all of it, and only where that was drawn by lot, with a
      probability below 1; the release's, too. So neither those count who asked for a version by name, nor those who
      asked for more than the candidate may do (and got the release, whoever they are), nor what was answered before the
      candidate had a share: they are no sample of the same users.
    - Of a shadow, `shadow`: each turn that the candidate answered again is a pair, its figure and the release's 0.
    """
    metrics = {name: metric for name, metric in store.metrics().items() if name != SHADOW.name}
    for episode in store.every(EpisodeFilter(origin="served", since=state.at)):
        unit, versions = episode.summary.user or episode.summary.id, episode.summary.versions
        for figure in _shadowed(episode, state.candidate):
            yield Observed(unit, state.candidate, {SHADOW.name: figure})
            yield Observed(unit, state.release, {SHADOW.name: 0.0})
        drawn = all(span.probability < 1 for turn in episode.turns for span in turn.spans)
        if len(versions) == 1 and drawn:
            yield Observed(unit, versions[0], _figures(episode, metrics))


def _shadowed(episode: Episode, candidate: int) -> list[float]:
    """How the candidate did as a shadow, turn by turn."""
    ours = [f for f in episode.feedback if f.metric == SHADOW.name and f.key == SHADOW_KEY]
    return [float(f.value) for f in ours if f"version {candidate}" in f.tags and f.value is not None]


def _figures(episode: Episode, metrics: Mapping[str, Any]) -> dict[str, float]:
    found = {name: episode.reward(metric) for name, metric in metrics.items()}
    kept = float(episode.summary.ending != "failed")
    return {"kept": kept, **{name: value for name, value in found.items() if value is not None}}
