"""What the journal says of versions: who came from whom, what they learned from, where they stand. Pure.

    events  ->  Book.of(events)  ->  versions, aliases, notes, evidence, quarantines

A version is never changed and never leaves. An alias (`release`, `candidate`, `canary`) points to one and moves; where
it pointed before is remembered, which is what a roll back goes by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from journeyman.errors import UnknownName, UsageError
from journeyman.experience.journal import Event, Runs, overlap, union, without

Alias = Literal["release", "candidate", "canary"]
ALIASES: tuple[Alias, ...] = get_args(Alias)
TOPICS = ("version", "alias", "note", "evidence", "quarantine", "lift")


@dataclass(frozen=True)
class Version:
    """A set of weights, and where it came from.

    Attributes:
        number: 1, 2, 3... in the order in which they became known.
        digest: sha256 of the weights (`journeyman.model.weights.weights_digest`).
        source: the checkpoint's folder.
        parents: versions that it was made of; several where it was merged.
        entries: of the log that it learned from since, its parents' not among them.
        data: sha256 over the digests of these entries; erasing does not change it.
        config: what made it.
        code: version of Journeyman, and the commit where it is known.
        at: when it became known, in Unix seconds.
    """

    number: int
    digest: str
    source: str
    parents: tuple[int, ...] = ()
    entries: Runs = ()
    data: str = ""
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    code: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Move:
    """An alias that was moved; `version` None: taken away."""

    alias: Alias
    version: int | None
    why: str
    at: float


@dataclass(frozen=True)
class Quarantine:
    """Versions that shall not be served and entries that shall not be learned from.

    Attributes:
        id: of the event that made it.
        versions: the bad one and all that came of it.
        entries: what they learned from and their good ancestors did not; or what was named.
        why: in words.
        at: since when.
        lifted: until when; None: it holds.
    """

    id: str
    versions: tuple[int, ...]
    entries: Runs
    why: str
    at: float
    lifted: float | None = None


@dataclass(frozen=True)
class Book:
    """The state that follows from all events."""

    versions: Mapping[int, Version] = field(default_factory=dict[int, Version])
    moves: tuple[Move, ...] = ()
    notes: Mapping[int, tuple[tuple[float, str], ...]] = field(default_factory=dict[int, tuple[tuple[float, str], ...]])
    evidence: Mapping[int, tuple[Mapping[str, Any], ...]] = field(
        default_factory=dict[int, tuple[Mapping[str, Any], ...]]
    )
    quarantines: tuple[Quarantine, ...] = ()

    @staticmethod
    def of(events: Iterable[Event]) -> Book:
        """Read the events in order; those of other topics are somebody else's."""
        versions: dict[int, Version] = {}
        moves: list[Move] = []
        notes: dict[int, tuple[tuple[float, str], ...]] = {}
        evidence: dict[int, tuple[Mapping[str, Any], ...]] = {}
        quarantines: dict[str, Quarantine] = {}
        for event in events:
            data = event.data
            match event.topic:
                case "version":
                    versions[data["number"]] = read_version(data, event.at)
                case "alias":
                    moves.append(Move(data["alias"], data["version"], data["why"], event.at))
                case "note":
                    notes[data["version"]] = (*notes.get(data["version"], ()), (event.at, data["text"]))
                case "evidence":
                    evidence[data["version"]] = (*evidence.get(data["version"], ()), data["findings"])
                case "quarantine":
                    entries = tuple((first, last) for first, last in data["entries"])
                    quarantines[event.id] = Quarantine(
                        event.id, tuple(data["versions"]), entries, data["why"], event.at
                    )
                case "lift":
                    held = quarantines[data["quarantine"]]
                    quarantines[held.id] = replace(held, lifted=event.at)
                case _:
                    continue
        return Book(versions, tuple(moves), notes, evidence, tuple(quarantines.values()))

    # -- finding ---------------------------------------------------------------------------------------

    @property
    def aliases(self) -> dict[Alias, int]:
        """Where each alias points now."""
        found: dict[Alias, int | None] = {move.alias: move.version for move in self.moves}
        return {alias: number for alias, number in found.items() if number is not None}

    def find(self, name: str | int) -> Version:
        """A version by number, alias, or the beginning of its digest (6 letters or more).

        Raises:
            UnknownName: there is none, or several begin so.
        """
        text = str(name)
        number = int(text) if text.isdecimal() else self.aliases.get(text, 0)  # type: ignore[call-overload]
        if number in self.versions:
            return self.versions[number]
        begin = [v for v in self.versions.values() if len(text) >= 6 and v.digest.startswith(text)]
        if len(begin) == 1:
            return begin[0]
        raise UnknownName("version", text, [*self.aliases, *map(str, self.versions)])

    def known(self, digest: str) -> Version | None:
        """The version with these weights."""
        return next((v for v in self.versions.values() if v.digest == digest), None)

    # -- lineage ---------------------------------------------------------------------------------------

    def ancestors(self, number: int) -> set[int]:
        """All that it was made of, itself not among them."""
        return set(self._walk(number, lambda n: self.versions[n].parents))

    def descendants(self, number: int) -> set[int]:
        """All that was made of it, itself not among them."""
        return set(self._walk(number, lambda n: [v.number for v in self.versions.values() if n in v.parents]))

    def _walk(self, start: int, following: Any) -> Iterator[int]:
        waiting, seen = list(following(start)), set[int]()
        while waiting:
            number = waiting.pop()
            if number not in seen and number in self.versions:
                seen.add(number)
                yield number
                waiting += following(number)

    def learned(self, number: int) -> Runs:
        """Every entry that it or an ancestor learned from."""
        return union([self.versions[n].entries for n in (number, *self.ancestors(number))])

    def reached_by(self, entries: Runs) -> dict[int, Runs]:
        """Which versions learned from some of these entries, themselves or by an ancestor, and from which.

        With `Store.erased()`: what still carries something of what was erased.
        """
        found = {number: overlap(self.learned(number), entries) for number in self.versions}
        return {number: runs for number, runs in found.items() if runs}

    # -- trust -----------------------------------------------------------------------------------------

    @property
    def quarantined(self) -> set[int]:
        """Versions that shall not be served."""
        held = {n for q in self.quarantines if q.lifted is None for n in q.versions}
        return held | {n for bad in held for n in self.descendants(bad)}  # also those made of it since

    def distrust(self, number: int) -> str | None:
        """Why a version shall not be served; None where it may be."""
        if number not in self.quarantined:
            return None
        held = (q.why for q in self.quarantines if q.lifted is None and number in q.versions)
        return next(held, "") or "a version that it was made of is in quarantine"

    @property
    def barred(self) -> Runs:
        """Entries that the next candidate shall not learn from."""
        return union([q.entries for q in self.quarantines if q.lifted is None])

    def suspects(self, number: int) -> tuple[tuple[int, ...], Runs]:
        """What falls with a bad version: itself with its descendants, and what no good ancestor learned, too."""
        bad = {number, *self.descendants(number)}
        good = {ancestor for one in bad for ancestor in self.ancestors(one)} - bad
        learned, trusted = (union([self.versions[n].entries for n in group]) for group in (bad, good))
        return tuple(sorted(bad)), without(learned, trusted)

    def former(self) -> Version:
        """The last release before the present one that is not in quarantine.

        Raises:
            UsageError: there is none.
        """
        now = self.aliases.get("release")
        for move in reversed(self.moves):
            if move.alias == "release" and move.version not in (None, now) and move.version not in self.quarantined:
                return self.versions[move.version]
        raise UsageError(
            "there is nothing to roll back to",
            reason="no other version was ever the release, or all that were are in quarantine",
            fix="let another one be the release: Registry.point",
        )


def read_version(data: Mapping[str, Any], at: float) -> Version:
    """A version from its event."""
    return Version(
        number=data["number"],
        digest=data["digest"],
        source=data["source"],
        parents=tuple(data["parents"]),
        entries=tuple((first, last) for first, last in data["entries"]),
        data=data["data"],
        config=data["config"],
        code=data["code"],
        at=at,
    )


def differences(one: Version, other: Version) -> dict[str, tuple[Any, Any]]:
    """What differs, by name; a dot leads into the configuration."""
    a, b = (_flat({**asdict(v), "entries": len_of(v.entries), "parents": list(v.parents)}) for v in (one, other))
    return {name: (a.get(name), b.get(name)) for name in sorted({*a, *b}) if a.get(name) != b.get(name)}


def len_of(entries: Runs) -> int:
    """How many entries these are."""
    return sum(last - first + 1 for first, last in entries)


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            found[f"{prefix}{name}"] = value
    return found


def check_parents(book: Book, parents: Sequence[int]) -> None:
    """Raises UnknownName: a parent that nobody knows."""
    for parent in parents:
        if parent not in book.versions:
            raise UnknownName("version", str(parent), map(str, book.versions))
